// Sets for 64-bit ARM.
#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {

extern const KernelSet kNeon;      // ARMv8.0: every 64-bit core
extern const KernelSet kNeonDot;   // with the 8-bit dot product of ARMv8.2 (Cortex-A55, A76 and later)
extern const KernelSet kNeonI8mm;  // with the 8-bit matrix product of ARMv8.6 besides (Cortex-A510, A710, X2, Neoverse V1 and later)

}  // namespace bantam::kernels
