// What is left of a matrix when some of its columns go, by least squares.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "compress/gram.h"

namespace bantam {

// W [rows][n], what its columns were multiplied with (X^T X), and the columns that stay, in ascending order.
struct RefitRows {
  std::span<const float> values;
  size_t rows;
  const UpperPanels& gram;
  std::span<const uint32_t> kept;
};
// [rows][kept]: the kept columns, changed so that |X (W - W')^T|^2 is least: W' = W_K + W_D H_DK (H_KK + damping)^-1, D those that go.
// Errors: those of FactorGram.
Result<std::vector<float>> RefitColumns(const RefitRows& matrix, const KernelSet& kernels, ThreadPool& pool);

}  // namespace bantam
