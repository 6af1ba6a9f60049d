// What quantisation took from a matrix, as a product of two small ones beside it (Zhang et al., "LQER: low-rank quantization error
// reconstruction for LLMs", 2024; weighted by activations as in Liu et al., "EoRA", 2024).
#pragma once

#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "compress/gram.h"
#include "compress/whitened_svd.h"
#include "formats/model_file.h"

namespace bantam {

// Matrices that may have a correction: those that products read, and that have none yet. Errors: those of OutlineModel.
Result<std::set<std::string, std::less<>>> CorrectableMatrices(ModelFile& file);

// The format of a factor whose rows have so many columns: 8 bits where its blocks divide them.
DType CorrectionType(size_t columns);
// Whether factors of this rank are worth having: they have at most half the weights of the matrix.
bool IsCorrectable(size_t rows, size_t columns, size_t rank);

// The error [rows][n] of a matrix, and how much each column counts: by the factor of X^T X where it is known, by mean squares where those
// are, else all the same.
struct MatrixError {
  std::span<const float> values;
  size_t rows;
  size_t columns;
  const GramFactor* factor;
  std::span<const float> means;
};
// B A of that rank (at most half of rows and columns), closest to the error: found by iteration on a few more dimensions than that (Halko
// et al., "Finding structure with randomness", 2011), always the same. Errors: those of DecomposeSymmetric.
Result<Factors> CorrectError(const MatrixError& error, size_t rank, const KernelSet& kernels, ThreadPool& pool);

}  // namespace bantam
