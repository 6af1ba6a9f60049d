#include "model/huggingface/linear_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "model/config.h"

namespace bantam {
namespace {

using enum Arrangement;

// Queries come with their gates, head by head, as GGUF files have them.
constexpr NameRule kQwen35Rules[] = {
    {"#.self_attn.q_proj", "attn_q"},
    {"#.post_attention_layernorm", "post_attention_norm", kNorm},
    {"#.linear_attn.in_proj_qkv", "attn_qkv", kAsStored, ValueHeads::kRowsBehindKeys},
    {"#.linear_attn.in_proj_z", "attn_gate", kAsStored, ValueHeads::kRows},
    {"#.linear_attn.in_proj_a", "ssm_alpha", kAsStored, ValueHeads::kEach},
    {"#.linear_attn.in_proj_b", "ssm_beta", kAsStored, ValueHeads::kEach},
    {"#.linear_attn.conv1d", "ssm_conv1d", kTaps, ValueHeads::kRowsBehindKeys},
    {"#.linear_attn.dt_bias", "ssm_dt.bias", kAsStored, ValueHeads::kEach},
    {"#.linear_attn.A_log", "ssm_a", kMinusExp, ValueHeads::kEach},
    {"#.linear_attn.norm", "ssm_norm"},
    {"#.linear_attn.out_proj", "ssm_out", kAsStored, ValueHeads::kColumns},
};

}  // namespace

std::span<const NameRule> Qwen35Names() { return kQwen35Rules; }

Status DescribeQwen35(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t interval, config.RequireCount({"full_attention_interval"}));
  BANTAM_ASSIGN(const uint32_t taps, config.RequireCount({"linear_conv_kernel_dim"}));
  BANTAM_ASSIGN(const uint32_t key_dim, config.RequireCount({"linear_key_head_dim"}));
  BANTAM_ASSIGN(const uint32_t value_dim, config.RequireCount({"linear_value_head_dim"}));
  BANTAM_ASSIGN(const uint32_t keys, config.RequireCount({"linear_num_key_heads"}));
  BANTAM_ASSIGN(const uint32_t values, config.RequireCount({"linear_num_value_heads"}));
  BANTAM_ASSIGN(const auto gated, config.Flag({"attn_output_gate"}));
  if (!gated.value_or(true)) return NotRun("attention without gated outputs (attn_output_gate false)");
  if (key_dim != value_dim) return NotRun(fmt::format("linear_value_head_dim {} other than linear_key_head_dim {}", value_dim, key_dim));
  description->Count("ssm.conv_kernel", taps);
  description->Count("ssm.state_size", key_dim);
  description->Count("ssm.group_count", keys);
  description->Count("ssm.time_step_rank", values);
  description->Count("ssm.inner_size", static_cast<uint32_t>(std::min<uint64_t>(uint64_t{value_dim} * values, UINT32_MAX)));
  description->Count("full_attention_interval", interval);
  if (config.Member("layer_types").is_null()) return Ok();
  BANTAM_ASSIGN(auto recurrent, ReadLayerKinds(config, "linear_attention", "full_attention"));
  description->Counts("attention.recurrent_layers", std::move(recurrent));
  return Ok();
}

Result<HfValueHeads> ReadValueHeads(const HfConfig& config) {
  if (config.Member("linear_num_key_heads").is_null()) return HfValueHeads();
  HfValueHeads heads;
  BANTAM_ASSIGN(heads.keys, config.RequireCount({"linear_num_key_heads"}));
  BANTAM_ASSIGN(heads.head_dim, config.RequireCount({"linear_value_head_dim"}));
  BANTAM_ASSIGN(const uint32_t values, config.RequireCount({"linear_num_value_heads"}));
  if (heads.keys == 0 || heads.keys > kHeadsMax || values == 0 || values > kHeadsMax || values % heads.keys != 0 || heads.head_dim == 0 ||
      heads.head_dim > kWidthMax) {
    return Error(Code::kCorrupt,
                 fmt::format("linear attention of {} heads of {} elements over {} keys (linear_num_value_heads, linear_value_head_dim, "
                             "linear_num_key_heads): expected 1 to {}, and a whole number of heads per key",
                             values, heads.head_dim, heads.keys, kHeadsMax));
  }
  heads.each = values / heads.keys;
  return heads;
}

}  // namespace bantam
