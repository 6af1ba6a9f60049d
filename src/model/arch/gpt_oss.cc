// gpt-oss: sinks, windows in every second layer, experts with biases and clamped gates, weighed by the softmax of those chosen.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadGptOssConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  BANTAM_TRY(ReadWindows(metadata, {.required = true, .pattern = 2}, &config));
  BANTAM_TRY(ReadWindowRope(metadata, &config));
  BANTAM_TRY(ReadExperts(metadata, {}, &config));
  config.gating = Gating::kSoftmaxOfChosen;
  config.activation = Activation::kClampedSilu;
  config.sinks = true;
  config.feed_forward_norm = "post_attention_norm";
  return config;
}

}  // namespace bantam
