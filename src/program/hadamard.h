// A rotation that spreads what single dimensions of a head are large in over all of them, so that few bits hold the head (Ashkboos et al.,
// "QuaRot: outlier-free 4-bit inference in rotated LLMs", 2024).
#pragma once

#include <cstddef>

namespace bantam {

// x [head_dim] in place: each block of the largest power of two that divides head_dim is multiplied with Sylvester's Hadamard matrix over
// the root of its size. Products of vectors that were both rotated are what they were, and a second rotation turns back; both up to
// rounding.
void HadamardRotate(float* x, size_t head_dim);

}  // namespace bantam
