#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {
extern const KernelSet kReference;
}  // namespace bantam::kernels
