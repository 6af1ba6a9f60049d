#include "compress/pruned_source.h"

#include <algorithm>
#include <cstring>

#include "compress/refit.h"

namespace bantam {
namespace {

// Floats in a format of the same kind as the tensor had: blocks are made of them later.
DType StoredType(const TensorCut& cut) {
  const bool blocks = Info(cut.from->dtype).decode != nullptr;
  return (cut.zeros || !cut.columns.empty()) && blocks ? DType::kF32 : cut.from->dtype;
}

TensorInfo InfoOf(const TensorCut& cut, std::string_view name) {
  TensorInfo info = *cut.from;
  info.name = name;
  info.dtype = StoredType(cut);
  const bool vector = info.n_dimensions == 1;
  if (!cut.rows.empty()) info.dimensions[vector ? 0 : 1] = cut.rows.size();
  if (!cut.columns.empty()) info.dimensions[0] = cut.columns.size();
  return info;
}

// Floats, in the tensor's format.
Status Store(const TensorInfo& from, const std::vector<float>& values, std::span<std::byte> made) {
  const DType dtype = Info(from.dtype).decode != nullptr ? DType::kF32 : from.dtype;
  return PackRow(dtype, values, /*importance=*/{}, reinterpret_cast<uint8_t*>(made.data()));
}

}  // namespace

PrunedSource::PrunedSource(TensorSource& whole, std::vector<TensorCut> cuts, const PruneOptions& options)
    : MadeSource(whole), cuts_(std::move(cuts)), options_(options) {
  for (const TensorCut& cut : cuts_) Add(InfoOf(cut, Keep(cut.name)), cut.copied() ? cut.from : nullptr);
}

Status PrunedSource::Make(size_t index, std::span<std::byte> bytes) {
  const TensorCut& cut = cuts_[index];
  if (cut.zeros) return MakeZeros(cut, bytes);
  return cut.columns.empty() ? CutRows(cut, bytes) : CutColumns(cut, bytes);
}

// Rows as they are stored.
Status PrunedSource::CutRows(const TensorCut& cut, std::span<std::byte> made) {
  const TensorInfo& from = *cut.from;
  const bool vector = from.n_dimensions == 1;
  const uint64_t row_bytes = RowBytes(from.dtype, vector ? 1 : from.columns());
  for (size_t i = 0; i < cut.rows.size(); ++i) {
    BANTAM_ASSIGN(const auto bytes, whole().View(from.offset_bytes + cut.rows[i] * row_bytes, row_bytes));
    std::memcpy(made.data() + i * row_bytes, bytes.data(), row_bytes);
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

Status PrunedSource::MakeZeros(const TensorCut& cut, std::span<std::byte> made) {
  const TensorInfo& from = *cut.from;
  const std::string name(from.name);
  BANTAM_ASSIGN(std::vector<float> values, ReadValues(from, whole()));
  const SparseRows matrix = {values.data(), from.rows(), from.columns()};
  switch (options_.method) {
    case SparseMethod::kMagnitude:
      SparsifyByMagnitude(matrix, options_.sparsity);
      break;
    case SparseMethod::kWanda:
      SparsifyByWanda(matrix, options_.sparsity, options_.importance->Find(name)->Means(/*matrix=*/0));
      break;
    case SparseMethod::kSparseGpt: {
      BANTAM_ASSIGN(const auto factor, Grams().TakeFactor(name, *options_.kernels, *options_.pool, {.order = ColumnOrder::kAsTheyStand}));
      SparsifyBySparseGpt(matrix, options_.sparsity, *factor, *options_.kernels, *options_.pool);
      break;
    }
  }
  return Store(from, values, made);
}

Status PrunedSource::CutColumns(const TensorCut& cut, std::span<std::byte> made) {
  const TensorInfo& from = *cut.from;
  const size_t n = from.columns();
  BANTAM_ASSIGN(const std::vector<float> values, ReadValues(from, whole()));
  if (cut.refit) {
    BANTAM_ASSIGN(const auto gram, Grams().Take(std::string(from.name)));
    BANTAM_ASSIGN(const std::vector<float> kept,
                  RefitColumns({values, from.rows(), *gram, cut.columns}, *options_.kernels, *options_.pool));
    return Store(from, kept, made);
  }
  std::vector<float> kept;
  kept.reserve(from.rows() * cut.columns.size());
  for (size_t row = 0; row < from.rows(); ++row) {
    for (const uint32_t column : cut.columns) kept.push_back(values[row * n + column]);
  }
  return Store(from, kept, made);
}

}  // namespace bantam
