// The llama family: grouped-query attention with interleaved rotary embedding, RMSNorm, SwiGLU or a mixture of experts.
// Its files carry keys of features that it does not use; only the keys below are read.
#include <fmt/format.h>

#include <cmath>

#include "base/bytes.h"
#include "model/arch/registry.h"
#include "model/rope.h"

namespace bantam {
namespace {

// rope_freqs.weight: a divisor per pair of rotated dimensions, F32.
Result<std::vector<float>> ReadRopeDivisors(ModelFile& file, size_t pairs) {
  const TensorInfo* tensor = file.directory.Find("rope_freqs.weight");
  if (tensor == nullptr) return std::vector<float>();
  if (tensor->dtype != DType::kF32 || tensor->elements() != pairs) {
    return Error(Code::kCorrupt, fmt::format("tensor rope_freqs.weight: {} elements of {}, expected {} of F32", tensor->elements(),
                                             Info(tensor->dtype).name, pairs));
  }
  BANTAM_ASSIGN(const auto bytes, file.source->View(tensor->offset_bytes, tensor->size_bytes));
  std::vector<float> divisors(pairs);
  for (size_t i = 0; i < pairs; ++i) {
    divisors[i] = LoadUnaligned<float>(bytes.data() + 4 * i);
    if (divisors[i] == 0 || !std::isfinite(divisors[i])) {
      return Error(Code::kCorrupt,
                   fmt::format("tensor rope_freqs.weight: element {} is {}, expected a finite number but 0", i, divisors[i]));
    }
  }
  return divisors;
}

Result<RopeSpec> ReadRope(ModelFile& file, const FamilyMetadata& metadata, uint32_t head_dim) {
  RopeScaling scaling;
  BANTAM_ASSIGN(scaling.rotated_dimensions, metadata.Read("rope.dimension_count", {2, head_dim}, head_dim));
  BANTAM_ASSIGN(scaling.base, metadata.ReadNumber("rope.freq_base", 10000));
  BANTAM_ASSIGN(const std::string_view type, metadata.ReadText("rope.scaling.type", "linear"));
  BANTAM_ASSIGN(const double old_factor, metadata.ReadNumber("rope.scale_linear", 0));  // the key of early files
  BANTAM_ASSIGN(const double factor, metadata.ReadNumber("rope.scaling.factor", old_factor));
  if (scaling.rotated_dimensions % 2 != 0 || !(scaling.base > 0) || !(factor >= 0)) {
    return Error(Code::kCorrupt, fmt::format("rotary embedding of {} dimensions, base {}, factor {}: expected an even number and "
                                             "positive values; convert the model again",
                                             scaling.rotated_dimensions, scaling.base, factor));
  }
  if (factor > 0 && type == "linear") {
    scaling.linear_factor = factor;  // a factor of 0 is how some converters write "none"
  } else if (type != "none" && type != "linear") {
    return Error(Code::kUnsupported, fmt::format("rotary scaling of type {} is not supported; this build knows linear scaling and "
                                                 "frequency tables",
                                                 type));
  }
  BANTAM_ASSIGN(const std::vector<float> divisors, ReadRopeDivisors(file, scaling.rotated_dimensions / 2));
  scaling.divisors = divisors;
  return RopeSpec{RopeLayout::kInterleaved, InverseFrequencies(scaling)};
}

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
  BANTAM_ASSIGN(config.rope, ReadRope(file, metadata, static_cast<uint32_t>(layer.head_dim)));
  config.layers.assign(layers, layer);
  return config;
}

}  // namespace bantam
