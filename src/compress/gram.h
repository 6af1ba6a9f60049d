// Gram matrices of what a product reads, X^T X, and their triangular factors: what error feedback knows of a layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "tensor/panel.h"

namespace bantam {

// The upper triangle of an n x n matrix: panel p holds rows 0 to 16 p + 15 of columns 16 p to 16 p + 15, each row's 16 side by side. That
// is how products of f32 panels take and give such numbers. What lies below the diagonal or beyond n is zero, or means nothing.
class UpperPanels {
 public:
  UpperPanels() = default;
  explicit UpperPanels(size_t n) : n_(n), values_(PanelAt(PanelCount(n))) {}

  size_t n() const { return n_; }
  size_t panels() const { return PanelCount(n_); }
  // [16 p + 16][16]
  float* Panel(size_t p) { return values_.data() + PanelAt(p); }
  const float* Panel(size_t p) const { return values_.data() + PanelAt(p); }
  // Row i, column j, i <= j.
  float& At(size_t i, size_t j) { return Panel(j / kPanelRows)[i * kPanelRows + j % kPanelRows]; }
  float At(size_t i, size_t j) const { return Panel(j / kPanelRows)[i * kPanelRows + j % kPanelRows]; }

  static uint64_t Bytes(size_t n) { return PanelAt(PanelCount(n)) * sizeof(float); }

 private:
  static constexpr size_t PanelAt(size_t p) { return kPanelRows * kPanelRows * (p * (p + 1) / 2); }
  size_t n_ = 0;
  std::vector<float> values_;
};

// gram += X^T X for `rows` rows of X, by every thread of a team: each takes panels of its own, so that neither their number nor how rows
// are dealt to threads changes a bit.
struct GramRows {
  const float* x;   // [rows][n]
  const float* xt;  // [n][rows]
  size_t rows;
};
void AddGram(const GramRows& rows, const KernelSet& kernels, int thread, int team, UpperPanels* gram);

// The order in which columns come: as they stand, or those with the largest diagonal first (act-order; Frantar et al., "GPTQ", 2023).
enum class ColumnOrder : uint8_t { kAsTheyStand, kLargestFirst };

// R, upper triangular, with P H P^T = R R^T for the Gram matrix H with `damping` of its mean diagonal added to the diagonal, and P the
// order of columns. H = R R^T, and not R^T R,
// for then no inverse is needed: error feedback is a substitution with R (Chen et al., "The geometry of LLM quantization: GPTQ as Babai's
// nearest plane algorithm", 2025).
struct GramFactor {
  UpperPanels r;
  std::vector<uint32_t> order;  // order[i]: the column that comes i-th
};

// Takes the memory of `gram` for the factor, and n * n floats beside it meanwhile. Columns that nothing was seen of are factored as if they
// were alone. Corrupt when no damping up to kDampingMax makes the matrix definite: activations that are no numbers.
inline constexpr double kDamping = 0.01;
inline constexpr double kDampingMax = 1;
struct Factoring {
  ColumnOrder order = ColumnOrder::kLargestFirst;
  double damping = kDamping;
};
Result<GramFactor> FactorGram(UpperPanels gram, const KernelSet& kernels, ThreadPool& pool, const Factoring& how = {});

}  // namespace bantam
