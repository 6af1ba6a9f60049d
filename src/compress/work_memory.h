// What the methods of this module hold at most for the one matrix that they work on, beside the Gram matrices of those to come: it is
// reserved before hours of work, and not found missing after them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace bantam {

// Of the matrix that takes most.
struct WorkMemory {
  uint64_t bytes = 0;
  std::string matrix = {};

  void Take(uint64_t of_matrix, std::string_view name) {
    if (of_matrix <= bytes) return;
    bytes = of_matrix;
    matrix = name;
  }
};

// A matrix [rows][columns].
struct WorkShape {
  size_t rows;
  size_t columns;

  uint64_t floats_bytes() const { return uint64_t{rows} * columns * sizeof(float); }
};

// A Gram matrix, and FactorGram of it.
uint64_t FactoringBytes(size_t columns);
// A Gram matrix and RefitColumns, with the matrix before and after.
uint64_t RefittingBytes(const WorkShape& shape);
// SparsifyBySparseGpt with its factor, or the other methods, with the matrix before and after.
uint64_t SparseGptBytes(const WorkShape& shape);
uint64_t ZeroingBytes(const WorkShape& shape);
// WhitenedSpectrum and FactorMatrix of any rank, with what whitens the matrix, and the matrix and its factors.
uint64_t LowRankBytes(const WorkShape& shape);
// CorrectError and the errors, with a Gram matrix's factor or without.
uint64_t CorrectingBytes(const WorkShape& shape, size_t rank, bool factor);

}  // namespace bantam
