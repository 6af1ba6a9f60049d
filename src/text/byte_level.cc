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

bool AppendFromByteLevel(std::string_view text, std::string* bytes) {
  const size_t before = bytes->size();
  for (size_t at = 0; at < text.size();) {
    // The alphabet ends at U+0143: characters of it have one or two bytes.
    const auto lead = static_cast<unsigned char>(text[at]);
    const bool two = lead >= 0xc2 && lead <= 0xc5 && at + 1 < text.size() && (static_cast<unsigned char>(text[at + 1]) & 0xc0u) == 0x80u;
    const unsigned code = two ? (lead & 0x1fu) << 6 | (static_cast<unsigned char>(text[at + 1]) & 0x3fu) : lead;
    const bool known = (two || lead < 0x80) && code < kAlphabet.byte.size() && kAlphabet.byte[code] >= 0;
    if (!known) {
      bytes->resize(before);
      return false;
    }
    *bytes += static_cast<char>(kAlphabet.byte[code]);
    at += two ? 2 : 1;
  }
  return true;
}

std::optional<uint8_t> FallbackByte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char digit : text.substr(3, 2)) {
    const size_t place = std::string_view("0123456789ABCDEF").find(digit);
    if (place == std::string_view::npos) return std::nullopt;
    value = value * 16 + static_cast<unsigned>(place);
  }
  return static_cast<uint8_t>(value);
}

}  // namespace bantam
