#include "text/utf8.h"

#include <algorithm>

namespace bantam {
namespace {

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0u) == 0x80u; }

// Length of the well-formed character at the start of `text`, 0 if there is none (The Unicode Standard, table 3-7).
size_t WellFormedLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const size_t length = Utf8LengthFromLead(byte(0));
  if (length == 1 || byte(0) < 0xc2 || byte(0) > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(text[i])) return 0;
  }
  // Overlong forms, surrogates, and code points past U+10FFFF.
  if (byte(0) == 0xe0 && byte(1) < 0xa0) return 0;
  if (byte(0) == 0xed && byte(1) > 0x9f) return 0;
  if (byte(0) == 0xf0 && byte(1) < 0x90) return 0;
  if (byte(0) == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

}  // namespace

size_t Utf8LengthFromLead(unsigned char lead) {
  if (lead < 0xc0) return 1;
  if (lead < 0xe0) return 2;
  if (lead < 0xf0) return 3;
  return lead < 0xf8 ? 4 : 1;
}

Utf8Character DecodeUtf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  const size_t size = WellFormedLength(text.substr(at));
  if (size == 0) return {0xfffd, 1};
  char32_t code = byte(0) & (0xffu >> (size + 1));
  for (size_t i = 1; i < size; ++i) code = code << 6 | (byte(i) & 0x3fu);
  return {code, static_cast<uint32_t>(size)};
}

void AppendUtf8(char32_t code, std::string* text) {
  if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) code = 0xfffd;
  const auto tail = [&](unsigned shift) { *text += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    *text += static_cast<char>(code);
  } else if (code < 0x800) {
    *text += static_cast<char>(0xc0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    *text += static_cast<char>(0xe0 | code >> 12);
    tail(6);
    tail(0);
  } else {
    *text += static_cast<char>(0xf0 | code >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t IncompleteUtf8Tail(std::string_view text) {
  for (size_t tail = 1; tail <= std::min<size_t>(3, text.size()); ++tail) {
    const char byte = text[text.size() - tail];
    if (IsContinuation(byte)) continue;
    return Utf8LengthFromLead(static_cast<unsigned char>(byte)) > tail ? tail : 0;
  }
  return 0;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string clean;
  while (!text.empty()) {
    const size_t length = WellFormedLength(text);
    if (length == 0) {
      clean += "\xef\xbf\xbd";
      text.remove_prefix(1);
    } else {
      clean += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return clean;
}

}  // namespace bantam
