// Command R7B (cohere2): attention and feed-forward side by side; layers with a window turn queries and keys, the others do not.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadCohere2Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .layout = RopeLayout::kInterleaved}));
  BANTAM_TRY(ReadWindows(metadata, {.required = true, .pattern = 4}, &config));
  BANTAM_ASSIGN(config.logit_scale, ReadFactor(metadata, "logit_scale", 1));
  config.parallel = true;
  config.feed_forward_scales = true;
  TurnWindowsOnly(&config);
  return config;
}

}  // namespace bantam
