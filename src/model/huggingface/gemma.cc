#include "model/huggingface/gemma.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "model/config.h"
#include "model/huggingface/windows.h"

namespace bantam {
namespace {

constexpr NameRule kGemma3nNames[] = {
    {"#.post_attention_layernorm", "post_attention_norm"},
    {"#.pre_feedforward_layernorm", "ffn_norm"},
    {"#.post_feedforward_layernorm", "post_ffw_norm"},
    {"embed_tokens_per_layer", "per_layer_token_embd"},
    {"per_layer_model_projection", "per_layer_model_proj"},
    {"per_layer_projection_norm", "per_layer_proj_norm"},
    {"#.per_layer_input_gate", "inp_gate"},
    {"#.per_layer_projection", "proj"},
    {"#.post_per_layer_input_norm", "post_norm"},
    {"altup_projections.#", "altup_proj"},
    {"altup_unembed_projections.#", "altup_unembd_proj"},
    {"#.altup.correction_coefs", "altup_correct_coef"},
    {"#.altup.correct_output_scale", "altup_correct_scale.weight"},
    {"#.altup.prediction_coefs", "altup_predict_coef"},
    {"#.altup.modality_router", "altup_router"},
    {"#.altup.router_norm", "altup_router_norm"},
    {"#.laurel.linear_left", "laurel_l"},
    {"#.laurel.linear_right", "laurel_r"},
    {"#.laurel.post_laurel_norm", "laurel_post_norm"},
};

// Heads have two widths, so rows are not counted before the layers are planned.
constexpr NameRule kGemma4Names[] = {
    {"#.self_attn.q_proj", "attn_q"},
    {"#.self_attn.k_proj", "attn_k"},
    {"#.post_attention_layernorm", "post_attention_norm"},
    {"#.pre_feedforward_layernorm", "ffn_norm"},
    {"#.post_feedforward_layernorm", "post_ffw_norm"},
    {"embed_tokens_per_layer", "per_layer_token_embd"},
    {"per_layer_model_projection", "per_layer_model_proj"},
    {"per_layer_projection_norm", "per_layer_proj_norm"},
    {"#.per_layer_input_gate", "inp_gate"},
    {"#.per_layer_projection", "proj"},
    {"#.post_per_layer_input_norm", "post_norm"},
    {"#.layer_scalar", "layer_output_scale.weight"},
};

// How many deviations above the mean of a normal distribution the part `below` of it ends; minus infinity for 0.
double DeviationsOf(double below) {
  if (below <= 0) return -INFINITY;
  double low = -40;
  double high = 40;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < below ? low : high) = middle;
  }
  return high;
}

// The part of each layer's gate that is cut off: a list, or one number.
Status DescribeSparsity(const HfConfig& config, uint32_t layers, Description* description) {
  const Json& pattern = config.Member("activation_sparsity_pattern");
  if (pattern.is_null()) return Ok();
  std::vector<float> deviations;
  for (uint32_t i = 0; i < layers; ++i) {
    const Json& part = pattern.is_array() && i < pattern.size() ? pattern[i] : pattern;
    if (!part.is_number() || !(part.get<double>() >= 0 && part.get<double>() < 1)) {
      return Error(Code::kCorrupt, fmt::format("activation_sparsity_pattern: {}, expected a number from 0 to below 1 for each of {} layers",
                                               ShortJson(pattern), layers));
    }
    deviations.push_back(static_cast<float>(DeviationsOf(static_cast<double>(part.get<float>()))));
  }
  description->Numbers("activation_sparsity_scale", std::move(deviations));
  return Ok();
}

// Scores are scaled by the width of a head, but in the 27B models, which the family knows by their number of layers.
Status CheckGemmaScale(const HfConfig& config, uint32_t layers_of_27b) {
  BANTAM_ASSIGN(const auto scalar, config.Number({"query_pre_attn_scalar"}));
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"hidden_size"}));
  BANTAM_ASSIGN(const uint32_t heads, config.RequireCount({"num_attention_heads"}));
  BANTAM_ASSIGN(const uint32_t head_dim, config.RequireCount({"head_dim"}));
  const uint32_t expected = layers == layers_of_27b && heads > 0 ? width / heads : head_dim;
  if (scalar.value_or(expected) != expected) return NotRun(fmt::format("query_pre_attn_scalar {} where {} is usual", *scalar, expected));
  return Ok();
}

// What 3n and 4 have.
Status DescribeShared(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t per_layer, config.RequireCount({"hidden_size_per_layer_input"}));
  BANTAM_ASSIGN(const uint32_t shared, config.RequireCount({"num_kv_shared_layers"}));
  description->Count("embedding_length_per_layer_input", per_layer);
  description->Count("attention.shared_kv_layers", shared);
  BANTAM_ASSIGN(const auto cap, config.Number({"final_logit_softcapping"}));
  if (cap) description->Number("final_logit_softcapping", *cap);
  return DescribeWindowsByKind(config, description);
}

}  // namespace

std::span<const NameRule> Gemma3nNames() { return kGemma3nNames; }
std::span<const NameRule> Gemma4Names() { return kGemma4Names; }

Status DescribeGemma2(const HfConfig& config, Description* description) {
  BANTAM_TRY(CheckGemmaScale(config, /*layers_of_27b=*/46));
  for (const char* cap : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    BANTAM_ASSIGN(const auto value, config.Number({cap}));
    if (value.value_or(0) == 0) return NotRun(fmt::format("{} null in this family", cap));
    description->Number(cap, *value);
  }
  return DescribeWindows(config, /*pattern=*/2, description);
}

Status DescribeGemma3(const HfConfig& config, Description* description) {
  BANTAM_TRY(CheckGemmaScale(config, /*layers_of_27b=*/62));
  BANTAM_ASSIGN(const auto both_ways, config.Flag({"use_bidirectional_attention"}));
  if (both_ways.value_or(false)) description->Flag("attention.causal", false);  // EmbeddingGemma
  BANTAM_ASSIGN(const auto cap, config.Number({"final_logit_softcapping"}));
  if (cap) description->Number("final_logit_softcapping", *cap);
  const Json& windowed = JsonMember(config.Member("rope_parameters"), "sliding_attention");
  BANTAM_ASSIGN(const auto new_base, HfConfig::NumberOf(windowed, {"rope_theta"}));
  BANTAM_ASSIGN(const auto base, config.Number({"rope_local_base_freq"}));
  description->Number("rope.freq_base_swa", new_base.value_or(base.value_or(10000)));
  return DescribeWindows(config, /*pattern=*/6, description);
}

Status DescribeWindowsByKind(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t window, config.RequireCount({"sliding_window"}));
  BANTAM_ASSIGN(auto windowed, ReadLayerKinds(config, "sliding_attention", "full_attention"));
  description->Count("attention.sliding_window", window);
  description->Counts("attention.sliding_window_pattern", std::move(windowed));
  return Ok();
}

Status DescribeGemma3n(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const uint32_t inputs, config.RequireCount({"altup_num_inputs"}));
  BANTAM_ASSIGN(const auto active, config.Count({"altup_active_idx"}));
  BANTAM_ASSIGN(const auto base, config.Number({"rope_local_base_freq"}));
  const Json& windowed = JsonMember(config.Member("rope_parameters"), "sliding_attention");
  BANTAM_ASSIGN(const auto new_base, HfConfig::NumberOf(windowed, {"rope_theta"}));
  description->Number("rope.freq_base_swa", new_base.value_or(base.value_or(10000)));
  description->Count("altup.num_inputs", inputs);
  description->Count("altup.active_idx", active.value_or(0));
  if (layers > kLayersMax) return Ok();  // refused where layers are counted
  BANTAM_TRY(DescribeSparsity(config, layers, description));
  return DescribeShared(config, description);
}

Status DescribeGemma4(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const uint32_t head_dim, config.RequireCount({"head_dim"}));
  BANTAM_ASSIGN(const uint32_t full_dim, config.RequireCount({"global_head_dim"}));
  BANTAM_ASSIGN(const uint32_t shared, config.RequireCount({"num_kv_shared_layers"}));
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"intermediate_size"}));
  BANTAM_ASSIGN(const HfHeads heads, ReadHeads(config));
  BANTAM_ASSIGN(const auto full_heads, config.Count({"num_global_key_value_heads"}));
  BANTAM_ASSIGN(const auto wide, config.Flag({"use_double_wide_mlp"}));
  BANTAM_ASSIGN(const auto experts, config.Flag({"enable_moe_block"}));
  if (experts.value_or(false)) return NotRun("Gemma 4 with experts (enable_moe_block)");
  if (config.Member("use_bidirectional_attention") == "all") return NotRun("attention to later tokens (use_bidirectional_attention)");
  if (layers > kLayersMax) return Ok();  // refused where layers are counted
  for (const char* key : {"attention.key_length", "attention.value_length", "rope.dimension_count"}) description->Count(key, full_dim);
  for (const char* key : {"attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"}) {
    description->Count(key, head_dim);
  }
  BANTAM_TRY(DescribeShared(config, description));
  const Json& kinds = config.Member("layer_types");
  std::vector<uint32_t> widths;
  std::vector<uint32_t> kv_heads;
  for (uint32_t i = 0; i < layers; ++i) {
    widths.push_back(wide.value_or(false) && i + shared >= layers && width <= kWidthMax ? 2 * width : width);
    kv_heads.push_back(kinds[i] == "full_attention" ? full_heads.value_or(heads.kv_heads) : heads.kv_heads);
  }
  description->Counts("feed_forward_length", std::move(widths));
  description->Counts("attention.head_count_kv", std::move(kv_heads));
  return Ok();
}

}  // namespace bantam
