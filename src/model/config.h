// What a model is, as data: one Config, and a plan per layer. Lowering reads only this; arch/<family>.cc writes it. Biases, matrices of
// query, key and value in one tensor, and tied embeddings show in the file's tensors, in every family alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "program/program.h"
#include "text/tokenizer_spec.h"

namespace bantam {

// Bounds on hyper-parameters: far above any model of 8 B parameters, low enough that no product of them overflows.
inline constexpr uint32_t kLayersMax = 512;
inline constexpr uint32_t kHeadsMax = 1024;
inline constexpr uint32_t kHeadDimMax = 1024;
inline constexpr uint32_t kWidthMax = 1 << 17;
inline constexpr uint32_t kExpertsMax = 1024;
inline constexpr uint32_t kStateSizeMax = 4096;
inline constexpr uint32_t kTokenTypesMax = 64;
inline constexpr uint32_t kContextLengthMax = 1 << 24;

// What mixes tokens.
enum class Mixer : uint8_t {
  kAttention,
  kStateSpace,
  kAttentionAndStateSpace,  // side by side
  kShortConvolution,
  kDeltaRule,
};

enum class FeedForward : uint8_t {
  kAbsent,
  kGated,    // activation(gate x) * (up x)
  kPlain,    // activation(up x)
  kExperts,  // gated experts, some of them chosen for each token
};

// Norms of queries and keys, where a model has them.
enum class QueryKeyNorm : uint8_t {
  kNowhere,
  kHeads,  // each head by itself
  kRows,   // all heads together
};

// Selective state spaces (kernels::StateScan), and the convolution in front of them.
struct StateSpace {
  size_t width = 0;  // heads times what each has
  size_t heads = 0;
  size_t groups = 1;  // of heads that share what goes into the state and comes out
  size_t state_size = 0;
  size_t taps = 0;
  // The first kind (Mamba): a head per column, its steps made of so many numbers; 0: the second.
  size_t step_rank = 0;
  bool norms = false;      // of what a layer of the first kind makes its steps and states of
  float norm_epsilon = 0;  // of those
};

struct LayerPlan {
  Mixer mixer = Mixer::kAttention;
  size_t heads = 0;
  size_t kv_heads = 0;
  size_t head_dim = 0;
  size_t window = 0;           // tokens that a query sees, itself included; 0: all
  RopeId rope = 0;             // of Config::ropes, or kNone
  bool attention_norm = true;  // where Config::norms_before
  BlockSparse sparse;
  uint32_t weights = kNone;  // the layer whose tensors it uses; kNone: it has its own
  uint32_t kv_of = kNone;    // the layer in front whose keys and values it attends to; kNone: it has its own
  // Of the gate, what lies so many deviations above its mean is kept and the rest is 0, if set.
  std::optional<float> sparse_gate;
  FeedForward feed_forward = FeedForward::kGated;
  size_t feed_forward_width = 0;  // of one expert, where there are several
};

// Several residual streams (Baykal et al., "Alternating updates for efficient transformers", 2023): each layer predicts all of them, works
// on the active one, and corrects all by what it found.
struct Streams {
  size_t count = 1;
  size_t active = 0;
};

// Behind the classifier's first matrix.
enum class HeadActivation : uint8_t {
  kTanh,
  kRelu,
  kOwn,  // the feed-forward's
};

// Classes that a classifier may have.
inline constexpr size_t kClassesMax = 1 << 16;

// GGUF's pooling_type of a classifier, which says nothing of vectors.
inline constexpr uint32_t kPoolingRank = 4;
inline constexpr uint32_t kPoolingUnsaid = UINT32_MAX;  // as llama.cpp writes that nothing is known

struct Config {
  std::string architecture;
  size_t width = 0;         // D
  size_t context_max = 0;   // positions seen in training
  size_t dense_tokens = 0;  // up to so many are attended to whole, and no more are read; 0: any number

  // Into and out of the layers.
  float embedding_scale = 1;
  bool position_table = false;  // learned embeddings of positions
  bool type_table = false;      // and of the types of tokens: those of a first and of a second text
  bool embedding_norm = false;
  float logit_scale = 1;
  float logit_softcap = 0;  // 0: none

  // The residual stream. A layer adds attention and feed-forward, each multiplied by residual_scale.
  NormKind norm = NormKind::kRms;
  float norm_epsilon = 0;
  bool norm_weights = true;
  bool norms_before = true;   // of what attention and feed-forward read
  bool norms_behind = false;  // of what they give
  bool norms_of_sum = false;  // of the stream, after each has been added
  bool parallel = false;      // both read what the layer was given, and not the feed-forward what attention made of it
  float residual_scale = 1;
  Streams streams;
  size_t per_layer_width = 0;                  // of embeddings that each layer has of its own, which gate what it adds at its end; 0: none
  bool layer_scales = false;                   // the stream is multiplied by a number behind a layer, where the file has one
  size_t laurel_rank = 0;                      // of a product beside attention (Menghani et al., "LAuReL", 2024); 0: none
  std::string feed_forward_norm = "ffn_norm";  // in the file
  std::string output_norm = "output_norm";     // in the file; empty: none
  std::string attention_norm_behind = "post_attention_norm";
  std::string feed_forward_norm_behind = "post_ffw_norm";

  // Attention.
  float attention_scale = 0;
  AttentionTemperature attention_temperature = {};
  float attention_softcap = 0;        // 0: none
  float alibi_max_bias = 0;           // of linear biases; 0: none
  float qkv_clamp = 0;                // 0: none
  bool attention_output_bias = true;  // where the file has one
  QueryKeyNorm query_key_norm = QueryKeyNorm::kNowhere;
  bool value_norms = false;        // of each head, without weights
  bool keys_as_values = false;     // where the file has no matrix of values
  bool norms_behind_rope = false;  // queries and keys are normalised after they are turned
  bool sinks = false;
  bool later_tokens = false;    // are seen too: an encoder of whole texts
  bool output_gates = false;    // half of what the query's product gives, head by head, gates what attention gives
  bool inner_norms = false;     // of what the last product of attention and of the feed-forward reads
  std::vector<RopeSpec> ropes;  // the first is that of layers that see everything

  // Recurrent layers.
  StateSpace state_space;
  size_t short_taps = 0;  // of short convolutions

  // Feed-forward.
  Activation activation = Activation::kSilu;
  // The family's files scale these matrices (.scale); where others carry such tensors, only weights in NVFP4 are scaled.
  bool feed_forward_scales = false;
  bool gate_and_up_in_one = false;  // ffn_up holds the gate's rows, then its own
  size_t experts = 0;
  size_t experts_used = 1;
  Gating gating = Gating::kSoftmax;
  bool normalize_experts = true;
  float router_jitter = 0;  // of kSparseMixer
  float expert_scale = 1;
  bool gated_experts = true;  // or activation(up x)
  bool early_router = false;  // it reads what the layer was given
  size_t shared_width = 0;    // of experts that every token takes; 0: none
  bool shared_gate = false;   // they are multiplied by a gate of their own

  // What is made of a whole text: by encoders always, by others where it is asked for.
  bool whole_texts = false;
  Pooling pooling = Pooling::kMean;
  Pooling classifier_pooling = Pooling::kFirst;
  bool unit_length = true;        // of the vectors that are given out
  bool classify = false;          // scores are wanted, and not the vector
  std::vector<uint32_t> answers;  // tokens whose logits are the scores, instead of the classifier
  HeadActivation head_activation = HeadActivation::kTanh;
  bool no_output = false;  // the publisher left the output matrix out: the model goes on with no text

  std::vector<LayerPlan> layers;
  uint32_t predictors = 0;  // blocks behind the last layer that predict further tokens, and are not run
};

}  // namespace bantam
