#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {
// Needs AVX-512 F, BW, DQ, VL and VNNI.
extern const KernelSet kAvx512;
}  // namespace bantam::kernels
