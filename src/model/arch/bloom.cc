// BLOOM: linear biases instead of positions, LayerNorm, one of them behind the embeddings.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadBloomConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config,
                ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain, .rope = false}));
  config.activation = Activation::kGelu;
  config.embedding_norm = true;
  config.alibi_max_bias = 8;
  return config;
}

}  // namespace bantam
