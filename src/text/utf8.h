// UTF-8, for text that may not be UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace bantam {

// Bytes of the character that a lead byte announces: 1 to 4; 1 for a byte that cannot lead.
size_t Utf8LengthFromLead(unsigned char lead);

// One character of a text. A byte that is not part of a well-formed character is one on its own: code U+FFFD, size 1.
struct Utf8Character {
  char32_t code;
  uint32_t size;  // bytes, 1 to 4

  bool malformed() const { return size == 1 && code >= 0x80; }
};

// The character at `at`, which lies before the end of the text.
Utf8Character DecodeUtf8(std::string_view text, size_t at);

// Appends a character; the text of U+FFFD for what is none (surrogates, past U+10FFFF).
void AppendUtf8(char32_t code, std::string* text);

// Bytes at the end of `text` that are the beginning of a character which is not complete yet: 0 to 3.
size_t IncompleteUtf8Tail(std::string_view text);

// `text` with every byte that is not part of a well-formed character replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view text);

}  // namespace bantam
