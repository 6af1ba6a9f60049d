#include "compress/refit.h"

#include <algorithm>
#include <utility>

namespace bantam {
namespace {

// x (R R^T) = b in place, for b of one row in the order of the factor.
void Substitute(const UpperPanels& r, std::span<float> x) {
  const size_t n = r.n();
  // z R^T = b: the last one first.
  for (size_t j = n; j-- > 0;) {
    float sum = x[j];
    for (size_t k = j + 1; k < std::min(n, (j / kPanelRows + 1) * kPanelRows); ++k) sum -= x[k] * r.At(j, k);
    for (size_t p = j / kPanelRows + 1; p < r.panels(); ++p) {
      const float* values = r.Panel(p) + j * kPanelRows;
      const size_t count = std::min(kPanelRows, n - p * kPanelRows);
      float part = 0;
      for (size_t c = 0; c < count; ++c) part += x[p * kPanelRows + c] * values[c];
      sum -= part;
    }
    x[j] = sum / r.At(j, j);
  }
  // x R = z: the first one first.
  for (size_t p = 0; p < r.panels(); ++p) {
    const size_t first = p * kPanelRows;
    const float* panel = r.Panel(p);
    float sums[kPanelRows] = {};
    for (size_t i = 0; i < first; ++i) {
      for (size_t c = 0; c < kPanelRows; ++c) sums[c] += x[i] * panel[i * kPanelRows + c];
    }
    for (size_t j = first; j < std::min(n, first + kPanelRows); ++j) {
      float sum = x[j] - sums[j - first];
      for (size_t i = first; i < j; ++i) sum -= x[i] * r.At(i, j);
      x[j] = sum / r.At(j, j);
    }
  }
}

}  // namespace

Result<std::vector<float>> RefitColumns(const RefitRows& matrix, const KernelSet& kernels, ThreadPool& pool) {
  const size_t n = matrix.gram.n();
  const size_t k = matrix.kept.size();
  const auto gram = [&](size_t i, size_t j) { return matrix.gram.At(std::min(i, j), std::max(i, j)); };
  UpperPanels among_kept(k);
  for (size_t j = 0; j < k; ++j) {
    for (size_t i = 0; i <= j; ++i) among_kept.At(i, j) = gram(matrix.kept[i], matrix.kept[j]);
  }
  BANTAM_ASSIGN(const GramFactor factor, FactorGram(std::move(among_kept), kernels, pool));
  std::vector<uint32_t> gone;
  for (uint32_t j = 0; j < n; ++j) {
    if (!std::binary_search(matrix.kept.begin(), matrix.kept.end(), j)) gone.push_back(j);
  }
  // [gone][k], in the order of the factor.
  std::vector<float> between(gone.size() * k);
  for (size_t d = 0; d < gone.size(); ++d) {
    for (size_t j = 0; j < k; ++j) between[d * k + j] = gram(gone[d], matrix.kept[factor.order[j]]);
  }
  std::vector<float> out(matrix.rows * k);
  pool.Run([&](int thread) {
    const auto [begin, end] = Share(matrix.rows, thread, pool.size());
    std::vector<float> x(k);
    for (size_t row = begin; row < end; ++row) {
      const float* values = matrix.values.data() + row * n;
      std::fill(x.begin(), x.end(), 0.0f);
      for (size_t d = 0; d < gone.size(); ++d) {
        const float weight = values[gone[d]];
        const float* line = between.data() + d * k;
        for (size_t j = 0; j < k; ++j) x[j] += weight * line[j];
      }
      Substitute(factor.r, x);
      for (size_t j = 0; j < k; ++j) out[row * k + factor.order[j]] = values[matrix.kept[factor.order[j]]] + x[j];
    }
  });
  return out;
}

}  // namespace bantam
