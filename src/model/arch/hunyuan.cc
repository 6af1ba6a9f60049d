// Hunyuan, dense: norms of heads behind the rotary embedding.
#include <cmath>

#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadHunyuanDenseConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.query_key_norm = QueryKeyNorm::kHeads;
  config.norms_behind_rope = true;
  // NTK-aware scaling with a factor that the base has not taken in yet.
  BANTAM_ASSIGN(const float alpha, ReadLimit(metadata, "rope.scaling.alpha", 0));
  const double dimensions = static_cast<double>(config.layers[0].head_dim);
  if (alpha > 0) config.ropes[0].base *= std::pow(static_cast<double>(alpha), dimensions / (dimensions - 2));
  return config;
}

}  // namespace bantam
