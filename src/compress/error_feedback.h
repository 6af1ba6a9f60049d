// GPTQ for every integer format: scales are found first and frozen, then each weight's integer is chosen so that it also makes good for the
// errors of the ones before (Frantar et al., "GPTQ", 2023). The result is an ordinary block of the format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "compress/gram.h"
#include "tensor/dtype.h"

namespace bantam {

// Whether a format's integers can be chosen one by one: those that search for scales and can be encoded again.
bool TakesFeedback(DType dtype);

// Rows of one matrix [rows][n], n that of the factor and a whole number of blocks, already packed: their codes are chosen anew for the same
// scales. Rows are independent of each other, so callers deal them out to threads.
struct FeedbackRows {
  DType dtype;
  const float* values;  // [rows][n], what was packed
  size_t rows;
  uint8_t* blocks;  // [rows] of RowBytes(dtype, n)
};
void ChooseCodes(const FeedbackRows& rows, const GramFactor& factor, const KernelSet& kernels);

}  // namespace bantam
