// Hunyuan, dense: norms of heads behind the rotary embedding.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadHunyuanDenseConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.query_key_norm = QueryKeyNorm::kHeads;
  config.norms_behind_rope = true;
  return config;
}

}  // namespace bantam
