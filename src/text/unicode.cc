#include "text/unicode.h"

#include <algorithm>
#include <iterator>

#include "text/utf8.h"

namespace bantam {
namespace {

struct CodePair {
  uint32_t from;
  uint32_t to;
};

struct FullCase {
  uint32_t from;
  uint32_t to[3];  // ends with a zero, or is full
};

#include "text/unicode_properties.inc"

constexpr uint8_t kCategoryBits = 31;
constexpr uint8_t kWhiteSpaceBit = 32;
constexpr uint8_t kHanBit = 64;

// The entry of a sorted table for `code`, or null.
template <typename Entry, size_t n>
const Entry* Find(const Entry (&table)[n], char32_t code) {
  const Entry* entry = std::lower_bound(std::begin(table), std::end(table), code, [](const Entry& e, char32_t c) { return e.from < c; });
  return entry != std::end(table) && entry->from == code ? entry : nullptr;
}

template <size_t n>
char32_t Map(const CodePair (&table)[n], char32_t code) {
  const CodePair* pair = Find(table, code);
  return pair != nullptr ? pair->to : code;
}

template <size_t n, size_t m>
void AppendMapped(const FullCase (&full)[n], const CodePair (&simple)[m], char32_t code, std::string* text) {
  const FullCase* entry = code < 0x80 ? nullptr : Find(full, code);
  if (entry == nullptr) {
    AppendUtf8(Map(simple, code), text);
    return;
  }
  for (const uint32_t to : entry->to) {
    if (to != 0) AppendUtf8(to, text);
  }
}

}  // namespace

PropertySet PropertiesOf(char32_t code) {
  if (code > 0x10ffff) return SetOf(Category::kCn);
  const uint8_t bits = kPropertyBlocks[kPropertyIndex[code / kPropertyBlock] * kPropertyBlock + code % kPropertyBlock];
  return (PropertySet{1} << (bits & kCategoryBits)) | ((bits & kWhiteSpaceBit) != 0 ? kWhiteSpace : 0) | ((bits & kHanBit) != 0 ? kHan : 0);
}

char32_t ToUpper(char32_t code) { return Map(kUpper, code); }
char32_t ToLower(char32_t code) { return Map(kLower, code); }

void AppendUpper(char32_t code, std::string* text) { AppendMapped(kFullUpper, kUpper, code, text); }
void AppendLower(char32_t code, std::string* text) { AppendMapped(kFullLower, kLower, code, text); }
void AppendTitle(char32_t code, std::string* text) { AppendMapped(kFullTitle, kTitle, code, text); }

size_t SkipWhiteSpace(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Character character = DecodeUtf8(text, at);
    if ((PropertiesOf(character.code) & kWhiteSpace) == 0) break;
    at += character.size;
  }
  return at;
}

size_t SizeWithoutTrailingSpace(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Character character = DecodeUtf8(text, at);
    at += character.size;
    if ((PropertiesOf(character.code) & kWhiteSpace) == 0) end = at;
  }
  return end;
}

}  // namespace bantam
