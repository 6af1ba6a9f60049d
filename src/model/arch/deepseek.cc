// DeepSeek (the first, DeepSeekMoE): fine experts beside shared ones, weights that are not made to sum to 1, dense layers in front.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadDeepSeekConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved}));
  BANTAM_TRY(ReadExperts(metadata, {.normalize = false, .dense_in_front = true}, &config));
  BANTAM_ASSIGN(config.expert_scale, ReadFactor(metadata, "expert_weights_scale", 1));
  BANTAM_ASSIGN(const uint32_t shared, metadata.Require("expert_shared_count", {0, kExpertsMax}));
  BANTAM_ASSIGN(const uint32_t width, metadata.Require("expert_feed_forward_length", {1, kWidthMax}));
  config.shared_width = size_t{shared} * width;
  return config;
}

}  // namespace bantam
