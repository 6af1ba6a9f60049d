#include "compress/correction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/rng.h"
#include "compress/dense_products.h"
#include "compress/recipe.h"
#include "compress/symmetric_eigen.h"
#include "kernels/ref/ref.h"
#include "model/load.h"
#include "model/low_rank_names.h"

namespace bantam {
namespace {

constexpr size_t kFurther = 8;  // dimensions beside those that are wanted
constexpr int kIterations = 4;

// Rows [count][n] to ones at right angles, of length 1. Those that say nothing new become zeros.
void Orthonormalize(std::vector<float>* rows, size_t n) {
  const size_t count = rows->size() / n;
  for (size_t i = 0; i < count; ++i) {
    float* row = rows->data() + i * n;
    double before = 0;
    for (size_t k = 0; k < n; ++k) before += static_cast<double>(row[k]) * static_cast<double>(row[k]);
    // Twice is enough (Giraud et al., 2005).
    for (int turn = 0; turn < 2; ++turn) {
      for (size_t j = 0; j < i; ++j) {
        const float* other = rows->data() + j * n;
        double dot = 0;
        for (size_t k = 0; k < n; ++k) dot += static_cast<double>(row[k]) * static_cast<double>(other[k]);
        for (size_t k = 0; k < n; ++k) row[k] -= static_cast<float>(dot) * other[k];
      }
    }
    double square = 0;
    for (size_t k = 0; k < n; ++k) square += static_cast<double>(row[k]) * static_cast<double>(row[k]);
    const auto factor = static_cast<float>(square > 1e-12 * before && square > 0 ? 1 / std::sqrt(square) : 0.0);
    for (size_t k = 0; k < n; ++k) row[k] *= factor;
  }
}

// The error with its columns weighed.
std::vector<float> Weighed(const MatrixError& error, const KernelSet& kernels, ThreadPool& pool) {
  const size_t n = error.columns;
  std::vector<float> weighed(error.values.size());
  if (error.factor != nullptr) {
    for (size_t i = 0; i < weighed.size(); ++i) weighed[i] = error.values[i / n * n + error.factor->order[i % n]];
    return TimesUpper(weighed, error.factor->r, kernels, pool);
  }
  for (size_t i = 0; i < weighed.size(); ++i) {
    weighed[i] = error.values[i] * (error.means.empty() ? 1.0f : std::sqrt(error.means[i % n]));
  }
  return weighed;
}

}  // namespace

Result<std::set<std::string, std::less<>>> CorrectableMatrices(ModelFile& file) {
  BANTAM_ASSIGN(const ModelOutline outline, OutlineModel(file, kernels::kReference));
  std::set<std::string, std::less<>> names;
  const auto add = [&](const MatMulPart& part) {
    const WeightSpec& spec = outline.program.weights[part.weight];
    const TensorInfo* tensor = file.directory.Find(spec.name);
    if (tensor == nullptr || !IsCompressible(*tensor) || tensor->matrices() != 1 || !LowRankPart(spec.name).empty()) return;
    const std::string prefix = spec.name.substr(0, spec.name.rfind('.'));
    if (file.directory.Find(fmt::format("{}{}.weight", prefix, kLowRankB)) == nullptr) names.insert(spec.name);
  };
  for (const Op& op : outline.program.ops) {
    if (const auto* product = std::get_if<MatMulOp>(&op)) {
      for (const MatMulPart& part : product->parts) add(part);
    } else if (const auto* gated = std::get_if<GatedMatMulOp>(&op)) {
      add(gated->gate);
      add(gated->up);
    }
  }
  // Rows of the table of tokens are looked up as well.
  names.erase("token_embd.weight");
  if (file.directory.Find("token_embd.weight") == nullptr) names.erase("output.weight");
  return names;
}

DType CorrectionType(size_t columns) { return columns % Info(DType::kQ8_0).block_elements == 0 ? DType::kQ8_0 : DType::kF16; }

bool IsCorrectable(size_t rows, size_t columns, size_t rank) {
  return rank > 0 && 2 * rank <= std::min(rows, columns) && 2 * rank * (rows + columns) <= rows * columns;
}

Result<Factors> CorrectError(const MatrixError& error, size_t rank, const KernelSet& kernels, ThreadPool& pool) {
  const size_t n = error.columns;
  const size_t m = error.rows;
  CHECK(error.values.size() == m * n && 2 * rank <= std::min(m, n));
  const std::vector<float> y = Weighed(error, kernels, pool);
  const std::vector<float> turned = Turned(y, m, n);
  const size_t count = std::min(rank + kFurther, std::min(m, n));
  Rng rng(/*seed=*/1);
  std::vector<float> right(count * n);
  for (float& value : right) value = static_cast<float>(rng.Next() % 65536) / 32768 - 1;
  std::vector<float> left;  // [count][m]
  for (int i = 0; i < kIterations; ++i) {
    left = RowProducts(right, y, n, kernels, pool);
    Orthonormalize(&left, m);
    if (i + 1 < kIterations) right = RowProducts(left, turned, m, kernels, pool);
  }
  // Of the dimensions found, those along which most of the error lies: eigenvectors of the small Gram matrix of left Y.
  const std::vector<float> within = RowProducts(left, turned, m, kernels, pool);
  std::vector<double> square(count * count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (size_t k = 0; k < n; ++k) dot += static_cast<double>(within[i * n + k]) * static_cast<double>(within[j * n + k]);
      square[i * count + j] = square[j * count + i] = dot;
    }
  }
  BANTAM_ASSIGN(const SymmetricEigen eigen, DecomposeSymmetric(std::move(square), count, rank, pool));
  std::vector<float> chosen(rank * m);  // U^T
  for (size_t i = 0; i < rank; ++i) {
    for (size_t j = 0; j < count; ++j) {
      const auto part = static_cast<float>(eigen.vectors[i * count + j]);
      for (size_t k = 0; k < m; ++k) chosen[i * m + k] += part * left[j * m + k];
    }
  }
  return Factors{RowProducts(chosen, Turned(error.values, m, n), m, kernels, pool), Turned(chosen, rank, m)};
}

}  // namespace bantam
