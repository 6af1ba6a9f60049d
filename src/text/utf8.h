// UTF-8, for text that may not be UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace bantam {

// Bytes of the character that a lead byte announces: 1 to 4; 1 for a byte that cannot lead.
size_t Utf8LengthFromLead(unsigned char lead);

// Bytes at the end of `text` that are the beginning of a character which is not complete yet: 0 to 3.
size_t IncompleteUtf8Tail(std::string_view text);

// `text` with every byte that is not part of a well-formed character replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view text);

}  // namespace bantam
