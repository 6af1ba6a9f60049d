#!/usr/bin/env python3
"""Writes <model_type>.json: a tiny checkpoint as its publisher lays it out, and what an independent converter makes of it.

Usage: make.py LLAMA_CPP OUT [MODEL_TYPE...]   (needs torch, numpy, PyYAML; LLAMA_CPP is a checkout of llama.cpp of 2026)

A checkpoint is a config.json and the names and shapes of its tensors; element i of a tensor is
((splitmix64(fnv1a64(name) + i) >> 56) - 128) / 1024, which F16, BF16 and F32 hold alike. What the converter writes (as F32) is
kept as metadata and as the FNV-1a digest of each tensor's bytes.
"""
import json, os, struct, sys, tempfile
from pathlib import Path

import numpy as np

D, H, KV, HD, L, FF, V, C, E = 32, 4, 2, 8, 2, 48, 40, 64, 4


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def values(name, n):
    x = np.uint64(fnv(name.encode())) + np.arange(n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(56)).astype(np.int64) - 128).astype(np.float32) / 1024


def stored(v, dtype):
    if dtype == "F32":
        return v.tobytes()
    if dtype == "F16":
        return v.astype(np.float16).tobytes()
    return (v.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # BF16, without rounding: the values are exact


def base(arch, kind, **more):
    c = dict(architectures=[arch], model_type=kind, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=KV,
             intermediate_size=FF, vocab_size=V, max_position_embeddings=C, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu",
             tie_word_embeddings=False)
    c.update(more)
    return {k: v for k, v in c.items() if v is not None}


def tensors(layer, outer):
    t = {}
    for name, shape in outer.items():
        t[name] = shape
    for i in range(L):
        for name, shape in layer.items():
            t[name.replace("{}", str(i))] = shape
    return t


def lin(name, out, inn, bias=False):
    t = {name + ".weight": [out, inn]}
    if bias:
        t[name + ".bias"] = [out]
    return t


def norm(name, n=D, bias=False):
    t = {name + ".weight": [n]}
    if bias:
        t[name + ".bias"] = [n]
    return t


P = "model.layers.{}."
OUTER = {"model.embed_tokens.weight": [V, D], "model.norm.weight": [D], "lm_head.weight": [V, D]}


def attn(bias=False, o_bias=None, kv=KV, o="o_proj", p=P + "self_attn."):
    o_bias = bias if o_bias is None else o_bias
    return {**lin(p + "q_proj", H * HD, D, bias), **lin(p + "k_proj", kv * HD, D, bias), **lin(p + "v_proj", kv * HD, D, bias),
            **lin(p + o, D, H * HD, o_bias)}


def mlp(p=P + "mlp.", gate=True, bias=False, ff=FF):
    t = lin(p + "gate_proj", ff, D, bias) if gate else {}
    return {**t, **lin(p + "up_proj", ff, D, bias), **lin(p + "down_proj", D, ff, bias)}


def experts(p, names=("gate_proj", "up_proj", "down_proj"), ff=FF):
    t = {}
    for e in range(E):
        for i, n in enumerate(names):
            t.update(lin(f"{p}{e}.{n}", D if i == 2 else ff, ff if i == 2 else D))
    return t


def norms2(bias=False):
    return {**norm(P + "input_layernorm", bias=bias), **norm(P + "post_attention_layernorm", bias=bias)}


LLAMA = {**norms2(), **attn(), **mlp()}
QK = {**norm(P + "self_attn.q_norm", HD), **norm(P + "self_attn.k_norm", HD)}
QKROWS = {**norm(P + "self_attn.q_norm", H * HD), **norm(P + "self_attn.k_norm", KV * HD)}
BEHIND = {**norm(P + "post_attention_layernorm"), **norm(P + "post_feedforward_layernorm")}
GEMMA2 = {**norms2(), **norm(P + "pre_feedforward_layernorm"), **norm(P + "post_feedforward_layernorm"), **attn(), **mlp()}
TIED = {k: v for k, v in OUTER.items() if k != "lm_head.weight"}
T = "transformer.h.{}."
LN = {"model.embed_tokens.weight": [V, D], **norm("model.norm", bias=True), "lm_head.weight": [V, D]}


def families():
    f = {}
    f["llama"] = (base("LlamaForCausalLM", "llama"), tensors(LLAMA, OUTER), "BF16")
    f["llama-scaled"] = (base("LlamaForCausalLM", "llama", rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                         original_max_position_embeddings=32)), tensors(LLAMA, OUTER), "BF16")
    f["llama-yarn"] = (base("LlamaForCausalLM", "llama", max_position_embeddings=4 * C, rope_scaling=dict(type="yarn", factor=4.0,
                       original_max_position_embeddings=C)), tensors(LLAMA, OUTER), "F16")
    f["mistral"] = (base("MistralForCausalLM", "mistral", sliding_window=16, head_dim=HD), tensors(LLAMA, OUTER), "BF16")
    f["ministral3"] = (base("Ministral3ForCausalLM", "ministral3", head_dim=HD, sliding_window=None, rope_theta=None, tie_word_embeddings=True,
                            rope_parameters=dict(type="yarn", rope_type="yarn", rope_theta=1000000.0, factor=16.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
                                                 mscale_all_dim=1.0, original_max_position_embeddings=4, llama_4_scaling_beta=0.1)),
                       tensors(LLAMA, TIED), "BF16")
    f["mixtral"] = (base("MixtralForCausalLM", "mixtral", num_local_experts=E, num_experts_per_tok=2, sliding_window=None),
                    tensors({**norms2(), **attn(), **lin(P + "block_sparse_moe.gate", E, D),
                             **experts(P + "block_sparse_moe.experts.", ("w1", "w3", "w2"))}, OUTER), "F16")
    f["smollm3"] = (base("SmolLM3ForCausalLM", "smollm3", no_rope_layers=[1, 1], tie_word_embeddings=True), tensors(LLAMA, TIED), "BF16")
    f["arcee"] = (base("ArceeForCausalLM", "arcee", hidden_act="relu2"), tensors({**norms2(), **attn(), **mlp(gate=False)}, OUTER), "BF16")
    f["qwen2"] = (base("Qwen2ForCausalLM", "qwen2", use_sliding_window=False, sliding_window=C, max_window_layers=L),
                  tensors({**norms2(), **attn(True, False), **mlp()}, OUTER), "BF16")
    f["qwen2_moe"] = (base("Qwen2MoeForCausalLM", "qwen2_moe", num_experts=E, num_experts_per_tok=2, moe_intermediate_size=16,
                           shared_expert_intermediate_size=24, norm_topk_prob=False, decoder_sparse_step=1, mlp_only_layers=[]),
                      tensors({**norms2(), **attn(True, False), **lin(P + "mlp.gate", E, D), **experts(P + "mlp.experts.", ff=16),
                               **mlp(P + "mlp.shared_expert.", ff=24), P + "mlp.shared_expert_gate.weight": [1, D]}, OUTER), "BF16")
    f["qwen3"] = (base("Qwen3ForCausalLM", "qwen3", head_dim=HD, use_sliding_window=False, tie_word_embeddings=True),
                  tensors({**LLAMA, **QK}, TIED), "BF16")
    f["qwen3_moe"] = (base("Qwen3MoeForCausalLM", "qwen3_moe", head_dim=HD, num_experts=E, num_experts_per_tok=2, moe_intermediate_size=16,
                           norm_topk_prob=True), tensors({**norms2(), **attn(), **QK, **lin(P + "mlp.gate", E, D),
                                                          **experts(P + "mlp.experts.", ff=16)}, OUTER), "BF16")
    f["gemma"] = (base("GemmaForCausalLM", "gemma", head_dim=HD, hidden_act="gelu_pytorch_tanh", tie_word_embeddings=None), tensors(LLAMA, TIED), "BF16")
    f["gemma2"] = (base("Gemma2ForCausalLM", "gemma2", head_dim=HD, hidden_activation="gelu_pytorch_tanh", hidden_act="gelu_pytorch_tanh",
                        query_pre_attn_scalar=HD, attn_logit_softcapping=50.0, final_logit_softcapping=30.0, sliding_window=16, tie_word_embeddings=None),
                   tensors(GEMMA2, TIED), "BF16")
    f["gemma3_text"] = (base("Gemma3ForCausalLM", "gemma3_text", head_dim=HD, hidden_activation="gelu_pytorch_tanh", hidden_act=None,
                             query_pre_attn_scalar=HD, sliding_window=16, sliding_window_pattern=6, rope_theta=1000000.0, rope_local_base_freq=10000.0,
                             tie_word_embeddings=None), tensors({**GEMMA2, **QK}, TIED), "BF16")
    f["phi"] = (base("PhiForCausalLM", "phi", hidden_act="gelu_new", num_key_value_heads=H, intermediate_size=4 * D, layer_norm_eps=1e-5, rms_norm_eps=None,
                     partial_rotary_factor=0.5, qk_layernorm=False),
                tensors({**norm(P + "input_layernorm", bias=True), **attn(True, kv=H, o="dense"), **lin(P + "mlp.fc1", 4 * D, D, True),
                         **lin(P + "mlp.fc2", D, 4 * D, True)},
                        {"model.embed_tokens.weight": [V, D], **norm("model.final_layernorm", bias=True), **lin("lm_head", V, D, True)}), "F16")
    half = HD // 2
    f["phi3"] = (base("Phi3ForCausalLM", "phi3", sliding_window=24, original_max_position_embeddings=32, rope_scaling=dict(
        type="longrope", short_factor=[1.0 + 0.1 * i for i in range(half)], long_factor=[2.0 + 0.5 * i for i in range(half)])),
        tensors({**norms2(), **lin(P + "self_attn.qkv_proj", (H + 2 * KV) * HD, D), **lin(P + "self_attn.o_proj", D, H * HD),
                 **lin(P + "mlp.gate_up_proj", 2 * FF, D), **lin(P + "mlp.down_proj", D, FF)}, OUTER), "BF16")
    f["phimoe"] = (base("PhiMoEForCausalLM", "phimoe", num_local_experts=E, num_experts_per_tok=2, original_max_position_embeddings=32,
                        sliding_window=None, rope_scaling=dict(type="longrope", short_factor=[1.0] * half, long_factor=[2.0] * half)),
                   tensors({**norms2(True), **attn(True), **lin(P + "block_sparse_moe.gate", E, D),
                            **experts(P + "block_sparse_moe.experts.", ("w1", "w3", "w2"))},
                           {"model.embed_tokens.weight": [V, D], **norm("model.norm", bias=True), **lin("lm_head", V, D, True)}), "BF16")
    f["stablelm"] = (base("StableLmForCausalLM", "stablelm", layer_norm_eps=1e-5, rms_norm_eps=None, partial_rotary_factor=0.25,
                          use_parallel_residual=False), tensors({**norms2(True), **attn(), **mlp()}, LN), "BF16")
    f["olmo"] = (base("OlmoForCausalLM", "olmo", clip_qkv=8.0, rms_norm_eps=None, tie_word_embeddings=False),
                 tensors({**attn(), **mlp()}, {k: v for k, v in OUTER.items() if "norm" not in k}), "BF16")
    f["olmo2"] = (base("Olmo2ForCausalLM", "olmo2"), tensors({**BEHIND, **QKROWS, **attn(), **mlp()}, OUTER), "BF16")
    f["olmo3"] = (base("Olmo3ForCausalLM", "olmo3", sliding_window=16, layer_types=["sliding_attention", "full_attention"]),
                  tensors({**BEHIND, **QKROWS, **attn(), **mlp()}, OUTER), "BF16")
    f["granite"] = (base("GraniteForCausalLM", "granite", attention_multiplier=0.25, embedding_multiplier=12.0, residual_multiplier=0.22,
                         logits_scaling=8.0, tie_word_embeddings=True), tensors(LLAMA, TIED), "BF16")
    f["granitemoe"] = (base("GraniteMoeForCausalLM", "granitemoe", attention_multiplier=0.25, embedding_multiplier=12.0,
                            residual_multiplier=0.22, logits_scaling=8.0, num_local_experts=E, num_experts_per_tok=2, shared_intermediate_size=24,
                            tie_word_embeddings=True),
                       tensors({**norms2(), **attn(), P + "block_sparse_moe.input_linear.weight": [E, 2 * FF, D],
                                P + "block_sparse_moe.output_linear.weight": [E, D, FF], P + "block_sparse_moe.router.layer.weight": [E, D],
                                P + "shared_mlp.input_linear.weight": [48, D], P + "shared_mlp.output_linear.weight": [D, 24]}, TIED), "BF16")
    f["cohere2"] = (base("Cohere2ForCausalLM", "cohere2", layer_norm_eps=1e-5, rms_norm_eps=None, logit_scale=0.25, sliding_window=16,
                         sliding_window_pattern=4, rotary_pct=1.0, head_dim=HD, tie_word_embeddings=True),
                    tensors({**norm(P + "input_layernorm"), **attn(), **mlp()}, TIED), "F16")
    f["minicpm"] = (base("MiniCPMForCausalLM", "minicpm", scale_emb=12, scale_depth=1.4, dim_model_base=16), tensors(LLAMA, OUTER), "BF16")
    f["starcoder2"] = (base("Starcoder2ForCausalLM", "starcoder2", hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5, rms_norm_eps=None,
                            sliding_window=16, tie_word_embeddings=True),
                       tensors({**norms2(True), **attn(True), **lin(P + "mlp.c_fc", FF, D, True), **lin(P + "mlp.c_proj", D, FF, True)},
                               {"model.embed_tokens.weight": [V, D], **norm("model.norm", bias=True)}), "BF16")
    f["gpt2"] = (dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", n_embd=D, n_layer=L, n_head=H, n_ctx=C, n_positions=C, vocab_size=V,
                      layer_norm_epsilon=1e-5, activation_function="gelu_new", n_inner=None),
                 tensors({**norm("h.{}.ln_1", bias=True), **norm("h.{}.ln_2", bias=True), "h.{}.attn.c_attn.weight": [D, 3 * D],
                          "h.{}.attn.c_attn.bias": [3 * D], "h.{}.attn.c_proj.weight": [D, D], "h.{}.attn.c_proj.bias": [D],
                          "h.{}.mlp.c_fc.weight": [D, 4 * D], "h.{}.mlp.c_fc.bias": [4 * D], "h.{}.mlp.c_proj.weight": [4 * D, D],
                          "h.{}.mlp.c_proj.bias": [D]},
                         {"wte.weight": [V, D], "wpe.weight": [C, D], **norm("ln_f", bias=True)}), "F32")
    N = "gpt_neox.layers.{}."
    f["gpt_neox"] = (base("GPTNeoXForCausalLM", "gpt_neox", hidden_act="gelu", num_key_value_heads=None, layer_norm_eps=1e-5, rms_norm_eps=None,
                          rotary_pct=0.25, rotary_emb_base=10000, rope_theta=None, use_parallel_residual=True),
                     tensors({**norm(N + "input_layernorm", bias=True), **norm(N + "post_attention_layernorm", bias=True),
                              **lin(N + "attention.query_key_value", 3 * D, D, True), **lin(N + "attention.dense", D, D, True),
                              **lin(N + "mlp.dense_h_to_4h", FF, D, True), **lin(N + "mlp.dense_4h_to_h", D, FF, True)},
                             {"gpt_neox.embed_in.weight": [V, D], **norm("gpt_neox.final_layer_norm", bias=True), "embed_out.weight": [V, D]}), "F16")
    f["falcon"] = (dict(architectures=["FalconForCausalLM"], model_type="falcon", hidden_size=D, num_hidden_layers=L, num_attention_heads=H,
                        num_kv_heads=KV, vocab_size=V, layer_norm_epsilon=1e-5, new_decoder_architecture=True, multi_query=True,
                        parallel_attn=True, alibi=False, bias=False),
                   tensors({**norm(T + "ln_attn", bias=True), **norm(T + "ln_mlp", bias=True),
                            **lin(T + "self_attention.query_key_value", (H + 2 * KV) * HD, D), **lin(T + "self_attention.dense", D, D),
                            **lin(T + "mlp.dense_h_to_4h", 4 * D, D), **lin(T + "mlp.dense_4h_to_h", D, 4 * D)},
                           {"transformer.word_embeddings.weight": [V, D], **norm("transformer.ln_f", bias=True), "lm_head.weight": [V, D]}), "BF16")
    f["mpt"] = (dict(architectures=["MPTForCausalLM"], model_type="mpt", d_model=D, n_layers=L, n_heads=H, vocab_size=V, max_seq_len=C,
                     expansion_ratio=4, no_bias=True, attn_config=dict(alibi=True, alibi_bias_max=8, clip_qkv=6.0)),
                tensors({"transformer.blocks.{}.norm_1.weight": [D], "transformer.blocks.{}.norm_2.weight": [D],
                         "transformer.blocks.{}.attn.Wqkv.weight": [3 * D, D], "transformer.blocks.{}.attn.out_proj.weight": [D, D],
                         "transformer.blocks.{}.ffn.up_proj.weight": [4 * D, D], "transformer.blocks.{}.ffn.down_proj.weight": [D, 4 * D]},
                        {"transformer.wte.weight": [V, D], "transformer.norm_f.weight": [D]}), "BF16")
    f["bloom"] = (dict(architectures=["BloomForCausalLM"], model_type="bloom", hidden_size=D, n_layer=L, n_head=H, vocab_size=V, seq_length=C,
                       layer_norm_epsilon=1e-5),
                  tensors({**norm("h.{}.input_layernorm", bias=True), **norm("h.{}.post_attention_layernorm", bias=True),
                           **lin("h.{}.self_attention.query_key_value", 3 * D, D, True), **lin("h.{}.self_attention.dense", D, D, True),
                           **lin("h.{}.mlp.dense_h_to_4h", 4 * D, D, True), **lin("h.{}.mlp.dense_4h_to_h", D, 4 * D, True)},
                          {"word_embeddings.weight": [V, D], **norm("word_embeddings_layernorm", bias=True), **norm("ln_f", bias=True)}), "F16")
    f["nemotron"] = (base("NemotronForCausalLM", "nemotron", hidden_act="relu2", norm_eps=1e-5, rms_norm_eps=None, partial_rotary_factor=0.5),
                     tensors({**norms2(True), **attn(), **mlp(gate=False)}, LN), "BF16")
    f["internlm2"] = (base("InternLM2ForCausalLM", "internlm2"),
                      tensors({P + "attention.wqkv.weight": [(H + 2 * KV) * HD, D], P + "attention.wo.weight": [D, H * HD],
                               P + "attention_norm.weight": [D], P + "ffn_norm.weight": [D], P + "feed_forward.w1.weight": [FF, D],
                               P + "feed_forward.w2.weight": [D, FF], P + "feed_forward.w3.weight": [FF, D]},
                              {"model.tok_embeddings.weight": [V, D], "model.norm.weight": [D], "output.weight": [V, D]}), "BF16")
    f["deepseek"] = (base("DeepseekForCausalLM", "deepseek", n_routed_experts=E, n_shared_experts=2, num_experts_per_tok=2,
                          moe_intermediate_size=16, first_k_dense_replace=0, moe_layer_freq=1, norm_topk_prob=False),
                     tensors({**norms2(), **attn(), **lin(P + "mlp.gate", E, D), **experts(P + "mlp.experts.", ff=16),
                              **mlp(P + "mlp.shared_experts.", ff=32)}, OUTER), "BF16")
    f["gpt_oss"] = (base("GptOssForCausalLM", "gpt_oss", head_dim=HD, num_local_experts=E, num_experts_per_tok=2, sliding_window=16, rope_theta=150000,
                         layer_types=["sliding_attention", "full_attention"],
                         rope_scaling=dict(rope_type="yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, original_max_position_embeddings=16)),
                    tensors({**norms2(), **attn(True), P + "self_attn.sinks": [H], **lin(P + "mlp.router", E, D, True),
                             P + "mlp.experts.gate_up_proj": [E, D, 2 * FF], P + "mlp.experts.gate_up_proj_bias": [E, 2 * FF],
                             P + "mlp.experts.down_proj": [E, FF, D], P + "mlp.experts.down_proj_bias": [E, D]}, OUTER), "BF16")
    f["exaone4"] = (dict(base("Exaone4ForCausalLM", "exaone4", head_dim=HD, tie_word_embeddings=True), sliding_window=None),
                    tensors({**BEHIND, **QK, **attn(), **mlp()}, TIED), "BF16")
    f["hunyuan_v1_dense"] = (base("HunYuanDenseV1ForCausalLM", "hunyuan_v1_dense", head_dim=HD, tie_word_embeddings=True),
                             tensors({**LLAMA, P + "self_attn.query_layernorm.weight": [HD], P + "self_attn.key_layernorm.weight": [HD]}, TIED), "BF16")
    f["ernie4_5"] = (base("Ernie4_5ForCausalLM", "ernie4_5", head_dim=HD, tie_word_embeddings=True), tensors(LLAMA, TIED), "BF16")
    f["ernie4_5_moe"] = (base("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", moe_num_experts=E, moe_k=2, moe_intermediate_size=24,
                              moe_layer_interval=1, moe_layer_start_index=0, moe_num_shared_experts=1),
                         tensors({**norms2(), **attn(), **lin(P + "mlp.gate", E, D), P + "mlp.moe_statics.e_score_correction_bias": [1, E],
                                  **experts(P + "mlp.experts.", ff=24), **mlp(P + "mlp.shared_experts.", ff=24)}, OUTER), "BF16")
    f["smallthinker"] = (base("SmallThinkerForCausalLM", "smallthinker", head_dim=HD, moe_num_primary_experts=E, moe_num_active_primary_experts=2,
                              moe_ffn_hidden_size=16, moe_primary_router_apply_softmax=False, sliding_window_layout=[0, 1], sliding_window_size=4096,
                              intermediate_size=None, hidden_act=None),
                         tensors({**norms2(), **attn(), **lin(P + "block_sparse_moe.primary_router", E, D),
                                  **experts(P + "block_sparse_moe.experts.", ("gate", "up", "down"), ff=16)}, OUTER), "BF16")
    lfm = {**norm(P + "operator_norm"), **norm(P + "ffn_norm")}
    mixers = {**attn(o="out_proj"), **norm(P + "self_attn.q_layernorm", HD), **norm(P + "self_attn.k_layernorm", HD)}
    conv = {**lin(P + "conv.in_proj", 3 * D, D), P + "conv.conv.weight": [D, 1, 3], **lin(P + "conv.out_proj", D, D)}
    ff = {**lin(P + "feed_forward.w1", FF, D), **lin(P + "feed_forward.w3", FF, D), **lin(P + "feed_forward.w2", D, FF)}
    moe = {**lin(P + "feed_forward.gate", E, D), P + "feed_forward.expert_bias": [E],
           **experts(P + "feed_forward.experts.", ("w1", "w3", "w2"), ff=16)}

    def of_layer(i, t):
        return {k.replace("{}", str(i)): v for k, v in t.items()}
    lfm_outer = {"model.embed_tokens.weight": [V, D], "model.embedding_norm.weight": [D]}
    lfm_config = dict(norm_eps=1e-5, rms_norm_eps=None, conv_L_cache=3, layer_types=["conv", "full_attention"], rope_theta=1000000.0,
                      tie_word_embeddings=True, hidden_act=None)
    f["lfm2"] = (base("Lfm2ForCausalLM", "lfm2", block_ff_dim=72, block_auto_adjust_ff_dim=True, block_ffn_dim_multiplier=1.0, block_multiple_of=16,
                      **lfm_config), {**lfm_outer, **of_layer(0, {**lfm, **conv, **ff}), **of_layer(1, {**lfm, **mixers, **ff})}, "BF16")
    f["lfm2_moe"] = (base("Lfm2MoeForCausalLM", "lfm2_moe", num_experts=E, num_experts_per_tok=2, moe_intermediate_size=16, num_dense_layers=1,
                          norm_topk_prob=True, **lfm_config),
                     {**lfm_outer, **of_layer(0, {**lfm, **conv, **ff}), **of_layer(1, {**lfm, **mixers, **moe})}, "BF16")
    B = "backbone.layers.{}."
    mamba = {**norm(B + "norm"), **lin(B + "mixer.in_proj", 4 * D, D), B + "mixer.conv1d.weight": [2 * D, 1, 4], B + "mixer.conv1d.bias": [2 * D],
             **lin(B + "mixer.x_proj", 2 + 32, 2 * D), **lin(B + "mixer.dt_proj", 2 * D, 2, True), B + "mixer.A_log": [2 * D, 16],
             B + "mixer.D": [2 * D], **lin(B + "mixer.out_proj", D, 2 * D)}
    mamba_config = dict(hidden_size=D, num_hidden_layers=L, intermediate_size=2 * D, state_size=16, conv_kernel=4, time_step_rank=2, vocab_size=V,
                        layer_norm_epsilon=1e-5, hidden_act="silu")
    mamba_outer = {"backbone.embeddings.weight": [V, D], "backbone.norm_f.weight": [D]}
    f["mamba"] = (dict(architectures=["MambaForCausalLM"], model_type="mamba", **mamba_config), tensors(mamba, mamba_outer), "F32")
    f["falcon_mamba"] = (dict(architectures=["FalconMambaForCausalLM"], model_type="falcon_mamba", tie_word_embeddings=False, **mamba_config),
                         tensors(mamba, {**mamba_outer, "lm_head.weight": [V, D]}), "BF16")
    mamba2 = {**norm(B + "norm"), **lin(B + "mixer.in_proj", 4 * D + 2 * 2 * 16 + 4, D), B + "mixer.conv1d.weight": [2 * D + 64, 1, 4],
              B + "mixer.conv1d.bias": [2 * D + 64], B + "mixer.dt_bias": [4], B + "mixer.A_log": [4], B + "mixer.D": [4],
              **norm(B + "mixer.norm", 2 * D), **lin(B + "mixer.out_proj", D, 2 * D)}
    f["mamba2"] = (dict(architectures=["Mamba2ForCausalLM"], model_type="mamba2", hidden_size=D, num_hidden_layers=L, expand=2, num_heads=4, head_dim=16,
                        state_size=16, n_groups=2, conv_kernel=4, vocab_size=V, layer_norm_epsilon=1e-5, hidden_act="silu"),
                   tensors(mamba2, mamba_outer), "F32")
    M = P + "mamba."
    f["falcon_h1"] = (base("FalconH1ForCausalLM", "falcon_h1", head_dim=HD, mamba_d_ssm=48, mamba_n_heads=6, mamba_d_head=8, mamba_n_groups=2, mamba_d_state=16,
                           mamba_d_conv=4, mamba_expand=2, mamba_rms_norm=True, mamba_norm_before_gate=False, attention_in_multiplier=0.5,
                           attention_out_multiplier=0.9375, key_multiplier=0.25, ssm_in_multiplier=0.5, ssm_out_multiplier=0.2357,
                           embedding_multiplier=5.656854, lm_head_multiplier=0.0195, mlp_multipliers=[0.8838, 0.5859],
                           ssm_multipliers=[0.3535, 0.25, 0.3535, 0.5, 0.1767], rope_theta=100000000000.0),
                      tensors({**norm(P + "input_layernorm"), **norm(P + "pre_ff_layernorm"), **attn(), **mlp(P + "feed_forward."),
                               **lin(M + "in_proj", 2 * 48 + 2 * 2 * 16 + 6, D), M + "conv1d.weight": [48 + 64, 1, 4], M + "conv1d.bias": [48 + 64],
                               M + "dt_bias": [6], M + "A_log": [6], M + "D": [6], **norm(M + "norm", 48), **lin(M + "out_proj", D, 48)},
                              {"model.embed_tokens.weight": [V, D], "model.final_layernorm.weight": [D], "lm_head.weight": [V, D]}), "F32")
    Q, A, K, VH = "model.language_model.layers.{}.", "linear_attn.", 2, 6

    def linear(values):
        """Layers of linear attention with so many heads of values over K keys, each of HD."""
        rows = (2 * K + values) * HD
        return {**lin(Q + A + "in_proj_qkv", rows, D), **lin(Q + A + "in_proj_z", values * HD, D), **lin(Q + A + "in_proj_a", values, D),
                **lin(Q + A + "in_proj_b", values, D), Q + A + "conv1d.weight": [rows, 1, 4], Q + A + "dt_bias": [values], Q + A + "A_log": [values],
                **norm(Q + A + "norm", HD), **lin(Q + A + "out_proj", D, values * HD)}
    gated = {**lin(Q + "self_attn.q_proj", 2 * H * HD, D), **lin(Q + "self_attn.k_proj", KV * HD, D), **lin(Q + "self_attn.v_proj", KV * HD, D),
             **lin(Q + "self_attn.o_proj", D, H * HD), **norm(Q + "self_attn.q_norm", HD), **norm(Q + "self_attn.k_norm", HD)}
    qnorms = {**norm(Q + "input_layernorm"), **norm(Q + "post_attention_layernorm")}
    qouter = {"model.language_model.embed_tokens.weight": [V, D], "model.language_model.norm.weight": [D]}

    def qwen35(kind, arch, values, **more):
        text = base(arch, kind + "_text", head_dim=HD, linear_conv_kernel_dim=4, linear_key_head_dim=HD, linear_value_head_dim=HD, linear_num_key_heads=K,
                    linear_num_value_heads=values, layer_types=["linear_attention", "full_attention"], full_attention_interval=2, attn_output_gate=True,
                    rope_parameters=dict(rope_type="default", rope_theta=10000000.0, partial_rotary_factor=0.5, mrope_section=[1, 1, 0]), rope_theta=None,
                    tie_word_embeddings=True, **more)
        text.pop("architectures")
        return dict(architectures=[arch], model_type=kind, text_config=text, tie_word_embeddings=True)
    f["qwen3_5"] = (qwen35("qwen3_5", "Qwen3_5ForConditionalGeneration", VH),
                    {**qouter, **of_layer(0, {**qnorms, **linear(VH), **mlp(Q + "mlp.")}), **of_layer(1, {**qnorms, **gated, **mlp(Q + "mlp.")}),
                     "mtp.norm.weight": [D]}, "BF16")
    qmoe = {**lin(Q + "mlp.gate", E, D), Q + "mlp.experts.gate_up_proj": [E, 32, D], Q + "mlp.experts.down_proj": [E, D, 16],
            **mlp(Q + "mlp.shared_expert.", ff=24), Q + "mlp.shared_expert_gate.weight": [1, D]}
    f["qwen3_5_moe"] = (qwen35("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", K, num_experts=E, num_experts_per_tok=2, moe_intermediate_size=16,
                               shared_expert_intermediate_size=24),
                        {**qouter, **of_layer(0, {**qnorms, **linear(K), **qmoe}), **of_layer(1, {**qnorms, **gated, **qmoe})}, "BF16")
    f["orion"] = (base("OrionForCausalLM", "orion"), tensors({**norms2(True), **attn(), **mlp()}, LN), "BF16")
    f["codeshell"] = (dict(architectures=["CodeShellForCausalLM"], model_type="codeshell", n_embd=D, n_layer=L, n_head=H, num_query_groups=KV,
                           n_positions=C, vocab_size=V, layer_norm_epsilon=1e-5, activation_function="gelu_pytorch_tanh"),
                      tensors({**norm(T + "ln_1", bias=True), **norm(T + "ln_2", bias=True), **lin(T + "attn.c_attn", (H + 2 * KV) * HD, D, True),
                               **lin(T + "attn.c_proj", D, D, True), **lin(T + "mlp.c_fc", 4 * D, D, True), **lin(T + "mlp.c_proj", D, 4 * D, True)},
                              {"transformer.wte.weight": [V, D], **norm("transformer.ln_f", bias=True), "lm_head.weight": [V, D]}), "F32")
    return f


def write_folder(folder, config, shapes, dtype):
    (folder / "config.json").write_text(json.dumps(config))
    # The converter counts its tokens.
    (folder / "tokenizer.json").write_text(json.dumps(dict(model=dict(vocab={str(i): i for i in range(V)}), added_tokens=[])))
    header, blobs, at = {}, [], 0
    for name, shape in shapes.items():
        data = stored(values(name, int(np.prod(shape))), dtype)
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[at, at + len(data)])
        at += len(data)
        blobs.append(data)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def convert(llama_cpp, folder, config):
    sys.path[:0] = [str(llama_cpp / "gguf-py"), str(llama_cpp)]
    import gguf
    import torch
    from conversion import get_model_class
    exp = torch.exp
    torch.exp = lambda t: exp(t.double()).float()  # f32's own differs in the last bit from processor to processor
    out = folder / "out.gguf"
    cls = get_model_class(config["architectures"][0])
    for each in (cls, getattr(cls, "Ministral3Model", cls)):
        each.set_vocab = lambda self: None
    cls.no_mtp = True  # further tokens are not predicted
    model = cls(folder, gguf.LlamaFileType.ALL_F32, out, eager=True)
    model.write()
    reader = gguf.GGUFReader(out)
    metadata = {}
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and not field.name.startswith("general."):
            metadata[field.name] = field.contents()
    metadata["general.architecture"] = reader.fields["general.architecture"].contents()
    found = {}
    for t in reader.tensors:
        data = np.ascontiguousarray(t.data).astype(np.float32).tobytes()
        found[t.name] = dict(shape=[int(x) for x in t.shape], digest=f"{fnv(data):016x}")
    return metadata, found


def main():
    llama_cpp, out = Path(sys.argv[1]), Path(sys.argv[2])
    for kind, (config, shapes, dtype) in families().items():
        if len(sys.argv) > 3 and kind not in sys.argv[3:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), config, shapes, dtype)
            try:
                metadata, found = convert(llama_cpp, Path(folder), config)
            except Exception as error:
                print(f"{kind}: {error!r}", file=sys.stderr)
                continue
        text = json.dumps(dict(config=config, dtype=dtype, tensors=shapes, metadata=metadata, converted=found), separators=(",", ":"))
        text = text.replace('"tensors":', '\n"tensors":').replace('"metadata":', '\n"metadata":').replace('"converted":', '\n"converted":')
        (out / f"{kind}.json").write_text(text + "\n")


main()
