// Two SHA-256 computations side by side: each round waits for the one before, so that a second message costs little beside the first on
// processors with instructions for rounds.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace bantam {

using Sha256State = std::array<uint32_t, 8>;
inline constexpr Sha256State kSha256Start = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
inline constexpr size_t kSha256BlockBytes = 64;

// Takes in `count` blocks of each of two messages.
using Sha256PairFunction = void (*)(std::array<Sha256State, 2>* states, const std::array<const uint8_t*, 2>& messages, size_t count);

// Null where the processor has no such instructions (SHA extensions of x86, SHA2 of 64-bit ARM).
Sha256PairFunction FindSha256Pair();

}  // namespace bantam
