#include "text/normal_form.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <vector>

#include "text/utf8.h"

namespace bantam {
namespace {

struct CodePair {
  uint32_t from;
  uint32_t to;
};

struct Decomposition {
  uint32_t from;
  uint16_t begin;  // in the pool
  uint16_t size;
};

struct Composition {
  uint32_t first;
  uint32_t second;
  uint32_t composed;
};

#include "text/unicode_normal_forms.inc"

// Hangul syllables are composed by arithmetic (The Unicode Standard, section 3.12).
constexpr char32_t kSyllableBase = 0xac00;
constexpr char32_t kLeadBase = 0x1100;
constexpr char32_t kVowelBase = 0x1161;
constexpr char32_t kTailBase = 0x11a7;
constexpr char32_t kLeads = 19;
constexpr char32_t kVowels = 21;
constexpr char32_t kTails = 28;

// A character on its way, with its canonical combining class. Malformed bytes are kByteBase + byte, past all characters.
struct Mark {
  char32_t code;
  uint8_t combining;
};
constexpr char32_t kByteBase = 0x110000;

template <size_t n>
const Decomposition* FindDecomposition(const Decomposition (&table)[n], char32_t code) {
  const auto* found =
      std::lower_bound(std::begin(table), std::end(table), code, [](const Decomposition& d, char32_t wanted) { return d.from < wanted; });
  return found != std::end(table) && found->from == code ? found : nullptr;
}

uint8_t CombiningClass(char32_t code) {
  if (code < 0x300) return 0;
  const auto* found = std::lower_bound(std::begin(kCombiningClasses), std::end(kCombiningClasses), code,
                                       [](const CodePair& pair, char32_t wanted) { return pair.from < wanted; });
  return found != std::end(kCombiningClasses) && found->from == code ? static_cast<uint8_t>(found->to) : 0;
}

void Decompose(char32_t code, bool compatible, std::vector<Mark>* marks) {
  if (code >= kSyllableBase && code < kSyllableBase + kLeads * kVowels * kTails) {
    const char32_t index = code - kSyllableBase;
    marks->push_back({kLeadBase + index / (kVowels * kTails), 0});
    marks->push_back({kVowelBase + index / kTails % kVowels, 0});
    if (index % kTails != 0) marks->push_back({kTailBase + index % kTails, 0});
    return;
  }
  const Decomposition* found = nullptr;
  if (code >= 0xa0) found = compatible ? FindDecomposition(kCompatible, code) : FindDecomposition(kCanonical, code);
  if (found == nullptr) {
    marks->push_back({code, CombiningClass(code)});
    return;
  }
  const std::span<const uint32_t> pool =
      compatible ? std::span<const uint32_t>(kCompatiblePool) : std::span<const uint32_t>(kCanonicalPool);
  for (const uint32_t part : pool.subspan(found->begin, found->size)) marks->push_back({part, CombiningClass(part)});
}

// The canonical order: runs of combining marks by class.
void Reorder(std::vector<Mark>* marks) {
  for (auto begin = marks->begin(); begin != marks->end();) {
    if (begin->combining == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, marks->end(), [](const Mark& mark) { return mark.combining == 0; });
    std::stable_sort(begin, end, [](const Mark& a, const Mark& b) { return a.combining < b.combining; });
    begin = end;
  }
}

// The primary composite of two characters, 0 if there is none.
char32_t ComposePair(char32_t first, char32_t second) {
  if (first >= kLeadBase && first < kLeadBase + kLeads && second >= kVowelBase && second < kVowelBase + kVowels) {
    return kSyllableBase + ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTails;
  }
  const bool open_syllable =
      first >= kSyllableBase && first < kSyllableBase + kLeads * kVowels * kTails && (first - kSyllableBase) % kTails == 0;
  if (open_syllable && second > kTailBase && second < kTailBase + kTails) return first + (second - kTailBase);
  if (second < 0x300) return 0;
  const auto* found = std::lower_bound(
      std::begin(kCompositions), std::end(kCompositions), Composition{first, second, 0},
      [](const Composition& a, const Composition& b) { return a.first != b.first ? a.first < b.first : a.second < b.second; });
  return found != std::end(kCompositions) && found->first == first && found->second == second ? found->composed : 0;
}

void Compose(std::vector<Mark>* marks) {
  size_t kept = 0;
  size_t starter = SIZE_MAX;
  uint8_t last_class = 0;  // of the character kept last behind the starter
  for (const Mark mark : *marks) {
    const bool adjacent = starter != SIZE_MAX && starter + 1 == kept;
    const bool blocked = !adjacent && last_class >= mark.combining;
    const char32_t composed = starter == SIZE_MAX || blocked ? 0 : ComposePair((*marks)[starter].code, mark.code);
    if (composed != 0) {
      (*marks)[starter].code = composed;
      continue;
    }
    if (mark.combining == 0) starter = kept;
    last_class = mark.combining;
    (*marks)[kept++] = mark;
  }
  marks->resize(kept);
}

bool IsAscii(char c) { return static_cast<unsigned char>(c) < 0x80; }

}  // namespace

std::string ToNormalForm(std::string_view text, NormalForm form) {
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  std::string out;
  out.reserve(text.size());
  std::vector<Mark> marks;
  for (size_t at = 0; at < text.size();) {
    // ASCII stays as it is, but the last of it can take the marks behind it.
    size_t end = at;
    while (end < text.size() && IsAscii(text[end])) ++end;
    const size_t plain = end < text.size() && end > at ? end - 1 : end;
    out += text.substr(at, plain - at);
    marks.clear();
    for (at = plain; at < text.size() && (at == plain || !IsAscii(text[at]));) {
      const Utf8Character character = DecodeUtf8(text, at);
      if (character.malformed()) {
        marks.push_back({kByteBase + static_cast<unsigned char>(text[at]), 0});
      } else {
        Decompose(character.code, compatible, &marks);
      }
      at += character.size;
    }
    Reorder(&marks);
    if (compose) Compose(&marks);
    for (const Mark& mark : marks) {
      if (mark.code >= kByteBase) {
        out += static_cast<char>(mark.code - kByteBase);
      } else {
        AppendUtf8(mark.code, &out);
      }
    }
  }
  return out;
}

}  // namespace bantam
