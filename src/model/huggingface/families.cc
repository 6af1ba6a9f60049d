#include "model/huggingface/families.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/closest.h"
#include "model/config.h"
#include "model/huggingface/encoders.h"
#include "model/huggingface/gemma.h"
#include "model/huggingface/linear_attention.h"
#include "model/huggingface/names.h"
#include "model/huggingface/state_spaces.h"
#include "model/huggingface/windows.h"

namespace bantam {
namespace {

// ---- What config.json says beyond the common rules ----

Status Factor(const HfConfig& config, const char* name, std::string_view key, Description* description) {
  BANTAM_ASSIGN(const auto factor, config.Number({name}));
  if (factor) description->Number(key, *factor);
  return Ok();
}

// A window that GGUF files of this family do not name.
Status OwnWindow(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto window, config.Count({"sliding_window"}));
  if (window) description->Count("attention.published_window", *window);
  return Ok();
}

// Ministral: some layers see everything.
Status DescribeMinistral(const HfConfig& config, Description* description) {
  if (!config.Member("layer_types").is_null()) {
    BANTAM_ASSIGN(auto windowed, ReadLayerKinds(config, "sliding_attention", "full_attention"));
    description->Counts("attention.published_window_layers", std::move(windowed));
  }
  return OwnWindow(config, description);
}

// Ministral 3: scores grow with the position, and YaRN's magnitude is said as GGUF files of the family say it.
Status DescribeMinistral3(const HfConfig& config, Description* description) {
  const Json& scaling = config.RopeScaling();
  BANTAM_ASSIGN(const auto beta, HfConfig::NumberOf(scaling, {"llama_4_scaling_beta"}));
  BANTAM_ASSIGN(const auto scale, HfConfig::NumberOf(scaling, {"mscale"}));
  BANTAM_ASSIGN(const auto all, HfConfig::NumberOf(scaling, {"mscale_all_dim"}));
  if (beta) description->Number("attention.temperature_scale", *beta);
  if (scale == 1 && all) {
    description->Number("rope.scaling.yarn_log_multiplier", *all);
    description->Number("rope.scaling.attn_factor", 1);
  }
  return OwnWindow(config, description);
}

Status DescribePhiMoe(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto jitter, config.Number({"router_jitter_noise"}));
  BANTAM_ASSIGN(const uint32_t used, config.RequireCount({"num_experts_per_tok"}));
  if (used != 2) return NotRun(fmt::format("num_experts_per_tok {} in this family, whose router chooses 2,", used));
  if (!(jitter.value_or(0) > 0 && *jitter <= 1)) return NotRun(fmt::format("router_jitter_noise {} in this family", jitter.value_or(0)));
  description->Number("published_router_jitter", *jitter);
  return OwnWindow(config, description);
}

// Qwen: only where it is switched on, and in the layers from max_window_layers on.
Status DescribeQwen(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto used, config.Flag({"use_sliding_window"}));
  if (!used.value_or(false)) return Ok();
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const uint32_t first, config.RequireCount({"max_window_layers"}));
  const Json& kinds = config.Member("layer_types");
  for (size_t i = 0; kinds.is_array() && i < kinds.size(); ++i) {
    if ((kinds[i] == "sliding_attention") != (i >= first)) return NotRun("layer_types other than what max_window_layers says");
  }
  if (first >= layers) return Ok();
  description->Count("attention.published_window_first", first);
  return OwnWindow(config, description);
}

Status DescribeQwenMoe(const HfConfig& config, Description* description) {
  const Json& dense = config.Member("mlp_only_layers");
  if (dense.is_array() && !dense.empty()) return NotRun("a model in which only some layers have experts (mlp_only_layers)");
  return DescribeQwen(config, description);
}

Status DescribeCohere2(const HfConfig& config, Description* description) {
  BANTAM_TRY(Factor(config, "logit_scale", "logit_scale", description));
  return DescribeWindows(config, /*pattern=*/4, description);
}

Status DescribeOlmo(const HfConfig& config, Description* description) {
  return Factor(config, "clip_qkv", "attention.clamp_kqv", description);
}
Status DescribeOlmo3(const HfConfig& config, Description* description) { return DescribeWindows(config, /*pattern=*/4, description); }

Status DescribeGptOss(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto width, config.Count({"intermediate_size"}));
  if (width) description->Count("expert_feed_forward_length", *width);
  return DescribeWindows(config, /*pattern=*/2, description);
}

Status DescribeGranite(const HfConfig& config, Description* description) {
  BANTAM_TRY(Factor(config, "attention_multiplier", "attention.scale", description));
  BANTAM_TRY(Factor(config, "embedding_multiplier", "embedding_scale", description));
  BANTAM_TRY(Factor(config, "residual_multiplier", "residual_scale", description));
  return Factor(config, "logits_scaling", "logit_scale", description);
}

Status DescribeGraniteHybrid(const HfConfig& config, Description* description) {
  BANTAM_TRY(DescribeGranite(config, description));
  return DescribeGraniteLayers(config, description);
}

// MiniCPM 4.1 (InfLLM v2): texts of fewer tokens than this are attended to whole, longer ones by chosen blocks.
Status DescribeDenseLength(const HfConfig& config, Description* description) {
  constexpr uint32_t kDenseLength = 8192;  // where sparse_config does not say, as the publisher's code has it
  const Json& sparse = config.Member("sparse_config");
  if (sparse.is_null()) return Ok();
  const Json& length = JsonMember(sparse, "dense_len");
  const bool usable = sparse.is_object() && (length.is_null() || (length.is_number_unsigned() && length.get<uint64_t>() > 1));
  if (!usable) return NotRun(fmt::format("sparse_config {}", ShortJson(sparse)));
  const uint64_t dense = length.is_null() ? kDenseLength : length.get<uint64_t>();
  description->Count("attention.published_dense_tokens", static_cast<uint32_t>(std::min<uint64_t>(dense - 1, kContextLengthMax)));
  return Ok();
}

Status DescribeMiniCpm(const HfConfig& config, Description* description) {
  BANTAM_TRY(DescribeDenseLength(config, description));
  BANTAM_TRY(Factor(config, "scale_emb", "embedding_scale", description));
  BANTAM_ASSIGN(const auto depth, config.Number({"scale_depth"}));
  BANTAM_ASSIGN(const auto base, config.Number({"dim_model_base"}));
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"hidden_size"}));
  if (depth && layers > 0) description->Number("residual_scale", *depth / std::sqrt(layers));
  if (base && *base > 0) description->Number("logit_scale", width / *base);
  return Ok();
}

// Heads of keys and values by the kind of attention; older files have their number alone.
Status DescribeMptHeads(const HfConfig& config, Description* description) {
  const Json& attention = config.Member("attn_config");
  BANTAM_ASSIGN(const HfHeads heads, ReadHeads(config));
  BANTAM_ASSIGN(const auto said, HfConfig::CountOf(attention, {"kv_n_heads"}));
  const Json& type = JsonMember(attention, "attn_type");
  uint32_t expected = said.value_or(heads.heads);
  if (type == "multihead_attention") expected = heads.heads;
  if (type == "multiquery_attention") expected = 1;
  const bool known = type.is_null() || type == "multihead_attention" || type == "multiquery_attention" || type == "grouped_query_attention";
  if (!known) return NotRun(fmt::format("attn_config.attn_type {}", ShortJson(type)));
  if (said.value_or(expected) != expected) {
    return Error(Code::kCorrupt,
                 fmt::format("attn_config.kv_n_heads is {}, but attn_config.attn_type {}; correct it, or fetch the file again", *said,
                             ShortJson(type)));
  }
  description->Count("attention.head_count_kv", expected);
  return Ok();
}

Status DescribeMpt(const HfConfig& config, Description* description) {
  const Json& attention = config.Member("attn_config");
  BANTAM_ASSIGN(const auto clamp, HfConfig::NumberOf(attention, {"clip_qkv"}));
  BANTAM_ASSIGN(const auto bias, HfConfig::NumberOf(attention, {"alibi_bias_max"}));
  if (clamp) description->Number("attention.clamp_kqv", *clamp);
  description->Number("attention.max_alibi_bias", JsonFlag(attention, "alibi", true) ? bias.value_or(8) : 0);
  return DescribeMptHeads(config, description);
}

Status DescribeNeox(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto parallel, config.Flag({"use_parallel_residual"}));
  description->Flag("use_parallel_residual", parallel.value_or(true));
  return Ok();
}

Status DescribeDeepSeek(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto dense, config.Count({"first_k_dense_replace"}));
  BANTAM_ASSIGN(const auto shared, config.Count({"n_shared_experts"}));
  description->Count("leading_dense_block_count", dense.value_or(0));
  description->Count("expert_shared_count", shared.value_or(0));
  return Factor(config, "routed_scaling_factor", "expert_weights_scale", description);
}

Status DescribeErnieMoe(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto interval, config.Count({"moe_layer_interval"}));
  BANTAM_ASSIGN(const auto first, config.Count({"moe_layer_start_index"}));
  BANTAM_ASSIGN(const auto shared, config.Count({"moe_num_shared_experts"}));
  BANTAM_ASSIGN(const auto width, config.Count({"moe_intermediate_size"}));
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  const Json& last = config.Member("moe_layer_end_index");
  if (!last.is_null() && last != -1 && last != layers - 1) return NotRun(fmt::format("moe_layer_end_index {}", ShortJson(last)));
  description->Count("interleave_moe_layer_step", interval.value_or(1));
  description->Count("leading_dense_block_count", first.value_or(0));
  const uint64_t shared_width = uint64_t{shared.value_or(0)} * width.value_or(0);
  description->Count("expert_shared_feed_forward_length", static_cast<uint32_t>(std::min<uint64_t>(shared_width, UINT32_MAX)));
  return Ok();
}

Status DescribeHunyuan(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto alpha, HfConfig::NumberOf(config.RopeScaling(), {"alpha"}));
  if (!alpha) return Ok();
  // The base takes the factor in, at every length.
  description->Number("rope.scaling.alpha", *alpha);
  description->Text("rope.scaling.type", "none");
  return Ok();
}

// Of each four layers the first sees everything and does not turn, which is how the family knows layers with a window; without windows, all
// turn.
Status CheckSmallThinkerLayers(const HfConfig& config, bool windowed) {
  for (const char* name : {"sliding_window_layout", "rope_layout"}) {
    const Json& layout = config.Member(name);
    for (size_t i = 0; layout.is_array() && i < layout.size(); ++i) {
      const bool expected = windowed ? i % 4 != 0 : std::string_view(name) == "rope_layout";
      if ((layout[i] != 0 && layout[i] != false) != expected)
        return NotRun(fmt::format("{} that says {} of layer {}", name, ShortJson(layout[i]), i));
    }
  }
  return Ok();
}

Status DescribeSmallThinker(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto softmax, config.Flag({"moe_primary_router_apply_softmax"}));
  description->Count("expert_gating_func", softmax.value_or(false) ? 1 : 2);
  BANTAM_ASSIGN(const auto width, config.RequireCount({"moe_ffn_hidden_size"}));
  description->Count("feed_forward_length", width);
  const Json& layout = config.Member("sliding_window_layout");
  const bool windowed =
      layout.is_array() && std::any_of(layout.begin(), layout.end(), [](const Json& entry) { return entry != 0 && entry != false; });
  BANTAM_ASSIGN(const auto window, config.Count({"sliding_window_size"}));
  constexpr uint32_t kWindow = 4096;  // what the family takes whatever the number
  if (windowed && window.value_or(kWindow) != kWindow) return NotRun(fmt::format("sliding_window_size {}", *window));
  if (windowed) description->Count("attention.sliding_window", kWindow);
  return CheckSmallThinkerLayers(config, windowed);
}

// Layers of convolutions have no kv heads.
Status DescribeLfm2Layers(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto taps, config.RequireCount({"conv_L_cache"}));
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const uint32_t kv_heads, config.RequireCount({"num_key_value_heads"}));
  const Json& kinds = config.Member("layer_types");
  const Json& attending = config.Member("full_attn_idxs");
  const bool listed_at_all = (kinds.is_array() && kinds.size() == layers) || (attending.is_array() && attending.size() <= kLayersMax);
  if (!listed_at_all) {
    return Error(Code::kCorrupt, fmt::format("layer_types: expected the kinds of {} layers", layers));
  }
  std::vector<uint32_t> heads;
  for (uint32_t i = 0; i < std::min(layers, kLayersMax); ++i) {
    const bool listed = kinds.is_array() && kinds.size() == layers;
    const bool attends = listed ? kinds[i] == "full_attention" : std::find(attending.begin(), attending.end(), i) != attending.end();
    heads.push_back(attends ? kv_heads : 0);
  }
  description->Counts("attention.head_count_kv", std::move(heads));
  description->Count("shortconv.l_cache", taps);
  return Ok();
}

// The width of the feed-forward as the publisher's code works it out.
Status DescribeLfm2(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto old_width, config.Count({"block_ff_dim"}));
  BANTAM_ASSIGN(const auto new_width, config.Count({"intermediate_size"}));
  BANTAM_ASSIGN(const auto adjusted, config.Flag({"block_auto_adjust_ff_dim"}));
  BANTAM_ASSIGN(const auto factor, config.Number({"block_ffn_dim_multiplier"}));
  BANTAM_ASSIGN(const auto multiple, config.Count({"block_multiple_of"}));
  if (!old_width && !new_width) return Error(Code::kCorrupt, "intermediate_size is missing");
  double width = old_width ? *old_width : *new_width;
  if (adjusted.value_or(true)) {
    const double step = std::max<uint32_t>(1, multiple.value_or(256));
    width = std::floor(factor.value_or(1) * std::floor(2 * width / 3));
    width = step * std::ceil(width / step);
  }
  if (!(width >= 1 && width <= kWidthMax)) return Error(Code::kCorrupt, fmt::format("a feed-forward of {} elements", width));
  description->Count("feed_forward_length", static_cast<uint32_t>(width));
  return DescribeLfm2Layers(config, description);
}

Status DescribeLfm2Moe(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const auto dense, config.Count({"num_dense_layers"}));
  description->Count("leading_dense_block_count", dense.value_or(0));
  description->Count("expert_gating_func", 2);
  BANTAM_TRY(Factor(config, "routed_scaling_factor", "expert_weights_scale", description));
  return DescribeLfm2Layers(config, description);
}

Status DescribeMamba(const HfConfig& config, Description* description) {
  BANTAM_ASSIGN(const uint32_t width, config.RequireCount({"hidden_size", "d_model"}));
  BANTAM_ASSIGN(const auto inner, config.Count({"intermediate_size", "d_inner"}));
  BANTAM_ASSIGN(const auto taps, config.Count({"conv_kernel", "d_conv"}));
  BANTAM_ASSIGN(const auto state, config.Count({"state_size", "d_state"}));
  std::optional<uint32_t> rank;
  if (config.Member("time_step_rank").is_number()) {
    BANTAM_ASSIGN(rank, config.Count({"time_step_rank"}));
  }
  BANTAM_ASSIGN(const auto kind, config.Text({"model_type"}));
  description->Count("context_length", 1 << 20);
  description->Count("ssm.inner_size", inner.value_or(width <= kWidthMax ? 2 * width : 0));
  description->Count("ssm.conv_kernel", taps.value_or(4));
  description->Count("ssm.state_size", state.value_or(16));
  description->Count("ssm.time_step_rank", rank.value_or(width / 16 + (width % 16 == 0 ? 0 : 1)));
  description->Flag("ssm.dt_b_c_rms", kind == "falcon_mamba");
  // GGUF files have the other norms' for them.
  description->Member("ssm.published_norm_epsilon", "mixer_rms_eps");
  BANTAM_TRY(Factor(config, "mixer_rms_eps", "ssm.published_norm_epsilon", description));
  return Ok();
}

// Turning in all layers but each fourth is what the family does.
Status DescribeSmolLm3(const HfConfig& config, Description*) {
  const Json& every = config.Member("no_rope_layer_interval");
  if (config.Member("no_rope_layers").is_null() && !every.is_null() && every != 4) {
    return NotRun(fmt::format("no_rope_layer_interval {}", ShortJson(every)));
  }
  const Json& turning = config.Member("no_rope_layers");
  for (size_t i = 0; turning.is_array() && i < turning.size(); ++i) {
    if ((turning[i] != 0) != ((i + 1) % 4 != 0))
      return NotRun(fmt::format("no_rope_layers that say {} of layer {}", ShortJson(turning[i]), i));
  }
  return Ok();
}

// The first Baichuan alone, in its two depths: nothing in the files says how the others have positions, and Baichuan 2 normalises its
// output matrix when it is used, which shows in its vocabulary and in a member of its training.
Status DescribeBaichuan(const HfConfig& config, Description*) {
  constexpr uint32_t kVocabulary = 64'000;
  constexpr uint32_t kLayersOf7B = 32;   // turn
  constexpr uint32_t kLayersOf13B = 40;  // have linear biases
  BANTAM_ASSIGN(const uint32_t layers, config.RequireCount({"num_hidden_layers"}));
  BANTAM_ASSIGN(const uint32_t vocabulary, config.RequireCount({"vocab_size"}));
  if (layers != kLayersOf7B && layers != kLayersOf13B) {
    return NotRun(
        fmt::format("num_hidden_layers {} in this family, whose layers turn in models of {} and have linear biases in those of {},", layers,
                    kLayersOf7B, kLayersOf13B));
  }
  if (vocabulary == kVocabulary && config.Member("z_loss_weight").is_null()) return Ok();
  return NotRun(
      fmt::format("Baichuan 2 from safetensors (its output matrix is normalised when it is used; vocab_size is {}, and {} in the first)",
                  vocabulary, kVocabulary));
}

// Published config.json files of Gemma 3 leave out what is as in the 4B model's code.
constexpr std::string_view kGemma3Defaults =
    R"({"hidden_size":2304,"intermediate_size":9216,"num_hidden_layers":26,"num_attention_heads":8,"num_key_value_heads":4,"head_dim":256,)"
    R"("max_position_embeddings":131072,"rms_norm_eps":1e-6,"sliding_window":4096,"rope_theta":1000000,)"
    R"("query_pre_attn_scalar":256})";

constexpr std::string_view kSilu = "silu,swish";
constexpr std::string_view kGelus = "gelu,gelu_new,gelu_fast,gelu_pytorch_tanh";

constexpr std::string_view kEncoderActivations = "gelu,gelu_new,gelu_fast,gelu_pytorch_tanh,silu,relu";
// As the publisher's code has them.
constexpr std::string_view kModernBertDefaults =
    R"({"global_rope_theta":160000,"local_rope_theta":10000,"local_attention":128,"global_attn_every_n_layers":3,"norm_eps":1e-5,)"
    R"("classifier_pooling":"cls"})";

// As the publisher's code has them.
constexpr std::string_view kQwen35Defaults =
    R"({"partial_rotary_factor":0.25,"full_attention_interval":4,"head_dim":256,"linear_conv_kernel_dim":4,"linear_key_head_dim":128,)"
    R"("linear_value_head_dim":128,"linear_num_key_heads":16,"linear_num_value_heads":32})";

// As the publishers' code has them.
constexpr std::string_view kErnieMoeDefaults =
    R"({"rope_theta":500000,"tie_word_embeddings":true,"num_key_value_heads":4,"moe_num_experts":64,"moe_k":6,)"
    R"("moe_intermediate_size":1536,"moe_num_shared_experts":2,"moe_layer_start_index":1,"moe_layer_interval":1})";
constexpr std::string_view kErnieFixed = R"({"use_bias":false,"use_rmsnorm":true,"compression_ratio":1,"moe_gate_act":"softmax"})";
constexpr std::string_view kFalconH1Defaults =
    R"({"mamba_d_ssm":1024,"mamba_n_heads":128,"mamba_n_groups":1,"mamba_d_state":256,"mamba_d_conv":4,"mamba_expand":2,)"
    R"("mamba_rms_norm":false,"mamba_norm_before_gate":true,"num_key_value_heads":8})";
constexpr std::string_view kMptFixed =
    R"({"prefix_lm":false,"expansion_ratio":4,"logit_scale":null,"norm_type":["low_precision_layernorm","layernorm"],)"
    R"("attn_config.rope":false,"attn_config.qk_gn":false,"attn_config.prefix_lm":false,"attn_config.softmax_scale":null,)"
    R"("attn_config.sliding_window_size":-1,"ffn_config.ffn_type":"mptmlp","ffn_config.ffn_hidden_size":null,)"
    R"("ffn_config.ffn_act_fn.name":"gelu","ffn_config.ffn_act_fn.approximate":"none"})";

constexpr TensorsSaid kErnieMoeSaid[] = {{"moe_use_aux_free", ".exp_probs_b.bias"}};
constexpr TensorsSaid kFalconH1Said[] = {{"mamba_rms_norm", ".ssm_norm.weight"}, {"mamba_conv_bias", ".ssm_conv1d.bias"}};
constexpr TensorsSaid kMambaSaid[] = {{"mamba_conv_bias", ".ssm_conv1d.bias"}, {"mamba_proj_bias", ".ssm_in.bias"}};
constexpr TensorsSaid kMixerSaid[] = {{"use_conv_bias", ".ssm_conv1d.bias"}, {"use_bias", ".ssm_in.bias"}};
constexpr TensorsSaid kMptSaid[] = {
    {"attn_config.qk_ln", ".attn_q_norm.weight"},
    {"no_bias", ".bias", /*of_absence=*/true},
    {"learned_pos_emb", "position_embd.weight", /*of_absence=*/false, /*only_without=*/"attn_config.alibi"}};
constexpr TensorsSaid kStableLmSaid[] = {{"use_parallel_residual", ".ffn_norm.weight", /*of_absence=*/true},
                                         {"qk_layernorm", ".attn_q_norm.weight"}};
constexpr TensorsSaid kStarCoderSaid[] = {{"use_bias", ".attn_q.bias"}};

// Gemma 3n and 4.
HfFamily LaterGemma(std::string_view model_type, std::string_view architecture, std::span<const NameRule> names,
                    Status (*describe)(const HfConfig& config, Description* description)) {
  return {.model_type = model_type,
          .architecture = architecture,
          .activations = kGelus,
          .names_activation = true,
          .own_activation = true,
          .names = names,
          .describe = describe};
}

HfFamily Qwen35(std::string_view model_type, std::string_view architecture) {
  return {.model_type = model_type,
          .architecture = architecture,
          .activations = kSilu,
          .norms_add_one = true,
          .defaults = kQwen35Defaults,
          .names = Qwen35Names(),
          .describe = DescribeQwen35};
}

// In the order of model_type.
const HfFamily kFamilies[] = {
    {.model_type = "arcee", .architecture = "arcee", .activations = "relu2", .pairs = true},
    {.model_type = "baichuan", .architecture = "baichuan", .activations = kSilu, .pairs = true, .describe = DescribeBaichuan},
    {.model_type = "bert",
     .architecture = "bert",
     .activations = kEncoderActivations,
     .encoder = true,
     .names = kBertNames,
     .describe = DescribeBert},
    {.model_type = "bitnet",
     .architecture = "bitnet",
     .activations = "relu2,silu",
     .names_activation = true,
     .defaults = R"({"rope_theta":500000})",
     .names = kBitNetNames},
    {.model_type = "bloom",
     .architecture = "bloom",
     .activations = kGelus,
     .feed_forward_widths = 4,
     .defaults = R"({"seq_length":2048})",
     .fixed = R"({"apply_residual_connection_post_layernorm":false})"},
    {.model_type = "codeshell",
     .architecture = "codeshell",
     .activations = kGelus,
     .names_activation = true,
     .feed_forward_widths = 4,
     .defaults = R"({"activation_function":"gelu_pytorch_tanh"})",
     .fixed = R"({"group_query_attention":true,"position_embedding_type":"rope","scale_attn_weights":true})"},
    {.model_type = "cohere2",
     .architecture = "cohere2",
     .activations = kSilu,
     .defaults = R"({"logit_scale":0.0625,"sliding_window":4096})",
     .fixed = R"({"use_parallel_block":true,"use_qk_norm":false})",
     .describe = DescribeCohere2},
    {.model_type = "deepseek",
     .architecture = "deepseek",
     .activations = kSilu,
     .pairs = true,
     .fixed = R"({"scoring_func":"softmax","moe_layer_freq":1,"norm_topk_prob":false})",
     .describe = DescribeDeepSeek},
    {.model_type = "distilbert",
     .architecture = "bert",
     .activations = kEncoderActivations,
     .encoder = true,
     .defaults = R"({"layer_norm_eps":1e-12})",
     .names = kDistilBertNames,
     .describe = DescribeDistilBert},
    {.model_type = "ernie4_5",
     .architecture = "ernie4_5",
     .activations = kSilu,
     .defaults = R"({"rope_theta":500000,"head_dim":128,"num_key_value_heads":2,"tie_word_embeddings":true})",
     .fixed = kErnieFixed},
    {.model_type = "ernie4_5_moe",
     .architecture = "ernie4_5-moe",
     .activations = kSilu,
     .defaults = kErnieMoeDefaults,
     .fixed = kErnieFixed,
     .said = kErnieMoeSaid,
     .describe = DescribeErnieMoe},
    {.model_type = "exaone4",
     .architecture = "exaone4",
     .activations = kSilu,
     .defaults = R"({"sliding_window":4096})",
     .names = kNormsBehind,
     .describe = DescribeExaone4},
    {.model_type = "falcon",
     .architecture = "falcon",
     .activations = kGelus,
     .names_activation = true,
     .feed_forward_widths = 4,
     .defaults = R"({"max_position_embeddings":2048,"multi_query":true,"activation":"gelu"})",
     .fixed = R"({"alibi":false,"parallel_attn":true})",
     .names = kFalconNames},
    {.model_type = "falcon_h1",
     .architecture = "falcon-h1",
     .activations = kSilu,
     .defaults = kFalconH1Defaults,
     .fixed = R"({"projectors_bias":false,"mamba_proj_bias":false,"attention_bias":false,"mlp_bias":false})",
     .said = kFalconH1Said,
     .names = FalconH1Names(),
     .describe = DescribeFalconH1,
     .factors = FalconH1Factors},
    {.model_type = "falcon_mamba",
     .architecture = "mamba",
     .activations = kSilu,
     .attention = false,
     .defaults = R"({"layer_norm_epsilon":1e-5,"mixer_rms_eps":1e-6})",
     .said = kMixerSaid,
     .names = kMambaNames,
     .describe = DescribeMamba},
    {.model_type = "gemma",
     .architecture = "gemma",
     .activations = kGelus,
     .norms_add_one = true,
     .names_activation = true,
     .own_activation = true,
     .defaults = R"({"head_dim":256})"},
    {.model_type = "gemma2",
     .architecture = "gemma2",
     .activations = kGelus,
     .norms_add_one = true,
     .names_activation = true,
     .own_activation = true,
     .defaults =
         R"({"head_dim":256,"query_pre_attn_scalar":256,"sliding_window":4096,"attn_logit_softcapping":50,"final_logit_softcapping":30})",
     .names = kNormsBehind,
     .describe = DescribeGemma2},
    {.model_type = "gemma3",
     .architecture = "gemma3",
     .activations = kGelus,
     .norms_add_one = true,
     .names_activation = true,
     .own_activation = true,
     .defaults = kGemma3Defaults,
     .names = kNormsBehind,
     .describe = DescribeGemma3},
    {.model_type = "gemma3_text",
     .architecture = "gemma3",
     .activations = kGelus,
     .norms_add_one = true,
     .names_activation = true,
     .own_activation = true,
     .defaults = kGemma3Defaults,
     .names = kNormsBehind,
     .describe = DescribeGemma3},
    LaterGemma("gemma3n", "gemma3n", Gemma3nNames(), DescribeGemma3n),
    LaterGemma("gemma3n_text", "gemma3n", Gemma3nNames(), DescribeGemma3n),
    LaterGemma("gemma4", "gemma4", Gemma4Names(), DescribeGemma4),
    LaterGemma("gemma4_text", "gemma4", Gemma4Names(), DescribeGemma4),
    {.model_type = "gpt2",
     .architecture = "gpt2",
     .activations = kGelus,
     .names_activation = true,
     .feed_forward_widths = 4,
     .fixed = R"({"scale_attn_by_inverse_layer_idx":false,"scale_attn_weights":true})",
     .names = kGpt2Names},
    {.model_type = "gpt_neox",
     .architecture = "gptneox",
     .activations = kGelus,
     .names_activation = true,
     .defaults = R"({"rotary_pct":0.25})",
     .describe = DescribeNeox},
    {.model_type = "gpt_oss",
     .architecture = "gpt-oss",
     .activations = kSilu,
     .defaults = R"({"rope_theta":150000,"sliding_window":128})",
     .fixed = R"({"swiglu_limit":7})",
     .names = kGptOssNames,
     .describe = DescribeGptOss},
    {.model_type = "granite",
     .architecture = "granite",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"attention_multiplier":1})",
     .describe = DescribeGranite},
    {.model_type = "granitemoe",
     .architecture = "granitemoe",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"attention_multiplier":1})",
     .describe = DescribeGranite},
    {.model_type = "granitemoehybrid",
     .architecture = "granitehybrid",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"attention_multiplier":1})",
     .said = kMambaSaid,
     .names = GraniteHybridNames(),
     .describe = DescribeGraniteHybrid},
    {.model_type = "granitemoeshared",
     .architecture = "granitemoe",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"attention_multiplier":1})",
     .describe = DescribeGranite},
    {.model_type = "hunyuan_v1_dense", .architecture = "hunyuan-dense", .activations = kSilu, .describe = DescribeHunyuan},
    {.model_type = "internlm2", .architecture = "internlm2", .activations = kSilu, .pairs = true},
    {.model_type = "lfm2",
     .architecture = "lfm2",
     .activations = kSilu,
     .defaults = R"({"rope_theta":1000000})",
     .names = kLfm2Names,
     .describe = DescribeLfm2},
    {.model_type = "lfm2_moe",
     .architecture = "lfm2moe",
     .activations = kSilu,
     .defaults = R"({"rope_theta":1000000})",
     .fixed = R"({"norm_topk_prob":true})",
     .names = kLfm2Names,
     .describe = DescribeLfm2Moe},
    {.model_type = "llama", .architecture = "llama", .activations = kSilu, .pairs = true},
    {.model_type = "mamba",
     .architecture = "mamba",
     .activations = kSilu,
     .attention = false,
     .defaults = R"({"layer_norm_epsilon":1e-5})",
     .said = kMixerSaid,
     .names = kMambaNames,
     .describe = DescribeMamba},
    {.model_type = "mamba2",
     .architecture = "mamba2",
     .activations = kSilu,
     .attention = false,
     .defaults = R"({"layer_norm_epsilon":1e-5})",
     .said = kMixerSaid,
     .names = Mamba2Names(),
     .describe = DescribeMamba2},
    {.model_type = "minicpm",
     .architecture = "minicpm",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"scale_emb":1,"scale_depth":1,"dim_model_base":1})",
     .describe = DescribeMiniCpm},
    {.model_type = "ministral", .architecture = "llama", .activations = kSilu, .pairs = true, .describe = DescribeMinistral},
    {.model_type = "ministral3", .architecture = "mistral3", .activations = kSilu, .pairs = true, .describe = DescribeMinistral3},
    {.model_type = "mistral",
     .architecture = "llama",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"sliding_window":4096})",
     .describe = OwnWindow},
    {.model_type = "mixtral",
     .architecture = "llama",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"rope_theta":1000000})",
     .describe = OwnWindow},
    {.model_type = "modernbert",
     .architecture = "modern-bert",
     .activations = kEncoderActivations,
     .encoder = true,
     .defaults = kModernBertDefaults,
     .names = kModernBertNames,
     .describe = DescribeModernBert},
    {.model_type = "mpt",
     .architecture = "mpt",
     .activations = kGelus,
     .names_activation = true,
     .feed_forward_widths = 4,
     .defaults = R"({"layer_norm_epsilon":1e-5,"hidden_act":"gelu","learned_pos_emb":true})",
     .fixed = kMptFixed,
     .said = kMptSaid,
     .describe = DescribeMpt},
    {.model_type = "nemotron",
     .architecture = "nemotron",
     .activations = "relu2",
     .norms_add_one = true,
     .defaults = R"({"partial_rotary_factor":0.5})"},
    {.model_type = "nomic_bert",
     .architecture = "nomic-bert",
     .activations = "swiglu",
     .encoder = true,
     .names = kNomicBertNames,
     .describe = DescribeNomicBert},
    {.model_type = "olmo",
     .architecture = "olmo",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"layer_norm_eps":1e-5})",
     .describe = DescribeOlmo},
    {.model_type = "olmo2", .architecture = "olmo2", .activations = kSilu, .names = kNormsBehind},
    {.model_type = "olmo3",
     .architecture = "olmo2",
     .activations = kSilu,
     .defaults = R"({"sliding_window":4096})",
     .names = kNormsBehind,
     .describe = DescribeOlmo3},
    {.model_type = "orion", .architecture = "orion", .activations = kSilu},
    {.model_type = "phi",
     .architecture = "phi2",
     .activations = kGelus,
     .names_activation = true,
     .defaults = R"({"partial_rotary_factor":0.5})"},
    {.model_type = "phi3", .architecture = "phi3", .activations = kSilu, .describe = OwnWindow},
    {.model_type = "phimoe",
     .architecture = "phimoe",
     .activations = kSilu,
     .defaults = R"({"rope_theta":1000000,"num_experts_per_tok":2,"router_jitter_noise":0.01})",
     .describe = DescribePhiMoe},
    {.model_type = "qwen2",
     .architecture = "qwen2",
     .activations = kSilu,
     .always_biased = true,
     .defaults = R"({"max_window_layers":28,"sliding_window":4096})",
     .describe = DescribeQwen},
    {.model_type = "qwen2_moe",
     .architecture = "qwen2moe",
     .activations = kSilu,
     .always_biased = true,
     .defaults = R"({"max_window_layers":28,"sliding_window":4096,"norm_topk_prob":false})",
     .fixed = R"({"decoder_sparse_step":1,"norm_topk_prob":false})",
     .describe = DescribeQwenMoe},
    {.model_type = "qwen3",
     .architecture = "qwen3",
     .activations = kSilu,
     .defaults = R"({"max_window_layers":28,"sliding_window":4096})",
     .describe = DescribeQwen},
    {.model_type = "qwen3_moe",
     .architecture = "qwen3moe",
     .activations = kSilu,
     .defaults = R"({"max_window_layers":28,"sliding_window":4096,"norm_topk_prob":false})",
     .fixed = R"({"decoder_sparse_step":1,"norm_topk_prob":true})",
     .describe = DescribeQwenMoe},
    Qwen35("qwen3_5", "qwen35"),
    Qwen35("qwen3_5_moe", "qwen35moe"),
    Qwen35("qwen3_5_moe_text", "qwen35moe"),
    Qwen35("qwen3_5_text", "qwen35"),
    {.model_type = "roberta",
     .architecture = "bert",
     .activations = kEncoderActivations,
     .encoder = true,
     .positions_behind_padding = true,
     .names = kRobertaNames,
     .describe = DescribeRoberta},
    {.model_type = "smallthinker",
     .architecture = "smallthinker",
     .activations = "relu",
     .fixed = R"({"moe_enable_early_router":true,"moe_enable_secondary_experts":false})",
     .describe = DescribeSmallThinker},
    {.model_type = "smollm3",
     .architecture = "smollm3",
     .activations = kSilu,
     .pairs = true,
     .defaults = R"({"rope_theta":2000000})",
     .fixed = R"({"use_sliding_window":false})",
     .describe = DescribeSmolLm3},
    {.model_type = "stablelm",
     .architecture = "stablelm",
     .activations = kSilu,
     .defaults = R"({"partial_rotary_factor":0.25,"use_parallel_residual":false,"qk_layernorm":false})",
     .said = kStableLmSaid},
    {.model_type = "starcoder2",
     .architecture = "starcoder2",
     .activations = kGelus,
     .names_activation = true,
     .said = kStarCoderSaid,
     .describe = OwnWindow},
    {.model_type = "xlm-roberta",
     .architecture = "bert",
     .activations = kEncoderActivations,
     .encoder = true,
     .positions_behind_padding = true,
     .names = kRobertaNames,
     .describe = DescribeRoberta},
};

const NameRule* Find(std::span<const NameRule> rules, std::string_view published) {
  const auto rule = std::find_if(rules.begin(), rules.end(), [&](const NameRule& r) { return r.published == published; });
  return rule == rules.end() ? nullptr : &*rule;
}

}  // namespace

Result<const HfFamily*> FindHfFamily(const std::string& model_type) {
  std::vector<std::string_view> known;
  for (const HfFamily& family : kFamilies) {
    if (family.model_type == model_type) return &family;
    known.push_back(family.model_type);
  }
  return Error(Code::kUnsupported,
               fmt::format("model_type {} is not supported; of the {} that are, the closest are {} (docs/families.md has all)", model_type,
                           known.size(), fmt::join(Closest(model_type, known, /*count=*/3), ", ")));
}

const HfFamily* HfFamilyOf(std::string_view architecture) {
  const auto found =
      std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const HfFamily& family) { return family.architecture == architecture; });
  return found == std::end(kFamilies) ? nullptr : &*found;
}

const NameRule* FindNameRule(const HfFamily& family, std::string_view published) {
  const NameRule* own = Find(family.names, published);
  if (own == nullptr && family.encoder) own = Find(kEncoderNames, published);
  return own != nullptr ? own : Find(kCommonNames, published);
}

}  // namespace bantam
