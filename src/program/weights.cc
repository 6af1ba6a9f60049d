#include "program/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace bantam {
namespace {

// Source bytes after which pages of the file are given back: loading must not hold a whole tensor twice.
constexpr uint64_t kReleaseBytes = uint64_t{4} << 20;

// The panels of `count` rows that start at `source`; threads take equal shares.
void PackPanels(const WeightSpec& spec, const uint8_t* source, size_t count, uint8_t* target, ThreadPool& pool) {
  const size_t row_bytes = RowBytes(spec.dtype, spec.columns);
  const size_t panel_bytes = PanelBytes(Info(spec.dtype).panel, spec.columns);
  pool.Run([&](int thread) {
    const auto [begin, end] = Share(PanelCount(count), thread, pool.size());
    for (size_t p = begin; p < end; ++p) {
      const uint8_t* rows[kPanelRows] = {};
      for (size_t r = 0; r < kPanelRows && p * kPanelRows + r < count; ++r) rows[r] = source + (p * kPanelRows + r) * row_bytes;
      PackPanel(spec.dtype, rows, spec.columns, target + p * panel_bytes);
    }
  });
}

// Rows [16 p, 16 p + 16) of each matrix become panel p.
Status PackMatrices(const WeightSpec& spec, uint64_t offset, TensorSource& source, uint8_t* target, ThreadPool& pool) {
  const size_t row_bytes = RowBytes(spec.dtype, spec.columns);
  const size_t rows_at_once = std::max<size_t>(1, kReleaseBytes / (row_bytes * kPanelRows)) * kPanelRows;
  const size_t panel_bytes = PanelBytes(Info(spec.dtype).panel, spec.columns);
  for (size_t matrix = 0; matrix < spec.matrices; ++matrix) {
    for (size_t row = 0; row < spec.rows; row += rows_at_once) {
      const size_t count = std::min(rows_at_once, spec.rows - row);
      BANTAM_ASSIGN(const auto bytes, source.View(offset, count * row_bytes));
      PackPanels(spec, reinterpret_cast<const uint8_t*>(bytes.data()), count, target, pool);
      source.Release(offset, count * row_bytes);
      offset += count * row_bytes;
      target += PanelCount(count) * panel_bytes;
    }
  }
  return Ok();
}

Status CopyRows(uint64_t offset, uint64_t size, TensorSource& source, uint8_t* target) {
  while (size > 0) {
    const uint64_t count = std::min(size, kReleaseBytes);
    BANTAM_ASSIGN(const auto bytes, source.View(offset, count));
    std::memcpy(target, bytes.data(), count);
    source.Release(offset, count);
    offset += count;
    target += count;
    size -= count;
  }
  return Ok();
}

}  // namespace

uint64_t WeightBytes(const WeightSpec& spec) {
  switch (spec.storage) {
    case WeightStorage::kPanels:
      return spec.matrices * MatrixBytes(Info(spec.dtype).panel, spec.rows, spec.columns);
    case WeightStorage::kVector:
      return spec.columns * sizeof(float);
    case WeightStorage::kRows:
      return spec.rows * RowBytes(spec.dtype, spec.columns);
  }
  return 0;
}

uint64_t WeightsBytes(const Program& program) {
  uint64_t total = 0;
  for (const WeightSpec& spec : program.weights) total += AlignUp(WeightBytes(spec));
  return total;
}

Result<Weights> Weights::Load(const Program& program, ModelFile& file, MemoryBudget& budget, ThreadPool& pool, const Progress& progress) {
  Weights weights;
  const uint64_t total = WeightsBytes(program);
  BANTAM_ASSIGN(weights.arena_, Arena::Make(budget, total, "weights"));
  uint64_t done = 0;
  for (const WeightSpec& spec : program.weights) {
    const TensorInfo* tensor = file.directory.Find(spec.name);
    CHECK(tensor != nullptr && tensor->dtype == spec.dtype && tensor->elements() == spec.columns * spec.rows * spec.matrices);
    auto* target = reinterpret_cast<uint8_t*>(weights.arena_.Take(WeightBytes(spec)).data());
    Entry entry = {target, 0, 0};
    switch (spec.storage) {
      case WeightStorage::kPanels: {
        const PanelKind kind = Info(spec.dtype).panel;
        entry.matrix_bytes = MatrixBytes(kind, spec.rows, spec.columns);
        entry.panel_bytes = PanelBytes(kind, spec.columns);
        BANTAM_TRY(PackMatrices(spec, tensor->offset_bytes, *file.source, target, pool));
        break;
      }
      case WeightStorage::kVector: {
        BANTAM_ASSIGN(const auto bytes, file.source->View(tensor->offset_bytes, tensor->size_bytes));
        Unpack(spec.dtype, reinterpret_cast<const uint8_t*>(bytes.data()), spec.columns, reinterpret_cast<float*>(target));
        break;
      }
      case WeightStorage::kRows:
        entry.panel_bytes = RowBytes(spec.dtype, spec.columns);
        BANTAM_TRY(CopyRows(tensor->offset_bytes, tensor->size_bytes, *file.source, target));
        break;
    }
    weights.entries_.push_back(entry);
    done += AlignUp(WeightBytes(spec));
    if (progress && !progress("loading weights", done, total)) {
      return Error(Code::kCancelled, fmt::format("{}: loading was interrupted", file.path));
    }
  }
  return weights;
}

}  // namespace bantam
