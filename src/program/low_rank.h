// What an adapter adds to a program's products (Hu et al., "LoRA: low-rank adaptation of large language models", 2021), by weight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/memory_budget.h"
#include "base/result.h"
#include "kernels/kernels.h"
#include "program/program.h"
#include "tensor/arena.h"

namespace bantam {

// Far above what adapters have (8 to 256), and low enough that what is kept of rows is small.
inline constexpr size_t kLowRankMax = 512;

// y += scale * B (A x), where y = W x is the product of a weight.
struct LowRankShape {
  WeightId weight = kNone;
  size_t rank = 0;
  float scale = 1;
  // Of A [rank, columns] and B [rows, rank] in memory: F16 or F32 (LowRankDType).
  DType a = DType::kF32;
  DType b = DType::kF32;
};

// As what numbers that are stored as `stored` are kept: without loss, and so that products take floats.
DType LowRankDType(DType stored, const KernelSet& kernels);

// Immutable once filled.
class LowRankUpdates {
 public:
  struct Update {
    float scale;
    size_t rank;
    kernels::Panel a;  // the first of PanelCount(rank)
    kernels::Panel b;  // the first of PanelCount(rows)
    PanelKind a_kind;
    PanelKind b_kind;
  };

  static uint64_t Bytes(const Program& program, std::span<const LowRankShape> shapes);
  // Each weight once. All numbers are zeros at first. Exhausted when the budget cannot hold them.
  static Result<LowRankUpdates> Make(const Program& program, std::span<const LowRankShape> shapes, MemoryBudget& budget);

  // Panel `panel` of an update's A or B, of at most 16 rows of floats one behind the other; floats of what is kept as F16 have to be F16
  // numbers.
  void SetA(size_t shape, size_t panel, std::span<const float> rows) { Set(shapes_[shape].a, updates_[shape].a, panel, rows); }
  void SetB(size_t shape, size_t panel, std::span<const float> rows) { Set(shapes_[shape].b, updates_[shape].b, panel, rows); }

  // Null where the weight has none.
  const Update* Of(WeightId weight) const { return places_[weight] == kNone ? nullptr : &updates_[places_[weight]]; }
  size_t rank_max() const { return rank_max_; }
  uint64_t bytes() const { return arena_.used_bytes(); }
  // All numbers, in the order of the shapes.
  std::span<const std::byte> numbers() const { return arena_.bytes(); }

 private:
  static void Set(DType dtype, const kernels::Panel& first, size_t panel, std::span<const float> rows);

  Arena arena_;
  std::vector<LowRankShape> shapes_;
  std::vector<Update> updates_;
  std::vector<uint32_t> places_;  // of each weight's update, or kNone
  size_t rank_max_ = 0;
};

}  // namespace bantam
