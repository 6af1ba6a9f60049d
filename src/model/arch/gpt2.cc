// GPT-2: learned positions, LayerNorm, biases, plain feed-forward with GELU.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadGpt2Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config,
                ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain, .rope = false}));
  config.activation = Activation::kGelu;
  config.position_table = true;
  return config;
}

}  // namespace bantam
