#include "model/lowering.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "model/recurrent_builder.h"

namespace bantam {
namespace {

class Builder : private RecurrentBuilder {
 public:
  using RecurrentBuilder::RecurrentBuilder;

  Result<Program> Build() {
    program_.context_max = config_.context_max;
    if (config_.dense_tokens != 0) LimitContext();
    program_.experts_used = config_.experts_used;
    program_.ropes = config_.ropes;
    program_.whole_texts = config_.whole_texts;
    program_.pooling = config_.whole_texts ? config_.pooling : Pooling::kEveryToken;
    kv_index_.assign(config_.layers.size(), kNone);
    BANTAM_TRY(Embed());
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      BANTAM_TRY(Layer(i));
    }
    BANTAM_TRY(config_.whole_texts ? TextHead() : Head());
    BANTAM_TRY(CheckUnread());
    return std::move(program_);
  }

 private:
  Status Embed() {
    // Some files have one tensor for both ends, by either name.
    const std::string name = Has("token_embd.weight") ? "token_embd.weight" : "output.weight";
    const TensorInfo* table = tensors_.Find(name);
    if (table == nullptr) {
      return Error(Code::kCorrupt, "tensor token_embd.weight is missing; the file holds no model (a vocabulary only?)");
    }
    if (table->rows() > kVocabularyMax) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: {} tokens, expected at most {}", name, table->rows(), kVocabularyMax));
    }
    program_.vocabulary = table->rows();
    tied_ = name == "output.weight" || !Has("output.weight");
    const WeightStorage storage = tied_ && !config_.whole_texts ? WeightStorage::kPanels : WeightStorage::kRows;
    BANTAM_ASSIGN(embedding_, Weight(name, storage, {config_.width, program_.vocabulary}));
    stream_ = Buffer("stream", config_.width);
    program_.ops.push_back(EmbedOp{embedding_, stream_, config_.embedding_scale});
    BANTAM_TRY(AddTables());
    if (config_.per_layer_width > 0) {
      BANTAM_TRY(PerLayerInputs());
    }
    if (config_.streams.count > 1) {
      BANTAM_TRY(SpreadStreams());
    }
    for (RopeId rope = 0; rope < config_.ropes.size(); ++rope) {
      angles_.push_back(Buffer(fmt::format("rope_angles_{}", rope), 2 * config_.ropes[rope].pairs()));
      program_.ops.push_back(RopeAnglesOp{rope, angles_.back()});
    }
    return config_.embedding_norm ? Norm("token_embd_norm", stream_, stream_) : Ok();
  }

  // MiniCPM 4.1: what attends to chosen blocks only beyond so many tokens is run up to there.
  void LimitContext() {
    program_.context_limit = config_.dense_tokens;
    program_.context_max = std::min(program_.context_max, program_.context_limit);
    program_.context_limit_reason = "longer texts are attended to by chosen blocks (sparse_config), which is not supported";
  }

  // What positions and types of tokens add to the embeddings.
  Status AddTables() {
    if (config_.position_table) {
      BANTAM_ASSIGN(const WeightId positions, Weight("position_embd.weight", WeightStorage::kRows, {config_.width, config_.context_max}));
      program_.ops.push_back(EmbedPositionsOp{positions, stream_});
      program_.context_limit = config_.context_max;
    }
    if (config_.type_table) {
      const TensorInfo* types = tensors_.Find("token_types.weight");
      const size_t count = types == nullptr ? 1 : std::clamp<size_t>(types->rows(), 1, kTokenTypesMax);
      BANTAM_ASSIGN(const WeightId table, Weight("token_types.weight", WeightStorage::kRows, {config_.width, count}));
      program_.ops.push_back(EmbedPositionsOp{table, stream_, /*types=*/true});
      program_.token_types = count;
    }
    return Ok();
  }

  struct Inputs {
    BufferId attention;
    BufferId feed_forward;
    BufferId router;  // logits, where they are made before attention
  };

  Status Layer(size_t index) {
    const LayerPlan& layer = config_.layers[index];
    const std::string prefix = fmt::format("blk.{}.", layer.weights == kNone ? index : layer.weights);
    Inputs inputs = {stream_, stream_, kNone};
    CHECK(config_.norms_before || !config_.parallel);
    const bool streams = config_.streams.count > 1;
    if (streams) {
      BANTAM_TRY(PredictStreams(prefix));
    }
    BANTAM_TRY(MakeInputs(prefix, layer, &inputs));
    if (config_.laurel_rank > 0) {
      BANTAM_TRY(Laurel(prefix, inputs.attention));
    }
    if (config_.early_router && layer.feed_forward == FeedForward::kExperts) {
      BANTAM_TRY(Router(prefix, stream_, &inputs.router));
    }
    BANTAM_TRY(Mix(prefix, layer, inputs.attention));
    if (config_.laurel_rank > 0) AddLaurel();
    if (!config_.parallel && config_.norms_before && layer.feed_forward != FeedForward::kAbsent) {
      inputs.feed_forward = Buffer("normed", config_.width);
      BANTAM_TRY(Norm(prefix + config_.feed_forward_norm, stream_, inputs.feed_forward));
    }
    BANTAM_TRY(Feed(prefix, layer, inputs));
    return streams ? CorrectStreams(prefix, index) : EndLayer(prefix, index);
  }

  Status Feed(const std::string& prefix, const LayerPlan& layer, const Inputs& inputs) {
    switch (layer.feed_forward) {
      case FeedForward::kAbsent:
        return Ok();
      case FeedForward::kGated:
        return Dense(prefix, layer, inputs.feed_forward);
      case FeedForward::kPlain:
        return Plain(prefix, layer, inputs.feed_forward);
      case FeedForward::kExperts:
        return Experts(prefix, layer, inputs);
    }
    return Ok();
  }

  // ---- Embeddings for each layer, and several streams ----

  // What each layer takes of its own of a token: a look-up, and a product of the token's embedding.
  Status PerLayerInputs() {
    const size_t layers = config_.layers.size();
    const size_t all = config_.per_layer_width * layers;
    per_layer_ = Buffer("per_layer", all);
    const BufferId projected = Buffer("per_layer_projected", all);
    // Tokens of pictures and sounds stand behind those of text and may have none.
    const char* name = "per_layer_token_embd.weight";
    const TensorInfo* found = tensors_.Find(name);
    const size_t rows = found == nullptr ? program_.vocabulary : std::min<uint64_t>(found->rows(), program_.vocabulary);
    BANTAM_ASSIGN(const WeightId table, Weight(name, WeightStorage::kRows, {all, rows}));
    program_.ops.push_back(EmbedOp{table, per_layer_, std::sqrt(static_cast<float>(config_.per_layer_width))});
    BANTAM_TRY(MatMul({"per_layer_model_proj", stream_, projected, Scaling::kNothing, /*biased=*/false}));
    ChangeEach(projected, Pointwise::kScale, 1.0f / std::sqrt(static_cast<float>(config_.width)), 1);
    NormOp norm = {.in = projected, .out = projected, .epsilon = config_.norm_epsilon, .groups = layers};
    BANTAM_ASSIGN(norm.weight, Vector("per_layer_proj_norm.weight", config_.per_layer_width));
    program_.ops.push_back(norm);
    program_.ops.push_back(AddOp{projected, per_layer_});
    ChangeEach(per_layer_, Pointwise::kScale, kRootHalf, 1);
    return Ok();
  }

  // The layer's own part of them, gated by `in`: what the layer adds at its end, in the branch.
  Status PerLayerBranch(const std::string& prefix, size_t index, BufferId in) {
    const size_t width = config_.per_layer_width;
    const BufferId gate = Buffer("per_layer_gate", width);
    const BufferId own = Buffer("per_layer_own", width);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(MatMul({prefix + "inp_gate", in, gate, Scaling::kNothing, /*biased=*/false}));
    program_.ops.push_back(SelectOp{per_layer_, own, index * width, width, width});
    program_.ops.push_back(ActivateOp{gate, own, own, config_.activation});
    BANTAM_TRY(MatMul({prefix + "proj", own, branch, Scaling::kNothing, /*biased=*/false}));
    return Norm(prefix + "post_norm", branch, branch);
  }

  Status EndLayer(const std::string& prefix, size_t index) {
    if (config_.per_layer_width > 0) {
      BANTAM_TRY(PerLayerBranch(prefix, index, stream_));
      program_.ops.push_back(AddOp{Buffer("branch", config_.width), stream_});
    }
    if (config_.layer_scales && Has(prefix + "layer_output_scale.weight")) {
      BANTAM_ASSIGN(const WeightId scale, Vector(prefix + "layer_output_scale.weight", /*width=*/1));
      program_.ops.push_back(WeighOp{stream_, scale});
    }
    return Ok();
  }

  // out = a matrix of the stack times in, and as long as `length`.
  Status StreamProduct(const std::string& name, size_t matrix, BufferId in, BufferId length, BufferId out) {
    const size_t width = config_.width;
    BANTAM_ASSIGN(const TensorInfo* tensor, Tensor(name, {width, width, config_.streams.count - 1}));
    const WeightId weight = Add({name, tensor->dtype, WeightStorage::kPanels, width, width, /*matrices=*/1, matrix * width});
    program_.ops.push_back(MatMulOp{in, {{.weight = weight, .out = out}}});
    program_.ops.push_back(MatchLengthOp{length, out});
    return Ok();
  }

  // The embedding is the first stream, and products of it as long as it is the others.
  Status SpreadStreams() {
    const size_t width = config_.width;
    streams_ = Buffer("streams", config_.streams.count * width);
    predictions_ = Buffer("predictions", config_.streams.count * width);
    const BufferId part = Buffer("branch", width);
    program_.ops.push_back(PlaceOp{stream_, streams_, 0});
    for (size_t i = 1; i < config_.streams.count; ++i) {
      BANTAM_TRY(StreamProduct("altup_proj.weight", i - 1, stream_, stream_, part));
      program_.ops.push_back(PlaceOp{part, streams_, i * width});
    }
    return Ok();
  }

  // A product of what a router makes of the active stream: what predictions and corrections are weighed by.
  Status StreamCoefficients(const std::string& prefix, const char* matrix, BufferId coefficients) {
    const BufferId normed = Buffer("normed", config_.width);
    const BufferId modalities = Buffer("modalities", config_.streams.count);
    BANTAM_TRY(Norm(prefix + "altup_router_norm", stream_, normed));
    ChangeEach(normed, Pointwise::kScale, 1.0f / static_cast<float>(config_.width), 1);
    BANTAM_TRY(MatMul({prefix + "altup_router", normed, modalities, Scaling::kNothing, /*biased=*/false}));
    program_.ops.push_back(PointwiseOp{modalities, Pointwise::kSoftCap, 1});  // a hyperbolic tangent
    return MatMul({prefix + matrix, modalities, coefficients, Scaling::kNothing, /*biased=*/false});
  }

  SelectOp ActiveOf(BufferId streams, BufferId out) const {
    return {streams, out, config_.streams.active * config_.width, config_.width, config_.width};
  }

  Status PredictStreams(const std::string& prefix) {
    const size_t count = config_.streams.count;
    const BufferId coefficients = Buffer("predict_coefficients", count * count);
    program_.ops.push_back(ActiveOf(streams_, stream_));
    BANTAM_TRY(StreamCoefficients(prefix, "altup_predict_coef", coefficients));
    program_.ops.push_back(MixPartsOp{streams_, coefficients, predictions_, count});
    std::swap(streams_, predictions_);
    program_.ops.push_back(ActiveOf(streams_, stream_));
    return Ok();
  }

  // All streams take a share of what the layer changed in the active one; those but the first take the layer's own embedding.
  Status CorrectStreams(const std::string& prefix, size_t index) {
    const size_t count = config_.streams.count;
    const BufferId coefficients = Buffer("correct_coefficients", count);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(StreamCoefficients(prefix, "altup_correct_coef", coefficients));
    program_.ops.push_back(ActiveOf(streams_, branch));
    program_.ops.push_back(AddOp{branch, stream_, -1});
    program_.ops.push_back(AddToPartsOp{stream_, coefficients, streams_, count});
    if (config_.per_layer_width == 0) return Ok();
    program_.ops.push_back(ActiveOf(streams_, stream_));
    BANTAM_ASSIGN(const WeightId scale, Vector(prefix + "altup_correct_scale.weight", config_.width));
    program_.ops.push_back(WeighOp{stream_, scale});
    BANTAM_TRY(PerLayerBranch(prefix, index, stream_));
    program_.ops.push_back(AddToPartsOp{branch, kNone, streams_, count, /*first=*/1});
    return Ok();
  }

  // The mean of the first stream and of products of the others, as long as the active one.
  Status MergeStreams(BufferId all, BufferId out) {
    const size_t width = config_.width;
    const Rows rows = program_.buffers[all].rows;
    const BufferId active = Buffer("merged_active", width, rows);
    const BufferId part = Buffer("merged_part", width, rows);
    const BufferId product = Buffer("merged_product", width, rows);
    program_.ops.push_back(ActiveOf(all, active));
    program_.ops.push_back(SelectOp{all, out, 0, width, width});
    for (size_t i = 1; i < config_.streams.count; ++i) {
      program_.ops.push_back(SelectOp{all, part, i * width, width, width});
      BANTAM_TRY(StreamProduct("altup_unembd_proj.weight", i - 1, part, active, product));
      program_.ops.push_back(AddOp{product, out});
    }
    ChangeEach(out, Pointwise::kScale, 1.0f / static_cast<float>(config_.streams.count), 1);
    return Ok();
  }

  // Beside attention: in, and a product of low rank of it.
  Status Laurel(const std::string& prefix, BufferId in) {
    const BufferId low = Buffer("laurel_low", config_.laurel_rank);
    const BufferId laurel = Buffer("laurel", config_.width);
    BANTAM_TRY(MatMul({prefix + "laurel_l", in, low, Scaling::kNothing, /*biased=*/false}));
    BANTAM_TRY(MatMul({prefix + "laurel_r", low, laurel, Scaling::kNothing, /*biased=*/false}));
    BANTAM_TRY(Norm(prefix + "laurel_post_norm", laurel, laurel));
    program_.ops.push_back(AddOp{in, laurel});
    return Ok();
  }
  void AddLaurel() {
    program_.ops.push_back(AddOp{Buffer("laurel", config_.width), stream_});
    ChangeEach(stream_, Pointwise::kScale, kRootHalf, 1);
  }

  // ---- Mixers ----

  Status Mix(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    switch (layer.mixer) {
      case Mixer::kAttention:
        return Attention(prefix, layer, in);
      case Mixer::kStateSpace:
        return StateSpaceLayer(prefix, in);
      case Mixer::kAttentionAndStateSpace:
        BANTAM_TRY(Attention(prefix, layer, in));
        return StateSpaceLayer(prefix, in);
      case Mixer::kShortConvolution:
        return ShortConvolution(prefix, in);
      case Mixer::kDeltaRule:
        return DeltaRule(prefix, in);
    }
    return Ok();
  }

  // What attention reads, and in parallel layers what the feed-forward reads: the same norm, or one of its own.
  Status MakeInputs(const std::string& prefix, const LayerPlan& layer, Inputs* inputs) {
    if (!config_.norms_before || !layer.attention_norm) return Ok();
    const BufferId normed = Buffer("normed", config_.width);
    BANTAM_TRY(Norm(prefix + "attn_norm", stream_, normed));
    *inputs = {normed, normed, kNone};
    if (!config_.parallel) return Ok();
    // Falcon's larger models name attention's own norm the second.
    const bool second = Has(prefix + "attn_norm_2.weight");
    if (!second && !Has(prefix + config_.feed_forward_norm + ".weight")) return Ok();
    const BufferId other = Buffer("normed_too", config_.width);
    BANTAM_TRY(Norm(prefix + (second ? "attn_norm_2" : config_.feed_forward_norm), stream_, other));
    (second ? inputs->attention : inputs->feed_forward) = other;
    return Ok();
  }

  // Query, key and value from one tensor or from three. Old files have the biases of three beside the weights of one.
  Status Projections(const std::string& prefix, const LayerPlan& layer, BufferId in, const std::array<BufferId, 3>& out) {
    static constexpr const char* kNames[] = {"attn_q", "attn_k", "attn_v"};
    const std::string heads[] = {fmt::format("{} heads x {}", layer.heads, layer.head_dim),
                                 fmt::format("{} kv heads x {}", layer.kv_heads, layer.head_dim)};
    const size_t all = Width(out[0]) + Width(out[1]) + Width(out[2]);
    const bool one = HasMatrix(prefix + "attn_qkv");
    const bool apart = one && !Has(prefix + "attn_qkv.bias");
    for (size_t i = 0, begin = 0; i < 3; begin += Width(out[i++])) {
      const std::string own = prefix + kNames[i];
      if (i == 2 && config_.keys_as_values && !one && !HasMatrix(own)) {
        program_.ops.push_back(SelectOp{out[1], out[2], 0, Width(out[1]), Width(out[1])});
        continue;
      }
      const std::string rows_are = one ? fmt::format("{} and twice {}", heads[0], heads[1]) : heads[i == 0 ? 0 : 1];
      Product product = {.prefix = one ? prefix + "attn_qkv" : own, .in = in, .out = out[i], .rows_are = rows_are};
      if (apart) product.own_bias = own + ".bias";
      BANTAM_TRY(one ? MatMulRows(product, {begin, begin + Width(out[i])}, all) : MatMul(product));
    }
    for (const BufferId buffer : out) ChangeEach(buffer, Pointwise::kClamp, config_.qkv_clamp, 0);
    return Ok();
  }

  // The query's product gives each head's query and gate.
  Status GatedProjections(const std::string& prefix, const LayerPlan& layer, BufferId in, const std::array<BufferId, 4>& out) {
    const auto& [query, key, value, gate] = out;
    const BufferId both = Buffer("query_and_gate", 2 * Width(query));
    BANTAM_TRY(MatMul({prefix + "attn_q", in, both}));
    BANTAM_TRY(MatMul({prefix + "attn_k", in, key}));
    BANTAM_TRY(MatMul({prefix + "attn_v", in, value}));
    program_.ops.push_back(SelectOp{both, query, 0, layer.head_dim, 2 * layer.head_dim});
    program_.ops.push_back(SelectOp{both, gate, layer.head_dim, layer.head_dim, 2 * layer.head_dim});
    return Ok();
  }

  Status NormHeads(const std::string& prefix, const LayerPlan& layer, BufferId query, BufferId key) {
    if (config_.query_key_norm == QueryKeyNorm::kNowhere) return Ok();
    const bool heads = config_.query_key_norm == QueryKeyNorm::kHeads;
    BANTAM_TRY(Norm(prefix + "attn_q_norm", query, query, heads ? layer.heads : 1));
    return Norm(prefix + "attn_k_norm", key, key, heads ? layer.kv_heads : 1);
  }

  // Slopes of linear biases (Press et al., 2022): powers of 2^(-bias / n) for the first n heads, n a power of two, and odd powers of its
  // root for the others.
  std::vector<float> Slopes(size_t heads) const {
    std::vector<float> slopes;
    if (config_.alibi_max_bias == 0) return slopes;
    const size_t n = std::bit_floor(heads);
    const double step = std::exp2(-static_cast<double>(config_.alibi_max_bias) / static_cast<double>(n));
    for (size_t h = 0; h < heads; ++h) {
      slopes.push_back(static_cast<float>(h < n ? std::pow(step, h + 1) : std::pow(std::sqrt(step), 2 * (h - n) + 1)));
    }
    return slopes;
  }

  // Whole texts' keys and values are over with the layer: layers of one shape share their place, unless others attend to them later.
  uint32_t KvLayer(const KvHeads& heads) {
    std::vector<KvHeads>& layers = program_.kv_layers;
    const auto same = [&](const KvHeads& other) {
      return other.heads == heads.heads && other.head_dim == heads.head_dim && other.window == heads.window && other.sparse == heads.sparse;
    };
    const bool over = config_.whole_texts && std::all_of(config_.layers.begin(), config_.layers.end(),
                                                         [](const LayerPlan& layer) { return layer.kv_of == kNone; });
    const auto at = over ? std::find_if(layers.begin(), layers.end(), same) : layers.end();
    const auto index = static_cast<uint32_t>(at - layers.begin());
    if (at == layers.end()) layers.push_back(heads);
    return index;
  }

  Status Attention(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    if (layer.kv_of != kNone) return AttentionToOthers(prefix, layer, in);
    const uint32_t index = KvLayer({layer.kv_heads, layer.head_dim, WindowOf(layer), layer.sparse});
    kv_index_[static_cast<size_t>(&layer - config_.layers.data())] = index;
    const BufferId query = Buffer("query", layer.heads * layer.head_dim);
    const BufferId key = Buffer("key", layer.kv_heads * layer.head_dim);
    const BufferId value = Buffer("value", layer.kv_heads * layer.head_dim);
    const BufferId mixed = Buffer("mixed", layer.heads * layer.head_dim);
    const BufferId gate = config_.output_gates ? Buffer("attention_gate", Width(query)) : kNone;
    if (config_.output_gates) {
      BANTAM_TRY(GatedProjections(prefix, layer, in, {query, key, value, gate}));
    } else {
      BANTAM_TRY(Projections(prefix, layer, in, {query, key, value}));
    }
    if (!config_.norms_behind_rope) {
      BANTAM_TRY(NormHeads(prefix, layer, query, key));
    }
    if (config_.value_norms) {
      program_.ops.push_back(NormOp{.in = value, .out = value, .epsilon = config_.norm_epsilon, .groups = layer.kv_heads});
    }
    if (layer.rope != kNone) {
      program_.ops.push_back(RopeOp{layer.rope, angles_[layer.rope], query, layer.heads, layer.head_dim});
      program_.ops.push_back(RopeOp{layer.rope, angles_[layer.rope], key, layer.kv_heads, layer.head_dim});
    }
    if (config_.norms_behind_rope) {
      BANTAM_TRY(NormHeads(prefix, layer, query, key));
    }
    program_.ops.push_back(KvAppendOp{key, value, index});
    BANTAM_TRY(Attend(prefix, layer, {query, mixed, index}));
    if (config_.output_gates) program_.ops.push_back(MultiplyOp{mixed, gate, mixed, /*sigmoid=*/true});
    return AttentionOutput(prefix, mixed);
  }

  // Queries of its own, and keys and values of a layer in front.
  Status AttentionToOthers(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    const BufferId query = Buffer("query", layer.heads * layer.head_dim);
    const BufferId mixed = Buffer("mixed", layer.heads * layer.head_dim);
    const uint32_t index = kv_index_[layer.kv_of];
    CHECK(index != kNone && !config_.norms_behind_rope && !config_.output_gates);
    const KvHeads& other = program_.kv_layers[index];
    if (other.heads != layer.kv_heads || other.head_dim != layer.head_dim || other.window != WindowOf(layer) ||
        other.sparse != layer.sparse) {
      return Error(Code::kCorrupt,
                   fmt::format("{}: {} kv heads of {} elements with window {}, and those of layer {}, which it attends to, are "
                               "{} of {} with window {}; convert the model again",
                               prefix.substr(0, prefix.size() - 1), layer.kv_heads, layer.head_dim, layer.window, layer.kv_of, other.heads,
                               other.head_dim, other.window));
    }
    BANTAM_TRY(MatMul({prefix + "attn_q", in, query}));
    if (config_.query_key_norm != QueryKeyNorm::kNowhere) {
      BANTAM_TRY(Norm(prefix + "attn_q_norm", query, query, config_.query_key_norm == QueryKeyNorm::kHeads ? layer.heads : 1));
    }
    if (layer.rope != kNone) {
      program_.ops.push_back(RopeOp{layer.rope, angles_[layer.rope], query, layer.heads, layer.head_dim});
    }
    BANTAM_TRY(Attend(prefix, layer, {query, mixed, index}));
    return AttentionOutput(prefix, mixed);
  }

  struct Attended {
    BufferId query;
    BufferId mixed;
    uint32_t index;
  };
  Status Attend(const std::string& prefix, const LayerPlan& layer, const Attended& what) {
    AttendOp attend = {what.query,
                       what.mixed,
                       what.index,
                       layer.heads,
                       config_.attention_scale,
                       config_.attention_softcap,
                       Slopes(layer.heads),
                       kNone,
                       config_.later_tokens,
                       config_.attention_temperature};
    if (config_.sinks) {
      BANTAM_ASSIGN(attend.sinks, Vector(prefix + "attn_sinks.weight", layer.heads));
    }
    program_.ops.push_back(std::move(attend));
    return Ok();
  }

  Status AttentionOutput(const std::string& prefix, BufferId mixed) {
    const BufferId branch = Buffer("branch", config_.width);
    if (config_.inner_norms) {
      BANTAM_TRY(Norm(prefix + "attn_sub_norm", mixed, mixed));
    }
    BANTAM_TRY(MatMul({prefix + "attn_output", mixed, branch, Scaling::kProduct, config_.attention_output_bias}));
    return AddBranch(prefix + config_.attention_norm_behind, branch);
  }

  // Of sparse layers whose queries see nothing but blocks near them, no more is kept.
  static size_t WindowOf(const LayerPlan& layer) {
    if (layer.sparse.block_tokens == 0 || layer.sparse.global_stride != 0) return layer.window;
    const size_t local = layer.sparse.block_tokens * layer.sparse.local_blocks;
    return layer.window == 0 ? local : std::min(layer.window, local);
  }

  // activation(gate x) * (up x), and down again, into the branch.
  struct GatedUnit {
    std::string suffix;  // of the tensors' names
    size_t width;
    std::optional<float> sparse = {};
  };
  Status Gated(const std::string& prefix, const GatedUnit& unit, BufferId in, BufferId branch) {
    const auto& [suffix, width, sparse] = unit;
    const BufferId gate = Buffer("gate" + suffix, width);
    const BufferId up = Buffer("up" + suffix, width);
    const BufferId hidden = Buffer("hidden" + suffix, width);
    if (config_.gate_and_up_in_one) {
      BANTAM_TRY(MatMulRows({prefix + "ffn_up" + suffix, in, gate, OfFeedForward()}, {0, width}, 2 * width));
      BANTAM_TRY(MatMulRows({prefix + "ffn_up" + suffix, in, up, OfFeedForward()}, {width, 2 * width}, 2 * width));
    } else {
      BANTAM_TRY(MatMul({prefix + "ffn_gate" + suffix, in, gate, OfFeedForward()}));
      BANTAM_TRY(MatMul({prefix + "ffn_up" + suffix, in, up, OfFeedForward()}));
    }
    if (sparse) program_.ops.push_back(CutBelowOp{gate, *sparse});
    program_.ops.push_back(ActivateOp{gate, up, hidden, config_.activation});
    if (config_.inner_norms) {
      BANTAM_TRY(Norm(prefix + "ffn_sub_norm" + suffix, hidden, hidden));
    }
    return MatMul({prefix + "ffn_down" + suffix, hidden, branch, OfFeedForward()});
  }

  Status Dense(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(Gated(prefix, {"", layer.feed_forward_width, layer.sparse_gate}, in, branch));
    return AddBranch(prefix + config_.feed_forward_norm_behind, branch);
  }

  Status Plain(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    const BufferId up = Buffer("up", layer.feed_forward_width);
    const BufferId hidden = Buffer("hidden", layer.feed_forward_width);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(MatMul({prefix + "ffn_up", in, up, OfFeedForward()}));
    BANTAM_ASSIGN(const WeightId divisors, OptionalVector(prefix + "ffn.act.scales", layer.feed_forward_width));
    program_.ops.push_back(ActivateOp{.in = up, .out = hidden, .activation = config_.activation, .divisors = divisors});
    BANTAM_TRY(MatMul({prefix + "ffn_down", hidden, branch, OfFeedForward()}));
    return AddBranch(prefix + config_.feed_forward_norm_behind, branch);
  }

  Status Router(const std::string& prefix, BufferId in, BufferId* logits) {
    *logits = Buffer("router", config_.experts);
    return MatMul({prefix + "ffn_gate_inp", in, *logits, Scaling::kNothing});
  }

  Status Experts(const std::string& prefix, const LayerPlan& layer, const Inputs& inputs) {
    if (Has(prefix + "ffn_gate.0.weight")) {
      return Error(Code::kUnsupported, fmt::format("tensor {}ffn_gate.0.weight: one tensor per expert is an old layout; convert the model "
                                                   "again with a current converter",
                                                   prefix));
    }
    const size_t inner = layer.feed_forward_width;
    const BufferId in = inputs.feed_forward;
    const BufferId ids = Buffer("expert_ids", config_.experts_used, Rows::kTokens, BufferForm::kIntegers);
    const BufferId weights = Buffer("expert_weights", config_.experts_used);
    const BufferId gate = Buffer("expert_gate", inner, Rows::kTokenSlots);
    const BufferId up = Buffer("expert_up", inner, Rows::kTokenSlots);
    const BufferId hidden = Buffer("expert_hidden", inner, Rows::kTokenSlots);
    const BufferId down = Buffer("expert_down", config_.width, Rows::kTokenSlots);
    const BufferId branch = Buffer("branch", config_.width);
    RouteOp route = {inputs.router,        ids, weights, config_.gating, kNone, config_.normalize_experts, config_.expert_scale,
                     config_.router_jitter};
    if (inputs.router == kNone) {
      BANTAM_TRY(Router(prefix, in, &route.logits));
    }
    BANTAM_ASSIGN(route.selection_bias, OptionalVector(prefix + "exp_probs_b.bias", config_.experts));
    program_.ops.push_back(route);
    if (Has(prefix + "ffn_gate_up_exps.weight")) {
      BANTAM_TRY(ExpertGateAndUp(prefix, in, ids, {gate, up}));
    } else {
      if (config_.gated_experts) {
        BANTAM_TRY(ExpertMatMul(prefix + "ffn_gate_exps", in, ids, gate));
      }
      BANTAM_TRY(ExpertMatMul(prefix + "ffn_up_exps", in, ids, up));
    }
    const bool gated = config_.gated_experts;
    program_.ops.push_back(ActivateOp{gated ? gate : up, gated ? up : kNone, hidden, config_.activation});
    BANTAM_TRY(ExpertMatMul(prefix + "ffn_down_exps", hidden, ids, down));
    program_.ops.push_back(CombineOp{down, weights, branch});
    if (config_.shared_width > 0) {
      BANTAM_TRY(SharedExperts(prefix, in, branch));
    }
    return AddBranch(prefix + config_.feed_forward_norm_behind, branch);
  }

  // Experts that every token takes, added to the branch.
  Status SharedExperts(const std::string& prefix, BufferId in, BufferId branch) {
    const BufferId shared = Buffer("shared", config_.width);
    BANTAM_TRY(Gated(prefix, {"_shexp", config_.shared_width}, in, shared));
    if (config_.shared_gate) {
      const BufferId gate = Buffer("shared_gate", 1);
      BANTAM_TRY(MatMul({prefix + "ffn_gate_inp_shexp", in, gate, Scaling::kNothing}));
      program_.ops.push_back(GateRowsOp{gate, shared});
    }
    program_.ops.push_back(AddOp{shared, branch});
    return Ok();
  }

  Status Head() {
    const BufferId last = Buffer("output_stream", config_.width, Rows::kOutputs);
    const BufferId normed = Buffer("output_normed", config_.width, Rows::kOutputs);
    const BufferId logits = program_.logits = Buffer("logits", program_.vocabulary, Rows::kOutputs);
    if (config_.streams.count > 1) {
      const BufferId all = Buffer("output_streams", config_.streams.count * config_.width, Rows::kOutputs);
      program_.ops.push_back(GatherOutputsOp{streams_, all});
      BANTAM_TRY(MergeStreams(all, last));
    } else {
      program_.ops.push_back(GatherOutputsOp{stream_, last});
    }
    BANTAM_TRY(Norm(config_.output_norm, last, normed));
    if (tied_) {
      BANTAM_ASSIGN(const WeightId bias, OptionalVector("output.bias", program_.vocabulary));
      program_.ops.push_back(MatMulOp{normed, {{.weight = embedding_, .bias = bias, .out = logits}}});
    } else {
      BANTAM_TRY(MatMul({"output", normed, logits}));
    }
    ChangeEach(logits, Pointwise::kScale, config_.logit_scale, 1);
    ChangeEach(logits, Pointwise::kSoftCap, config_.logit_softcap, 0);
    return Ok();
  }

  // What is said of a whole text: a vector, or a classifier's scores.
  Status TextHead() {
    if (config_.streams.count > 1) {
      BANTAM_TRY(MergeStreams(streams_, stream_));
    }
    if (!config_.output_norm.empty()) {
      BANTAM_TRY(Norm(config_.output_norm, stream_, stream_));
    }
    const BufferId pooled = program_.logits = Buffer("pooled", config_.width, Rows::kOutputs);
    if (config_.pooling == Pooling::kMean) {
      program_.ops.push_back(PoolOp{stream_, pooled});
    } else {
      program_.ops.push_back(GatherOutputsOp{stream_, pooled});
    }
    if (!config_.classify) return config_.pooling == Pooling::kEveryToken ? Ok() : DenseLayers(pooled);
    return config_.answers.empty() ? Classifier(pooled) : Answers(pooled);
  }

  // What sentence-transformers calls Dense: products of the vector, by the names that GGUF files have for them.
  Status DenseLayers(BufferId in) {
    for (const std::string name : {"dense_2", "dense_3"}) {
      const TensorInfo* weight = tensors_.Find(name + ".weight");
      if (weight == nullptr) continue;
      if (weight->rows() > kWidthMax) {
        return Error(Code::kCorrupt, fmt::format("tensor {}.weight: {} rows, expected at most {}", name, weight->rows(), kWidthMax));
      }
      program_.logits = Buffer(name, weight->rows(), Rows::kOutputs);
      BANTAM_TRY(MatMul({name, in, program_.logits, Scaling::kNothing}));
      in = program_.logits;
    }
    return Ok();
  }

  // Logits of some tokens, side by side.
  Status Answers(BufferId in) {
    if (config_.no_output) {
      return Error(Code::kUnsupported,
                   "the folder has neither a classifier nor an output matrix (lm_head.weight), so nothing scores; fetch the files again");
    }
    const std::string name = Has("output.weight") ? "output.weight" : "token_embd.weight";
    const size_t count = config_.answers.size();
    const BufferId one = Buffer("answer", 1, Rows::kOutputs);
    program_.logits = Buffer("scores", count, Rows::kOutputs);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t token = config_.answers[i];
      if (token >= program_.vocabulary) {
        return Error(Code::kCorrupt,
                     fmt::format("token {} in the vocabulary, and {} in the model; convert the model again", token, program_.vocabulary));
      }
      const Range row = {.begin = token, .end = token + size_t{1}};
      MatMulPart part = {.weight = kNone, .out = one};
      BANTAM_ASSIGN(part.weight, Part(name, WeightStorage::kPanels, {config_.width, program_.vocabulary}, row));
      BANTAM_ASSIGN(part.scale, ScaleOf("output", /*count=*/1, /*scaled=*/true));
      if (Has("output.bias")) {
        BANTAM_ASSIGN(part.bias, Part("output.bias", WeightStorage::kVector, {program_.vocabulary}, row));
      }
      program_.ops.push_back(MatMulOp{in, {part}});
      program_.ops.push_back(PlaceOp{one, program_.logits, i});
    }
    ChangeEach(program_.logits, Pointwise::kScale, config_.logit_scale, 1);
    ChangeEach(program_.logits, Pointwise::kSoftCap, config_.logit_softcap, 0);
    return Ok();
  }

  // A matrix with its activation and norm, where the file has them, and the scores.
  Status Classifier(BufferId in) {
    const TensorInfo* scores = tensors_.Find("cls.output.weight");
    if (scores == nullptr) {
      return Error(Code::kUnsupported, "the model has no classifier (cls.output.weight): it ranks nothing and knows no classes");
    }
    if (scores->rows() > kClassesMax) {
      return Error(Code::kCorrupt, fmt::format("tensor cls.output.weight: {} classes, expected at most {}", scores->rows(), kClassesMax));
    }
    if (Has("cls.weight")) {
      const BufferId hidden = Buffer("classified", config_.width, Rows::kOutputs);
      BANTAM_TRY(MatMul({"cls", in, hidden, Scaling::kNothing}));
      switch (config_.head_activation) {
        case HeadActivation::kTanh:
          program_.ops.push_back(PointwiseOp{hidden, Pointwise::kSoftCap, /*value=*/1});
          break;
        case HeadActivation::kRelu:
          program_.ops.push_back(ActivateOp{.in = hidden, .out = hidden, .activation = Activation::kRelu});
          break;
        case HeadActivation::kOwn:
          program_.ops.push_back(ActivateOp{.in = hidden, .out = hidden, .activation = config_.activation});
          break;
      }
      if (Has("cls.norm.weight")) {
        BANTAM_TRY(Norm("cls.norm", hidden, hidden));
      }
      in = hidden;
    }
    program_.logits = Buffer("scores", scores->rows(), Rows::kOutputs);
    return MatMul({"cls.output", in, program_.logits, Scaling::kNothing});
  }

  static constexpr float kRootHalf = 0.70710678f;
  BufferId streams_ = kNone;  // all of them, and room for the next
  BufferId predictions_ = kNone;
  BufferId per_layer_ = kNone;
  std::vector<uint32_t> kv_index_;  // of each layer's keys and values in Program::kv_layers
  std::vector<BufferId> angles_;    // of each rotary embedding
  WeightId embedding_ = kNone;
  bool tied_ = false;
};

}  // namespace

Result<Program> Lower(const Config& config, const TensorDirectory& tensors) { return Builder(config, tensors).Build(); }

}  // namespace bantam
