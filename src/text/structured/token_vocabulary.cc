#include "text/structured/token_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <bitset>

#include "text/utf8.h"

namespace bantam {
namespace {

constexpr size_t kTokenBytesMax = 2048;

TokenTrie MakeTrie(const std::vector<std::string>& texts, std::vector<uint32_t> ids) {
  std::sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return texts[a] != texts[b] ? texts[a] < texts[b] : a < b; });
  TokenTrie trie;
  std::vector<uint32_t> path = {0};  // nodes from the root to the last one
  trie.nodes.push_back({0, 0, 0, 0});
  std::string_view last;
  const auto close = [&](size_t depth) {
    for (; path.size() > depth + 1; path.pop_back()) trie.nodes[path.back()].end = static_cast<uint32_t>(trie.nodes.size());
  };
  for (const uint32_t id : ids) {
    const std::string_view text = texts[id];
    const size_t common = static_cast<size_t>(std::mismatch(last.begin(), last.end(), text.begin(), text.end()).first - last.begin());
    close(common);
    for (size_t i = common; i < text.size(); ++i) {
      path.push_back(static_cast<uint32_t>(trie.nodes.size()));
      trie.nodes.push_back({0, static_cast<uint32_t>(trie.tokens.size()), static_cast<uint16_t>(i + 1), static_cast<uint8_t>(text[i])});
    }
    trie.tokens.push_back(id);
    last = text;
  }
  close(0);
  trie.nodes[0].end = static_cast<uint32_t>(trie.nodes.size());
  trie.nodes.push_back({trie.nodes[0].end, static_cast<uint32_t>(trie.tokens.size()), 0, 0});
  return trie;
}

// Whether bytes can become a character: an incomplete one may be overlong, a surrogate, or past U+10FFFF.
bool CanComplete(std::string_view tail) {
  const size_t missing = Utf8LengthFromLead(static_cast<unsigned char>(tail[0])) - tail.size();
  for (const char first : {'\x80', '\x90', '\xa0'}) {
    std::string character(tail);
    character += first;
    character.append(missing - 1, '\x80');
    if (!DecodeUtf8(character, 0).malformed()) return true;
  }
  return false;
}

struct SlicedToken {
  TokenSlice slice = TokenSlice::kMarked;
  uint32_t chars = 0;  // where it is not marked
};

SlicedToken SliceOf(std::string_view text) {
  const size_t tail = IncompleteUtf8Tail(text);
  if (tail > 0 && !CanComplete(text.substr(text.size() - tail))) return {};
  uint32_t count = tail > 0 ? 1 : 0;
  std::array<bool, kCharacterSlices> within = {tail == 0, tail == 0, tail == 0, true};
  for (size_t at = 0; at < text.size() - tail;) {
    const Utf8Character character = DecodeUtf8(text, at);
    if (character.malformed()) return {};
    for (size_t i = 0; i < kCharacterSlices; ++i) within[i] = within[i] && CharactersOf(static_cast<TokenSlice>(i)).Has(character.code);
    at += character.size;
    ++count;
  }
  for (size_t i = 0; i < kCharacterSlices; ++i) {
    if (within[i]) return {static_cast<TokenSlice>(i), count};
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const TokenVocabulary>> TokenVocabulary::Make(std::vector<std::string> texts, std::vector<uint32_t> ends) {
  std::shared_ptr<TokenVocabulary> vocabulary(new TokenVocabulary());
  std::bitset<256> alone;
  std::vector<uint32_t> all;
  std::array<std::vector<uint32_t>, kTokenSlices> of_slice;
  std::array<std::vector<std::pair<uint32_t, uint32_t>>, kCharacterSlices> counted;  // characters, id
  std::sort(ends.begin(), ends.end());
  for (uint32_t id = 0; id < texts.size(); ++id) {
    const std::string& text = texts[id];
    if (text.empty() || std::binary_search(ends.begin(), ends.end(), id)) continue;
    if (text.size() > kTokenBytesMax) {
      return Error(Code::kUnsupported, fmt::format("token {} has {} bytes; constraints handle up to {}", id, text.size(), kTokenBytesMax));
    }
    if (text.size() == 1) alone.set(static_cast<unsigned char>(text[0]));
    all.push_back(id);
    vocabulary->longest_ = std::max(vocabulary->longest_, static_cast<uint32_t>(text.size()));
    const SlicedToken sliced = SliceOf(text);
    of_slice[static_cast<size_t>(sliced.slice)].push_back(id);
    if (sliced.slice != TokenSlice::kMarked) counted[static_cast<size_t>(sliced.slice)].emplace_back(sliced.chars, id);
  }
  // The bytes that UTF-8 has.
  for (unsigned byte = 0; byte < 0xf5; ++byte) {
    if (byte == 0xc0 || byte == 0xc1 || alone.test(byte)) continue;
    return Error(Code::kUnsupported,
                 fmt::format("the vocabulary has no token for the byte {:#04x} alone, so output cannot be constrained", byte));
  }
  for (size_t i = 0; i < kCharacterSlices; ++i) {
    std::sort(counted[i].begin(), counted[i].end());
    Lengths& lengths = vocabulary->lengths_[i];
    for (const auto& [chars, id] : counted[i]) {
      lengths.begins.resize(size_t{chars} + 1, static_cast<uint32_t>(lengths.ids.size()));
      lengths.ids.push_back(id);
    }
    lengths.begins.push_back(static_cast<uint32_t>(lengths.ids.size()));
  }
  const size_t words = (texts.size() + 31) / 32;
  vocabulary->trie_ = MakeTrie(texts, std::move(all));
  for (size_t i = 0; i < kTokenSlices; ++i) {
    vocabulary->masks_[i].assign(words, 0);
    for (const uint32_t id : of_slice[i]) vocabulary->masks_[i][id / 32] |= 1u << (id % 32);
    vocabulary->slices_[i] = MakeTrie(texts, std::move(of_slice[i]));
  }
  vocabulary->texts_ = std::move(texts);
  vocabulary->ends_ = std::move(ends);
  return std::shared_ptr<const TokenVocabulary>(std::move(vocabulary));
}

bool TokenVocabulary::IsEnd(uint32_t id) const { return std::binary_search(ends_.begin(), ends_.end(), id); }

std::span<const uint32_t> TokenVocabulary::WithLength(TokenSlice slice, uint64_t least, uint64_t most) const {
  const Lengths& lengths = lengths_[static_cast<size_t>(slice)];
  const auto begin_of = [&](uint64_t chars) { return lengths.begins[std::min<uint64_t>(chars, lengths.begins.size() - 1)]; };
  const uint32_t begin = begin_of(least);
  const uint32_t end = most == UINT64_MAX ? lengths.begins.back() : begin_of(most + 1);
  return std::span(lengths.ids).subspan(begin, end > begin ? end - begin : 0);
}

uint64_t TokenVocabulary::LongestOf(TokenSlice slice) const { return lengths_[static_cast<size_t>(slice)].begins.size() - 1; }

std::vector<uint32_t> TokenVocabulary::Spell(std::string_view text) const {
  std::vector<uint32_t> tokens;
  while (!text.empty()) {
    uint32_t node = 0;
    size_t longest = 0;
    uint32_t token = 0;
    for (size_t length = 1; length <= text.size(); ++length) {
      const uint8_t byte = static_cast<uint8_t>(text[length - 1]);
      uint32_t child = node + 1;
      while (child < trie_.nodes[node].end && trie_.nodes[child].byte != byte) child = trie_.nodes[child].end;
      if (child >= trie_.nodes[node].end) break;
      node = child;
      if (trie_.nodes[node].first_token == trie_.nodes[node + 1].first_token) continue;
      longest = length;
      token = trie_.tokens[trie_.nodes[node].first_token];
    }
    if (longest == 0) break;
    tokens.push_back(token);
    text.remove_prefix(longest);
  }
  return tokens;
}

uint64_t TokenVocabulary::bytes() const {
  uint64_t total = masks_.size() * words() * sizeof(uint32_t) + texts_.capacity() * sizeof(std::string);
  const auto add = [&](const TokenTrie& trie) {
    total += trie.nodes.capacity() * sizeof(TokenTrie::Node) + trie.tokens.capacity() * sizeof(uint32_t);
  };
  add(trie_);
  for (const TokenTrie& trie : slices_) add(trie);
  for (const std::string& text : texts_) total += text.capacity();
  return total;
}

}  // namespace bantam
