#include "model/huggingface/names.h"

namespace bantam {
namespace {

using enum Arrangement;

constexpr NameRule kCommonRules[] = {
    {"embed_tokens", "token_embd"},
    {"wte", "token_embd"},
    {"word_embeddings", "token_embd"},
    {"embed_in", "token_embd"},
    {"tok_embeddings", "token_embd"},
    {"wpe", "position_embd"},
    {"word_embeddings_layernorm", "token_embd_norm"},
    {"norm", "output_norm", kNorm},
    {"ln_f", "output_norm"},
    {"norm_f", "output_norm"},
    {"final_layer_norm", "output_norm"},
    {"final_layernorm", "output_norm"},
    {"lm_head", "output"},
    {"score", "cls.output"},
    {"dense_2", "dense_2"},
    {"dense_3", "dense_3"},
    {"embed_out", "output"},
    {"output", "output"},
    // Attention.
    {"#.input_layernorm", "attn_norm", kNorm},
    {"#.attention_norm", "attn_norm"},
    {"#.ln_1", "attn_norm"},
    {"#.norm_1", "attn_norm"},
    {"#.self_attn.q_proj", "attn_q", kQuery},
    {"#.self_attn.k_proj", "attn_k", kKey},
    {"#.self_attn.v_proj", "attn_v"},
    {"#.self_attn.qkv_proj", "attn_qkv"},
    {"#.self_attn.o_proj", "attn_output"},
    {"#.self_attn.dense", "attn_output"},
    {"#.self_attn.q_norm", "attn_q_norm", kNorm},
    {"#.self_attn.k_norm", "attn_k_norm", kNorm},
    {"#.self_attn.query_layernorm", "attn_q_norm"},
    {"#.self_attn.key_layernorm", "attn_k_norm"},
    {"#.self_attn.q_layernorm.norms.#", "attn_q_norm", kHeadNorms},
    {"#.self_attn.k_layernorm.norms.#", "attn_k_norm", kHeadNorms},
    {"#.self_attn.sinks", "attn_sinks.weight"},
    {"#.self_attn.W_pack", "", kQkvParts},
    {"#.attention.wqkv", "", kQkvGroups},
    {"#.attention.wo", "attn_output"},
    {"#.self_attention.query_key_value", "", kQkvGroups},
    {"#.self_attention.dense", "attn_output"},
    {"#.attention.query_key_value", "", kQkvGroups},
    {"#.attention.dense", "attn_output"},
    {"#.attn.c_attn", "attn_qkv"},
    {"#.attn.c_proj", "attn_output"},
    {"#.attn.Wqkv", "attn_qkv"},
    {"#.attn.out_proj", "attn_output"},
    {"#.attn.q_ln", "attn_q_norm"},
    {"#.attn.k_ln", "attn_k_norm"},
    // Feed-forward.
    {"#.post_attention_layernorm", "ffn_norm", kNorm},
    {"#.ffn_norm", "ffn_norm"},
    {"#.ln_2", "ffn_norm"},
    {"#.norm_2", "ffn_norm"},
    {"#.mlp.gate_proj", "ffn_gate"},
    {"#.mlp.up_proj", "ffn_up"},
    {"#.mlp.down_proj", "ffn_down"},
    {"#.mlp.gate_up_proj", "ffn_up"},
    {"#.mlp.fc1", "ffn_up"},
    {"#.mlp.fc2", "ffn_down"},
    {"#.mlp.c_fc", "ffn_up"},
    {"#.mlp.c_proj", "ffn_down"},
    {"#.mlp.dense_h_to_4h", "ffn_up"},
    {"#.mlp.dense_4h_to_h", "ffn_down"},
    {"#.ffn.up_proj", "ffn_up"},
    {"#.ffn.down_proj", "ffn_down"},
    {"#.feed_forward.w1", "ffn_gate"},
    {"#.feed_forward.w2", "ffn_down"},
    {"#.feed_forward.w3", "ffn_up"},
    // Experts.
    {"#.mlp.gate", "ffn_gate_inp"},
    {"#.mlp.router", "ffn_gate_inp"},
    {"#.mlp.experts.#.gate_proj", "ffn_gate_exps"},
    {"#.mlp.experts.#.up_proj", "ffn_up_exps"},
    {"#.mlp.experts.#.down_proj", "ffn_down_exps"},
    {"#.mlp.experts.#.w1", "ffn_gate_exps"},
    {"#.mlp.experts.#.w2", "ffn_down_exps"},
    {"#.mlp.experts.#.w3", "ffn_up_exps"},
    {"#.mlp.experts.gate_up_proj", "_exps", kGateUp},
    {"#.mlp.experts.down_proj", "ffn_down_exps.weight"},
    {"#.mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
    {"#.mlp.shared_expert.up_proj", "ffn_up_shexp"},
    {"#.mlp.shared_expert.down_proj", "ffn_down_shexp"},
    {"#.mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
    {"#.mlp.shared_experts.up_proj", "ffn_up_shexp"},
    {"#.mlp.shared_experts.down_proj", "ffn_down_shexp"},
    {"#.mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
    {"#.mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias"},
    {"#.block_sparse_moe.gate", "ffn_gate_inp"},
    {"#.block_sparse_moe.primary_router", "ffn_gate_inp"},
    {"#.block_sparse_moe.router.layer", "ffn_gate_inp"},
    {"#.block_sparse_moe.experts.#.w1", "ffn_gate_exps"},
    {"#.block_sparse_moe.experts.#.w2", "ffn_down_exps"},
    {"#.block_sparse_moe.experts.#.w3", "ffn_up_exps"},
    {"#.block_sparse_moe.experts.#.gate", "ffn_gate_exps"},
    {"#.block_sparse_moe.experts.#.up", "ffn_up_exps"},
    {"#.block_sparse_moe.experts.#.down", "ffn_down_exps"},
    {"#.block_sparse_moe.input_linear", "_exps", kGateUp},
    {"#.block_sparse_moe.output_linear", "ffn_down_exps"},
    {"#.shared_mlp.input_linear", "_shexp", kGateUp},
    {"#.shared_mlp.output_linear", "ffn_down_shexp"},
    // Tables that are worked out again.
    {"#.attn.bias", "", kIgnored},
    {"#.attn.masked_bias", "", kIgnored},
    {"#.attention.bias", "", kIgnored},
    {"#.attention.masked_bias", "", kIgnored},
    {"#.attention.rotary_emb.inv_freq", "", kIgnored},
    {"#.attention.rope.freqs", "", kIgnored},
    {"#.self_attn.rotary_emb.inv_freq", "", kIgnored},
    {"#.attn.rotary_emb.inv_freq", "", kIgnored},
};

constexpr NameRule kGpt2Rules[] = {
    {"#.attn.c_attn", "attn_qkv", kByColumns},
    {"#.attn.c_proj", "attn_output", kByColumns},
    {"#.mlp.c_fc", "ffn_up", kByColumns},
    {"#.mlp.c_proj", "ffn_down", kByColumns},
};
// Norms behind attention and feed-forward.
constexpr NameRule kNormsBehindRules[] = {
    {"#.post_attention_layernorm", "post_attention_norm", kNorm},
    {"#.pre_feedforward_layernorm", "ffn_norm", kNorm},
    {"#.post_feedforward_layernorm", "post_ffw_norm", kNorm},
};
constexpr NameRule kFalconRules[] = {
    {"#.ln_mlp", "attn_norm"},
    {"#.ln_attn", "attn_norm_2"},
};
constexpr NameRule kLfm2Rules[] = {
    {"embedding_norm", "token_embd_norm"},
    {"#.operator_norm", "attn_norm"},
    {"#.self_attn.out_proj", "attn_output"},
    {"#.self_attn.q_layernorm", "attn_q_norm"},
    {"#.self_attn.k_layernorm", "attn_k_norm"},
    {"#.conv.in_proj", "shortconv.in_proj"},
    {"#.conv.conv", "shortconv.conv", kTaps},
    {"#.conv.out_proj", "shortconv.out_proj"},
    {"#.feed_forward.gate", "ffn_gate_inp"},
    {"#.feed_forward.expert_bias", "exp_probs_b.bias"},
    {"#.feed_forward.experts.#.w1", "ffn_gate_exps"},
    {"#.feed_forward.experts.#.w2", "ffn_down_exps"},
    {"#.feed_forward.experts.#.w3", "ffn_up_exps"},
};
constexpr NameRule kMambaRules[] = {
    {"embeddings", "token_embd"},
    {"embedding", "token_embd"},
    {"#.norm", "attn_norm"},
    {"#.mixer.in_proj", "ssm_in"},
    {"#.mixer.conv1d", "ssm_conv1d", kTaps},
    {"#.mixer.x_proj", "ssm_x"},
    {"#.mixer.dt_proj", "ssm_dt"},
    {"#.mixer.A_log", "ssm_a", kMinusExp},
    {"#.mixer.D", "ssm_d"},
    {"#.mixer.out_proj", "ssm_out"},
};
constexpr NameRule kBitNetRules[] = {
    {"#.self_attn.attn_sub_norm", "attn_sub_norm"},
    {"#.mlp.ffn_sub_norm", "ffn_sub_norm"},
};
constexpr NameRule kGptOssRules[] = {
    {"#.post_attention_layernorm", "post_attention_norm"},       {"#.mlp.experts.gate_up_proj", "_exps", kGateUpPairs},
    {"#.mlp.experts.gate_up_proj_bias", "_exps", kGateUpBiases}, {"#.mlp.experts.down_proj", "ffn_down_exps.weight", kExpertsByColumns},
    {"#.mlp.experts.down_proj_bias", "ffn_down_exps.bias"},
};

}  // namespace

const std::span<const NameRule> kCommonNames = kCommonRules;
const std::span<const NameRule> kGpt2Names = kGpt2Rules;
const std::span<const NameRule> kNormsBehind = kNormsBehindRules;
const std::span<const NameRule> kFalconNames = kFalconRules;
const std::span<const NameRule> kLfm2Names = kLfm2Rules;
const std::span<const NameRule> kMambaNames = kMambaRules;
const std::span<const NameRule> kBitNetNames = kBitNetRules;
const std::span<const NameRule> kGptOssNames = kGptOssRules;

}  // namespace bantam
