#include "model/lowering.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

namespace bantam {
namespace {

struct Shape {
  size_t columns;
  size_t rows = 1;
  size_t matrices = 1;
};

class Builder {
 public:
  Builder(const Config& config, const TensorDirectory& tensors) : config_(config), tensors_(tensors) {}

  Result<Program> Build() {
    program_.context_max = config_.context_max;
    program_.experts_used = config_.experts_used;
    program_.ropes = config_.ropes;
    BANTAM_TRY(Embed());
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      BANTAM_TRY(Layer(i));
    }
    BANTAM_TRY(Head());
    return std::move(program_);
  }

 private:
  BufferId Buffer(std::string name, size_t width, Rows rows = Rows::kTokens, BufferForm form = BufferForm::kFloats) {
    // Layers of one shape share their buffers.
    for (BufferId id = 0; id < program_.buffers.size(); ++id) {
      if (program_.buffers[id].name == name && program_.buffers[id].width == width) return id;
    }
    program_.buffers.push_back({std::move(name), width, rows, form});
    return static_cast<BufferId>(program_.buffers.size() - 1);
  }
  size_t Width(BufferId buffer) const { return program_.buffers[buffer].width; }
  bool Has(const std::string& tensor) const { return tensors_.Find(tensor) != nullptr; }

  Result<const TensorInfo*> Tensor(const std::string& name, Shape shape) {
    const TensorInfo* tensor = tensors_.Find(name);
    if (tensor == nullptr) {
      return Error(Code::kCorrupt, fmt::format("tensor {} is missing; the file is incomplete or of another architecture", name));
    }
    if (tensor->columns() != shape.columns || tensor->rows() != shape.rows || tensor->matrices() != shape.matrices) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: shape [{}, {}, {}], expected [{}, {}, {}]", name, tensor->columns(),
                                               tensor->rows(), tensor->matrices(), shape.columns, shape.rows, shape.matrices));
    }
    return tensor;
  }
  Result<WeightId> Weight(const std::string& name, WeightStorage storage, Shape shape) {
    return Part(name, storage, shape, {.begin = 0, .end = storage == WeightStorage::kVector ? shape.columns : shape.rows});
  }
  // Rows of a matrix, or elements of a vector.
  struct Range {
    size_t begin;
    size_t end;
  };
  Result<WeightId> Part(const std::string& name, WeightStorage storage, Shape shape, Range part) {
    BANTAM_ASSIGN(const TensorInfo* tensor, Tensor(name, shape));
    WeightSpec spec = {name, tensor->dtype, storage, shape.columns, shape.rows, shape.matrices, part.begin};
    (storage == WeightStorage::kVector ? spec.columns : spec.rows) = part.end - part.begin;
    if (storage == WeightStorage::kVector && part.begin % Info(tensor->dtype).block_elements != 0) {
      return Error(Code::kUnsupported, fmt::format("tensor {}: a vector of {} parts in format {}", name, shape.columns / spec.columns,
                                                   Info(tensor->dtype).name));
    }
    program_.weights.push_back(std::move(spec));
    return static_cast<WeightId>(program_.weights.size() - 1);
  }
  Result<WeightId> Matrix(const std::string& name, Shape shape) { return Weight(name, WeightStorage::kPanels, shape); }
  Result<WeightId> Vector(const std::string& name, size_t width) { return Weight(name, WeightStorage::kVector, {width}); }
  Result<WeightId> OptionalVector(const std::string& name, size_t width) {
    if (!Has(name)) return kNone;
    return Vector(name, width);
  }
  // [width] for each of `count`, as one vector.
  Result<WeightId> OptionalVectors(const std::string& name, size_t width, size_t count) {
    if (!Has(name)) return kNone;
    BANTAM_ASSIGN(const TensorInfo* tensor, Tensor(name, {width, count}));
    program_.weights.push_back({name, tensor->dtype, WeightStorage::kVector, width * count});
    return static_cast<WeightId>(program_.weights.size() - 1);
  }

  // out = PREFIX.weight * in, with PREFIX.scale and PREFIX.bias where the file has them. Files scale the sum with the bias
  // in the feed-forward and the bare product elsewhere.
  enum class Scaling { kNothing, kProduct, kSum };
  Scaling OfFeedForward() const { return config_.feed_forward_scales ? Scaling::kSum : Scaling::kNothing; }
  struct Product {
    std::string prefix;
    BufferId in;
    BufferId out;
    Scaling scaling = Scaling::kProduct;
    bool biased = true;
  };
  Status MatMul(const Product& product) { return MatMulRows(product, {.begin = 0, .end = Width(product.out)}, Width(product.out)); }
  // The same with some of the tensor's rows.
  Status MatMulRows(const Product& product, Range rows, size_t all_rows) {
    const std::string& prefix = product.prefix;
    BANTAM_ASSIGN(const WeightId weight, Part(prefix + ".weight", WeightStorage::kPanels, {Width(product.in), all_rows}, rows));
    WeightId scale = kNone;
    // The values of this format are no weights without its second scale.
    const bool scaled = product.scaling != Scaling::kNothing || program_.weights[weight].dtype == DType::kNVFP4;
    if (scaled) {
      BANTAM_ASSIGN(scale, OptionalVector(prefix + ".scale", /*width=*/1));
    }
    WeightId bias = kNone;
    if (product.biased && Has(prefix + ".bias")) {
      BANTAM_ASSIGN(bias, Part(prefix + ".bias", WeightStorage::kVector, {all_rows}, rows));
    }
    program_.ops.push_back(MatMulOp{product.in, {{weight, scale, bias, product.scaling == Scaling::kSum, product.out}}});
    return Ok();
  }

  Status ExpertMatMul(const std::string& prefix, BufferId in, BufferId ids, BufferId out) {
    const Shape shape = {Width(in), Width(out), config_.experts};
    BANTAM_ASSIGN(const WeightId weight, Matrix(prefix + ".weight", shape));
    const bool scaled = config_.feed_forward_scales || program_.weights[weight].dtype == DType::kNVFP4;
    BANTAM_ASSIGN(const WeightId scale, scaled ? OptionalVector(prefix + ".scale", config_.experts) : kNone);
    BANTAM_ASSIGN(const WeightId bias, OptionalVectors(prefix + ".bias", shape.rows, shape.matrices));
    program_.ops.push_back(ExpertMatMulOp{in, ids, out, weight, scale, bias});
    return Ok();
  }

  // Weights and biases as wide as one of `groups` parts of the row, as [width, groups], or as wide as the row.
  Result<WeightId> NormVector(const std::string& name, size_t width, size_t groups) {
    const TensorInfo* tensor = tensors_.Find(name);
    if (groups > 1 && tensor != nullptr && tensor->rows() == groups) return OptionalVectors(name, width / groups, groups);
    return Vector(name, width / groups);
  }
  Status Norm(const std::string& prefix, BufferId in, BufferId out, size_t groups = 1) {
    NormOp op = {.in = in, .out = out, .epsilon = config_.norm_epsilon, .kind = config_.norm, .groups = groups};
    if (config_.norm_weights) {
      BANTAM_ASSIGN(op.weight, NormVector(prefix + ".weight", Width(in), groups));
      if (Has(prefix + ".bias")) {
        BANTAM_ASSIGN(op.bias, NormVector(prefix + ".bias", Width(in), groups));
      }
    }
    program_.ops.push_back(op);
    return Ok();
  }
  void ChangeEach(BufferId buffer, Pointwise function, float value, float nothing) {
    if (value != nothing) program_.ops.push_back(PointwiseOp{buffer, function, value});
  }

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
    const WeightStorage storage = tied_ ? WeightStorage::kPanels : WeightStorage::kRows;
    BANTAM_ASSIGN(embedding_, Weight(name, storage, {config_.width, program_.vocabulary}));
    stream_ = Buffer("stream", config_.width);
    program_.ops.push_back(EmbedOp{embedding_, stream_, config_.embedding_scale});
    if (config_.position_table) {
      BANTAM_ASSIGN(const WeightId positions, Weight("position_embd.weight", WeightStorage::kRows, {config_.width, config_.context_max}));
      program_.ops.push_back(EmbedPositionsOp{positions, stream_});
      program_.context_limit = config_.context_max;
    }
    for (RopeId rope = 0; rope < config_.ropes.size(); ++rope) {
      angles_.push_back(Buffer(fmt::format("rope_angles_{}", rope), 2 * config_.ropes[rope].pairs()));
      program_.ops.push_back(RopeAnglesOp{rope, angles_.back()});
    }
    return config_.embedding_norm ? Norm("token_embd_norm", stream_, stream_) : Ok();
  }

  Status Layer(size_t index) {
    const LayerPlan& layer = config_.layers[index];
    const std::string prefix = fmt::format("blk.{}.", index);
    Inputs inputs = {stream_, stream_, kNone};
    CHECK(config_.norms_before || !config_.parallel);
    BANTAM_TRY(MakeInputs(prefix, &inputs));
    if (config_.early_router && layer.feed_forward == FeedForward::kExperts) {
      BANTAM_TRY(Router(prefix, stream_, &inputs.router));
    }
    BANTAM_TRY(Attention(prefix, static_cast<uint32_t>(index), layer, inputs.attention));
    if (!config_.parallel && config_.norms_before) {
      inputs.feed_forward = Buffer("normed", config_.width);
      BANTAM_TRY(Norm(prefix + config_.feed_forward_norm, stream_, inputs.feed_forward));
    }
    switch (layer.feed_forward) {
      case FeedForward::kGated:
        return Dense(prefix, layer, inputs.feed_forward);
      case FeedForward::kPlain:
        return Plain(prefix, layer, inputs.feed_forward);
      case FeedForward::kExperts:
        return Experts(prefix, layer, inputs);
    }
    return Ok();
  }

  struct Inputs {
    BufferId attention;
    BufferId feed_forward;
    BufferId router;  // logits, where they are made before attention
  };
  // What attention reads, and in parallel layers what the feed-forward reads: the same norm, or one of its own.
  Status MakeInputs(const std::string& prefix, Inputs* inputs) {
    if (!config_.norms_before) return Ok();
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

  // Adds what a part of the layer gives to the stream.
  Status AddBranch(const std::string& norm, BufferId branch) {
    if (config_.norms_behind) {
      BANTAM_TRY(Norm(norm, branch, branch));
    }
    program_.ops.push_back(AddOp{branch, stream_, config_.residual_scale});
    return Ok();
  }

  // Query, key and value from one tensor or from three. Old files have the biases of three beside the weights of one.
  Status Projections(const std::string& prefix, BufferId in, const std::array<BufferId, 3>& out) {
    static constexpr const char* kNames[] = {"attn_q", "attn_k", "attn_v"};
    const size_t all = Width(out[0]) + Width(out[1]) + Width(out[2]);
    const bool one = Has(prefix + "attn_qkv.weight");
    const bool apart = !Has(prefix + "attn_qkv.bias");
    for (size_t i = 0, begin = 0; i < 3; begin += Width(out[i++])) {
      const std::string own = prefix + kNames[i];
      BANTAM_TRY(one ? MatMulRows({prefix + "attn_qkv", in, out[i]}, {begin, begin + Width(out[i])}, all) : MatMul({own, in, out[i]}));
      if (!one || !apart) continue;
      BANTAM_ASSIGN(std::get<MatMulOp>(program_.ops.back()).parts[0].bias, OptionalVector(own + ".bias", Width(out[i])));
    }
    for (const BufferId buffer : out) ChangeEach(buffer, Pointwise::kClamp, config_.qkv_clamp, 0);
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

  Status Attention(const std::string& prefix, uint32_t index, const LayerPlan& layer, BufferId in) {
    const BufferId query = Buffer("query", layer.heads * layer.head_dim);
    const BufferId key = Buffer("key", layer.kv_heads * layer.head_dim);
    const BufferId value = Buffer("value", layer.kv_heads * layer.head_dim);
    const BufferId mixed = Buffer("mixed", layer.heads * layer.head_dim);
    const BufferId branch = Buffer("branch", config_.width);
    program_.kv_layers.push_back({layer.kv_heads, layer.head_dim, layer.window});
    BANTAM_TRY(Projections(prefix, in, {query, key, value}));
    if (!config_.norms_behind_rope) {
      BANTAM_TRY(NormHeads(prefix, layer, query, key));
    }
    if (layer.rope != kNone) {
      program_.ops.push_back(RopeOp{layer.rope, angles_[layer.rope], query, layer.heads, layer.head_dim});
      program_.ops.push_back(RopeOp{layer.rope, angles_[layer.rope], key, layer.kv_heads, layer.head_dim});
    }
    if (config_.norms_behind_rope) {
      BANTAM_TRY(NormHeads(prefix, layer, query, key));
    }
    program_.ops.push_back(KvAppendOp{key, value, index});
    AttendOp attend = {query, mixed, index, layer.heads, config_.attention_scale, config_.attention_softcap, Slopes(layer.heads), kNone};
    if (config_.sinks) {
      BANTAM_ASSIGN(attend.sinks, Vector(prefix + "attn_sinks.weight", layer.heads));
    }
    program_.ops.push_back(std::move(attend));
    BANTAM_TRY(MatMul({prefix + "attn_output", mixed, branch, Scaling::kProduct, config_.attention_output_bias}));
    return AddBranch(prefix + "post_attention_norm", branch);
  }

  // activation(gate x) * (up x), and down again, into the branch.
  struct GatedUnit {
    std::string suffix;  // of the tensors' names
    size_t width;
  };
  Status Gated(const std::string& prefix, const GatedUnit& unit, BufferId in, BufferId branch) {
    const auto& [suffix, width] = unit;
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
    program_.ops.push_back(ActivateOp{gate, up, hidden, config_.activation});
    return MatMul({prefix + "ffn_down" + suffix, hidden, branch, OfFeedForward()});
  }

  Status Dense(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(Gated(prefix, {"", layer.feed_forward_width}, in, branch));
    return AddBranch(prefix + "post_ffw_norm", branch);
  }

  Status Plain(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    const BufferId up = Buffer("up", layer.feed_forward_width);
    const BufferId hidden = Buffer("hidden", layer.feed_forward_width);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(MatMul({prefix + "ffn_up", in, up, OfFeedForward()}));
    BANTAM_ASSIGN(const WeightId divisors, OptionalVector(prefix + "ffn.act.scales", layer.feed_forward_width));
    program_.ops.push_back(ActivateOp{.in = up, .out = hidden, .activation = config_.activation, .divisors = divisors});
    BANTAM_TRY(MatMul({prefix + "ffn_down", hidden, branch, OfFeedForward()}));
    return AddBranch(prefix + "post_ffw_norm", branch);
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
    RouteOp route = {inputs.router, ids, weights, config_.gating, kNone, config_.normalize_experts, config_.expert_scale};
    if (inputs.router == kNone) {
      BANTAM_TRY(Router(prefix, in, &route.logits));
    }
    BANTAM_ASSIGN(route.selection_bias, OptionalVector(prefix + "exp_probs_b.bias", config_.experts));
    program_.ops.push_back(route);
    BANTAM_TRY(ExpertMatMul(prefix + "ffn_gate_exps", in, ids, gate));
    BANTAM_TRY(ExpertMatMul(prefix + "ffn_up_exps", in, ids, up));
    program_.ops.push_back(ActivateOp{gate, up, hidden, config_.activation});
    BANTAM_TRY(ExpertMatMul(prefix + "ffn_down_exps", hidden, ids, down));
    program_.ops.push_back(CombineOp{down, weights, branch});
    if (config_.shared_width > 0) {
      BANTAM_TRY(SharedExperts(prefix, in, branch));
    }
    return AddBranch(prefix + "post_ffw_norm", branch);
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
    program_.ops.push_back(GatherOutputsOp{stream_, last});
    BANTAM_TRY(Norm("output_norm", last, normed));
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

  const Config& config_;
  const TensorDirectory& tensors_;
  Program program_;
  BufferId stream_ = kNone;
  std::vector<BufferId> angles_;  // of each rotary embedding
  WeightId embedding_ = kNone;
  bool tied_ = false;
};

}  // namespace

Result<Program> Lower(const Config& config, const TensorDirectory& tensors) { return Builder(config, tensors).Build(); }

}  // namespace bantam
