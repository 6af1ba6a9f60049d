#include "compress/gram.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "tensor/dtype.h"

namespace bantam {
namespace {

using kernels::kColumnsMax;

constexpr size_t kF32 = static_cast<size_t>(PanelKind::kF32);

// The factor in the making: rows one behind the other, in the order of columns.
class FactorMaker {
 public:
  FactorMaker(const UpperPanels& gram, const std::vector<uint32_t>& order, double added) : n_(gram.n()), r_(n_ * n_) {
    for (size_t i = 0; i < n_; ++i) {
      for (size_t j = i; j < n_; ++j) r_[i * n_ + j] = gram.At(std::min(order[i], order[j]), std::max(order[i], order[j]));
      float& diagonal = r_[i * n_ + i];
      // Nothing was seen of this column: any weight does.
      diagonal = diagonal > 0 ? static_cast<float>(static_cast<double>(diagonal) + added) : 1.0f;
    }
  }

  // Columns in blocks of 16, the last one first. False when a pivot is not above 0.
  bool Run(const KernelSet& kernels, ThreadPool& pool) {
    std::vector<float> panel(n_ * kPanelRows);
    std::atomic<bool> definite = true;
    pool.Run([&](int thread) {
      for (size_t b = PanelCount(n_); b-- > 0 && definite;) {
        const Block block = {b * kPanelRows, std::min(kPanelRows, n_ - b * kPanelRows)};
        if (thread == 0) FillPanel(block, panel.data());
        pool.Barrier(thread);
        Subtract(block, panel.data(), kernels, thread, pool.size());
        pool.Barrier(thread);
        if (thread == 0) definite = FactorDiagonal(block);
        pool.Barrier(thread);
        if (definite) Solve(block, thread, pool.size());
        pool.Barrier(thread);
      }
    });
    return definite;
  }

  void Store(UpperPanels* out) const {
    for (size_t p = 0; p < out->panels(); ++p) {
      const size_t count = std::min(kPanelRows, n_ - p * kPanelRows);
      float* panel = out->Panel(p);
      for (size_t i = 0; i < (p + 1) * kPanelRows; ++i) {
        for (size_t c = 0; c < kPanelRows; ++c) {
          const size_t j = p * kPanelRows + c;
          panel[i * kPanelRows + c] = c < count && i <= j ? r_[i * n_ + j] : 0.0f;
        }
      }
    }
  }

 private:
  struct Block {
    size_t begin;
    size_t count;
    size_t end() const { return begin + count; }
  };

  // The block's rows behind its end, as the panel of a product.
  void FillPanel(const Block& block, float* panel) const {
    for (size_t k = block.end(); k < n_; ++k) {
      float* out = panel + (k - block.end()) * kPanelRows;
      for (size_t c = 0; c < kPanelRows; ++c) out[c] = c < block.count ? r_[(block.begin + c) * n_ + k] : 0.0f;
    }
  }

  // S = H - R R^T over the columns behind the block, for all rows up to its end.
  void Subtract(const Block& block, const float* panel, const KernelSet& kernels, int thread, int team) {
    const size_t behind = n_ - block.end();
    if (behind == 0) return;
    const kernels::Panel weights = {reinterpret_cast<const uint8_t*>(panel), behind, nullptr, 1};
    const auto [begin, end] = Share((block.end() + kColumnsMax - 1) / kColumnsMax, thread, team);
    alignas(64) float sums[kColumnsMax * kPanelRows];
    for (size_t row = begin * kColumnsMax; row < std::min(end * kColumnsMax, block.end()); row += kColumnsMax) {
      const size_t count = std::min(kColumnsMax, block.end() - row);
      const void* columns[kColumnsMax];
      for (size_t c = 0; c < count; ++c) columns[c] = &r_[(row + c) * n_ + block.end()];
      kernels.product[kF32](weights, columns, count, sums);
      for (size_t c = 0; c < count; ++c) {
        for (size_t j = 0; j < block.count; ++j) r_[(row + c) * n_ + block.begin + j] -= sums[c * kPanelRows + j];
      }
    }
  }

  bool FactorDiagonal(const Block& block) {
    for (size_t j = block.end(); j-- > block.begin;) {
      for (size_t i = j + 1; i-- > block.begin;) {
        double sum = static_cast<double>(r_[i * n_ + j]);
        for (size_t k = j + 1; k < block.end(); ++k) sum -= static_cast<double>(r_[i * n_ + k]) * static_cast<double>(r_[j * n_ + k]);
        if (i == j && !(sum > 0 && std::isfinite(sum))) return false;
        r_[i * n_ + j] = static_cast<float>(i == j ? std::sqrt(sum) : sum / static_cast<double>(r_[j * n_ + j]));
      }
    }
    return true;
  }

  // R = S R_block^-T for the rows in front of the block.
  void Solve(const Block& block, int thread, int team) {
    const auto [begin, end] = Share(block.begin, thread, team);
    for (size_t i = begin; i < end; ++i) {
      float* row = &r_[i * n_];
      for (size_t j = block.end(); j-- > block.begin;) {
        float sum = row[j];
        for (size_t k = j + 1; k < block.end(); ++k) sum -= row[k] * r_[j * n_ + k];
        row[j] = sum / r_[j * n_ + j];
      }
    }
  }

  size_t n_;
  std::vector<float> r_;  // [n][n]
};

}  // namespace

void AddGram(const GramRows& rows, const KernelSet& kernels, int thread, int team, UpperPanels* gram) {
  const size_t n = gram->n();
  std::vector<float> panel(rows.rows * kPanelRows);
  alignas(64) float sums[kColumnsMax * kPanelRows];
  // Later panels are longer: dealt out in turn, every thread gets as much as the others.
  for (size_t p = static_cast<size_t>(thread); p < gram->panels(); p += static_cast<size_t>(team)) {
    const size_t first = p * kPanelRows;
    const size_t count = std::min(kPanelRows, n - first);
    for (size_t k = 0; k < rows.rows; ++k) {
      for (size_t c = 0; c < kPanelRows; ++c) panel[k * kPanelRows + c] = c < count ? rows.x[k * n + first + c] : 0.0f;
    }
    const kernels::Panel weights = {reinterpret_cast<const uint8_t*>(panel.data()), rows.rows, nullptr, 1};
    float* out = gram->Panel(p);
    for (size_t i = 0; i < first + count; i += kColumnsMax) {
      const size_t columns_count = std::min(kColumnsMax, first + count - i);
      const void* columns[kColumnsMax];
      for (size_t c = 0; c < columns_count; ++c) columns[c] = rows.xt + (i + c) * rows.rows;
      kernels.product[kF32](weights, columns, columns_count, sums);
      for (size_t e = 0; e < columns_count * kPanelRows; ++e) out[i * kPanelRows + e] += sums[e];
    }
  }
}

Result<GramFactor> FactorGram(UpperPanels gram, const KernelSet& kernels, ThreadPool& pool, const Factoring& how) {
  const size_t n = gram.n();
  GramFactor factor;
  factor.order.resize(n);
  std::iota(factor.order.begin(), factor.order.end(), 0u);
  if (how.order == ColumnOrder::kLargestFirst) {
    std::stable_sort(factor.order.begin(), factor.order.end(), [&](uint32_t a, uint32_t b) { return gram.At(a, a) > gram.At(b, b); });
  }
  double mean = 0;
  for (size_t i = 0; i < n; ++i) mean += static_cast<double>(gram.At(i, i)) / static_cast<double>(n);
  if (!std::isfinite(mean)) return Error(Code::kCorrupt, "activations that are no numbers; the model is damaged, or its KV type too small");
  for (double damping = how.damping; damping <= kDampingMax; damping *= 10) {
    FactorMaker factoring(gram, factor.order, damping * mean);
    if (!factoring.Run(kernels, pool)) continue;
    factoring.Store(&gram);
    factor.r = std::move(gram);
    return factor;
  }
  return Error(Code::kCorrupt, "what the product reads has no usable statistics; calibrate with a longer text");
}

}  // namespace bantam
