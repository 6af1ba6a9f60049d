#include "model/lowering.h"

#include <fmt/format.h>

#include <string>
#include <utility>

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
    program_.ropes.push_back(config_.rope);
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

  Result<WeightId> Weight(const std::string& name, WeightStorage storage, Shape shape) {
    const TensorInfo* tensor = tensors_.Find(name);
    if (tensor == nullptr) {
      return Error(Code::kCorrupt, fmt::format("tensor {} is missing; the file is incomplete or of another architecture", name));
    }
    if (tensor->columns() != shape.columns || tensor->rows() != shape.rows || tensor->matrices() != shape.matrices) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: shape [{}, {}, {}], expected [{}, {}, {}]", name, tensor->columns(),
                                               tensor->rows(), tensor->matrices(), shape.columns, shape.rows, shape.matrices));
    }
    program_.weights.push_back({name, tensor->dtype, storage, shape.columns, shape.rows, shape.matrices});
    return static_cast<WeightId>(program_.weights.size() - 1);
  }
  Result<WeightId> Matrix(const std::string& name, Shape shape) { return Weight(name, WeightStorage::kPanels, shape); }
  Result<WeightId> Vector(const std::string& name, size_t width) { return Weight(name, WeightStorage::kVector, {width}); }
  Result<WeightId> OptionalVector(const std::string& name, size_t width) {
    if (tensors_.Find(name) == nullptr) return kNone;
    return Vector(name, width);
  }

  // out = PREFIX.weight * in, with PREFIX.scale and PREFIX.bias where the file has them. Files scale the sum with the bias
  // in the feed-forward and the bare product elsewhere.
  enum class Scaling { kProduct, kSum };
  Status MatMul(const std::string& prefix, BufferId in, BufferId out, Scaling scaling = Scaling::kProduct) {
    const Shape shape = {program_.buffers[in].width, program_.buffers[out].width};
    BANTAM_ASSIGN(const WeightId weight, Matrix(prefix + ".weight", shape));
    BANTAM_ASSIGN(const WeightId scale, OptionalVector(prefix + ".scale", /*width=*/1));
    BANTAM_ASSIGN(const WeightId bias, OptionalVector(prefix + ".bias", shape.rows));
    program_.ops.push_back(MatMulOp{in, {{weight, scale, bias, scaling == Scaling::kSum, out}}});
    return Ok();
  }

  Status ExpertMatMul(const std::string& prefix, BufferId in, BufferId ids, BufferId out) {
    const Shape shape = {program_.buffers[in].width, program_.buffers[out].width, config_.experts};
    BANTAM_ASSIGN(const WeightId weight, Matrix(prefix + ".weight", shape));
    BANTAM_ASSIGN(const WeightId scale, OptionalVector(prefix + ".scale", config_.experts));
    program_.ops.push_back(ExpertMatMulOp{in, ids, out, weight, scale});
    return Ok();
  }

  Status Norm(const std::string& name, BufferId in, BufferId out) {
    BANTAM_ASSIGN(const WeightId weight, Vector(name, config_.width));
    program_.ops.push_back(RmsNormOp{in, out, weight, config_.norm_epsilon});
    return Ok();
  }

  Status Embed() {
    const TensorInfo* table = tensors_.Find("token_embd.weight");
    if (table == nullptr) {
      return Error(Code::kCorrupt, "tensor token_embd.weight is missing; the file holds no model (a vocabulary only?)");
    }
    if (table->rows() > kVocabularyMax) {
      return Error(Code::kCorrupt, fmt::format("tensor token_embd.weight: {} tokens, expected at most {}", table->rows(), kVocabularyMax));
    }
    program_.vocabulary = table->rows();
    tied_ = tensors_.Find("output.weight") == nullptr;
    const WeightStorage storage = tied_ ? WeightStorage::kPanels : WeightStorage::kRows;
    BANTAM_ASSIGN(embedding_, Weight("token_embd.weight", storage, {config_.width, program_.vocabulary}));
    stream_ = Buffer("stream", config_.width);
    angles_ = Buffer("rope_angles", 2 * config_.rope.pairs());
    program_.ops.push_back(EmbedOp{embedding_, stream_});
    program_.ops.push_back(RopeAnglesOp{/*rope=*/0, angles_});
    return Ok();
  }

  Status Layer(size_t index) {
    const LayerPlan& layer = config_.layers[index];
    const std::string prefix = fmt::format("blk.{}.", index);
    BANTAM_TRY(Attention(prefix, static_cast<uint32_t>(index), layer));
    switch (layer.feed_forward) {
      case FeedForward::kGated:
        return Gated(prefix, layer);
      case FeedForward::kExperts:
        return Experts(prefix, layer);
    }
    return Ok();
  }

  Status Attention(const std::string& prefix, uint32_t index, const LayerPlan& layer) {
    const BufferId normed = Buffer("normed", config_.width);
    const BufferId query = Buffer("query", layer.heads * layer.head_dim);
    const BufferId key = Buffer("key", layer.kv_heads * layer.head_dim);
    const BufferId value = Buffer("value", layer.kv_heads * layer.head_dim);
    const BufferId mixed = Buffer("mixed", layer.heads * layer.head_dim);
    const BufferId branch = Buffer("branch", config_.width);
    program_.kv_layers.push_back({layer.kv_heads, layer.head_dim, layer.window});
    BANTAM_TRY(Norm(prefix + "attn_norm.weight", stream_, normed));
    BANTAM_TRY(MatMul(prefix + "attn_q", normed, query));
    BANTAM_TRY(MatMul(prefix + "attn_k", normed, key));
    BANTAM_TRY(MatMul(prefix + "attn_v", normed, value));
    program_.ops.push_back(RopeOp{/*rope=*/0, angles_, query, layer.heads, layer.head_dim});
    program_.ops.push_back(RopeOp{/*rope=*/0, angles_, key, layer.kv_heads, layer.head_dim});
    program_.ops.push_back(KvAppendOp{key, value, index});
    program_.ops.push_back(AttendOp{query, mixed, index, layer.heads, config_.attention_scale});
    BANTAM_TRY(MatMul(prefix + "attn_output", mixed, branch));
    program_.ops.push_back(AddOp{branch, stream_});
    return Ok();
  }

  Status Gated(const std::string& prefix, const LayerPlan& layer) {
    const BufferId normed = Buffer("normed", config_.width);
    const BufferId gate = Buffer("gate", layer.feed_forward_width);
    const BufferId up = Buffer("up", layer.feed_forward_width);
    const BufferId hidden = Buffer("hidden", layer.feed_forward_width);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(Norm(prefix + "ffn_norm.weight", stream_, normed));
    BANTAM_TRY(MatMul(prefix + "ffn_gate", normed, gate, Scaling::kSum));
    BANTAM_TRY(MatMul(prefix + "ffn_up", normed, up, Scaling::kSum));
    program_.ops.push_back(SwiGluOp{gate, up, hidden});
    BANTAM_TRY(MatMul(prefix + "ffn_down", hidden, branch, Scaling::kSum));
    program_.ops.push_back(AddOp{branch, stream_});
    return Ok();
  }

  Status Experts(const std::string& prefix, const LayerPlan& layer) {
    if (tensors_.Find(prefix + "ffn_gate.0.weight") != nullptr) {
      return Error(Code::kUnsupported, fmt::format("tensor {}ffn_gate.0.weight: one tensor per expert is an old layout; convert the model "
                                                   "again with a current converter",
                                                   prefix));
    }
    const size_t experts = config_.experts;
    const size_t inner = layer.feed_forward_width;
    const BufferId normed = Buffer("normed", config_.width);
    const BufferId router = Buffer("router", experts);
    const BufferId ids = Buffer("expert_ids", config_.experts_used, Rows::kTokens, BufferForm::kIntegers);
    const BufferId weights = Buffer("expert_weights", config_.experts_used);
    const BufferId gate = Buffer("expert_gate", inner, Rows::kTokenSlots);
    const BufferId up = Buffer("expert_up", inner, Rows::kTokenSlots);
    const BufferId hidden = Buffer("expert_hidden", inner, Rows::kTokenSlots);
    const BufferId down = Buffer("expert_down", config_.width, Rows::kTokenSlots);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(Norm(prefix + "ffn_norm.weight", stream_, normed));
    BANTAM_TRY(MatMul(prefix + "ffn_gate_inp", normed, router));
    program_.ops.push_back(RouteOp{router, ids, weights});
    BANTAM_TRY(ExpertMatMul(prefix + "ffn_gate_exps", normed, ids, gate));
    BANTAM_TRY(ExpertMatMul(prefix + "ffn_up_exps", normed, ids, up));
    program_.ops.push_back(SwiGluOp{gate, up, hidden});
    BANTAM_TRY(ExpertMatMul(prefix + "ffn_down_exps", hidden, ids, down));
    program_.ops.push_back(CombineOp{down, weights, branch});
    program_.ops.push_back(AddOp{branch, stream_});
    return Ok();
  }

  Status Head() {
    const BufferId last = Buffer("output_stream", config_.width, Rows::kOutputs);
    const BufferId normed = Buffer("output_normed", config_.width, Rows::kOutputs);
    program_.logits = Buffer("logits", program_.vocabulary, Rows::kOutputs);
    program_.ops.push_back(GatherOutputsOp{stream_, last});
    BANTAM_TRY(Norm("output_norm.weight", last, normed));
    if (!tied_) return MatMul("output", normed, program_.logits);
    program_.ops.push_back(MatMulOp{normed, {{.weight = embedding_, .out = program_.logits}}});
    return Ok();
  }

  const Config& config_;
  const TensorDirectory& tensors_;
  Program program_;
  BufferId stream_ = kNone;
  BufferId angles_ = kNone;
  WeightId embedding_ = kNone;
  bool tied_ = false;
};

}  // namespace

Result<Program> Lower(const Config& config, const TensorDirectory& tensors) { return Builder(config, tensors).Build(); }

}  // namespace bantam
