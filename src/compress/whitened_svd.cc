#include "compress/whitened_svd.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "compress/dense_products.h"
#include "compress/symmetric_eigen.h"

namespace bantam {
namespace {

// Directions of less length, relative to the longest, are not told from rounding.
constexpr double kLengthMin = 1e-7;

// W R and the eigenvectors of its smaller Gram matrix.
struct Decomposed {
  std::vector<float> y;  // [rows][n]
  bool of_rows;          // vectors are those of y y^T, else of y^T y
  SymmetricEigen eigen;
};
Result<Decomposed> Decompose(const WhitenedRows& matrix, size_t rank, const KernelSet& kernels, ThreadPool& pool) {
  const size_t n = matrix.r.n();
  const size_t m = matrix.rows;
  CHECK(matrix.values.size() == m * n && rank <= matrix.rank_max());
  Decomposed made = {TimesUpper(matrix.values, matrix.r, kernels, pool), m <= n, {}};
  std::vector<double> square;
  {
    const std::vector<float> turned = Turned(made.y, m, n);
    UpperPanels gram(made.of_rows ? m : n);
    const GramRows rows = made.of_rows ? GramRows{turned.data(), made.y.data(), n} : GramRows{made.y.data(), turned.data(), m};
    pool.Run([&](int thread) { AddGram(rows, kernels, thread, pool.size(), &gram); });
    const size_t size = gram.n();
    square.resize(size * size);
    for (size_t i = 0; i < size; ++i) {
      for (size_t j = i; j < size; ++j) square[i * size + j] = square[j * size + i] = static_cast<double>(gram.At(i, j));
    }
  }
  const size_t size = made.of_rows ? m : n;
  BANTAM_ASSIGN(made.eigen, DecomposeSymmetric(std::move(square), size, rank, pool));
  for (double& value : made.eigen.values) value = std::max(value, 0.0);
  return made;
}

}  // namespace

Result<std::vector<double>> WhitenedSpectrum(const WhitenedRows& matrix, const KernelSet& kernels, ThreadPool& pool) {
  BANTAM_ASSIGN(Decomposed made, Decompose(matrix, /*rank=*/0, kernels, pool));
  return std::move(made.eigen.values);
}

// With W R = U S V^T, and U_k its first columns, the best matrix of rank k is U_k U_k^T W: R need not be inverted.
Result<Factors> FactorMatrix(const WhitenedRows& matrix, size_t rank, const KernelSet& kernels, ThreadPool& pool) {
  CHECK(rank > 0);
  BANTAM_ASSIGN(Decomposed made, Decompose(matrix, rank, kernels, pool));
  const size_t n = matrix.r.n();
  const size_t m = matrix.rows;
  std::vector<float> vectors(made.eigen.vectors.begin(), made.eigen.vectors.end());  // [rank][m or n]
  Factors factors;
  if (made.of_rows) {
    factors.b = Turned(vectors, rank, m);
  } else {
    // U_k = W R V_k S_k^-1.
    factors.b = RowProducts(made.y, vectors, n, kernels, pool);
    const double shortest = kLengthMin * kLengthMin * made.eigen.values[0];
    for (size_t i = 0; i < factors.b.size(); ++i) {
      const double square = made.eigen.values[i % rank];
      factors.b[i] = square > shortest ? static_cast<float>(static_cast<double>(factors.b[i]) / std::sqrt(square)) : 0.0f;
    }
    vectors = Turned(factors.b, m, rank);
  }
  factors.a = RowProducts(vectors, Turned(matrix.values, m, n), m, kernels, pool);
  return factors;
}

}  // namespace bantam
