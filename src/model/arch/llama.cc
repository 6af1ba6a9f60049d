// The llama family: grouped-query attention with interleaved rotary embedding, RMSNorm, SwiGLU or a mixture of experts.
// Its files carry keys of features that it does not use; only the keys below are read.
#include <fmt/format.h>

#include <cmath>

#include "model/arch/registry.h"
#include "model/arch/rope_metadata.h"

namespace bantam {
namespace {

Result<LayerPlan> ReadLayer(const FamilyMetadata& metadata, uint32_t width) {
  LayerPlan layer;
  BANTAM_ASSIGN(const uint32_t heads, metadata.Require("attention.head_count", {1, kHeadsMax}));
  BANTAM_ASSIGN(const uint32_t kv_heads, metadata.Read("attention.head_count_kv", {1, heads}, heads));
  BANTAM_ASSIGN(const uint32_t head_dim, metadata.Read("attention.key_length", {1, kHeadDimMax}, width / heads));
  BANTAM_ASSIGN(const uint32_t value_dim, metadata.Read("attention.value_length", {1, kHeadDimMax}, width / heads));
  BANTAM_ASSIGN(layer.feed_forward_width, metadata.Require("feed_forward_length", {1, kWidthMax}));
  if (heads % kv_heads != 0 || head_dim == 0 || head_dim > kHeadDimMax || head_dim != value_dim) {
    return Error(Code::kCorrupt, fmt::format("{} heads over {} kv heads, keys of {} and values of {} elements: expected a whole number of "
                                             "heads per kv head, and keys and values of one size from 1 to {}",
                                             heads, kv_heads, head_dim, value_dim, kHeadDimMax));
  }
  layer.heads = heads;
  layer.kv_heads = kv_heads;
  layer.head_dim = head_dim;
  return layer;
}

}  // namespace

Result<Config> ReadLlamaConfig(ModelFile& file, const FamilyMetadata& metadata) {
  Config config;
  BANTAM_ASSIGN(const uint32_t layers, metadata.Require("block_count", {1, kLayersMax}));
  BANTAM_ASSIGN(const uint32_t width, metadata.Require("embedding_length", {1, kWidthMax}));
  BANTAM_ASSIGN(config.context_max, metadata.Require("context_length", {1, kContextLengthMax}));
  BANTAM_ASSIGN(const double epsilon, metadata.ReadNumber("attention.layer_norm_rms_epsilon", 1e-5));
  BANTAM_ASSIGN(const double temperature_scale, metadata.ReadNumber("attention.temperature_scale", 0));
  if (temperature_scale != 0) {
    return Error(Code::kUnsupported, "position-dependent attention temperature (attention.temperature_scale) is not supported");
  }
  BANTAM_ASSIGN(LayerPlan layer, ReadLayer(metadata, width));
  BANTAM_ASSIGN(const uint32_t experts, metadata.Read("expert_count", {0, kExpertsMax}, 0));
  if (experts > 0) {
    layer.feed_forward = FeedForward::kExperts;
    BANTAM_ASSIGN(config.experts_used, metadata.Require("expert_used_count", {1, experts}));
  }
  config.width = width;
  config.norm_epsilon = static_cast<float>(epsilon);
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(layer.head_dim));
  config.experts = experts;
  BANTAM_ASSIGN(config.rope, ReadRope(file, metadata, {layer.head_dim, config.context_max}));
  config.rope.layout = RopeLayout::kInterleaved;
  config.layers.assign(layers, layer);
  return config;
}

}  // namespace bantam
