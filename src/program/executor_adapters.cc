// What adapters add to products (ADR 0018): each row by itself, so that its bits depend on its own adapter alone.
#include <algorithm>

#include "base/check.h"
#include "program/executor.h"
#include "tensor/half.h"

namespace bantam {

using kernels::ActivationBlock;
using kernels::ActivationTile;
using kernels::kColumnsMax;
using kernels::kTileColumns;

namespace {

// Floats of one row's part of an operation, so that it is whole panels.
size_t Padded(size_t rank) { return PanelCount(rank) * kPanelRows; }

// The widest input of a product.
size_t InputWidthMax(const Program& program) {
  size_t width = 0;
  for (const Op& op : program.ops) {
    if (const auto* product = std::get_if<MatMulOp>(&op)) width = std::max(width, program.buffers[product->in].width);
    if (const auto* gated = std::get_if<GatedMatMulOp>(&op)) width = std::max(width, program.buffers[gated->in].width);
    if (const auto* experts = std::get_if<ExpertMatMulOp>(&op)) width = std::max(width, program.buffers[experts->in].width);
  }
  return (width + kPanelRows - 1) / kPanelRows * kPanelRows;
}

uint64_t LowRankFloats(size_t rank, const PlanOptions& options) { return 2 * kMatMulPartsMax * options.step_tokens * Padded(rank); }

}  // namespace

uint64_t AdapterScratchBytes(const Program& program, const PlanOptions& options, size_t rank) {
  const uint64_t columns = AlignUp(kColumnsMax * InputWidthMax(program) * sizeof(float));
  return AlignUp(LowRankFloats(rank, options) * sizeof(float)) + static_cast<uint64_t>(options.threads) * columns;
}

Status Executor::RoomForRank(size_t rank, MemoryBudget& budget) {
  if (rank <= low_rank_max_) return Ok();
  BANTAM_ASSIGN(Arena arena, Arena::Make(budget, AdapterScratchBytes(program_, options_, rank), "rows of adapters"));
  low_rank_arena_ = std::move(arena);
  adapter_width_ = InputWidthMax(program_);
  low_ranks_ = low_rank_arena_.TakeArray<float>(LowRankFloats(rank, options_));
  adapter_columns_.clear();
  for (int thread = 0; thread < options_.threads; ++thread) {
    adapter_columns_.push_back(low_rank_arena_.TakeArray<float>(kColumnsMax * adapter_width_));
  }
  low_rank_max_ = rank;
  return Ok();
}

void Executor::FindAdapters() {
  adapters_.clear();
  for (const StepRow& row : step_->rows) {
    if (row.adapter == nullptr || std::find(adapters_.begin(), adapters_.end(), row.adapter) != adapters_.end()) continue;
    CHECK(row.adapter->rank_max() <= low_rank_max_);
    adapters_.push_back(row.adapter);
  }
}

const LowRankUpdates::Update* Executor::UpdateOf(const MatMulPart& part, BufferId in, size_t row) const {
  const size_t token = program_.buffers[in].rows == Rows::kOutputs ? step_->output_rows[row] : row;
  const LowRankUpdates* adapter = step_->rows[token].adapter;
  return adapter == nullptr ? nullptr : adapter->Of(part.weight);
}

size_t Executor::SameUpdate(const MatMulPart& part, BufferId in, size_t row, size_t end) const {
  const LowRankUpdates::Update* update = UpdateOf(part, in, row);
  size_t n = 1;
  while (n < kColumnsMax && row + n < end && UpdateOf(part, in, row + n) == update) ++n;
  return n;
}

const float* Executor::InputFloats(BufferId in, size_t row, int thread, size_t column) const {
  const BufferSpec& buffer = program_.buffers[in];
  if (buffer.form == BufferForm::kFloats) return FloatRow(in, row);
  float* out = adapter_columns_[static_cast<size_t>(thread)] + column * adapter_width_;
  if (buffer.form == BufferForm::kBf16) {
    const auto* values = reinterpret_cast<const uint16_t*>(InputRow(in, row, thread));
    for (size_t i = 0; i < buffer.width; ++i) out[i] = BF16ToF32(values[i]);
    return out;
  }
  const size_t place = row % kTileColumns;
  const bool tiled = row < TiledRows(in);
  const auto* tiles = reinterpret_cast<const ActivationTile*>(InputRow(in, row - place, thread));
  const auto* blocks = reinterpret_cast<const ActivationBlock*>(InputRow(in, row, thread));
  for (size_t b = 0; b < buffer.width / 32; ++b) {
    const int8_t* q = tiled ? tiles[b].q[place] : blocks[b].q;
    const float scale = tiled ? tiles[b].scale[place] : blocks[b].scale;
    for (size_t i = 0; i < 32; ++i) out[32 * b + i] = scale * static_cast<float>(q[i]);
  }
  return out;
}

float* Executor::LowRankRow(size_t turn, size_t slot, size_t row) const {
  return low_ranks_ + ((turn * kMatMulPartsMax + slot) * options_.step_tokens + row) * Padded(low_rank_max_);
}

void Executor::MakeLowRanks(const MatMulPart& part, size_t slot, const RowRange& rows, int thread) const {
  const size_t turn = op_[static_cast<size_t>(thread)].turn;
  alignas(64) float tile[kColumnsMax * kPanelRows];
  for (size_t row = rows.begin, n = 0; row < rows.end; row += n) {
    const LowRankUpdates::Update* update = UpdateOf(part, rows.in, row);
    n = SameUpdate(part, rows.in, row, rows.end);
    if (update == nullptr) continue;
    const void* columns[kColumnsMax];
    for (size_t c = 0; c < n; ++c) columns[c] = InputFloats(rows.in, row + c, thread, c);
    for (size_t p = 0; p < PanelCount(update->rank); ++p) {
      kernels::Panel panel = update->a;
      panel.data += p * PanelBytes(update->a_kind, panel.columns);
      kernels_.product[static_cast<size_t>(update->a_kind)](panel, columns, n, tile);
      for (size_t c = 0; c < n; ++c) {
        float* out = LowRankRow(turn, slot, row + c) + p * kPanelRows;
        for (size_t r = 0; r < kPanelRows; ++r) out[r] = update->scale * tile[c * kPanelRows + r];
      }
    }
  }
}

bool Executor::MakeLowRanks(std::span<const MatMulPart* const> parts, BufferId in, int thread) {
  const auto adapts = [&](const MatMulPart* part) {
    return std::any_of(adapters_.begin(), adapters_.end(),
                       [&](const LowRankUpdates* adapter) { return adapter->Of(part->weight) != nullptr; });
  };
  if (std::none_of(parts.begin(), parts.end(), adapts)) return false;
  // Whoever still reads those of the last operation reads the other place; of that before it nobody does.
  size_t& turn = op_[static_cast<size_t>(thread)].turn;
  turn = 1 - turn;
  const size_t rows = RowCount(in);
  const size_t groups = (rows + kColumnsMax - 1) / kColumnsMax;
  const auto [begin, end] = Share(groups * parts.size(), thread, pool_.team());
  for (size_t i = begin; i < end; ++i) {
    const size_t first = i / parts.size() * kColumnsMax;
    const size_t slot = i % parts.size();
    if (adapts(parts[slot])) MakeLowRanks(*parts[slot], slot, {in, first, std::min(rows, first + kColumnsMax)}, thread);
  }
  pool_.Barrier(thread);
  return true;
}

void Executor::AddLowRanks(std::span<const PartPanel> panels, const RowRange& rows, int thread, float* sums) const {
  const size_t turn = op_[static_cast<size_t>(thread)].turn;
  alignas(64) float tile[kColumnsMax * kPanelRows];
  for (size_t i = 0; i < panels.size(); ++i) {
    const MatMulPart& part = *panels[i].part;
    for (size_t row = rows.begin, n = 0; row < rows.end; row += n) {
      const LowRankUpdates::Update* update = UpdateOf(part, rows.in, row);
      n = SameUpdate(part, rows.in, row, rows.end);
      if (update == nullptr) continue;
      const void* columns[kColumnsMax];
      for (size_t c = 0; c < n; ++c) columns[c] = LowRankRow(turn, panels[i].slot, row + c);
      kernels::Panel panel = update->b;
      panel.data += panels[i].panel * PanelBytes(update->b_kind, panel.columns);
      kernels_.product[static_cast<size_t>(update->b_kind)](panel, columns, n, tile);
      float* out = sums + (i * rows.size() + row - rows.begin) * kPanelRows;
      for (size_t k = 0; k < n * kPanelRows; ++k) out[k] += tile[k];
    }
  }
}

}  // namespace bantam
