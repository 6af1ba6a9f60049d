#include "model/huggingface/state_spaces.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/config.h"

namespace bantam {
namespace {

using enum Arrangement;

constexpr NameRule kMamba2Names[] = {
    {"embeddings", "token_embd"},       {"#.norm", "attn_norm"},
    {"#.mixer.in_proj", "ssm_in"},      {"#.mixer.conv1d", "ssm_conv1d", kTaps},
    {"#.mixer.dt_bias", "ssm_dt.bias"}, {"#.mixer.A_log", "ssm_a", kMinusExpColumn},
    {"#.mixer.D", "ssm_d", kColumn},    {"#.mixer.norm", "ssm_norm", kStateGroups},
    {"#.mixer.out_proj", "ssm_out"},
};

constexpr NameRule kGraniteHybridNames[] = {
    {"#.mamba.in_proj", "ssm_in"},      {"#.mamba.conv1d", "ssm_conv1d", kTaps},
    {"#.mamba.dt_bias", "ssm_dt.bias"}, {"#.mamba.A_log", "ssm_a", kMinusExpColumn},
    {"#.mamba.D", "ssm_d", kColumn},    {"#.mamba.norm", "ssm_norm", kStateGroups},
    {"#.mamba.out_proj", "ssm_out"},
};

constexpr NameRule kFalconH1Names[] = {
    {"final_layernorm", "output_norm"},          {"#.pre_ff_layernorm", "ffn_norm", kWithoutSuffix},
    {"#.feed_forward.gate_proj", "ffn_gate"},    {"#.feed_forward.up_proj", "ffn_up"},
    {"#.feed_forward.down_proj", "ffn_down"},    {"#.mamba.in_proj", "ssm_in"},
    {"#.mamba.conv1d", "ssm_conv1d", kTaps},     {"#.mamba.dt_bias", "ssm_dt.bias"},
    {"#.mamba.A_log", "ssm_a", kMinusExpColumn}, {"#.mamba.D", "ssm_d", kColumn},
    {"#.mamba.norm", "ssm_norm", kStateGroups},  {"#.mamba.out_proj", "ssm_out"},
};

// Products of hyper-parameters that are out of bounds are refused where they are read again.
uint32_t Bounded(uint64_t value) { return static_cast<uint32_t>(std::min<uint64_t>(value, UINT32_MAX)); }

Result<uint32_t> InnerWidth(const HfConfig& config) {
  BANTAM_ASSIGN(const auto own, config.Count({"mamba_d_ssm"}));
  if (own) return *own;
  BANTAM_ASSIGN(const uint32_t expand, config.RequireCount({"mamba_expand", "expand"}));
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"hidden_size"}));
  return Bounded(uint64_t{expand} * width);
}

// A list of so many numbers; ones where there is none.
Result<std::vector<float>> ReadMultipliers(const HfConfig& config, const char* name, size_t count) {
  const Json& list = config.Member(name);
  if (list.is_null()) return std::vector<float>(count, 1.0f);
  std::vector<float> numbers;
  for (size_t i = 0; list.is_array() && i < list.size() && i < count; ++i) {
    if (list[i].is_number() && std::isfinite(list[i].get<float>())) numbers.push_back(list[i].get<float>());
  }
  if (numbers.size() != count || list.size() != count) {
    return Error(Code::kCorrupt, fmt::format("{}: {}, expected {} numbers", name, ShortJson(list), count));
  }
  return numbers;
}

// Steps are not cut; files say so as [0, Infinity], in either of two spellings.
Status CheckStepLimit(const HfConfig& config) {
  const Json& limit = config.Member("time_step_limit");
  if (limit.is_null()) return Ok();
  constexpr double kUnlimited = 1e300;
  const bool is_pair = limit.is_array() && limit.size() == 2 && limit[0].is_number();
  const bool above =
      is_pair && (JsonText(limit[1], "__float__") == "Infinity" || (limit[1].is_number() && limit[1].get<double>() > kUnlimited));
  if (above && limit[0].get<double>() <= 0) return Ok();
  return NotRun(fmt::format("time_step_limit {}", ShortJson(limit)));
}

Status DescribeStateSpace(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t heads, config.RequireCount({"mamba_n_heads", "num_heads"}));
  BANTAM_ASSIGN(const uint32_t state, config.RequireCount({"mamba_d_state", "state_size"}));
  BANTAM_ASSIGN(const uint32_t groups, config.RequireCount({"mamba_n_groups", "n_groups"}));
  BANTAM_ASSIGN(const uint32_t taps, config.RequireCount({"mamba_d_conv", "conv_kernel"}));
  BANTAM_ASSIGN(const uint32_t inner, InnerWidth(config));
  // As wide as the heads together; "auto" says the same.
  const Json& width = config.Member("mamba_d_head");
  const bool agrees = width.is_null() || width == "auto" || (width.is_number_unsigned() && width.get<uint64_t>() * heads == inner);
  if (!agrees) {
    return Error(Code::kCorrupt,
                 fmt::format("mamba_d_head is {}, but {} heads (mamba_n_heads) have {} elements together; correct it, or fetch "
                             "the file again",
                             ShortJson(width), heads, inner));
  }
  description->Count("ssm.inner_size", inner);
  description->Count("ssm.conv_kernel", taps);
  description->Count("ssm.state_size", state);
  description->Count("ssm.time_step_rank", heads);
  description->Count("ssm.group_count", groups);
  return Ok();
}

}  // namespace

std::span<const NameRule> Mamba2Names() { return kMamba2Names; }
std::span<const NameRule> GraniteHybridNames() { return kGraniteHybridNames; }
std::span<const NameRule> FalconH1Names() { return kFalconH1Names; }

Status DescribeMamba2(const HfConfig& config, Description* description) {
  BANTAM_TRY(CheckStepLimit(config));
  description->Count("context_length", 1 << 20);  // no more than a number: nothing in the model knows of positions
  return DescribeStateSpace(config, description);
}

Status DescribeGraniteLayers(const HfConfig& config, Description* description) {
  BANTAM_TRY(CheckStepLimit(config));
  BANTAM_ASSIGN(const HfHeads heads, ReadHeads(config));
  BANTAM_ASSIGN(const auto experts, config.Count({"num_local_experts"}));
  BANTAM_ASSIGN(const auto positions, config.Text({"position_embedding_type"}));
  BANTAM_ASSIGN(auto kv_heads, ReadLayerKinds(config, "attention", "mamba"));
  for (uint32_t& of_layer : kv_heads) of_layer *= heads.kv_heads;
  description->Counts("attention.head_count_kv", std::move(kv_heads));
  description->Flag("rope.scaling.finetuned", positions == "rope");
  if (experts.value_or(0) == 0) {
    BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"shared_intermediate_size"}));
    description->Count("feed_forward_length", width);
  }
  return DescribeStateSpace(config, description);
}

Status DescribeFalconH1(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto base, config.Number({"rope_theta"}));
  // Versions of the publisher's code take different ones for it.
  if (!base && JsonMember(config.RopeScaling(), "rope_theta").is_null()) return Error(Code::kCorrupt, "rope_theta is missing");
  BANTAM_TRY(CheckStepLimit(config));
  BANTAM_ASSIGN(const auto normed, config.Flag({"mamba_rms_norm"}));
  BANTAM_ASSIGN(const auto before_gate, config.Flag({"mamba_norm_before_gate"}));
  if (normed.value_or(false) && before_gate.value_or(true)) {
    return NotRun("a norm in front of the state space's gate (mamba_norm_before_gate)");
  }
  return DescribeStateSpace(config, description);
}

Status FalconH1Factors(const HfConfig& config, std::vector<TensorFactors>* factors) {
  const auto number = [&](const char* name) -> Result<float> {
    BANTAM_ASSIGN(const auto value, config.Number({name}));
    const auto multiplier = static_cast<float>(value.value_or(1));
    if (!std::isfinite(multiplier)) return Error(Code::kCorrupt, fmt::format("{}: {}, expected a number of 32 bits", name, *value));
    return multiplier;
  };
  BANTAM_ASSIGN(const float attention_in, number("attention_in_multiplier"));
  BANTAM_ASSIGN(const float attention_out, number("attention_out_multiplier"));
  BANTAM_ASSIGN(const float key, number("key_multiplier"));
  BANTAM_ASSIGN(const float ssm_in, number("ssm_in_multiplier"));
  BANTAM_ASSIGN(const float ssm_out, number("ssm_out_multiplier"));
  BANTAM_ASSIGN(const float embedding, number("embedding_multiplier"));
  BANTAM_ASSIGN(const float output, number("lm_head_multiplier"));
  BANTAM_ASSIGN(const auto feed_forward, ReadMultipliers(config, "mlp_multipliers", 2));
  BANTAM_ASSIGN(const auto parts, ReadMultipliers(config, "ssm_multipliers", 5));
  BANTAM_ASSIGN(const uint64_t inner, InnerWidth(config));
  BANTAM_ASSIGN(const uint64_t state, config.RequireCount({"mamba_d_state"}));
  BANTAM_ASSIGN(const uint64_t groups, config.RequireCount({"mamba_n_groups"}));
  const auto whole = [&](std::string_view published, float factor) { factors->push_back({published, {{UINT64_MAX, factor}}}); };
  whole("#.self_attn.q_proj", attention_in);
  whole("#.self_attn.k_proj", attention_in * key);
  whole("#.self_attn.v_proj", attention_in);
  whole("#.self_attn.o_proj", attention_out);
  whole("#.mamba.out_proj", ssm_out);
  whole("#.feed_forward.gate_proj", feed_forward[0]);
  whole("#.feed_forward.down_proj", feed_forward[1]);
  whole("embed_tokens", embedding);
  whole("lm_head", output);
  // The gate, what is mixed, what the state takes and gives, the steps.
  const uint64_t shared = groups * state;
  factors->push_back({"#.mamba.in_proj",
                      {{inner, ssm_in * parts[0]},
                       {2 * inner, ssm_in * parts[1]},
                       {2 * inner + shared, ssm_in * parts[2]},
                       {2 * inner + 2 * shared, ssm_in * parts[3]},
                       {UINT64_MAX, ssm_in * parts[4]}}});
  return Ok();
}

}  // namespace bantam
