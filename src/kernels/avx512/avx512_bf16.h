// What the bf16 unit does of the set avx512-bf16; the rest is avx512's. Needs AVX-512 F, BW, VL and BF16.
#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {
struct Bf16Kernels {
  ProductFunction product;  // of bf16 panels, with columns in bf16
  ToBf16Function to_bf16;
};
extern const Bf16Kernels kAvx512Bf16;
}  // namespace bantam::kernels
