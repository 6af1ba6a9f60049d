// Two SHA-256 computations side by side: each round waits for the one before, so that a second message costs little beside the first on
// processors with instructions for rounds.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "security/sha256_constants.h"

namespace bantam {

// Takes in `count` blocks of each of two messages.
using Sha256PairFunction = void (*)(std::array<Sha256State, 2>* states, const std::array<const uint8_t*, 2>& messages, size_t count);

// Null where the processor has no such instructions (SHA extensions of x86, SHA2 of 64-bit ARM).
Sha256PairFunction FindSha256Pair();

}  // namespace bantam
