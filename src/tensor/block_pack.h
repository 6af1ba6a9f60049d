// Floats to blocks of the file formats: the reverse of block_codes.h.
#pragma once

#include "tensor/scale_search.h"

namespace bantam {

// Each packs one block. With `w` null the format's plain rule is used where it has one (the bytes are then those of ggml's
// reference quantizers): Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, TQ1_0, TQ2_0, MXFP4. Otherwise, and always for the rest, a search finds the scales
// that leave the least sum of w (x - packed)^2, with w = 1 if null. Values are finite and within f16.
using PackFunction = void (*)(const float* x, const float* w, uint8_t* block);

void PackQ8_0(const float* x, const float* w, uint8_t* block);
void PackQ4_0(const float* x, const float* w, uint8_t* block);
void PackQ4_1(const float* x, const float* w, uint8_t* block);
void PackQ5_0(const float* x, const float* w, uint8_t* block);
void PackQ5_1(const float* x, const float* w, uint8_t* block);
void PackQ2_K(const float* x, const float* w, uint8_t* block);
void PackQ3_K(const float* x, const float* w, uint8_t* block);
void PackQ4_K(const float* x, const float* w, uint8_t* block);
void PackQ5_K(const float* x, const float* w, uint8_t* block);
void PackQ6_K(const float* x, const float* w, uint8_t* block);
void PackIQ4_NL(const float* x, const float* w, uint8_t* block);
void PackIQ4_XS(const float* x, const float* w, uint8_t* block);
void PackTQ1_0(const float* x, const float* w, uint8_t* block);
void PackTQ2_0(const float* x, const float* w, uint8_t* block);
void PackMXFP4(const float* x, const float* w, uint8_t* block);
// Groups of one block (group_pack.h).
void PackNF4(const float* x, const float* w, uint8_t* block);
void PackInt3(const float* x, const float* w, uint8_t* block);
void PackInt3M(const float* x, const float* w, uint8_t* block);

}  // namespace bantam
