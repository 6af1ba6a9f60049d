// GPT-NeoX and Pythia: attention and feed-forward side by side, each with its norm, where the file says so.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadGptNeoxConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain}));
  config.activation = Activation::kGelu;
  BANTAM_ASSIGN(config.parallel, metadata.RequireBool("use_parallel_residual"));
  return config;
}

}  // namespace bantam
