#include "program/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace bantam {
namespace {

// Source bytes after which pages of the file are given back: loading must not hold a whole tensor twice.
constexpr uint64_t kReleaseBytes = uint64_t{4} << 20;

// Walks through a tensor's bytes in pieces, giving back the pages of each when the next is asked for.
class TensorCursor {
 public:
  TensorCursor(TensorSource& source, uint64_t offset) : source_(source), offset_(offset) {}
  ~TensorCursor() { source_.Release(offset_ - size_, size_); }
  TensorCursor(const TensorCursor&) = delete;
  TensorCursor& operator=(const TensorCursor&) = delete;

  // Nobody asks for what comes next.
  void Skip(uint64_t size) {
    source_.Release(offset_ - size_, size_);
    offset_ += size;
    size_ = 0;
  }

  Result<const uint8_t*> Next(uint64_t size) {
    source_.Release(offset_ - size_, size_);
    BANTAM_ASSIGN(const auto bytes, source_.View(offset_, size));
    offset_ += size;
    size_ = size;
    return reinterpret_cast<const uint8_t*>(bytes.data());
  }

 private:
  TensorSource& source_;
  uint64_t offset_;    // of the next piece
  uint64_t size_ = 0;  // of the last one
};

struct RowRange {
  const uint8_t* first;
  size_t count;
};

// Threads take equal shares of the panels that these rows make.
void PackPanels(const WeightSpec& spec, RowRange range, uint8_t* target, ThreadPool& pool) {
  const size_t row_bytes = RowBytes(spec.dtype, spec.columns);
  const size_t panel_bytes = PanelBytes(Info(spec.dtype).panel, spec.columns);
  pool.Run([&](int thread) {
    const auto [begin, end] = Share(PanelCount(range.count), thread, pool.size());
    for (size_t p = begin; p < end; ++p) {
      const uint8_t* rows[kPanelRows] = {};
      for (size_t r = 0; r < kPanelRows && p * kPanelRows + r < range.count; ++r) rows[r] = range.first + (p * kPanelRows + r) * row_bytes;
      PackPanel(spec.dtype, rows, spec.columns, target + p * panel_bytes);
    }
  });
}

// Rows [16 p, 16 p + 16) of each matrix become panel p.
Status PackMatrices(const WeightSpec& spec, TensorCursor& cursor, uint8_t* target, ThreadPool& pool) {
  const size_t row_bytes = RowBytes(spec.dtype, spec.columns);
  const size_t rows_at_once = std::max<size_t>(1, kReleaseBytes / (row_bytes * kPanelRows)) * kPanelRows;
  const size_t panel_bytes = PanelBytes(Info(spec.dtype).panel, spec.columns);
  for (size_t matrix = 0; matrix < spec.matrices; ++matrix) {
    for (size_t row = 0; row < spec.rows; row += rows_at_once) {
      const size_t count = std::min(rows_at_once, spec.rows - row);
      BANTAM_ASSIGN(const uint8_t* rows, cursor.Next(count * row_bytes));
      PackPanels(spec, {rows, count}, target, pool);
      target += PanelCount(count) * panel_bytes;
    }
    if (spec.stride > spec.rows) cursor.Skip((spec.stride - spec.rows) * row_bytes);
  }
  return Ok();
}

Status CopyRows(uint64_t size, TensorCursor& cursor, uint8_t* target) {
  for (uint64_t done = 0; done < size; done += kReleaseBytes) {
    const uint64_t count = std::min(size - done, kReleaseBytes);
    BANTAM_ASSIGN(const uint8_t* bytes, cursor.Next(count));
    std::memcpy(target + done, bytes, count);
  }
  return Ok();
}

Status CopyMatrices(const WeightSpec& spec, TensorCursor& cursor, uint8_t* target) {
  const uint64_t row_bytes = RowBytes(spec.dtype, spec.columns);
  if (spec.stride <= spec.rows) return CopyRows(spec.matrices * spec.rows * row_bytes, cursor, target);
  for (size_t matrix = 0; matrix < spec.matrices; ++matrix) {
    BANTAM_TRY(CopyRows(spec.rows * row_bytes, cursor, target + matrix * spec.rows * row_bytes));
    cursor.Skip((spec.stride - spec.rows) * row_bytes);
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
      return spec.matrices * spec.rows * RowBytes(spec.dtype, spec.columns);
  }
  return 0;
}

uint64_t WeightsBytes(const Program& program) {
  uint64_t total = 0;
  for (const WeightSpec& spec : program.weights) total += AlignUp(WeightBytes(spec));
  return total;
}

Result<Weights> Weights::Load(const Program& program, ModelFile& file, const Resources& resources, const Progress& progress) {
  Weights weights;
  const uint64_t total = WeightsBytes(program);
  BANTAM_ASSIGN(weights.arena_, Arena::Make(resources.budget, total, "weights"));
  uint64_t done = 0;
  for (const WeightSpec& spec : program.weights) {
    const TensorInfo* tensor = file.directory.Find(spec.name);
    const size_t elements = spec.columns * (spec.rows + (spec.matrices - 1) * std::max(spec.stride, spec.rows));
    const size_t skipped = spec.storage == WeightStorage::kVector ? spec.first : spec.first * spec.columns;
    CHECK(tensor != nullptr && tensor->dtype == spec.dtype && skipped % Info(spec.dtype).block_elements == 0);
    CHECK(tensor->elements() >= elements && skipped <= tensor->elements() - elements);
    auto* target = reinterpret_cast<uint8_t*>(weights.arena_.Take(WeightBytes(spec)).data());
    Entry entry = {target, 0, 0};
    TensorCursor cursor(*file.source, tensor->offset_bytes + RowBytes(spec.dtype, skipped));
    switch (spec.storage) {
      case WeightStorage::kPanels: {
        const PanelKind kind = Info(spec.dtype).panel;
        entry.matrix_bytes = MatrixBytes(kind, spec.rows, spec.columns);
        entry.panel_bytes = PanelBytes(kind, spec.columns);
        BANTAM_TRY(PackMatrices(spec, cursor, target, resources.pool));
        break;
      }
      case WeightStorage::kVector: {
        BANTAM_ASSIGN(const uint8_t* bytes, cursor.Next(RowBytes(spec.dtype, spec.columns)));
        Unpack(spec.dtype, bytes, spec.columns, reinterpret_cast<float*>(target));
        break;
      }
      case WeightStorage::kRows:
        entry.panel_bytes = RowBytes(spec.dtype, spec.columns);
        BANTAM_TRY(CopyMatrices(spec, cursor, target));
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
