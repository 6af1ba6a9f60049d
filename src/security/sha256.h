// SHA-256 (FIPS 180-4): names of contents. OpenSSL's where the build has it, plain C++ in cross builds.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace bantam {

inline constexpr size_t kDigestBytes = 32;
using Digest = std::array<uint8_t, kDigestBytes>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::span<const std::byte> bytes);
  // Of all bytes since the start; what follows is a new message.
  Digest Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest Sha256Of(std::span<const std::byte> bytes);

// 64 digits, lower case; reading takes upper case too, and nothing else.
std::string HexOf(const Digest& digest);
std::optional<Digest> DigestFromHex(std::string_view hex);

}  // namespace bantam
