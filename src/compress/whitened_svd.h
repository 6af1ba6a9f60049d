// A matrix as the product of two smaller ones, such that what it gives on a text changes least: the singular value decomposition of W R,
// where X^T X = R R^T of what it is multiplied with (Wang et al., "SVD-LLM: truncation-aware singular value decomposition", 2024).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "compress/gram.h"

namespace bantam {

// W [rows][n] and R, columns as they stand.
struct WhitenedRows {
  std::span<const float> values;
  size_t rows;
  const UpperPanels& r;

  size_t rank_max() const { return rows < r.n() ? rows : r.n(); }
};

// Squares of the singular values of W R, the largest first, [rank_max]. What is left out of them, over their sum, is the loss:
// |X (W - W')^T|^2 / |X W^T|^2. Errors: those of DecomposeSymmetric.
Result<std::vector<double>> WhitenedSpectrum(const WhitenedRows& matrix, const KernelSet& kernels, ThreadPool& pool);

// W' = B A of the rank with the least loss. B's columns are at right angles and of length 1.
struct Factors {
  std::vector<float> a;  // [rank][n]
  std::vector<float> b;  // [rows][rank]
};
Result<Factors> FactorMatrix(const WhitenedRows& matrix, size_t rank, const KernelSet& kernels, ThreadPool& pool);

}  // namespace bantam
