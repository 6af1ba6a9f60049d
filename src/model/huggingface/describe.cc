#include "model/huggingface/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/config.h"

namespace bantam {
namespace {

struct CountRule {
  HfConfig::Names published;
  const char* key;
};

// Members that are there under one of their names become keys.
Status CopyCounts(const HfConfig& config, Description* description) {
  const CountRule rules[] = {
      {{"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "moe_num_primary_experts"}, "expert_count"},
      {{"num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_num_active_primary_experts"}, "expert_used_count"},
      {{"moe_intermediate_size", "moe_ffn_hidden_size"}, "expert_feed_forward_length"},
      {{"shared_expert_intermediate_size", "shared_intermediate_size"}, "expert_shared_feed_forward_length"},
      {{"n_group"}, "expert_group_count"},
      {{"head_dim"}, "attention.key_length"},
      {{"head_dim"}, "attention.value_length"},
  };
  for (const CountRule& rule : rules) {
    BANTAM_ASSIGN(const auto count, config.Count(rule.published));
    description->Member(rule.key, config.NameOf(rule.published));
    if (count) description->Count(rule.key, *count);
  }
  return Ok();
}

Status DescribeActivation(const HfFamily& family, const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(auto activation, config.Text({"hidden_activation"}));
  if (!activation && !family.own_activation) {
    BANTAM_ASSIGN(activation, config.Text({"hidden_act", "activation_function", "hidden_activation_function"}));
  }
  if (!activation && family.names_activation && !family.own_activation) {
    BANTAM_ASSIGN(activation, config.Text({"activation"}));
  }
  if (!activation) return Ok();
  const std::string list = fmt::format(",{},", family.activations);
  if (list.find(fmt::format(",{},", *activation)) != std::string::npos) {
    if (family.names_activation) description->Text("published_activation", *activation);
    return Ok();
  }
  return Error(Code::kUnsupported,
               fmt::format("activation {}: models of type {} are run with {}", *activation, family.model_type, family.activations));
}

// Widths of feed-forwards as a list, one per layer.
Status DescribeWidths(const HfConfig& config, uint32_t layers, Description* description) {
  const Json& list = config.Member("intermediate_size");
  if (!list.is_array()) return Ok();
  std::vector<uint32_t> widths;
  for (const Json& width : list) {
    if (width.is_number_unsigned() && width.get<uint64_t>() <= kWidthMax && widths.size() < kLayersMax)
      widths.push_back(width.get<uint32_t>());
  }
  if (widths.size() != layers || list.size() != layers) {
    return Error(Code::kCorrupt,
                 fmt::format("intermediate_size: {}, expected a number, or one for each of {} layers", ShortJson(list), layers));
  }
  description->Counts("feed_forward_length", std::move(widths));
  return Ok();
}

constexpr HfConfig::Names kLayersNames = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"};
constexpr HfConfig::Names kWidthNames = {"hidden_size", "n_embd", "d_model", "n_embed", "dim"};
constexpr HfConfig::Names kHeadsNames = {"num_attention_heads", "n_head", "n_heads"};
constexpr HfConfig::Names kKvHeadsNames = {"num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_head_kv", "num_query_groups"};
constexpr HfConfig::Names kContextNames = {"max_position_embeddings", "n_positions",      "n_ctx",     "max_seq_len",
                                           "max_sequence_length",     "model_max_length", "seq_length"};
constexpr HfConfig::Names kFeedForwardNames = {"intermediate_size", "n_inner", "ffn_hidden_size", "hidden_dim"};
constexpr HfConfig::Names kEpsilonNames = {"rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"};

// What errors call the keys of DescribeShape and DescribeRope.
void NameMembers(const HfConfig& config, Description* description) {
  const CountRule rules[] = {
      {kLayersNames, "block_count"},
      {kWidthNames, "embedding_length"},
      {kHeadsNames, "attention.head_count"},
      {kKvHeadsNames, "attention.head_count_kv"},
      {kContextNames, "context_length"},
      {kFeedForwardNames, "feed_forward_length"},
      {kEpsilonNames, "attention.layer_norm_rms_epsilon"},
      {kEpsilonNames, "attention.layer_norm_epsilon"},
      {{"rope_theta", "rotary_emb_base"}, "rope.freq_base"},
      {{"partial_rotary_factor", "rotary_pct", "rope_pct"}, "rope.dimension_count"},
      {{"sliding_window", "sliding_window_size"}, "attention.sliding_window"},
      {{"sliding_window"}, "attention.published_window"},
      {{"max_window_layers"}, "attention.published_window_first"},
      {{"llama_4_scaling_beta"}, "attention.temperature_scale"},
  };
  for (const CountRule& rule : rules) description->Member(rule.key, config.NameOf(rule.published));
}

Status DescribeShape(const HfFamily& family, const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount(kLayersNames));
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount(kWidthNames));
  BANTAM_ASSIGN(const HfHeads heads, family.attention ? ReadHeads(config) : HfHeads{});
  BANTAM_ASSIGN(const auto context, config.Count(kContextNames));
  if (!context && family.attention) return Error(Code::kCorrupt, "max_position_embeddings is missing");
  BANTAM_TRY(DescribeWidths(config, layers, description));
  const bool listed = config.Member("intermediate_size").is_array();
  BANTAM_ASSIGN(auto feed_forward, listed ? std::optional<uint32_t>() : config.Count(kFeedForwardNames));
  if (!feed_forward && !listed && family.feed_forward_widths != 0)
    feed_forward = width <= kWidthMax ? family.feed_forward_widths * width : 0;
  description->Count("block_count", layers);
  description->Count("embedding_length", width);
  if (family.attention) description->Count("attention.head_count", heads.heads);
  if (family.attention) description->Count("attention.head_count_kv", heads.kv_heads);
  if (context) description->Count("context_length", *context);
  if (feed_forward) description->Count("feed_forward_length", *feed_forward);
  BANTAM_ASSIGN(const auto epsilon, config.Number(kEpsilonNames));
  if (!epsilon) return Error(Code::kCorrupt, "rms_norm_eps (of LayerNorm layer_norm_eps) is missing");
  description->Number("attention.layer_norm_rms_epsilon", *epsilon);
  description->Number("attention.layer_norm_epsilon", *epsilon);
  return CopyCounts(config, description);
}

Result<std::vector<float>> ReadFactors(const Json& scaling, const char* name) {
  const Json& list = JsonMember(scaling, name);
  std::vector<float> factors;
  if (!list.is_array() || list.empty() || list.size() > kHeadDimMax) {
    return Error(Code::kCorrupt, fmt::format("rope_scaling.{}: expected a list of 1 to {} numbers", name, kHeadDimMax));
  }
  for (const Json& entry : list) {
    if (!entry.is_number()) return Error(Code::kCorrupt, fmt::format("rope_scaling.{}: expected a list of numbers", name));
    factors.push_back(entry.get<float>());
  }
  return factors;
}

// LongRoPE: two tables, and a factor for the angles' cosines and sines where the context was stretched (Ding et al., 2024).
Status DescribeLongRope(const HfConfig& config, const Json& scaling, Description* description, RopeTables* tables) {
  BANTAM_ASSIGN(tables->short_factors, ReadFactors(scaling, "short_factor"));
  BANTAM_ASSIGN(tables->long_factors, ReadFactors(scaling, "long_factor"));
  BANTAM_ASSIGN(const uint32_t context, config.RequireCount({"max_position_embeddings"}));
  BANTAM_ASSIGN(auto original, HfConfig::CountOf(scaling, {"original_max_position_embeddings"}));
  BANTAM_ASSIGN(const auto outer, config.Count({"original_max_position_embeddings"}));
  if (outer) original = outer;
  if (!original || *original < 2) return Error(Code::kCorrupt, "original_max_position_embeddings is missing, which rope_scaling needs");
  const double stretch = static_cast<double>(context) / *original;
  const double factor = stretch > 1 ? std::sqrt(1 + std::log(stretch) / std::log(*original)) : 1;
  BANTAM_ASSIGN(const auto own, HfConfig::NumberOf(scaling, {"attention_factor", "long_mscale"}));
  BANTAM_ASSIGN(const auto of_short, HfConfig::NumberOf(scaling, {"short_mscale"}));
  BANTAM_ASSIGN(const auto of_long, HfConfig::NumberOf(scaling, {"long_mscale"}));
  if (of_short && of_long && *of_short != *of_long) {
    return NotRun(fmt::format("rope_scaling.short_mscale {} beside a long_mscale of {}", *of_short, *of_long));
  }
  description->Text("rope.scaling.type", "longrope");
  description->Count("rope.scaling.original_context_length", *original);
  description->Number("rope.scaling.attn_factor", own.value_or(factor));
  return Ok();
}

Status DescribeYarn(const Json& scaling, double factor, Description* description) {
  BANTAM_ASSIGN(const auto attention, HfConfig::NumberOf(scaling, {"attention_factor"}));
  // GGUF's factor multiplies the rule of the paper (Peng et al., 2023), the publisher's stands for it.
  if (attention) description->Number("rope.scaling.attn_factor", *attention / (factor > 1 ? 0.1 * std::log(factor) + 1 : 1));
  BANTAM_ASSIGN(const auto fast, HfConfig::NumberOf(scaling, {"beta_fast"}));
  BANTAM_ASSIGN(const auto slow, HfConfig::NumberOf(scaling, {"beta_slow"}));
  if (fast) description->Number("rope.scaling.yarn_beta_fast", *fast);
  if (slow) description->Number("rope.scaling.yarn_beta_slow", *slow);
  if (!JsonFlag(scaling, "truncate", true)) description->Flag("rope.scaling.published_truncate", false);
  BANTAM_ASSIGN(const auto scale, HfConfig::NumberOf(scaling, {"mscale"}));
  BANTAM_ASSIGN(const auto all, HfConfig::NumberOf(scaling, {"mscale_all_dim"}));
  if (attention || !scale || !all || *scale == 0 || *all == 0 || factor <= 1) return Ok();
  const auto correction = [&](double m) { return 0.1 * m * std::log(factor) + 1; };
  description->Number("rope.scaling.attn_factor", correction(*scale) / correction(*all) / correction(1));
  return Ok();
}

// Gemma 4: a part of the pairs of layers that see everything turn, by the angles that they would have if all did.
Status DescribeProportional(const HfConfig& config, const Json& scaling, RopeTables* tables) {
  BANTAM_ASSIGN(const uint32_t head_dim, config.RequireCount({"global_head_dim"}));
  BANTAM_ASSIGN(const auto fraction, HfConfig::NumberOf(scaling, {"partial_rotary_factor"}));
  if (head_dim > kHeadDimMax || !(fraction.value_or(1) > 0 && fraction.value_or(1) <= 1)) {
    return Error(Code::kCorrupt,
                 fmt::format("rope_parameters: a part of {} of heads of {} elements turns, expected one above 0 and at most 1 "
                             "of at most {}",
                             fraction.value_or(1), head_dim, kHeadDimMax));
  }
  constexpr float kStill = 1e30f;  // as converters write it
  const auto turned = static_cast<size_t>(head_dim * fraction.value_or(1) / 2);
  for (size_t pair = 0; pair < head_dim / 2; ++pair) tables->divisors.push_back(pair < turned ? 1 : kStill);
  return Ok();
}

// Members that the family does not follow.
Status CheckFixed(const HfFamily& family, const HfConfig& config) {
  if (family.fixed.empty()) return Ok();
  BANTAM_ASSIGN(const Json fixed, ParseJson(family.fixed));
  for (const auto& [name, value] : fixed.items()) {
    const Json& said = config.At(name);
    const bool one_of = value.is_array() && std::find(value.begin(), value.end(), said) != value.end();
    if (!said.is_null() && said != value && !one_of) return NotRun(fmt::format("{} {} in this family", name, ShortJson(said)));
  }
  return Ok();
}

Status DescribeScaling(const HfConfig& config, const Json& scaling, Description* description, RopeTables* tables) {
  const auto named = JsonText(scaling, "rope_type");
  const std::string type = named.value_or(JsonText(scaling, "type").value_or("default"));
  // A kind that is no text, or a factor without a kind: that of "default" has no say.
  const bool unnamed = !named && !JsonText(scaling, "type");
  const bool says_nothing = unnamed && !(JsonMember(scaling, "factor").is_null() && JsonMember(scaling, "rope_type").is_null());
  if ((!scaling.is_null() && !scaling.is_object()) || says_nothing) {
    return Error(Code::kCorrupt, fmt::format("rope_scaling: {}, expected an object with a rope_type that says how", ShortJson(scaling)));
  }
  if (type == "default") return Ok();
  if (type == "su" || type == "longrope") return DescribeLongRope(config, scaling, description, tables);
  if (type == "proportional") return DescribeProportional(config, scaling, tables);
  if (type != "linear" && type != "dynamic" && type != "yarn" && type != "llama3") {
    return Error(Code::kUnsupported, fmt::format("rope_scaling of type {} is not supported", type));
  }
  BANTAM_ASSIGN(const auto factor, HfConfig::NumberOf(scaling, {"factor"}));
  if (!(factor.value_or(0) > 0)) {
    return Error(Code::kCorrupt,
                 fmt::format("rope_scaling.factor: {}, expected a number above 0", factor ? fmt::format("{}", *factor) : "missing"));
  }
  BANTAM_ASSIGN(const auto original, HfConfig::CountOf(scaling, {"original_max_position_embeddings"}));
  BANTAM_ASSIGN(const auto low, HfConfig::NumberOf(scaling, {"low_freq_factor"}));
  BANTAM_ASSIGN(const auto high, HfConfig::NumberOf(scaling, {"high_freq_factor"}));
  if (type == "llama3" && (!original || !low || !high)) {
    return Error(Code::kCorrupt,
                 "rope_scaling of type llama3 needs original_max_position_embeddings, low_freq_factor and high_freq_factor");
  }
  description->Text("rope.scaling.type", type);
  description->Number("rope.scaling.factor", *factor);
  if (original) description->Count("rope.scaling.original_context_length", *original);
  if (low) description->Number("rope.scaling.low_freq_factor", *low);
  if (high) description->Number("rope.scaling.high_freq_factor", *high);
  return type == "yarn" ? DescribeYarn(scaling, *factor, description) : Ok();
}

Status DescribeRope(const HfConfig& config, Description* description, RopeTables* tables) {
  const Json& scaling = config.RopeScaling();
  BANTAM_ASSIGN(const HfHeads heads, ReadHeads(config));
  BANTAM_ASSIGN(auto base, config.Number({"rope_theta", "rotary_emb_base"}));
  BANTAM_ASSIGN(auto rotated, config.Number({"partial_rotary_factor", "rotary_pct", "rope_pct"}));
  BANTAM_ASSIGN(const auto new_base, HfConfig::NumberOf(scaling, {"rope_theta"}));
  BANTAM_ASSIGN(const auto new_rotated, HfConfig::NumberOf(scaling, {"partial_rotary_factor"}));
  if (new_base) base = new_base;
  if (new_rotated) rotated = new_rotated;
  BANTAM_ASSIGN(const auto windowed, HfConfig::NumberOf(JsonMember(config.Member("rope_parameters"), "sliding_attention"), {"rope_theta"}));
  if (windowed) description->Number("rope.freq_base_swa", *windowed);
  description->Number("rope.freq_base", base.value_or(10000));
  const double fraction = rotated.value_or(1);
  if (!(fraction > 0 && fraction <= 1)) {
    return Error(Code::kCorrupt, fmt::format("partial_rotary_factor {}: expected more than 0 and at most 1", fraction));
  }
  description->Count("rope.dimension_count", static_cast<uint32_t>(fraction * heads.head_dim));
  return DescribeScaling(config, scaling, description, tables);
}

// Block-sparse attention by the members of Phi 3 small, in any family.
Status DescribeBlockSparse(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto block, config.Count({"blocksparse_block_size"}));
  if (block.value_or(0) == 0) return Ok();
  BANTAM_ASSIGN(const uint32_t local, config.RequireCount({"blocksparse_num_local_blocks"}));
  BANTAM_ASSIGN(const uint32_t stride, config.RequireCount({"blocksparse_vert_stride"}));
  BANTAM_ASSIGN(const auto same_heads, config.Flag({"blocksparse_homo_head_pattern"}));
  BANTAM_ASSIGN(const auto dense, config.Count({"dense_attention_every_n_layers"}));
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount(kLayersNames));
  if (!same_heads.value_or(false)) {
    return Error(Code::kUnsupported, "block-sparse attention with another pattern for each head (blocksparse_homo_head_pattern false)");
  }
  if (layers > kLayersMax) return Ok();  // refused where layers are counted
  std::vector<uint32_t> blocks;
  for (uint32_t i = 1; i <= layers; ++i) blocks.push_back(dense.value_or(0) != 0 && i % *dense == 0 ? 0 : *block);
  description->Counts("attention.block_sparse.block_size", std::move(blocks));
  description->Count("attention.block_sparse.local_blocks", local);
  description->Count("attention.block_sparse.global_stride", stride);
  return Ok();
}

// What any family may have, by our own keys (ADR 0012).
Status DescribeLayerOptions(const HfConfig& config, Description* description) {
  BANTAM_TRY(DescribeBlockSparse(config, description));
  const Json& shared = config.Member("layer_weights");
  if (shared.is_null()) return Ok();
  std::vector<uint32_t> weights;
  for (size_t i = 0; shared.is_array() && i < shared.size() && i < kLayersMax; ++i) {
    if (shared[i].is_number_unsigned() && shared[i].get<uint64_t>() < kLayersMax) weights.push_back(shared[i].get<uint32_t>());
  }
  if (weights.empty() || weights.size() != shared.size()) {
    return Error(Code::kCorrupt, fmt::format("layer_weights: {}, expected a list of at most {} layers", ShortJson(shared), kLayersMax));
  }
  description->Counts("layer_weights", std::move(weights));
  return Ok();
}

}  // namespace

Result<HfHeads> ReadHeads(const HfConfig& config) {
  HfHeads heads;
  BANTAM_ASSIGN(heads.heads, config.RequireCount(kHeadsNames));
  BANTAM_ASSIGN(const auto kv_heads, config.Count(kKvHeadsNames));
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount(kWidthNames));
  BANTAM_ASSIGN(const auto head_dim, config.Count({"head_dim"}));
  // Falcon's older models share one, whatever number stands beside it.
  BANTAM_ASSIGN(const auto single, config.Flag({"multi_query"}));
  BANTAM_ASSIGN(const auto grouped, config.Flag({"new_decoder_architecture"}));
  heads.kv_heads = single.value_or(false) && !grouped.value_or(false) ? 1 : kv_heads.value_or(heads.heads);
  if (heads.heads == 0 || heads.heads > kHeadsMax || heads.kv_heads == 0 || heads.heads % heads.kv_heads != 0) {
    return Error(Code::kCorrupt, fmt::format("{} heads over {} kv heads: expected 1 to {}, and a whole number of heads per kv head",
                                             heads.heads, heads.kv_heads, kHeadsMax));
  }
  heads.head_dim = head_dim.value_or(width / heads.heads);
  return heads;
}

Status Describe(const HfFamily& family, const HfConfig& config, MetadataBuilder* metadata, RopeTables* tables) {
  Description description(family.architecture, metadata);
  metadata->SetOrigin("config.json");
  metadata->SetText("general.architecture", std::string(family.architecture));
  NameMembers(config, &description);
  BANTAM_TRY(CheckFixed(family, config));
  BANTAM_TRY(DescribeActivation(family, config, &description));
  BANTAM_TRY(DescribeShape(family, config, &description));
  if (family.attention) {
    BANTAM_TRY(DescribeRope(config, &description, tables));
  }
  BANTAM_TRY(DescribeLayerOptions(config, &description));
  BANTAM_ASSIGN(const auto causal, config.Flag({"is_causal"}));
  if (causal == false && !family.encoder) description.Flag("attention.causal", false);
  return family.describe == nullptr ? Ok() : family.describe(config, &description);
}

}  // namespace bantam
