#include "program/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <mutex>
#include <utility>

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

// Rows [16 p, 16 p + 16) of each matrix become panel p.
Status PackMatrices(const WeightSpec& spec, TensorCursor& cursor, uint8_t* target, ThreadPool& pool) {
  const size_t row_bytes = RowBytes(spec.dtype, spec.columns);
  const size_t rows_at_once = std::max<size_t>(1, kReleaseBytes / (row_bytes * kPanelRows)) * kPanelRows;
  const size_t panel_bytes = PanelBytes(Info(spec.dtype).panel, spec.columns);
  for (size_t matrix = 0; matrix < spec.matrices; ++matrix) {
    for (size_t row = 0; row < spec.rows; row += rows_at_once) {
      const size_t count = std::min(rows_at_once, spec.rows - row);
      BANTAM_ASSIGN(const uint8_t* rows, cursor.Next(count * row_bytes));
      PackPanels({spec.dtype, spec.columns, rows, count}, target, pool);
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

// A file can say anything; what is kept can be used as an index without a look.
Status CopyOrder(const WeightSpec& spec, const uint8_t* bytes, uint32_t* target) {
  std::vector<float> values(spec.columns);
  for (size_t row = 0; row < spec.rows; ++row) {
    Unpack(spec.dtype, bytes + row * RowBytes(spec.dtype, spec.columns), spec.columns, values.data());
    for (size_t i = 0; i < spec.columns; ++i) {
      if (!(values[i] >= 0 && values[i] < static_cast<float>(spec.columns) && values[i] == std::floor(values[i]))) {
        return Error(Code::kCorrupt, fmt::format("tensor {}: element {} is {}, expected the number of one of {} columns", spec.name, i,
                                                 values[i], spec.columns));
      }
      target[row * spec.columns + i] = static_cast<uint32_t>(values[i]);
    }
  }
  return Ok();
}

}  // namespace

void PackPanels(const PanelRows& rows, uint8_t* target, ThreadPool& pool) {
  const size_t row_bytes = RowBytes(rows.dtype, rows.columns);
  const size_t panel_bytes = PanelBytes(Info(rows.dtype).panel, rows.columns);
  pool.Run([&](int thread) {
    const auto [begin, end] = Share(PanelCount(rows.count), thread, pool.size());
    for (size_t p = begin; p < end; ++p) {
      const uint8_t* of_panel[kPanelRows] = {};
      for (size_t r = 0; r < kPanelRows && p * kPanelRows + r < rows.count; ++r)
        of_panel[r] = rows.first + (p * kPanelRows + r) * row_bytes;
      PackPanel(rows.dtype, of_panel, rows.columns, target + p * panel_bytes);
    }
  });
}

bool ReadsWholePanels(const WeightSpec& spec, const TensorInfo& tensor) {
  // Rows of other weights may not share the panels at either end.
  const bool whole = spec.first % kPanelRows == 0 && (spec.rows % kPanelRows == 0 || spec.first + spec.rows == tensor.rows());
  const bool in_matrix = spec.first + spec.rows <= tensor.rows() && spec.matrices == tensor.matrices() &&
                         (spec.matrices == 1 || std::max(spec.stride, spec.rows) == tensor.rows());
  return whole && in_matrix && tensor.columns() == spec.columns;
}

uint64_t WeightBytes(const WeightSpec& spec) {
  switch (spec.storage) {
    case WeightStorage::kPanels:
      return spec.matrices * MatrixBytes(Info(spec.dtype).panel, spec.rows, spec.columns);
    case WeightStorage::kVector:
      return spec.columns * sizeof(float);
    case WeightStorage::kOrder:
      return spec.rows * spec.columns * sizeof(uint32_t);
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

// Where the weight lies in the source, if it lies there as it has to in memory.
std::optional<Weights::Entry> Weights::Place(const WeightSpec& spec, const TensorInfo& tensor, const TensorSource& source) {
  if (spec.storage == WeightStorage::kVector || spec.storage == WeightStorage::kOrder) return std::nullopt;
  const bool panels = spec.storage == WeightStorage::kPanels;
  const auto place = source.PlaceOf(tensor, panels ? TensorSource::Form::kPanels : TensorSource::Form::kBlocks);
  if (!place || tensor.columns() != spec.columns) return std::nullopt;
  const auto* data = reinterpret_cast<const uint8_t*>(place->data());
  const size_t row_bytes = RowBytes(spec.dtype, spec.columns);
  if (!panels) {
    if (spec.matrices > 1 && spec.stride > spec.rows) return std::nullopt;
    return Entry{data + spec.first * row_bytes, spec.rows * row_bytes, row_bytes};
  }
  if (!ReadsWholePanels(spec, tensor)) return std::nullopt;
  const PanelKind kind = Info(spec.dtype).panel;
  const size_t panel_bytes = PanelBytes(kind, spec.columns);
  return Entry{data + spec.first / kPanelRows * panel_bytes, MatrixBytes(kind, tensor.rows(), spec.columns), panel_bytes};
}

namespace {

Error Interrupted(const ModelFile& file) { return Error(Code::kCancelled, fmt::format("{}: loading was interrupted", file.path)); }

// Where one weight is used in place: for several matrices, from the first row of the first to the last of the last.
using Parts = std::vector<std::span<const std::byte>>;

// In order, and joined where they overlap or touch: several weights of one tensor span each other's rows.
Parts Joined(Parts parts) {
  std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  Parts joined;
  for (const auto& part : parts) {
    if (joined.empty() || joined.back().data() + joined.back().size() < part.data()) {
      joined.push_back(part);
      continue;
    }
    const std::byte* begin = joined.back().data();
    joined.back() = {begin, std::max(begin + joined.back().size(), part.data() + part.size())};
  }
  return joined;
}

// On all threads. Progress is reported between pieces that take each thread a few milliseconds; a piece has several chunks of a package,
// which are hashed two at a time.
Status CheckParts(const Parts& parts, ModelFile& file, ThreadPool& pool, const std::function<bool(uint64_t)>& going_on) {
  constexpr size_t kPieceBytes = size_t{8} << 20;
  const auto pieces_at_once = 2 * static_cast<size_t>(pool.size());
  Parts pieces;
  uint64_t done = 0;
  const auto check = [&]() -> Status {
    std::mutex mutex;
    std::optional<Error> found;
    pool.Run([&](int thread) {
      const auto [begin, end] = Share(pieces.size(), thread, pool.size());
      for (size_t i = begin; i < end; ++i) {
        Status status = file.source->Check(pieces[i]);
        if (status.ok()) continue;
        const std::lock_guard lock(mutex);
        if (!found) found = status.error();
        return;
      }
    });
    if (found) return std::move(*found).With(file.path);
    for (const auto& piece : pieces) done += piece.size();
    pieces.clear();
    return going_on(done) ? Ok() : Interrupted(file);
  };
  for (std::span<const std::byte> part : parts) {
    while (!part.empty()) {
      const size_t count = std::min(part.size(), kPieceBytes);
      pieces.push_back(part.first(count));
      part = part.subspan(count);
      if (pieces.size() == pieces_at_once) BANTAM_TRY(check());
    }
  }
  return pieces.empty() ? Ok() : check();
}

// A weight's tensor, and where in it the weight begins.
struct Origin {
  const TensorInfo* tensor;
  uint64_t offset_bytes;
};
Origin OriginOf(const WeightSpec& spec, const ModelFile& file) {
  const TensorInfo* tensor = file.directory.Find(spec.name);
  const size_t elements = spec.columns * (spec.rows + (spec.matrices - 1) * std::max(spec.stride, spec.rows));
  const size_t skipped = spec.storage == WeightStorage::kVector ? spec.first : spec.first * spec.columns;
  CHECK(tensor != nullptr && tensor->dtype == spec.dtype && skipped % Info(spec.dtype).block_elements == 0);
  CHECK(tensor->elements() >= elements && skipped <= tensor->elements() - elements);
  return {tensor, tensor->offset_bytes + RowBytes(spec.dtype, skipped)};
}

// Reads the weight to `target`.
Status CopyWeight(const WeightSpec& spec, TensorCursor& cursor, uint8_t* target, ThreadPool& pool) {
  switch (spec.storage) {
    case WeightStorage::kPanels:
      return PackMatrices(spec, cursor, target, pool);
    case WeightStorage::kVector: {
      BANTAM_ASSIGN(const uint8_t* bytes, cursor.Next(RowBytes(spec.dtype, spec.columns)));
      Unpack(spec.dtype, bytes, spec.columns, reinterpret_cast<float*>(target));
      return Ok();
    }
    case WeightStorage::kOrder: {
      BANTAM_ASSIGN(const uint8_t* bytes, cursor.Next(spec.rows * RowBytes(spec.dtype, spec.columns)));
      return CopyOrder(spec, bytes, reinterpret_cast<uint32_t*>(target));
    }
    case WeightStorage::kRows:
      return CopyMatrices(spec, cursor, target);
  }
  return Ok();
}

}  // namespace

Result<Weights> Weights::Load(const Program& program, ModelFile& file, const Resources& resources, const Progress& progress) {
  Weights weights;
  Parts placed;
  uint64_t mapped = 0;
  for (const WeightSpec& spec : program.weights) {
    const std::optional<Entry> entry = Place(spec, *OriginOf(spec, file).tensor, *file.source);
    weights.entries_.push_back(entry.value_or(Entry()));
    if (!entry) continue;
    mapped += AlignUp(WeightBytes(spec));
    const bool panels = spec.storage == WeightStorage::kPanels;
    const size_t last = panels ? PanelCount(spec.rows) * entry->panel_bytes : spec.rows * entry->panel_bytes;
    placed.emplace_back(reinterpret_cast<const std::byte*>(entry->data), (spec.matrices - 1) * entry->matrix_bytes + last);
  }
  const uint64_t total = WeightsBytes(program);
  BANTAM_ASSIGN(weights.mapped_, resources.budget.Reserve(mapped, "weights"));
  BANTAM_ASSIGN(weights.arena_, Arena::Make(resources.budget, total - mapped, "weights"));
  placed = Joined(std::move(placed));
  const auto going_on = [&](uint64_t checked) { return !progress || progress("checking weights", std::min(checked, mapped), total); };
  BANTAM_TRY(CheckParts(placed, file, resources.pool, going_on));
  uint64_t done = mapped;
  for (WeightId id = 0; id < program.weights.size(); ++id) {
    const WeightSpec& spec = program.weights[id];
    Entry& entry = weights.entries_[id];
    if (entry.data != nullptr) continue;
    auto* target = reinterpret_cast<uint8_t*>(weights.arena_.Take(WeightBytes(spec)).data());
    entry.data = target;
    const PanelKind kind = Info(spec.dtype).panel;
    if (spec.storage == WeightStorage::kPanels) entry.matrix_bytes = MatrixBytes(kind, spec.rows, spec.columns);
    if (spec.storage == WeightStorage::kPanels) entry.panel_bytes = PanelBytes(kind, spec.columns);
    if (spec.storage == WeightStorage::kRows) entry.panel_bytes = RowBytes(spec.dtype, spec.columns);
    TensorCursor cursor(*file.source, OriginOf(spec, file).offset_bytes);
    BANTAM_TRY(CopyWeight(spec, cursor, target, resources.pool));
    done += AlignUp(WeightBytes(spec));
    if (progress && !progress("loading weights", done, total)) return Interrupted(file);
  }
  if (mapped != 0) {
    weights.placed_ = {placed.front().data(), placed.back().data() + placed.back().size()};
    weights.source_ = std::move(file.source);
  }
  return weights;
}

}  // namespace bantam
