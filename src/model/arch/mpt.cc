// MPT: linear biases, LayerNorm, clamped projections; some have learned positions or norms of queries and keys.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadMptConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config,
                ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain, .rope = false}));
  config.activation = Activation::kGelu;
  BANTAM_ASSIGN(config.qkv_clamp, ReadLimit(metadata, "attention.clamp_kqv", 0));
  BANTAM_ASSIGN(config.alibi_max_bias, ReadLimit(metadata, "attention.max_alibi_bias", 0));
  config.position_table = file.directory.Find("position_embd.weight") != nullptr;
  if (file.directory.Find("blk.0.attn_q_norm.weight") != nullptr) config.query_key_norm = QueryKeyNorm::kRows;
  return config;
}

}  // namespace bantam
