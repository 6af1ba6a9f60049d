#include "model/lowering.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <set>
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
    program_.whole_texts = config_.later_tokens;
    program_.pooling = config_.later_tokens ? config_.pooling : Pooling::kEveryToken;
    BANTAM_TRY(Embed());
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      BANTAM_TRY(Layer(i));
    }
    BANTAM_TRY(config_.later_tokens ? TextHead() : Head());
    BANTAM_TRY(CheckOwn());
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
  // PREFIX.factor, which this program makes of a quantiser's scales (docs/formats/safetensors.md), or else PREFIX.scale.
  Result<WeightId> ScaleOf(const std::string& prefix, size_t count, bool scaled) {
    const std::string factor = prefix + ".factor";
    if (!Has(factor)) return scaled ? OptionalVector(prefix + ".scale", count) : kNone;
    own_used_.insert(factor);
    return Vector(factor, count);
  }
  // `in` with its columns as the weights have theirs: those of products of the same input, where they agree, under one name.
  struct Ordered {
    BufferId in;
    BufferId ids = kNone;
    size_t experts = 1;
  };
  Result<BufferId> Order(const std::string& prefix, const Ordered& of) {
    std::string name = prefix + ".order";
    for (const auto& [one, all] : {std::pair("attn_q", "attn_qkv"),
                                   {"attn_k", "attn_qkv"},
                                   {"attn_v", "attn_qkv"},
                                   {"ffn_gate", "ffn_gate_up"},
                                   {"ffn_up", "ffn_gate_up"}}) {
      const size_t at = prefix.rfind('.') + 1;
      const size_t end = std::min(prefix.find('_', prefix.find('_', at) + 1), prefix.size());
      if (Has(name) || prefix.substr(at, end - at) != one) continue;
      name = prefix.substr(0, at) + all + prefix.substr(end) + ".order";
    }
    if (!Has(name)) return of.in;
    const std::string buffer_name = program_.buffers[of.in].name + (of.ids == kNone ? ".ordered" : ".ordered_by_expert");
    const Rows rows = of.ids == kNone ? program_.buffers[of.in].rows : Rows::kTokenSlots;
    const BufferId out = Buffer(buffer_name, Width(of.in), rows);
    if (IsOrdered(name, of.in, out)) return out;
    BANTAM_TRY(Tensor(name, {Width(of.in), of.experts}));
    own_used_.insert(name);
    program_.weights.push_back({name, tensors_.Find(name)->dtype, WeightStorage::kOrder, Width(of.in), of.experts});
    program_.ops.push_back(PermuteOp{of.in, out, static_cast<WeightId>(program_.weights.size() - 1), of.ids});
    return out;
  }
  // Whether `out` still holds `in` in that order.
  bool IsOrdered(const std::string& name, BufferId in, BufferId out) const {
    for (size_t i = program_.ops.size(); i-- > 0;) {
      const auto* permute = std::get_if<PermuteOp>(&program_.ops[i]);
      if (permute != nullptr && permute->out == out) return permute->in == in && program_.weights[permute->order].name == name;
      for (const BufferId written : BuffersOf(program_.ops[i]).writes) {
        if (written == in) return false;
      }
    }
    return false;
  }
  // Tensors of our own stand for products; one that is left over would change what the model computes.
  Status CheckOwn() const {
    size_t own = 0;
    std::string_view last;
    for (const TensorInfo& tensor : tensors_.tensors()) {
      if (!tensor.name.ends_with(".factor") && !tensor.name.ends_with(".order")) continue;
      ++own;
      last = tensor.name;
    }
    if (own == own_used_.size()) return Ok();
    return Error(Code::kUnsupported,
                 fmt::format("{} tensors like {}, {} of which belong to no product of this model", own, last, own - own_used_.size()));
  }
  Result<WeightId> OptionalVector(const std::string& name, size_t width) {
    if (!Has(name)) return kNone;
    return Vector(name, width);
  }
  // [width] for each of `count`, as one vector.
  Result<WeightId> OptionalVectors(const std::string& name, size_t width, size_t count) {
    if (!Has(name)) return kNone;
    return Vectors(name, width, count);
  }
  Result<WeightId> Vectors(const std::string& name, size_t width, size_t count) {
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
    BANTAM_ASSIGN(const BufferId in, Order(prefix, {product.in}));
    BANTAM_ASSIGN(const WeightId weight, Part(prefix + ".weight", WeightStorage::kPanels, {Width(product.in), all_rows}, rows));
    // The values of this format are no weights without its second scale.
    const bool scaled = product.scaling != Scaling::kNothing || program_.weights[weight].dtype == DType::kNVFP4;
    BANTAM_ASSIGN(const WeightId scale, ScaleOf(prefix, /*count=*/1, scaled));
    WeightId bias = kNone;
    if (product.biased && Has(prefix + ".bias")) {
      BANTAM_ASSIGN(bias, Part(prefix + ".bias", WeightStorage::kVector, {all_rows}, rows));
    }
    const bool scales_sum = product.scaling == Scaling::kSum && !Has(prefix + ".factor");
    program_.ops.push_back(MatMulOp{in, {{weight, scale, bias, scales_sum, product.out}}});
    return Ok();
  }

  // The gate's rows of every expert, then its rows of up.
  Status ExpertGateAndUp(const std::string& prefix, BufferId in, BufferId ids, const std::array<BufferId, 2>& out) {
    const size_t rows = Width(out[0]);
    const std::string name = prefix + "ffn_gate_up_exps";
    if (Has(name + ".bias")) return Error(Code::kUnsupported, fmt::format("tensor {}.bias: of gate and up in one", name));
    for (size_t i = 0; i < out.size(); ++i) {
      const Range part = {i * rows, (i + 1) * rows};
      BANTAM_ASSIGN(const WeightId weight, Part(name + ".weight", WeightStorage::kPanels, {Width(in), 2 * rows, config_.experts}, part));
      program_.weights[weight].stride = 2 * rows;
      // The scales of both stand under the name of up.
      const bool scaled = config_.feed_forward_scales || program_.weights[weight].dtype == DType::kNVFP4;
      BANTAM_ASSIGN(const WeightId scale, scaled ? OptionalVector(prefix + "ffn_up_exps.scale", config_.experts) : kNone);
      program_.ops.push_back(ExpertMatMulOp{in, ids, out[i], weight, scale});
    }
    return Ok();
  }

  Status ExpertMatMul(const std::string& prefix, BufferId stored, BufferId ids, BufferId out) {
    const Shape shape = {Width(stored), Width(out), config_.experts};
    BANTAM_ASSIGN(const BufferId in, Order(prefix, {stored, ids, config_.experts}));
    BANTAM_ASSIGN(const WeightId weight, Matrix(prefix + ".weight", shape));
    const bool scaled = config_.feed_forward_scales || program_.weights[weight].dtype == DType::kNVFP4;
    BANTAM_ASSIGN(const WeightId scale, ScaleOf(prefix, config_.experts, scaled));
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
      // Falcon H1 leaves the ending of one name away.
      const bool ends = Has(prefix + ".weight") || !Has(prefix);
      BANTAM_ASSIGN(op.weight, NormVector(ends ? prefix + ".weight" : prefix, Width(in), groups));
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
    const WeightStorage storage = tied_ && !config_.later_tokens ? WeightStorage::kPanels : WeightStorage::kRows;
    BANTAM_ASSIGN(embedding_, Weight(name, storage, {config_.width, program_.vocabulary}));
    stream_ = Buffer("stream", config_.width);
    program_.ops.push_back(EmbedOp{embedding_, stream_, config_.embedding_scale});
    BANTAM_TRY(AddTables());
    for (RopeId rope = 0; rope < config_.ropes.size(); ++rope) {
      angles_.push_back(Buffer(fmt::format("rope_angles_{}", rope), 2 * config_.ropes[rope].pairs()));
      program_.ops.push_back(RopeAnglesOp{rope, angles_.back()});
    }
    return config_.embedding_norm ? Norm("token_embd_norm", stream_, stream_) : Ok();
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

  Status Layer(size_t index) {
    const LayerPlan& layer = config_.layers[index];
    const std::string prefix = fmt::format("blk.{}.", index);
    Inputs inputs = {stream_, stream_, kNone};
    CHECK(config_.norms_before || !config_.parallel);
    BANTAM_TRY(MakeInputs(prefix, layer, &inputs));
    if (config_.early_router && layer.feed_forward == FeedForward::kExperts) {
      BANTAM_TRY(Router(prefix, stream_, &inputs.router));
    }
    BANTAM_TRY(Mix(prefix, layer, inputs.attention));
    if (!config_.parallel && config_.norms_before && layer.feed_forward != FeedForward::kAbsent) {
      inputs.feed_forward = Buffer("normed", config_.width);
      BANTAM_TRY(Norm(prefix + config_.feed_forward_norm, stream_, inputs.feed_forward));
    }
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

  struct Inputs {
    BufferId attention;
    BufferId feed_forward;
    BufferId router;  // logits, where they are made before attention
  };
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

  // Adds what a part of the layer gives to the stream.
  Status AddBranch(const std::string& norm, BufferId branch) {
    if (config_.norms_behind) {
      BANTAM_TRY(Norm(norm, branch, branch));
    }
    program_.ops.push_back(AddOp{branch, stream_, config_.residual_scale});
    return config_.norms_of_sum ? Norm(norm, stream_, stream_) : Ok();
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

  // ---- Recurrent layers ----

  // Takes a part of the sequence's state.
  size_t TakeState(size_t floats) {
    const size_t at = program_.state_floats;
    program_.state_floats += floats;
    return at;
  }

  Status Convolution(const std::string& prefix, size_t taps, BufferId in, BufferId out, bool silu) {
    const size_t columns = Width(in);
    ConvolveOp op = {.in = in, .out = out, .weight = kNone, .taps = taps, .silu = silu};
    BANTAM_ASSIGN(op.weight, Vectors(prefix + ".weight", taps, columns));
    BANTAM_ASSIGN(op.bias, OptionalVector(prefix + ".bias", columns));
    op.state = TakeState((taps - 1) * columns);
    program_.ops.push_back(op);
    return Ok();
  }

  // Products of `in` with rows of one tensor that follow each other, into buffers.
  Status Split(const std::string& prefix, BufferId in, std::initializer_list<BufferId> outs, Scaling scaling) {
    size_t all = 0;
    for (const BufferId out : outs) all += Width(out);
    size_t begin = 0;
    for (const BufferId out : outs) {
      BANTAM_TRY(MatMulRows({prefix, in, out, scaling}, {begin, begin + Width(out)}, all));
      begin += Width(out);
    }
    return Ok();
  }

  Status StateSpaceLayer(const std::string& prefix, BufferId in) {
    const StateSpace& space = config_.state_space;
    const BufferId gate = Buffer("ssm_gate", space.width);
    const BufferId scanned = Buffer("ssm_scanned", space.width);
    const BufferId gated = Buffer("ssm_gated", space.width);
    const BufferId branch = Buffer("branch", config_.width);
    ScanOp scan = {.out = scanned,
                   .heads = space.heads,
                   .head_dim = space.width / space.heads,
                   .groups = space.groups,
                   .state_size = space.state_size};
    BANTAM_TRY(space.step_rank == 0 ? PrepareScan(prefix, in, gate, &scan) : PrepareScanOfColumns(prefix, in, gate, &scan));
    BANTAM_ASSIGN(scan.dt_bias, Vector(prefix + "ssm_dt.bias", space.heads));
    BANTAM_ASSIGN(scan.decay, Vectors(prefix + "ssm_a", space.step_rank == 0 ? 1 : space.state_size, space.heads));
    BANTAM_ASSIGN(scan.skip, Skip(prefix + "ssm_d"));
    scan.state = TakeState(space.width * space.state_size);
    program_.ops.push_back(scan);
    program_.ops.push_back(ActivateOp{gate, scanned, gated, Activation::kSilu});
    if (Has(prefix + "ssm_norm.weight")) {
      BANTAM_TRY(Norm(prefix + "ssm_norm", gated, gated, space.groups));
    }
    BANTAM_TRY(MatMul({prefix + "ssm_out", gated, branch}));
    return AddBranch(prefix + "post_attention_norm", branch);
  }

  // The second kind: one product makes the gate, what goes through the convolution, and the steps.
  Status PrepareScan(const std::string& prefix, BufferId in, BufferId gate, ScanOp* scan) {
    const StateSpace& space = config_.state_space;
    const size_t shared = space.groups * space.state_size;
    const BufferId mixed = Buffer("ssm_mixed", space.width + 2 * shared);
    const BufferId convolved = Buffer("ssm_convolved", space.width + 2 * shared);
    scan->dt = Buffer("ssm_steps", space.heads);
    BANTAM_TRY(Split(prefix + "ssm_in", in, {gate, mixed, scan->dt}, Scaling::kProduct));
    BANTAM_TRY(Convolution(prefix + "ssm_conv1d", space.taps, mixed, convolved, /*silu=*/true));
    scan->x = {convolved, 0};
    scan->b = {convolved, space.width};
    scan->c = {convolved, space.width + shared};
    return Ok();
  }

  // The first kind: steps and what the state takes are made of what the convolution gave.
  Status PrepareScanOfColumns(const std::string& prefix, BufferId in, BufferId gate, ScanOp* scan) {
    const StateSpace& space = config_.state_space;
    const BufferId mixed = Buffer("ssm_mixed", space.width);
    const BufferId convolved = Buffer("ssm_convolved", space.width);
    const BufferId low = Buffer("ssm_step_ranks", space.step_rank);
    const BufferId b = Buffer("ssm_b", space.state_size);
    const BufferId c = Buffer("ssm_c", space.state_size);
    scan->dt = Buffer("ssm_steps", space.heads);
    BANTAM_TRY(Split(prefix + "ssm_in", in, {mixed, gate}, Scaling::kProduct));
    BANTAM_TRY(Convolution(prefix + "ssm_conv1d", space.taps, mixed, convolved, /*silu=*/true));
    BANTAM_TRY(Split(prefix + "ssm_x", convolved, {low, b, c}, Scaling::kNothing));
    for (const BufferId buffer : {low, b, c}) {
      if (space.norms) program_.ops.push_back(NormOp{.in = buffer, .out = buffer, .epsilon = config_.norm_epsilon});
    }
    BANTAM_TRY(MatMul({prefix + "ssm_dt", low, scan->dt, Scaling::kNothing, /*biased=*/false}));
    scan->x = {convolved, 0};
    scan->b = {b, 0};
    scan->c = {c, 0};
    return Ok();
  }

  // A number per head, which files of the second kind have as [1, heads].
  Result<WeightId> Skip(const std::string& name) {
    return config_.state_space.step_rank == 0 ? Vectors(name, 1, config_.state_space.heads) : Vector(name, config_.state_space.heads);
  }

  // Linear attention by a gated delta rule (Qwen 3.5).
  Status DeltaRule(const std::string& prefix, BufferId in) {
    const StateSpace& space = config_.state_space;
    const size_t head_dim = space.state_size;
    const size_t keys = space.groups * head_dim;
    const BufferId mixed = Buffer("delta_mixed", 2 * keys + space.width);
    const BufferId convolved = Buffer("delta_convolved", 2 * keys + space.width);
    const BufferId gate = Buffer("delta_gate", space.width);
    const BufferId branch = Buffer("branch", config_.width);
    DeltaOp delta = {.q = {convolved, 0},
                     .k = {convolved, keys},
                     .v = {convolved, 2 * keys},
                     .alpha = Buffer("delta_alpha", space.heads),
                     .beta = Buffer("delta_beta", space.heads),
                     .out = Buffer("delta_out", space.width),
                     .heads = space.heads,
                     .key_heads = space.groups,
                     .head_dim = head_dim,
                     .epsilon = config_.norm_epsilon};
    BANTAM_TRY(MatMul({prefix + "attn_qkv", in, mixed}));
    BANTAM_TRY(MatMul({prefix + "attn_gate", in, gate}));
    BANTAM_TRY(MatMul({prefix + "ssm_alpha", in, delta.alpha}));
    BANTAM_TRY(MatMul({prefix + "ssm_beta", in, delta.beta}));
    BANTAM_TRY(Convolution(prefix + "ssm_conv1d", space.taps, mixed, convolved, /*silu=*/true));
    BANTAM_ASSIGN(delta.dt_bias, Vector(prefix + "ssm_dt.bias", space.heads));
    BANTAM_ASSIGN(delta.decay, Vector(prefix + "ssm_a", space.heads));
    delta.state = TakeState(space.width * head_dim);
    program_.ops.push_back(delta);
    BANTAM_TRY(Norm(prefix + "ssm_norm", delta.out, delta.out, space.heads));
    program_.ops.push_back(ActivateOp{gate, delta.out, delta.out, Activation::kSilu});
    BANTAM_TRY(MatMul({prefix + "ssm_out", delta.out, branch}));
    return AddBranch(prefix + "post_attention_norm", branch);
  }

  // Two gates around a short convolution (LFM2).
  Status ShortConvolution(const std::string& prefix, BufferId in) {
    const BufferId before = Buffer("conv_before", config_.width);
    const BufferId behind = Buffer("conv_behind", config_.width);
    const BufferId value = Buffer("conv_value", config_.width);
    const BufferId convolved = Buffer("convolved", config_.width);
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(Split(prefix + "shortconv.in_proj", in, {before, behind, value}, Scaling::kNothing));
    program_.ops.push_back(MultiplyOp{before, value, value});
    BANTAM_TRY(Convolution(prefix + "shortconv.conv", config_.short_taps, value, convolved, /*silu=*/false));
    program_.ops.push_back(MultiplyOp{behind, convolved, convolved});
    BANTAM_TRY(MatMul({prefix + "shortconv.out_proj", convolved, branch, Scaling::kNothing}));
    return AddBranch(prefix + "post_attention_norm", branch);
  }

  // Whole texts' keys and values are over with the layer: layers of one shape share their place.
  uint32_t KvLayer(const KvHeads& heads) {
    std::vector<KvHeads>& layers = program_.kv_layers;
    const auto same = [&](const KvHeads& other) {
      return other.heads == heads.heads && other.head_dim == heads.head_dim && other.window == heads.window;
    };
    const auto at = config_.later_tokens ? std::find_if(layers.begin(), layers.end(), same) : layers.end();
    const auto index = static_cast<uint32_t>(at - layers.begin());
    if (at == layers.end()) layers.push_back(heads);
    return index;
  }

  Status Attention(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    const uint32_t index = KvLayer({layer.kv_heads, layer.head_dim, layer.window});
    const BufferId query = Buffer("query", layer.heads * layer.head_dim);
    const BufferId key = Buffer("key", layer.kv_heads * layer.head_dim);
    const BufferId value = Buffer("value", layer.kv_heads * layer.head_dim);
    const BufferId mixed = Buffer("mixed", layer.heads * layer.head_dim);
    const BufferId branch = Buffer("branch", config_.width);
    const BufferId gate = config_.output_gates ? Buffer("attention_gate", Width(query)) : kNone;
    if (config_.output_gates) {
      BANTAM_TRY(GatedProjections(prefix, layer, in, {query, key, value, gate}));
    } else {
      BANTAM_TRY(Projections(prefix, in, {query, key, value}));
    }
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
    AttendOp attend = {query,
                       mixed,
                       index,
                       layer.heads,
                       config_.attention_scale,
                       config_.attention_softcap,
                       Slopes(layer.heads),
                       kNone,
                       config_.later_tokens};
    if (config_.sinks) {
      BANTAM_ASSIGN(attend.sinks, Vector(prefix + "attn_sinks.weight", layer.heads));
    }
    program_.ops.push_back(std::move(attend));
    if (config_.output_gates) program_.ops.push_back(MultiplyOp{mixed, gate, mixed, /*sigmoid=*/true});
    if (config_.inner_norms) {
      BANTAM_TRY(Norm(prefix + "attn_sub_norm", mixed, mixed));
    }
    BANTAM_TRY(MatMul({prefix + "attn_output", mixed, branch, Scaling::kProduct, config_.attention_output_bias}));
    return AddBranch(prefix + config_.attention_norm_behind, branch);
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
    if (config_.inner_norms) {
      BANTAM_TRY(Norm(prefix + "ffn_sub_norm" + suffix, hidden, hidden));
    }
    return MatMul({prefix + "ffn_down" + suffix, hidden, branch, OfFeedForward()});
  }

  Status Dense(const std::string& prefix, const LayerPlan& layer, BufferId in) {
    const BufferId branch = Buffer("branch", config_.width);
    BANTAM_TRY(Gated(prefix, {"", layer.feed_forward_width}, in, branch));
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
    RouteOp route = {inputs.router, ids, weights, config_.gating, kNone, config_.normalize_experts, config_.expert_scale};
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
    program_.ops.push_back(GatherOutputsOp{stream_, last});
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

  // What an encoder says of a text: a vector, or a classifier's score.
  Status TextHead() {
    if (!config_.output_norm.empty()) {
      BANTAM_TRY(Norm(config_.output_norm, stream_, stream_));
    }
    const BufferId pooled = program_.logits = Buffer("pooled", config_.width, Rows::kOutputs);
    if (config_.pooling == Pooling::kMean) {
      program_.ops.push_back(PoolOp{stream_, pooled});
    } else {
      program_.ops.push_back(GatherOutputsOp{stream_, pooled});
    }
    return config_.classify ? Classifier(pooled) : Ok();
  }

  // A matrix with its activation and norm, where the file has them, and the scores.
  Status Classifier(BufferId in) {
    const TensorInfo* scores = tensors_.Find("cls.output.weight");
    if (scores == nullptr) {
      return Error(Code::kUnsupported, "the model has no classifier (cls.output.weight): it makes vectors, and ranks nothing");
    }
    if (scores->rows() != 1) {
      return Error(Code::kUnsupported, fmt::format("a classifier of {} classes; texts are ranked by one score", scores->rows()));
    }
    if (Has("cls.weight")) {
      const BufferId hidden = Buffer("classified", config_.width, Rows::kOutputs);
      BANTAM_TRY(MatMul({"cls", in, hidden, Scaling::kNothing}));
      if (config_.tanh_head) {
        program_.ops.push_back(PointwiseOp{hidden, Pointwise::kSoftCap, /*value=*/1});
      } else {
        program_.ops.push_back(ActivateOp{.in = hidden, .out = hidden, .activation = config_.activation});
      }
      if (Has("cls.norm.weight")) {
        BANTAM_TRY(Norm("cls.norm", hidden, hidden));
      }
      in = hidden;
    }
    program_.logits = Buffer("score", 1, Rows::kOutputs);
    return MatMul({"cls.output", in, program_.logits, Scaling::kNothing});
  }

  const Config& config_;
  const TensorDirectory& tensors_;
  Program program_;
  BufferId stream_ = kNone;
  std::vector<BufferId> angles_;  // of each rotary embedding
  WeightId embedding_ = kNone;
  std::set<std::string> own_used_;  // tensors of our own (.factor, .order)
  bool tied_ = false;
};

}  // namespace

Result<Program> Lower(const Config& config, const TensorDirectory& tensors) { return Builder(config, tensors).Build(); }

}  // namespace bantam
