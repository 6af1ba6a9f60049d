// The byte-level alphabet (Radford et al., "GPT-2", 2019): each byte written as a printable character, a space as U+0120.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bantam {

// Bytes as characters of the alphabet.
std::string ToByteLevel(std::string_view bytes);

// And back: appends the bytes. False when a character is not of the alphabet; `bytes` is as before then.
bool AppendFromByteLevel(std::string_view text, std::string* bytes);

// The byte that the name of a byte token such as <0x0A> stands for.
std::optional<uint8_t> FallbackByte(std::string_view text);

}  // namespace bantam
