#include "program/low_rank.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "tensor/half.h"

namespace bantam {
namespace {

uint64_t ABytes(const Program& program, const LowRankShape& shape) {
  return AlignUp(MatrixBytes(Info(shape.a).panel, shape.rank, program.weights[shape.weight].columns));
}
uint64_t BBytes(const Program& program, const LowRankShape& shape) {
  return AlignUp(MatrixBytes(Info(shape.b).panel, program.weights[shape.weight].rows, shape.rank));
}

}  // namespace

DType LowRankDType(DType stored, const KernelSet& kernels) {
  return stored == DType::kF16 && InputOf(kernels, PanelKind::kF16) == InputForm::kFloats ? DType::kF16 : DType::kF32;
}

uint64_t LowRankUpdates::Bytes(const Program& program, std::span<const LowRankShape> shapes) {
  uint64_t total = 0;
  for (const LowRankShape& shape : shapes) total += ABytes(program, shape) + BBytes(program, shape);
  return total;
}

Result<LowRankUpdates> LowRankUpdates::Make(const Program& program, std::span<const LowRankShape> shapes, MemoryBudget& budget) {
  LowRankUpdates updates;
  BANTAM_ASSIGN(updates.arena_, Arena::Make(budget, Bytes(program, shapes), "an adapter"));
  updates.shapes_.assign(shapes.begin(), shapes.end());
  updates.places_.assign(program.weights.size(), kNone);
  for (const LowRankShape& shape : shapes) {
    const WeightSpec& spec = program.weights[shape.weight];
    CHECK(shape.rank > 0 && shape.rank <= kLowRankMax && spec.matrices == 1 && updates.places_[shape.weight] == kNone);
    const auto* a = reinterpret_cast<const uint8_t*>(updates.arena_.Take(ABytes(program, shape)).data());
    const auto* b = reinterpret_cast<const uint8_t*>(updates.arena_.Take(BBytes(program, shape)).data());
    updates.places_[shape.weight] = static_cast<uint32_t>(updates.updates_.size());
    updates.updates_.push_back({.scale = shape.scale,
                                .rank = shape.rank,
                                .a = {a, spec.columns, TableOf(shape.a).value.data(), TableOf(shape.a).multiplier},
                                .b = {b, shape.rank, TableOf(shape.b).value.data(), TableOf(shape.b).multiplier},
                                .a_kind = Info(shape.a).panel,
                                .b_kind = Info(shape.b).panel});
    updates.rank_max_ = std::max(updates.rank_max_, shape.rank);
  }
  return updates;
}

void LowRankUpdates::Set(DType dtype, const kernels::Panel& first, size_t panel, std::span<const float> rows) {
  const size_t columns = first.columns;
  const size_t count = rows.size() / columns;
  CHECK(count <= kPanelRows && rows.size() % columns == 0);
  const size_t row_bytes = RowBytes(dtype, columns);
  std::vector<uint8_t> stored(count * row_bytes);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (dtype == DType::kF16) {
      const uint16_t half = F32ToF16(rows[i]);
      std::memcpy(&stored[2 * i], &half, sizeof(half));
    } else {
      std::memcpy(&stored[4 * i], &rows[i], sizeof(float));
    }
  }
  const uint8_t* of_panel[kPanelRows] = {};
  for (size_t r = 0; r < count; ++r) of_panel[r] = &stored[r * row_bytes];
  // The arena is ours: panels are views of it.
  PackPanel(dtype, of_panel, columns, const_cast<uint8_t*>(first.data) + panel * PanelBytes(Info(dtype).panel, columns));
}

}  // namespace bantam
