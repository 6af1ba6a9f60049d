// The tensors of a model whose activations are scaled, made of those of the model when they are read. It computes what the model does.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "compress/importance.h"
#include "compress/made_source.h"
#include "compress/scale_points.h"
#include "formats/model_file.h"

namespace bantam {

// What becomes of a tensor: rows (of vectors: elements) are divided, columns multiplied.
struct TensorScales {
  std::vector<float> row_divisors;    // or empty
  std::vector<float> column_factors;  // or empty
};
using ModelScales = std::map<std::string, TensorScales, std::less<>>;

// Adds a point's scales to what its tensors already have. scales [point.scales], above 0.
void AddScales(const ScalePoint& point, const std::vector<float>& scales, ModelScales* to);
void AddScales(const ModelScales& scales, ModelScales* to);

// Of columns whose inputs are divided by their factors.
Importance ScaleImportance(const Importance& importance, const ModelScales& scales);

class ScaledSource : public MadeSource {
 public:
  // The whole model's source outlives it.
  ScaledSource(TensorSource& whole, const std::vector<TensorInfo>& tensors, ModelScales scales);

 private:
  Status Make(size_t index, std::span<std::byte> bytes) override;

  const std::vector<TensorInfo> from_;
  const ModelScales scales_;
};

// The model with these scales. `file` outlives it.
Result<ModelFile> ScaleModel(ModelFile& file, ModelScales scales);

}  // namespace bantam
