// LFM2, dense and with experts: most layers mix tokens by a short convolution between two gates, some by attention with norms of heads.
#include "model/arch/transformer.h"

namespace bantam {
namespace {

Result<Config> ReadLfm2(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.without_heads = Mixer::kShortConvolution}));
  BANTAM_ASSIGN(config.short_taps, metadata.Require("shortconv.l_cache", {2, kernels::kTapsMax}));
  config.query_key_norm = QueryKeyNorm::kHeads;
  config.attention_output_bias = false;
  config.output_norm = "token_embd_norm";
  config.ropes[0].divisors.clear();
  return config;
}

}  // namespace

Result<Config> ReadLfm2Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadLfm2(file, metadata));
  // A window is every attention layer's, whatever a list says.
  BANTAM_ASSIGN(const uint32_t window, metadata.Read("attention.sliding_window", {0, kContextLengthMax}, 0));
  for (LayerPlan& layer : config.layers) layer.window = window;
  return config;
}

Result<Config> ReadLfm2MoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadLfm2(file, metadata));
  BANTAM_TRY(ReadExperts(metadata, {.dense_in_front = true}, &config));
  BANTAM_ASSIGN(config.expert_scale, ReadFactor(metadata, "expert_weights_scale", 1));
  BANTAM_ASSIGN(config.gating, ReadGating(metadata));
  return config;
}

}  // namespace bantam
