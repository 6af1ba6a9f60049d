// Scales found without data by a half-quadratic search (Badri and Shaji, "HQQ: half-quadratic quantization of large machine learning
// models", 2023): errors count by their magnitude to the power of 0.7, so that a few large ones may stay where most become smaller.
#pragma once

#include <span>

#include "tensor/dtype.h"
#include "tensor/scale_search.h"

namespace bantam {

// The scale puts the least and the largest value at codes 0 and `high`; the minimum is searched. x is about d * code - m. `positive_min`
// demands m >= 0, and 0 among the values that are reached.
ScaleAndMin SearchHalfQuadratic(std::span<const float> x, int high, bool positive_min);

// Formats whose blocks have a minimum of their own: Q4_1, Q5_1, Q2_K, Q4_K, Q5_K.
bool HasHalfQuadratic(DType dtype);
// Packs a row of them as PackRow does, with scales of this search. Errors: those of PackRow.
Status PackRowHalfQuadratic(DType dtype, std::span<const float> values, uint8_t* blocks);

}  // namespace bantam
