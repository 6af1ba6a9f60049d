#include "text/byte_level.h"

#include <array>
#include <cstdint>

#include "text/utf8.h"

namespace bantam {
namespace {

// Printable Latin-1 stands for itself, the other bytes in order for U+0100 and on.
constexpr bool IsPrintable(unsigned byte) { return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae; }

struct Alphabet {
  std::array<uint16_t, 256> code = {};
  std::array<int16_t, 0x144> byte = {};  // -1: none

  constexpr Alphabet() {
    byte.fill(-1);
    uint16_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      code[b] = IsPrintable(b) ? static_cast<uint16_t>(b) : next++;
      byte[code[b]] = static_cast<int16_t>(b);
    }
  }
};
constexpr Alphabet kAlphabet;

}  // namespace

std::string ToByteLevel(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) AppendUtf8(kAlphabet.code[static_cast<unsigned char>(byte)], &text);
  return text;
}

std::optional<std::string> FromByteLevel(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const Utf8Character character = DecodeUtf8(text, at);
    if (character.malformed() || character.code >= kAlphabet.byte.size() || kAlphabet.byte[character.code] < 0) return std::nullopt;
    bytes += static_cast<char>(kAlphabet.byte[character.code]);
    at += character.size;
  }
  return bytes;
}

}  // namespace bantam
