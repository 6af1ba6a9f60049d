// Qwen 2 and 3, dense and with experts: halves are turned; Qwen 2 has biases, Qwen 3 norms of heads.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadQwen2Config(ModelFile& file, const FamilyMetadata& metadata) { return ReadTransformer(file, metadata, {}); }

Result<Config> ReadQwen2MoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  BANTAM_ASSIGN(const uint32_t width, metadata.Require("feed_forward_length", {1, kWidthMax}));
  BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kDivided, .normalize = false}, &config));
  BANTAM_ASSIGN(const uint32_t shared, metadata.Read("expert_shared_feed_forward_length", {0, kWidthMax}, 0));
  config.shared_width = shared == 0 ? width : shared;
  config.shared_gate = true;
  return config;
}

Result<Config> ReadQwen3Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.query_key_norm = QueryKeyNorm::kHeads;
  config.feed_forward_scales = true;
  return config;
}

Result<Config> ReadQwen3MoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadQwen3Config(file, metadata));
  BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kDivided}, &config));
  return config;
}

}  // namespace bantam
