// Falcon H1: every layer mixes tokens by attention and by a state space, side by side.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadFalconH1Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  BANTAM_ASSIGN(config.state_space, ReadStateSpace(metadata, /*columns=*/false));
  BANTAM_ASSIGN(config.attention_scale, ReadFactor(metadata, "attention.scale", config.attention_scale));
  config.attention_output_bias = false;
  config.ropes[0].divisors.clear();
  for (LayerPlan& layer : config.layers) layer.mixer = Mixer::kAttentionAndStateSpace;
  return config;
}

}  // namespace bantam
