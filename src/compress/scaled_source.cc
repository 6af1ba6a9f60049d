#include "compress/scaled_source.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/check.h"

namespace bantam {
namespace {

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

void AddScales(const ModelScales& scales, ModelScales* to) {
  for (const auto& [name, of] : scales) {
    TensorScales& tensor = (*to)[name];
    if (!of.row_divisors.empty()) Multiply(of.row_divisors, &tensor.row_divisors);
    if (!of.column_factors.empty()) Multiply(of.column_factors, &tensor.column_factors);
  }
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
    : MadeSource(whole), from_(tensors), scales_(std::move(scales)) {
  for (const TensorInfo& tensor : from_) {
    const bool scaled = scales_.contains(tensor.name);
    TensorInfo info = tensor;
    if (scaled) info.dtype = DType::kF32;
    Add(info, scaled ? nullptr : &tensor);
  }
}

Status ScaledSource::Make(size_t index, std::span<std::byte> bytes) {
  const TensorInfo& tensor = from_[index];
  const TensorScales& scales = scales_.find(tensor.name)->second;
  const std::span<float> values(reinterpret_cast<float*>(bytes.data()), bytes.size() / sizeof(float));
  BANTAM_TRY(ReadValues(tensor, whole(), values));
  // A norm or a bias is divided number by number, however its file counts dimensions; a matrix row by row.
  const size_t row_size = scales.row_divisors.size() == values.size() ? 1 : tensor.columns();
  CHECK(scales.row_divisors.empty() || scales.row_divisors.size() * row_size == values.size());
  CHECK(scales.column_factors.empty() || scales.column_factors.size() == row_size);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!scales.row_divisors.empty()) values[i] /= scales.row_divisors[i / row_size];
    if (!scales.column_factors.empty()) values[i] *= scales.column_factors[i % row_size];
  }
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
