// Qwen 3.5, dense and with experts: most layers are linear attention by a gated delta rule, each so many-th attends with gated outputs.
#include <algorithm>

#include "model/arch/transformer.h"

namespace bantam {
namespace {

// By a list, or each so many-th attends.
Result<std::vector<uint32_t>> ReadRecurrent(const FamilyMetadata& metadata, uint32_t layers) {
  std::vector<uint32_t> by_interval;
  BANTAM_ASSIGN(const uint32_t interval, metadata.Read("full_attention_interval", {1, kLayersMax}, 4));
  for (uint32_t i = 0; i < layers; ++i) by_interval.push_back((i + 1) % interval != 0 ? 1 : 0);
  return metadata.PerLayer("attention.recurrent_layers", {0, 1}, layers, by_interval);
}

Result<Config> ReadQwen35(ModelFile& file, const FamilyMetadata& metadata, bool experts) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.experts_only = experts, .predictors = true}));
  BANTAM_ASSIGN(config.state_space, ReadStateSpace(metadata, /*columns=*/false));
  const StateSpace& space = config.state_space;
  if (space.heads * space.state_size != space.width) {
    return Error(Code::kUnsupported, "a delta rule whose values are not as wide as its keys (ssm.inner_size)");
  }
  BANTAM_ASSIGN(const auto recurrent, ReadRecurrent(metadata, static_cast<uint32_t>(config.layers.size())));
  for (size_t i = 0; i < config.layers.size(); ++i) {
    if (recurrent[i] != 0) config.layers[i].mixer = Mixer::kDeltaRule;
  }
  BANTAM_ASSIGN(config.attention_scale, ReadFactor(metadata, "attention.scale", config.attention_scale));
  config.ropes[0].divisors.clear();
  config.query_key_norm = QueryKeyNorm::kHeads;
  config.output_gates = true;
  config.feed_forward_norm = "post_attention_norm";
  config.feed_forward_scales = true;
  return config;
}

}  // namespace

Result<Config> ReadQwen35Config(ModelFile& file, const FamilyMetadata& metadata) { return ReadQwen35(file, metadata, /*experts=*/false); }

Result<Config> ReadQwen35MoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadQwen35(file, metadata, /*experts=*/true));
  BANTAM_TRY(ReadExperts(metadata, {}, &config));
  BANTAM_ASSIGN(config.shared_width, metadata.Require("expert_shared_feed_forward_length", {1, kWidthMax}));
  config.shared_gate = true;
  return config;
}

}  // namespace bantam
