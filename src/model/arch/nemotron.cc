// Nemotron: LayerNorm, partly turned heads, plain feed-forward with squared ReLU.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadNemotronConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain}));
  config.activation = Activation::kReluSquared;
  return config;
}

}  // namespace bantam
