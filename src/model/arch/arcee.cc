// Arcee: a Llama whose feed-forward is one matrix up and one down with squared ReLU between.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadArceeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.feed_forward = FeedForward::kPlain, .layout = RopeLayout::kInterleaved}));
  config.activation = Activation::kReluSquared;
  return config;
}

}  // namespace bantam
