#include "compress/dense_products.h"

#include <algorithm>

namespace bantam {
namespace {

using kernels::kColumnsMax;

constexpr size_t kF32 = static_cast<size_t>(PanelKind::kF32);

}  // namespace

std::vector<float> Turned(std::span<const float> values, size_t rows, size_t columns) {
  constexpr size_t kTile = 32;
  std::vector<float> turned(values.size());
  for (size_t r0 = 0; r0 < rows; r0 += kTile) {
    for (size_t c0 = 0; c0 < columns; c0 += kTile) {
      for (size_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
        for (size_t c = c0; c < std::min(columns, c0 + kTile); ++c) turned[c * rows + r] = values[r * columns + c];
      }
    }
  }
  return turned;
}

std::vector<float> TimesUpper(std::span<const float> w, const UpperPanels& r, const KernelSet& kernels, ThreadPool& pool) {
  const size_t n = r.n();
  const size_t rows = w.size() / n;
  std::vector<float> y(w.size());
  pool.Run([&](int thread) {
    alignas(64) float sums[kColumnsMax * kPanelRows];
    const auto [begin, end] = Share(rows, thread, pool.size());
    for (size_t p = 0; p < r.panels(); ++p) {
      const size_t first = p * kPanelRows;
      const size_t width = std::min(kPanelRows, n - first);
      const kernels::Panel panel = {reinterpret_cast<const uint8_t*>(r.Panel(p)), first + width, nullptr, 1};
      for (size_t row = begin; row < end; row += kColumnsMax) {
        const size_t count = std::min(kColumnsMax, end - row);
        const void* columns[kColumnsMax];
        for (size_t c = 0; c < count; ++c) columns[c] = w.data() + (row + c) * n;
        kernels.product[kF32](panel, columns, count, sums);
        for (size_t c = 0; c < count; ++c) std::copy_n(sums + c * kPanelRows, width, &y[(row + c) * n + first]);
      }
    }
  });
  return y;
}

std::vector<float> RowProducts(std::span<const float> a, std::span<const float> b, size_t n, const KernelSet& kernels, ThreadPool& pool) {
  const size_t m = a.size() / n;
  const size_t k = b.size() / n;
  std::vector<float> out(m * k);
  pool.Run([&](int thread) {
    alignas(64) float sums[kColumnsMax * kPanelRows];
    std::vector<float> panel(n * kPanelRows);
    const auto [begin, end] = Share(PanelCount(k), thread, pool.size());
    for (size_t p = begin; p < end; ++p) {
      const size_t first = p * kPanelRows;
      const size_t width = std::min(kPanelRows, k - first);
      for (size_t i = 0; i < n; ++i) {
        for (size_t c = 0; c < kPanelRows; ++c) panel[i * kPanelRows + c] = c < width ? b[(first + c) * n + i] : 0.0f;
      }
      const kernels::Panel weights = {reinterpret_cast<const uint8_t*>(panel.data()), n, nullptr, 1};
      for (size_t row = 0; row < m; row += kColumnsMax) {
        const size_t count = std::min(kColumnsMax, m - row);
        const void* columns[kColumnsMax];
        for (size_t c = 0; c < count; ++c) columns[c] = a.data() + (row + c) * n;
        kernels.product[kF32](weights, columns, count, sums);
        for (size_t c = 0; c < count; ++c) std::copy_n(sums + c * kPanelRows, width, &out[(row + c) * k + first]);
      }
    }
  });
  return out;
}

}  // namespace bantam
