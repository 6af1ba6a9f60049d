#include "model/arch/transformer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "model/arch/rope_metadata.h"

namespace bantam {
namespace {

Result<std::vector<LayerPlan>> ReadLayers(const FamilyMetadata& metadata, uint32_t count, uint32_t width, const TransformerTraits& traits) {
  const Mixer without_heads = traits.without_heads;
  const uint32_t least = without_heads == Mixer::kAttention ? 1 : 0;
  const std::vector<uint32_t> no_feed_forward(traits.experts_only ? count : 0);
  BANTAM_ASSIGN(const auto heads, metadata.PerLayer("attention.head_count", {least, kHeadsMax}, count, {}));
  BANTAM_ASSIGN(const auto kv_heads, metadata.PerLayer("attention.head_count_kv", {least, kHeadsMax}, count, heads));
  BANTAM_ASSIGN(const auto feed_forward,
                metadata.PerLayer("feed_forward_length", {traits.experts_only ? 0u : 1u, kWidthMax}, count, no_feed_forward));
  const uint32_t most = std::max<uint32_t>(1, *std::max_element(heads.begin(), heads.end()));
  BANTAM_ASSIGN(const uint32_t head_dim, metadata.Read("attention.key_length", {1, kHeadDimMax}, width / most));
  BANTAM_ASSIGN(const uint32_t value_dim, metadata.Read("attention.value_length", {1, kHeadDimMax}, width / most));
  std::vector<LayerPlan> layers;
  for (uint32_t i = 0; i < count; ++i) {
    if (kv_heads[i] == 0 && without_heads != Mixer::kAttention) {
      LayerPlan layer;
      layer.mixer = without_heads;
      layer.head_dim = head_dim;
      layer.feed_forward_width = feed_forward[i];
      layers.push_back(layer);
      continue;
    }
    if (kv_heads[i] == 0 || kv_heads[i] > heads[i] || heads[i] % kv_heads[i] != 0 || head_dim == 0 || head_dim > kHeadDimMax ||
        head_dim != value_dim) {
      return Error(Code::kCorrupt,
                   fmt::format("layer {}: {} heads over {} kv heads, keys of {} and values of {} elements: expected a whole "
                               "number of heads per kv head, and keys and values of one size from 1 to {}",
                               i, heads[i], kv_heads[i], head_dim, value_dim, kHeadDimMax));
    }
    LayerPlan layer;
    layer.heads = heads[i];
    layer.kv_heads = kv_heads[i];
    layer.head_dim = head_dim;
    layer.feed_forward_width = feed_forward[i];
    layers.push_back(layer);
  }
  return layers;
}

// Of factors and limits: far beyond any model's, and near enough to 1 that neither they nor their inverses leave the range of f32.
constexpr float kFactorMin = 1e-12f;
constexpr float kFactorMax = 1e12f;

// Keys that change what a model computes, and that this build does not follow.
Status RefuseWhatIsNotRun(const FamilyMetadata& metadata, const TransformerTraits& traits) {
  BANTAM_ASSIGN(const bool causal, metadata.ReadBool("attention.causal", !traits.later_tokens));
  if (causal && traits.later_tokens)
    return Error(Code::kUnsupported, "an encoder that sees no later tokens (attention.causal true) is not supported");
  BANTAM_ASSIGN(const uint32_t groups, metadata.Read("expert_group_count", {0, kExpertsMax}, 0));
  if (groups > 1) return Error(Code::kUnsupported, fmt::format("experts in {} groups (expert_group_count) are not supported", groups));
  BANTAM_ASSIGN(const uint32_t predictors, metadata.Read("nextn_predict_layers", {0, kLayersMax}, 0));
  if (predictors == 0 || traits.predictors) return Ok();
  return Error(Code::kUnsupported,
               fmt::format("{} blocks that predict further tokens (nextn_predict_layers) are not supported in this family", predictors));
}

}  // namespace

Result<Config> ReadTransformer(ModelFile& file, const FamilyMetadata& metadata, const TransformerTraits& traits) {
  Config config;
  BANTAM_TRY(RefuseWhatIsNotRun(metadata, traits));
  BANTAM_ASSIGN(const uint32_t blocks, metadata.Require("block_count", {1, kLayersMax}));
  // Blocks behind the last layer that predict further tokens are not run.
  BANTAM_ASSIGN(const uint32_t predictors, metadata.Read("nextn_predict_layers", {0, blocks - 1}, 0));
  const uint32_t layers = blocks - predictors;
  BANTAM_ASSIGN(const uint32_t width, metadata.Require("embedding_length", {1, kWidthMax}));
  BANTAM_ASSIGN(config.context_max, metadata.Require("context_length", {1, kContextLengthMax}));
  const bool rms = traits.norm == NormKind::kRms;
  BANTAM_ASSIGN(config.norm_epsilon, ReadNormEpsilon(metadata, rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"));
  BANTAM_ASSIGN(config.layers, ReadLayers(metadata, layers, width, traits));
  config.width = width;
  config.predictors = predictors;
  config.norm = traits.norm;
  // Of decoders too: some were trained on to make vectors of whole texts (LLM2Vec, BehnamGhader et al., 2024).
  BANTAM_ASSIGN(const bool causal, metadata.ReadBool("attention.causal", !traits.later_tokens));
  config.later_tokens = !causal;
  const size_t head_dim = config.layers[0].head_dim;
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  if (traits.rope) {
    BANTAM_ASSIGN(RopeSpec rope, ReadRope(file, metadata, {head_dim, config.context_max}));
    rope.layout = traits.layout;
    config.ropes.push_back(std::move(rope));
  }
  // What config.json says of families whose GGUF files do not name a window.
  BANTAM_ASSIGN(const uint32_t window, metadata.Read("attention.published_window", {0, kContextLengthMax}, 0));
  BANTAM_ASSIGN(const uint32_t first, metadata.Read("attention.published_window_first", {0, kLayersMax}, 0));
  BANTAM_ASSIGN(const auto windowed, metadata.List("attention.published_window_layers", {0, 1}, layers));
  for (uint32_t i = 0; i < layers; ++i) {
    LayerPlan& layer = config.layers[i];
    layer.feed_forward = traits.feed_forward;
    layer.rope = traits.rope ? 0 : kNone;
    if (windowed.empty() ? i >= first : windowed[i] != 0) layer.window = window;
  }
  return config;
}

Result<float> ReadNormEpsilon(const FamilyMetadata& metadata, std::string_view key) {
  constexpr double kMissing = std::numeric_limits<double>::infinity();  // no number that a file may have
  BANTAM_ASSIGN(const double epsilon, metadata.ReadNumber(key, kMissing));
  if (epsilon >= 0 && epsilon <= 1) return static_cast<float>(epsilon);
  return metadata.Problem(key,
                          fmt::format("{}, expected a number from 0 to 1", epsilon == kMissing ? "missing" : fmt::format("{}", epsilon)));
}

Result<StateSpace> ReadStateSpace(const FamilyMetadata& metadata, bool columns) {
  StateSpace space;
  BANTAM_ASSIGN(const uint32_t width, metadata.Require("ssm.inner_size", {1, kWidthMax}));
  BANTAM_ASSIGN(const uint32_t rank, metadata.Require("ssm.time_step_rank", {1, kWidthMax}));
  BANTAM_ASSIGN(space.state_size, metadata.Require("ssm.state_size", {1, kStateSizeMax}));
  BANTAM_ASSIGN(space.taps, metadata.Require("ssm.conv_kernel", {2, kernels::kTapsMax}));
  space.width = width;
  space.heads = columns ? width : rank;
  if (columns) {
    space.step_rank = rank;
    BANTAM_ASSIGN(space.norms, metadata.ReadBool("ssm.dt_b_c_rms", false));
    return space;
  }
  BANTAM_ASSIGN(space.groups, metadata.Require("ssm.group_count", {1, kHeadsMax}));
  if (width % rank != 0 || rank % space.groups != 0 || width % space.groups != 0) {
    return Error(Code::kCorrupt,
                 fmt::format("a state space of {} columns, {} heads and {} groups: expected whole numbers of columns per head "
                             "and of heads per group; convert the model again",
                             width, rank, space.groups));
  }
  return space;
}

Status ReadWindows(const FamilyMetadata& metadata, const WindowDefaults& defaults, Config* config) {
  constexpr const char* kKey = "attention.sliding_window";
  const FamilyMetadata::Range range = {defaults.required ? 1u : 0u, kContextLengthMax};
  const bool must_say = defaults.required && defaults.window == 0;
  BANTAM_ASSIGN(const uint32_t window, must_say ? metadata.Require(kKey, range) : metadata.Read(kKey, range, defaults.window));
  if (window == 0) return Ok();
  const uint32_t count = static_cast<uint32_t>(config->layers.size());
  BANTAM_ASSIGN(const std::vector<uint32_t> listed, metadata.List("attention.sliding_window_pattern", {0, 1}, count));
  uint32_t pattern = defaults.pattern;
  if (listed.empty()) {
    BANTAM_ASSIGN(pattern, metadata.Read("attention.sliding_window_pattern", {0, kLayersMax}, defaults.pattern));
  }
  for (uint32_t i = 0; i < count; ++i) {
    const bool full = pattern != 0 && i % pattern == (defaults.full_first ? 0 : pattern - 1);
    if (listed.empty() ? !full : listed[i] != 0) config->layers[i].window = window;
  }
  return Ok();
}

Status AddWindowRope(double base, Config* config) {
  RopeSpec rope;
  rope.layout = config->ropes[0].layout;
  rope.rotated_dimensions = config->ropes[0].rotated_dimensions;
  rope.base = base;
  if (!(rope.base > 1)) {
    return Error(Code::kCorrupt,
                 fmt::format("rotary base {} of layers with a window, expected more than 1; convert the model again", base));
  }
  for (LayerPlan& layer : config->layers) {
    if (layer.window != 0 && layer.rope == 0) layer.rope = 1;
  }
  config->ropes.push_back(std::move(rope));
  return Ok();
}

Status ReadWindowRope(const FamilyMetadata& metadata, Config* config) {
  BANTAM_ASSIGN(const double base, metadata.ReadNumber("rope.freq_base_swa", config->ropes[0].base));
  if (base == config->ropes[0].base) return Ok();
  BANTAM_TRY(AddWindowRope(base, config));
  config->ropes[1] = config->ropes[0];
  config->ropes[1].base = base;
  return Ok();
}

void TurnWindowsOnly(Config* config) {
  for (LayerPlan& layer : config->layers) {
    if (layer.window == 0) layer.rope = kNone;
  }
}

Status ReadExperts(const FamilyMetadata& metadata, const ExpertDefaults& defaults, Config* config) {
  BANTAM_ASSIGN(const uint32_t experts, metadata.Require("expert_count", {1, kExpertsMax}));
  BANTAM_ASSIGN(const uint32_t used, metadata.Require("expert_used_count", {1, experts}));
  uint32_t leading = 0;
  if (defaults.dense_in_front) {
    BANTAM_ASSIGN(leading, metadata.Read("leading_dense_block_count", {0, kLayersMax}, 0));
  }
  BANTAM_ASSIGN(const uint32_t own, metadata.Read("expert_feed_forward_length", {0, kWidthMax}, 0));
  if (defaults.width == ExpertWidth::kOwn && own == 0) {
    BANTAM_TRY(metadata.Require("expert_feed_forward_length", {1, kWidthMax}));
  }
  config->experts = experts;
  config->experts_used = used;
  config->normalize_experts = defaults.normalize;
  for (size_t i = leading; i < config->layers.size(); ++i) {
    LayerPlan& layer = config->layers[i];
    layer.feed_forward = FeedForward::kExperts;
    if (defaults.width == ExpertWidth::kLayer) continue;
    layer.feed_forward_width = own != 0 ? own : std::max<size_t>(1, layer.feed_forward_width / used);
  }
  return Ok();
}

Result<Gating> ReadGating(const FamilyMetadata& metadata) {
  constexpr Gating kGatings[] = {Gating::kSoftmax, Gating::kSigmoid, Gating::kSoftmaxOfChosen};
  BANTAM_ASSIGN(const uint32_t gating, metadata.Require("expert_gating_func", {1, 3}));
  return kGatings[gating - 1];
}

Result<bool> HasExperts(const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(const uint32_t experts, metadata.Read("expert_count", {0, kExpertsMax}, 0));
  return experts > 0;
}

Result<float> ReadFactor(const FamilyMetadata& metadata, std::string_view key, float fallback) {
  BANTAM_ASSIGN(const double value, metadata.ReadNumber(key, 0));
  const auto factor = static_cast<float>(value);
  if (value == 0) return fallback;
  if (!(std::fabs(factor) >= kFactorMin && std::fabs(factor) <= kFactorMax)) {
    return metadata.Problem(key, fmt::format("{}, expected 0 or a magnitude from {} to {}", value, kFactorMin, kFactorMax));
  }
  return factor;
}

Result<float> ReadLimit(const FamilyMetadata& metadata, std::string_view key, float fallback) {
  BANTAM_ASSIGN(const float limit, ReadFactor(metadata, key, fallback));
  if (limit >= 0) return limit;
  return metadata.Problem(key, fmt::format("{}, expected 0 or more", limit));
}

namespace {

Result<Pooling> ReadPooling(const FamilyMetadata& metadata, std::string_view key, Pooling fallback) {
  BANTAM_ASSIGN(const uint32_t said, metadata.Read(key, {0, UINT32_MAX}, kPoolingRank));
  if (said == kPoolingUnsaid) return fallback;
  BANTAM_ASSIGN(const uint32_t pooling, metadata.Read(key, {0, kPoolingRank}, kPoolingRank));
  return pooling == kPoolingRank ? fallback : static_cast<Pooling>(pooling);
}

}  // namespace

Status ReadTextUse(const FamilyMetadata& metadata, Config* config) {
  if (!config->later_tokens) config->pooling = config->classifier_pooling = Pooling::kLast;
  BANTAM_ASSIGN(config->pooling, ReadPooling(metadata, "pooling_type", config->pooling));
  BANTAM_ASSIGN(config->classifier_pooling, ReadPooling(metadata, "classifier_pooling_type", config->classifier_pooling));
  BANTAM_ASSIGN(config->unit_length, metadata.ReadBool("pooling_unit_length", true));
  BANTAM_ASSIGN(const std::string_view head, metadata.ReadText("classifier.hidden_activation", ""));
  if (head == "relu") config->head_activation = HeadActivation::kRelu;
  if (!head.empty() && head != "relu" && head != "tanh") {
    return metadata.Problem("classifier.hidden_activation", fmt::format("{}, expected tanh or relu", head));
  }
  BANTAM_ASSIGN(config->no_output, metadata.ReadBool("text.no_output", false));
  config->whole_texts = config->later_tokens || config->no_output;
  return Ok();
}

}  // namespace bantam
