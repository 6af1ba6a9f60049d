#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {
// Needs AVX2, FMA and F16C.
extern const KernelSet kAvx2;
}  // namespace bantam::kernels
