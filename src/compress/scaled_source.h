// The tensors of a model whose activations are scaled, made of those of the model when they are read. It computes what the model does.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "compress/importance.h"
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

// Of columns whose inputs are divided by their factors.
Importance ScaleImportance(const Importance& importance, const ModelScales& scales);

class ScaledSource : public TensorSource {
 public:
  // The whole model's source outlives it.
  ScaledSource(TensorSource& whole, const std::vector<TensorInfo>& tensors, ModelScales scales);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override;
  void Release(uint64_t offset_bytes, uint64_t size_bytes) override;
  uint64_t held_bytes() const override { return made_.size() * sizeof(float); }

 private:
  size_t Find(uint64_t offset_bytes) const;
  Status Make(size_t index);

  TensorSource& whole_;
  const std::vector<TensorInfo> from_;
  const ModelScales scales_;
  std::vector<TensorInfo> tensors_;      // scaled ones in F32, one behind the other
  std::vector<const TensorScales*> of_;  // each tensor's, or null
  size_t made_index_ = SIZE_MAX;
  std::vector<float> made_;  // the scaled tensor that was read last
};

// The model with these scales. `file` outlives it.
Result<ModelFile> ScaleModel(ModelFile& file, ModelScales scales);

}  // namespace bantam
