#include "model/huggingface/state_spaces.h"

#include <fmt/format.h>

#include <algorithm>
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

// Products of hyper-parameters that are out of bounds are refused where they are read again.
uint32_t Bounded(uint64_t value) { return static_cast<uint32_t>(std::min<uint64_t>(value, UINT32_MAX)); }

Status DescribeStateSpace(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t heads, config.RequireCount({"mamba_n_heads", "num_heads"}));
  BANTAM_ASSIGN(const uint32_t state, config.RequireCount({"mamba_d_state", "state_size"}));
  BANTAM_ASSIGN(const uint32_t groups, config.RequireCount({"mamba_n_groups", "n_groups"}));
  BANTAM_ASSIGN(const uint32_t taps, config.RequireCount({"mamba_d_conv", "conv_kernel"}));
  BANTAM_ASSIGN(const uint32_t expand, config.RequireCount({"mamba_expand", "expand"}));
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"hidden_size"}));
  description->Count("ssm.inner_size", Bounded(uint64_t{expand} * width));
  description->Count("ssm.conv_kernel", taps);
  description->Count("ssm.state_size", state);
  description->Count("ssm.time_step_rank", heads);
  description->Count("ssm.group_count", groups);
  return Ok();
}

}  // namespace

std::span<const NameRule> Mamba2Names() { return kMamba2Names; }
std::span<const NameRule> GraniteHybridNames() { return kGraniteHybridNames; }

Status DescribeMamba2(const HfConfig& config, Description* description) {
  description->Count("context_length", 1 << 20);  // no more than a number: nothing in the model knows of positions
  return DescribeStateSpace(config, description);
}

Status DescribeGraniteLayers(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const HfHeads heads, ReadHeads(config));
  BANTAM_ASSIGN(const auto experts, config.Count({"num_local_experts"}));
  BANTAM_ASSIGN(const auto positions, config.Text({"position_embedding_type"}));
  const Json& kinds = config.Member("layer_types");
  if (!kinds.is_array() || kinds.size() != layers || layers > kLayersMax) {
    return Error(Code::kCorrupt, fmt::format("layer_types: {}, expected the kinds of {} layers", ShortJson(kinds), layers));
  }
  std::vector<uint32_t> kv_heads;
  for (const Json& kind : kinds) {
    if (kind != "mamba" && kind != "attention") {
      return Error(Code::kUnsupported, fmt::format("a layer of type {} is not supported", ShortJson(kind)));
    }
    kv_heads.push_back(kind == "attention" ? heads.kv_heads : 0);
  }
  description->Counts("attention.head_count_kv", std::move(kv_heads));
  description->Flag("rope.scaling.finetuned", positions == "rope");
  if (experts.value_or(0) == 0) {
    BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"shared_intermediate_size"}));
    description->Count("feed_forward_length", width);
  }
  return DescribeStateSpace(config, description);
}

}  // namespace bantam
