#include "compress/pruned_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "compress/refit.h"
#include "formats/tensor_rows.h"
#include "tensor/half.h"

namespace bantam {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
constexpr uint64_t kAlignment = 32;

// Floats in a format of the same kind as the tensor had: blocks are made of them later.
DType StoredType(const TensorCut& cut) {
  const bool blocks = Info(cut.from->dtype).decode != nullptr;
  return (cut.zeros || !cut.columns.empty()) && blocks ? DType::kF32 : cut.from->dtype;
}

TensorInfo InfoOf(const TensorCut& cut, std::string_view name, uint64_t offset_bytes) {
  TensorInfo info = *cut.from;
  info.name = name;
  info.dtype = StoredType(cut);
  const bool vector = info.n_dimensions == 1;
  if (!cut.rows.empty()) info.dimensions[vector ? 0 : 1] = cut.rows.size();
  if (!cut.columns.empty()) info.dimensions[0] = cut.columns.size();
  info.offset_bytes = offset_bytes;
  info.size_bytes = info.elements() / info.columns() * RowBytes(info.dtype, info.columns());
  return info;
}

}  // namespace

Result<std::vector<float>> ReadValues(const TensorInfo& tensor, TensorSource& source) {
  std::vector<float> values(tensor.elements());
  const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
  const size_t columns = tensor.columns();
  BANTAM_TRY(ForEachRows(tensor, source, std::max<uint64_t>(1, kPieceBytes / row_bytes), [&](const TensorRows& rows) -> Status {
    float* out = values.data() + (rows.matrix * tensor.rows() + rows.first) * columns;
    for (size_t r = 0; r < rows.count; ++r) Unpack(tensor.dtype, rows.bytes + r * row_bytes, columns, out + r * columns);
    for (size_t i = 0; i < rows.count * columns; ++i) {
      if (std::isfinite(out[i])) continue;
      return Error(Code::kCorrupt,
                   fmt::format("tensor {}: row {}: element {} is {}, expected a finite number; the file is damaged, fetch it "
                               "again",
                               tensor.name, rows.first + i / columns, i % columns, out[i]));
    }
    return Ok();
  }));
  return values;
}

PrunedSource::PrunedSource(TensorSource& whole, std::vector<TensorCut> cuts, const PruneOptions& options)
    : whole_(whole), cuts_(std::move(cuts)), options_(options) {
  uint64_t offset = 0;
  for (const TensorCut& cut : cuts_) {
    tensors_.push_back(InfoOf(cut, Keep(cut.name), offset));
    offset += (tensors_.back().size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
}

size_t PrunedSource::Find(uint64_t offset_bytes) const {
  const auto behind = std::upper_bound(tensors_.begin(), tensors_.end(), offset_bytes,
                                       [](uint64_t offset, const TensorInfo& tensor) { return offset < tensor.offset_bytes; });
  CHECK(behind != tensors_.begin());
  return static_cast<size_t>(behind - tensors_.begin()) - 1;
}

Result<std::span<const std::byte>> PrunedSource::View(uint64_t offset_bytes, uint64_t size_bytes) {
  const size_t index = Find(offset_bytes);
  const TensorInfo& tensor = tensors_[index];
  const uint64_t begin = offset_bytes - tensor.offset_bytes;
  if (begin > tensor.size_bytes || size_bytes > tensor.size_bytes - begin) {
    return Error(Code::kInvalidArgument,
                 fmt::format("bytes {} to {} of tensor {}, which has {}", begin, begin + size_bytes, tensor.name, tensor.size_bytes));
  }
  if (cuts_[index].copied()) return whole_.View(cuts_[index].from->offset_bytes + begin, size_bytes);
  if (made_index_ != index) BANTAM_TRY(Make(index).With(std::string(tensor.name)));
  return std::span<const std::byte>(made_).subspan(begin, size_bytes);
}

void PrunedSource::Release(uint64_t offset_bytes, uint64_t size_bytes) {
  const size_t index = Find(offset_bytes);
  if (cuts_[index].copied()) whole_.Release(cuts_[index].from->offset_bytes + offset_bytes - tensors_[index].offset_bytes, size_bytes);
}

Status PrunedSource::Make(size_t index) {
  made_index_ = SIZE_MAX;
  made_.assign(tensors_[index].size_bytes, std::byte{0});
  const TensorCut& cut = cuts_[index];
  if (cut.zeros) {
    BANTAM_TRY(MakeZeros(cut));
  } else if (!cut.columns.empty()) {
    BANTAM_TRY(CutColumns(cut));
  } else {
    BANTAM_TRY(CutRows(cut));
  }
  made_index_ = index;
  return Ok();
}

// Rows as they are stored.
Status PrunedSource::CutRows(const TensorCut& cut) {
  const TensorInfo& from = *cut.from;
  const bool vector = from.n_dimensions == 1;
  const uint64_t row_bytes = RowBytes(from.dtype, vector ? 1 : from.columns());
  for (size_t i = 0; i < cut.rows.size(); ++i) {
    BANTAM_ASSIGN(const auto bytes, whole_.View(from.offset_bytes + cut.rows[i] * row_bytes, row_bytes));
    std::memcpy(made_.data() + i * row_bytes, bytes.data(), row_bytes);
  }
  return Ok();
}

GramsAhead& PrunedSource::Grams() {
  if (!grams_) {
    std::vector<std::string> names;
    for (const TensorCut& cut : cuts_) {
      if (cut.refit || cut.zeros) names.emplace_back(cut.from->name);
    }
    grams_.emplace(*options_.calibrator, std::move(names), options_.gram_bytes_max);
  }
  return *grams_;
}

Status PrunedSource::MakeZeros(const TensorCut& cut) {
  const TensorInfo& from = *cut.from;
  const std::string name(from.name);
  BANTAM_ASSIGN(std::vector<float> values, ReadValues(from, whole_));
  const SparseRows matrix = {values.data(), from.rows(), from.columns()};
  switch (options_.method) {
    case SparseMethod::kMagnitude:
      SparsifyByMagnitude(matrix, options_.sparsity);
      break;
    case SparseMethod::kWanda:
      SparsifyByWanda(matrix, options_.sparsity, options_.importance->Find(name)->Means(/*matrix=*/0));
      break;
    case SparseMethod::kSparseGpt: {
      BANTAM_ASSIGN(const auto factor, Grams().TakeFactor(name, *options_.kernels, *options_.pool, ColumnOrder::kAsTheyStand));
      SparsifyBySparseGpt(matrix, options_.sparsity, *factor, *options_.kernels, *options_.pool);
      break;
    }
  }
  return Store(from, values);
}

Status PrunedSource::CutColumns(const TensorCut& cut) {
  const TensorInfo& from = *cut.from;
  const size_t n = from.columns();
  BANTAM_ASSIGN(const std::vector<float> values, ReadValues(from, whole_));
  if (cut.refit) {
    BANTAM_ASSIGN(const auto gram, Grams().Take(std::string(from.name)));
    BANTAM_ASSIGN(const std::vector<float> kept,
                  RefitColumns({values, from.rows(), *gram, cut.columns}, *options_.kernels, *options_.pool));
    return Store(from, kept);
  }
  std::vector<float> kept;
  kept.reserve(from.rows() * cut.columns.size());
  for (size_t row = 0; row < from.rows(); ++row) {
    for (const uint32_t column : cut.columns) kept.push_back(values[row * n + column]);
  }
  return Store(from, kept);
}

Status PrunedSource::Store(const TensorInfo& from, const std::vector<float>& values) {
  const DType dtype = Info(from.dtype).decode != nullptr ? DType::kF32 : from.dtype;
  return PackRow(dtype, values, /*importance=*/{}, reinterpret_cast<uint8_t*>(made_.data()));
}

}  // namespace bantam
