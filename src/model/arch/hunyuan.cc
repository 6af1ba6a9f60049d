// Hunyuan, dense: norms of heads behind the rotary embedding.
#include <fmt/format.h>

#include <cmath>

#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadHunyuanDenseConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.query_key_norm = QueryKeyNorm::kHeads;
  config.norms_behind_rope = true;
  // NTK-aware scaling with a factor that the base has not taken in yet.
  BANTAM_ASSIGN(const float alpha, ReadLimit(metadata, "rope.scaling.alpha", 0));
  if (alpha == 0) return config;
  const size_t dimensions = config.layers[0].head_dim;
  if (dimensions <= 2 || alpha < 1) {
    return Error(Code::kCorrupt,
                 fmt::format("rotary scaling by alpha {} of heads of {} elements: expected at least 1, and more than 2 elements; "
                             "convert the model again",
                             alpha, dimensions));
  }
  config.ropes[0].base *= std::pow(static_cast<double>(alpha), static_cast<double>(dimensions) / static_cast<double>(dimensions - 2));
  return config;
}

}  // namespace bantam
