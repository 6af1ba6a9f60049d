#include "compress/scaled_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"
#include "compress/pruned_source.h"

namespace bantam {
namespace {

constexpr uint64_t kAlignment = 32;

void Multiply(const std::vector<float>& by, std::vector<float>* to) {
  if (to->empty()) {
    *to = by;
    return;
  }
  CHECK(to->size() == by.size());
  for (size_t i = 0; i < by.size(); ++i) (*to)[i] *= by[i];
}

}  // namespace

void AddScales(const ScalePoint& point, const std::vector<float>& scales, ModelScales* to) {
  CHECK(scales.size() == point.scales);
  for (const std::string& name : point.divided) Multiply(scales, &(*to)[name].row_divisors);
  std::vector<float> factors(std::max(point.scale_of.size(), point.scale_of.empty() ? scales.size() : 0));
  for (size_t column = 0; column < factors.size(); ++column) factors[column] = scales[point.ScaleOf(column)];
  for (const std::string& name : point.multiplied) Multiply(factors, &(*to)[name].column_factors);
}

Importance ScaleImportance(const Importance& importance, const ModelScales& scales) {
  Importance scaled = importance;
  for (const auto& [name, of] : scales) {
    const auto found = scaled.tensors.find(name);
    if (found == scaled.tensors.end() || of.column_factors.empty()) continue;
    ColumnImportance& entry = found->second;
    for (size_t i = 0; i < entry.sums.size(); ++i) {
      const float factor = of.column_factors[i % of.column_factors.size()];
      entry.sums[i] /= factor * factor;
    }
  }
  return scaled;
}

ScaledSource::ScaledSource(TensorSource& whole, const std::vector<TensorInfo>& tensors, ModelScales scales)
    : whole_(whole), from_(tensors), scales_(std::move(scales)), tensors_(tensors) {
  uint64_t offset = 0;
  for (TensorInfo& tensor : tensors_) {
    const auto found = scales_.find(tensor.name);
    of_.push_back(found == scales_.end() ? nullptr : &found->second);
    if (of_.back() != nullptr) tensor.dtype = DType::kF32;
    tensor.offset_bytes = offset;
    tensor.size_bytes = tensor.elements() / tensor.columns() * RowBytes(tensor.dtype, tensor.columns());
    offset += (tensor.size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
}

size_t ScaledSource::Find(uint64_t offset_bytes) const {
  const auto behind = std::upper_bound(tensors_.begin(), tensors_.end(), offset_bytes,
                                       [](uint64_t offset, const TensorInfo& tensor) { return offset < tensor.offset_bytes; });
  CHECK(behind != tensors_.begin());
  return static_cast<size_t>(behind - tensors_.begin()) - 1;
}

Result<std::span<const std::byte>> ScaledSource::View(uint64_t offset_bytes, uint64_t size_bytes) {
  const size_t index = Find(offset_bytes);
  const TensorInfo& tensor = tensors_[index];
  const uint64_t begin = offset_bytes - tensor.offset_bytes;
  if (begin > tensor.size_bytes || size_bytes > tensor.size_bytes - begin) {
    return Error(Code::kInvalidArgument,
                 fmt::format("bytes {} to {} of tensor {}, which has {}", begin, begin + size_bytes, tensor.name, tensor.size_bytes));
  }
  if (of_[index] == nullptr) return whole_.View(from_[index].offset_bytes + begin, size_bytes);
  if (made_index_ != index) BANTAM_TRY(Make(index).With(std::string(tensor.name)));
  return std::as_bytes(std::span(made_)).subspan(begin, size_bytes);
}

void ScaledSource::Release(uint64_t offset_bytes, uint64_t size_bytes) {
  const size_t index = Find(offset_bytes);
  if (of_[index] == nullptr) whole_.Release(from_[index].offset_bytes + offset_bytes - tensors_[index].offset_bytes, size_bytes);
}

Status ScaledSource::Make(size_t index) {
  made_index_ = SIZE_MAX;
  const TensorInfo& tensor = from_[index];
  const TensorScales& scales = *of_[index];
  BANTAM_ASSIGN(made_, ReadValues(tensor, whole_));
  // A norm or a bias is divided number by number, however its file counts dimensions; a matrix row by row.
  const size_t row_size = scales.row_divisors.size() == made_.size() ? 1 : tensor.columns();
  CHECK(scales.row_divisors.empty() || scales.row_divisors.size() * row_size == made_.size());
  CHECK(scales.column_factors.empty() || scales.column_factors.size() == row_size);
  for (size_t i = 0; i < made_.size(); ++i) {
    if (!scales.row_divisors.empty()) made_[i] /= scales.row_divisors[i / row_size];
    if (!scales.column_factors.empty()) made_[i] *= scales.column_factors[i % row_size];
  }
  made_index_ = index;
  return Ok();
}

Result<ModelFile> ScaleModel(ModelFile& file, ModelScales scales) {
  auto source = std::make_unique<ScaledSource>(*file.source, file.directory.tensors(), std::move(scales));
  ModelFile made;
  made.path = file.path;
  made.further_paths = file.further_paths;
  made.format = file.format;
  BANTAM_ASSIGN(made.metadata, Metadata::Make(file.metadata.entries()));
  BANTAM_ASSIGN(made.directory, TensorDirectory::Make(source->tensors()));
  for (const TensorInfo& tensor : made.directory.tensors()) made.size_bytes += tensor.size_bytes;
  made.source = std::move(source);
  return made;
}

}  // namespace bantam
