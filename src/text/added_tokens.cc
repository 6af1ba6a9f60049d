#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode.h"
#include "text/utf8.h"

namespace bantam {
namespace {

bool IsWord(char32_t code) {
  constexpr PropertySet kWord = kLetter | kMark | SetOf(Category::kNd, Category::kNl) | SetOf(Category::kPc);
  return (PropertiesOf(code) & kWord) != 0 || code == 0x200c || code == 0x200d;
}

// Whether [begin, end) stands apart from word characters.
bool IsWholeWord(std::string_view text, size_t begin, size_t end) {
  if (end < text.size() && IsWord(DecodeUtf8(text, end).code)) return false;
  if (begin == 0) return true;
  size_t before = begin - 1;
  while (before > 0 && begin - before < 4 && (static_cast<unsigned char>(text[before]) & 0xc0u) == 0x80u) --before;
  return !IsWord(DecodeUtf8(text, before).code);
}

unsigned PairOf(std::string_view text, size_t at) {
  return static_cast<unsigned>(static_cast<unsigned char>(text[at])) << 8 | static_cast<unsigned char>(text[at + 1]);
}

}  // namespace

AddedTokens::AddedTokens(std::vector<Entry> entries) : entries_(std::move(entries)) {
  // Of tokens with one text the first counts; a control token does not hide what everybody may write.
  const auto same = [](const Entry& a, const Entry& b) { return a.text == b.text && a.control == b.control; };
  std::stable_sort(entries_.begin(), entries_.end(),
                   [](const Entry& a, const Entry& b) { return a.text != b.text ? a.text < b.text : a.control && !b.control; });
  entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());
  if (entries_.empty()) return;
  starts_.assign(65536 / 64, 0);
  for (const Entry& entry : entries_) {
    if (entry.text.size() >= 2) {
      const unsigned pair = PairOf(entry.text, 0);
      starts_[pair / 64] |= uint64_t{1} << (pair % 64);
    } else {
      // One byte: whatever follows. The 256 pairs are four words of bits.
      const size_t word = static_cast<size_t>(static_cast<unsigned char>(entry.text[0])) * 4;
      std::fill_n(starts_.begin() + static_cast<ptrdiff_t>(word), 4, ~uint64_t{0});
    }
  }
}

bool AddedTokens::MayStart(std::string_view text, size_t at) const {
  if (at + 1 >= text.size()) return true;
  const unsigned pair = PairOf(text, at);
  return (starts_[pair / 64] >> (pair % 64) & 1) != 0;
}

bool AddedTokens::Find(std::string_view text, size_t from, bool trusted, Hit* hit) const {
  if (entries_.empty()) return false;
  for (size_t at = from; at < text.size(); ++at) {
    if (!MayStart(text, at)) continue;
    const Entry* entry = Match(text, at, trusted);
    if (entry == nullptr) continue;
    if (entry->rules.whole_word && !IsWholeWord(text, at, at + entry->text.size())) {
      // The longest is tried and no shorter one, nor one within it, as the tokenizers library does.
      at += entry->text.size() - 1;
      continue;
    }
    *hit = {at, at + entry->text.size(), entry->rules};
    return true;
  }
  return false;
}

const AddedTokens::Entry* AddedTokens::Match(std::string_view text, size_t at, bool trusted) const {
  const Entry* longest = nullptr;
  auto begin = entries_.begin();
  auto end = entries_.end();
  // All in [begin, end) start with the first `depth` bytes of what follows; one more byte narrows the range.
  for (size_t depth = 0; at + depth < text.size() && begin != end; ++depth) {
    const auto byte_of = [&](const Entry& entry) {
      return entry.text.size() > depth ? static_cast<int>(static_cast<unsigned char>(entry.text[depth])) : -1;
    };
    const int byte = static_cast<unsigned char>(text[at + depth]);
    begin = std::lower_bound(begin, end, byte, [&](const Entry& entry, int wanted) { return byte_of(entry) < wanted; });
    end = std::upper_bound(begin, end, byte, [&](int wanted, const Entry& entry) { return wanted < byte_of(entry); });
    for (auto entry = begin; entry != end && entry->text.size() == depth + 1; ++entry) {
      if (entry->control && !trusted) continue;
      longest = &*entry;
      break;
    }
  }
  return longest;
}

uint64_t AddedTokens::bytes() const {
  uint64_t total = entries_.capacity() * sizeof(Entry) + starts_.capacity() * sizeof(uint64_t);
  for (const Entry& entry : entries_) total += entry.text.capacity();
  return total;
}

}  // namespace bantam
