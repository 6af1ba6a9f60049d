// Floats to blocks whose scales are shared by groups of any number of blocks: what integer types of groups and channels are here. A group
// of 64 in a format of blocks of 32 is two blocks of the same scale, so what runs blocks runs groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "tensor/dtype.h"

namespace bantam {

// Whether a format's blocks can share scales: Q8_0, Q4_0, Q4_1, NF4, INT3, INT3M.
bool SharesScales(DType dtype);

// One group of n values, a whole number of blocks. Without weights by the plain rules of published quantisers (round to nearest: symmetric
// 2 max|x| over the number of steps; asymmetric from min(0, x) to max(0, x) with a whole zero point; int8 and NF4 by the largest
// magnitude); with them a search for the scale that leaves the least sum of w (x - packed)^2, in groups of up to 256 values.
void PackGroup(DType dtype, const float* x, const float* w, size_t n, uint8_t* blocks);

// A row of groups of `group` columns (a whole number of them), as PackRow has it. Errors: those of PackRow.
Status PackGroups(DType dtype, size_t group, std::span<const float> values, std::span<const float> importance, uint8_t* blocks);

}  // namespace bantam
