// ERNIE 4.5, dense and with experts: every so many layers, behind the dense ones in front, with shared experts.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadErnieConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved}));
  config.attention_output_bias = false;
  return config;
}

Result<Config> ReadErnieMoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadErnieConfig(file, metadata));
  const std::vector<LayerPlan> dense = config.layers;
  BANTAM_TRY(ReadExperts(metadata, {.dense_in_front = true}, &config));
  BANTAM_ASSIGN(const uint32_t step, metadata.Require("interleave_moe_layer_step", {1, kLayersMax}));
  BANTAM_ASSIGN(config.shared_width, metadata.Read("expert_shared_feed_forward_length", {0, kWidthMax}, 0));
  for (size_t i = 0; i < dense.size(); ++i) {
    if ((i + 1) % step != 0) config.layers[i] = dense[i];
  }
  return config;
}

}  // namespace bantam
