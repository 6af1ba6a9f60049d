// CodeShell: LayerNorm, biases, plain feed-forward with GELU.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadCodeShellConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain}));
  config.activation = Activation::kGelu;
  return config;
}

}  // namespace bantam
