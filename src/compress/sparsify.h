// Weights that become zero, where they stand: as accuracy tools, for no kernel here is faster by zeros (docs/compression.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "base/threads.h"
#include "compress/gram.h"

namespace bantam {

enum class SparseMethod : uint8_t {
  kMagnitude,  // the smallest of a matrix
  kWanda,      // of a row, by size times what the column is multiplied with (Sun et al., "A simple and effective pruning approach", 2024)
  kSparseGpt,  // and the others make good for them (Frantar and Alistarh, "SparseGPT", 2023)
};
// "magnitude", "wanda", "sparsegpt". InvalidArgument.
Result<SparseMethod> SparseMethodFromName(std::string_view name);

// Which part of the weights becomes zero: of all of them, or so many of every `group` neighbours in a row.
struct Sparsity {
  double part = 0.5;
  size_t zeros = 0;  // of `group`; 0: by part
  size_t group = 0;
};
// "50%", or "2:4": two of four. InvalidArgument.
Result<Sparsity> ParseSparsity(std::string_view text);

// A matrix [rows][n], changed in place.
struct SparseRows {
  float* values;
  size_t rows;
  size_t n;
};
void SparsifyByMagnitude(const SparseRows& matrix, const Sparsity& sparsity);
// means [n]: mean squares of what columns are multiplied with.
void SparsifyByWanda(const SparseRows& matrix, const Sparsity& sparsity, std::span<const float> means);
// With the factor of columns as they stand. Which weights of 128 columns go is decided over all rows at once, by what each would cost; what
// is left then makes good for them, column by column.
void SparsifyBySparseGpt(const SparseRows& matrix, const Sparsity& sparsity, const GramFactor& factor, const KernelSet& kernels,
                         ThreadPool& pool);

}  // namespace bantam
