// OLMo: LayerNorm without weights, clamped projections. OLMo 2: norms of queries and keys whole, and behind attention and feed-forward;
// with windows (OLMo 3), those layers keep the rotary embedding unscaled.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadOlmoConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .layout = RopeLayout::kInterleaved}));
  config.norm_weights = false;
  BANTAM_ASSIGN(config.qkv_clamp, ReadLimit(metadata, "attention.clamp_kqv", 0));
  return config;
}

Result<Config> ReadOlmo2Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.query_key_norm = QueryKeyNorm::kRows;
  config.norms_before = false;
  config.norms_behind = true;
  BANTAM_TRY(ReadWindows(metadata, {.pattern = 4}, &config));
  BANTAM_TRY(AddWindowRope(config.ropes[0].base, &config));
  return config;
}

}  // namespace bantam
