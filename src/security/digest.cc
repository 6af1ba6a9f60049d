#include "security/sha256.h"

namespace bantam {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";

std::optional<uint8_t> NibbleOf(char digit) {
  if (digit >= 'A' && digit <= 'F') digit = static_cast<char>(digit - 'A' + 'a');
  const size_t at = kHexDigits.find(digit);
  if (at == std::string_view::npos) return std::nullopt;
  return static_cast<uint8_t>(at);
}

}  // namespace

Digest Sha256Of(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

std::string HexOf(const Digest& digest) {
  std::string hex;
  hex.reserve(2 * kDigestBytes);
  for (const uint8_t byte : digest) {
    hex += kHexDigits[byte >> 4];
    hex += kHexDigits[byte & 15];
  }
  return hex;
}

std::optional<Digest> DigestFromHex(std::string_view hex) {
  if (hex.size() != 2 * kDigestBytes) return std::nullopt;
  Digest digest = {};
  for (size_t i = 0; i < kDigestBytes; ++i) {
    const auto high = NibbleOf(hex[2 * i]);
    const auto low = NibbleOf(hex[2 * i + 1]);
    if (!high || !low) return std::nullopt;
    digest[i] = static_cast<uint8_t>(*high << 4 | *low);
  }
  return digest;
}

}  // namespace bantam
