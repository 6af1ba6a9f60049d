// 256-bit sets for x86.
#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {

extern const KernelSet kAvx2;     // AVX2, FMA and F16C: Haswell, Zen and later
extern const KernelSet kAvxVnni;  // with the 8-bit dot product besides

}  // namespace bantam::kernels
