// Falcon: attention and feed-forward side by side; large models give attention a norm of its own.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadFalconConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain}));
  config.activation = Activation::kGelu;
  config.parallel = true;
  return config;
}

}  // namespace bantam
