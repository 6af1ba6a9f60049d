// StableLM: LayerNorm, partly turned heads; larger models normalise heads, and read one norm in attention and feed-forward.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadStableLmConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer}));
  if (file.directory.Find("blk.0.attn_q_norm.weight") != nullptr) config.query_key_norm = QueryKeyNorm::kHeads;
  config.parallel = file.directory.Find("blk.0.ffn_norm.weight") == nullptr;
  return config;
}

}  // namespace bantam
