// What lowering makes programs of: buffers, weights that are checked against the file, products and norms.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"
#include "model/config.h"
#include "model/low_rank_names.h"
#include "program/program.h"

namespace bantam {

class ProgramBuilder {
 public:
  ProgramBuilder(const Config& config, const TensorDirectory& tensors) : config_(config), tensors_(tensors) {}

 protected:
  struct Shape {
    size_t columns;
    size_t rows = 1;
    size_t matrices = 1;
    std::string rows_are = {};  // "8 kv heads x 64", for whoever has to find out why a file has others
  };
  // Matrices, rows and columns, without those in front that are 1.
  static std::string ShapeText(size_t columns, size_t rows, size_t matrices) {
    if (matrices > 1) return fmt::format("[{}, {}, {}]", matrices, rows, columns);
    return rows > 1 ? fmt::format("[{}, {}]", rows, columns) : fmt::format("[{}]", columns);
  }

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
  // A product's matrix, whole or as two factors.
  bool HasMatrix(const std::string& prefix) const { return Has(prefix + ".weight") || Has(fmt::format("{}{}.weight", prefix, kLowRankB)); }

  Result<const TensorInfo*> Tensor(const std::string& name, const Shape& shape) {
    const TensorInfo* tensor = tensors_.Find(name);
    if (tensor == nullptr) {
      return Error(Code::kCorrupt, fmt::format("tensor {} is missing; the file is incomplete or of another architecture", name));
    }
    if (tensor->columns() != shape.columns || tensor->rows() != shape.rows || tensor->matrices() != shape.matrices) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: expected {}{}, found {}; the file contradicts itself, fetch or convert it again",
                                               name, ShapeText(shape.columns, shape.rows, shape.matrices),
                                               shape.rows_are.empty() ? "" : fmt::format(" ({})", shape.rows_are),
                                               ShapeText(tensor->columns(), tensor->rows(), tensor->matrices())));
    }
    return tensor;
  }
  Result<WeightId> Weight(const std::string& name, WeightStorage storage, const Shape& shape) {
    return Part(name, storage, shape, {.begin = 0, .end = storage == WeightStorage::kVector ? shape.columns : shape.rows});
  }
  // Rows of a matrix, or elements of a vector.
  struct Range {
    size_t begin;
    size_t end;
  };
  Result<WeightId> Part(const std::string& name, WeightStorage storage, const Shape& shape, Range part, size_t stride = 0) {
    BANTAM_ASSIGN(const TensorInfo* tensor, Tensor(name, shape));
    WeightSpec spec = {name, tensor->dtype, storage, shape.columns, shape.rows, shape.matrices, part.begin};
    (storage == WeightStorage::kVector ? spec.columns : spec.rows) = part.end - part.begin;
    if (storage == WeightStorage::kVector && part.begin % Info(tensor->dtype).block_elements != 0) {
      return Error(Code::kUnsupported, fmt::format("tensor {}: a vector of {} parts in format {}", name, shape.columns / spec.columns,
                                                   Info(tensor->dtype).name));
    }
    spec.stride = stride;
    return Add(std::move(spec));
  }
  // Layers that share weights get the same.
  WeightId Add(WeightSpec spec) {
    std::vector<WeightId>& same_name = weights_of_tensor_[spec.name];
    for (const WeightId id : same_name) {
      if (program_.weights[id] == spec) return id;
    }
    program_.weights.push_back(std::move(spec));
    return same_name.emplace_back(static_cast<WeightId>(program_.weights.size() - 1));
  }
  Result<WeightId> Matrix(const std::string& name, const Shape& shape) { return Weight(name, WeightStorage::kPanels, shape); }
  Result<WeightId> Vector(const std::string& name, size_t width) { return Weight(name, WeightStorage::kVector, {width}); }
  // PREFIX.factor, which this program makes of a quantiser's scales (docs/formats/safetensors.md), or else PREFIX.scale.
  Result<WeightId> ScaleOf(const std::string& prefix, size_t count, bool scaled) {
    const std::string factor = prefix + ".factor";
    if (!Has(factor)) return scaled ? OptionalVector(prefix + ".scale", count) : kNone;
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
    const WeightId order = Add({name, tensors_.Find(name)->dtype, WeightStorage::kOrder, Width(of.in), of.experts});
    program_.ops.push_back(PermuteOp{of.in, out, order, of.ids});
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
  // A tensor that is left over would change what the model computes: the file is of another kind than its metadata say, or of more layers.
  Status CheckUnread() const {
    for (const TensorInfo& tensor : tensors_.tensors()) {
      const std::string name(tensor.name);
      if (weights_of_tensor_.count(name) != 0 || MayStayUnread(name)) continue;
      return Error(Code::kUnsupported,
                   fmt::format("tensor {}: no part of this {} model of {} layers reads it; what the file says of itself does not fit what "
                               "is in it, fetch or convert it again",
                               name, config_.architecture, config_.layers.size()));
    }
    return Ok();
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
    return Add({name, tensor->dtype, WeightStorage::kVector, width * count});
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
    std::string rows_are = {};  // Shape::rows_are
    std::string own_bias = {};  // a vector for these rows alone, in place of rows of PREFIX.bias
  };
  Status MatMul(const Product& product) { return MatMulRows(product, {.begin = 0, .end = Width(product.out)}, Width(product.out)); }
  // The same with some of the tensor's rows. Where the matrix is two factors, or has them beside it, their product is taken or added.
  Status MatMulRows(const Product& product, Range rows, size_t all_rows) {
    const std::string& prefix = product.prefix;
    BANTAM_ASSIGN(const BufferId in, Order(prefix, {product.in}));
    const bool whole = !Has(fmt::format("{}{}.weight", prefix, kLowRankB));
    if (whole || Has(prefix + ".weight")) {
      BANTAM_TRY(MultiplyRows(product, {prefix + ".weight", in, product.out}, rows, all_rows));
    }
    if (whole) return Ok();
    BANTAM_ASSIGN(const BufferId low, LowRank(prefix, in));
    const std::string second = fmt::format("{}{}.weight", prefix, kLowRankB);
    if (!Has(prefix + ".weight")) return MultiplyRows(product, {second, low, product.out}, rows, all_rows);
    Product unbiased = product;
    unbiased.biased = false;
    unbiased.own_bias.clear();
    const BufferId lost = Buffer(program_.buffers[product.out].name + ".lost", Width(product.out), program_.buffers[product.out].rows);
    BANTAM_TRY(MultiplyRows(unbiased, {second, low, lost}, rows, all_rows));
    program_.ops.push_back(AddOp{lost, product.out});
    return Ok();
  }

  // The gate's rows of every expert, then its rows of up.
  Status ExpertGateAndUp(const std::string& prefix, BufferId in, BufferId ids, const std::array<BufferId, 2>& out) {
    const size_t rows = Width(out[0]);
    const std::string name = prefix + "ffn_gate_up_exps";
    if (Has(name + ".bias")) return Error(Code::kUnsupported, fmt::format("tensor {}.bias: of gate and up in one", name));
    for (size_t i = 0; i < out.size(); ++i) {
      const Range part = {i * rows, (i + 1) * rows};
      BANTAM_ASSIGN(const WeightId weight, Part(name + ".weight", WeightStorage::kPanels, {Width(in), 2 * rows, config_.experts}, part,
                                                /*stride=*/2 * rows));
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

  // Adds what a part of the layer gives to the stream.
  Status AddBranch(const std::string& norm, BufferId branch) {
    if (config_.norms_behind) {
      BANTAM_TRY(Norm(norm, branch, branch));
    }
    program_.ops.push_back(AddOp{branch, stream_, config_.residual_scale});
    return config_.norms_of_sum ? Norm(norm, stream_, stream_) : Ok();
  }

  const Config& config_;
  const TensorDirectory& tensors_;
  Program program_;
  BufferId stream_ = kNone;

 private:
  // One tensor's part of a product.
  struct Multiplied {
    std::string weight;
    BufferId in;
    BufferId out;
  };
  Status MultiplyRows(const Product& product, const Multiplied& what, Range rows, size_t all_rows) {
    const std::string& prefix = product.prefix;
    const Shape shape = {.columns = Width(what.in), .rows = all_rows, .rows_are = product.rows_are};
    BANTAM_ASSIGN(const WeightId weight, Part(what.weight, WeightStorage::kPanels, shape, rows));
    // The values of this format are no weights without its second scale.
    const bool scaled = product.scaling != Scaling::kNothing || program_.weights[weight].dtype == DType::kNVFP4;
    BANTAM_ASSIGN(const WeightId scale, ScaleOf(prefix, /*count=*/1, scaled));
    WeightId bias = kNone;
    if (!product.own_bias.empty()) {
      BANTAM_ASSIGN(bias, OptionalVector(product.own_bias, rows.end - rows.begin));
    } else if (product.biased && Has(prefix + ".bias")) {
      BANTAM_ASSIGN(bias, Part(prefix + ".bias", WeightStorage::kVector, {all_rows}, rows));
    }
    const bool scales_sum = product.scaling == Scaling::kSum && !Has(prefix + ".factor");
    program_.ops.push_back(MatMulOp{what.in, {{weight, scale, bias, scales_sum, what.out}}});
    return Ok();
  }

  // A times in. Products that follow each other have buffers of their own, so that they can be made together; those of one tensor share
  // one.
  Result<BufferId> LowRank(const std::string& prefix, BufferId in) {
    const std::string name = fmt::format("{}{}.weight", prefix, kLowRankA);
    const TensorInfo* tensor = tensors_.Find(name);
    const size_t rank = tensor == nullptr ? 1 : tensor->rows();
    if (rank > kWidthMax) return Error(Code::kCorrupt, fmt::format("tensor {}: {} rows, expected at most {}", name, rank, kWidthMax));
    const size_t place = prefix.ends_with(".attn_k") || prefix.ends_with(".ffn_up") ? 1 : prefix.ends_with(".attn_v") ? 2 : 0;
    BANTAM_ASSIGN(const WeightId weight, Matrix(name, {Width(in), rank}));
    const BufferId low = Buffer(fmt::format("low_rank_{}{}", place, program_.buffers[in].rows == Rows::kOutputs ? "_outputs" : ""), rank,
                                program_.buffers[in].rows);
    if (!IsProduct(weight, in, low)) program_.ops.push_back(MatMulOp{in, {{.weight = weight, .out = low}}});
    return low;
  }
  // Whether `out` still holds the product of `in` with a weight.
  bool IsProduct(WeightId weight, BufferId in, BufferId out) const {
    for (size_t i = program_.ops.size(); i-- > 0;) {
      const auto* product = std::get_if<MatMulOp>(&program_.ops[i]);
      const std::vector<BufferId> written = BuffersOf(program_.ops[i]).writes;
      if (std::find(written.begin(), written.end(), out) != written.end()) {
        return product != nullptr && product->in == in && product->parts[0].weight == weight;
      }
      if (std::find(written.begin(), written.end(), in) != written.end()) return false;
    }
    return false;
  }

  // What other readers of such files leave unread too.
  bool MayStayUnread(std::string_view name) const {
    // Scales that the family does not use, of weights or of activations; angles that old converters stored.
    for (const std::string_view end : {".scale", ".input_scale", ".attn_rot_embd", ".attn_rot_embd.weight", ".rotary_emb.inv_freq"}) {
      if (name.ends_with(end)) return true;
    }
    // Read when angles are made.
    for (const std::string_view table : {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"}) {
      if (name == table) return true;
    }
    // Heads for classes and vectors, where something else is wanted.
    for (const std::string_view head : {"cls.", "dense_2.", "dense_3."}) {
      if (name.starts_with(head)) return true;
    }
    // Answers are rows of the output matrix; vectors need none of it.
    if (config_.whole_texts && name.starts_with("output.")) return true;
    size_t block = 0;
    if (!name.starts_with("blk.")) return false;
    const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), block);
    if (error != std::errc()) return false;
    const std::string_view part = name.substr(static_cast<size_t>(end - name.data()));
    if (block < config_.layers.size()) {
      // Of layers that attend to keys and values of another, files still have their own.
      if (config_.layers[block].kv_of != kNone && (part.starts_with(".attn_k") || part.starts_with(".attn_v"))) return true;
      // Norms of keys mean something beside those of queries alone.
      if (part.starts_with(".attn_k_norm.")) return !Has(fmt::format("blk.{}.attn_q_norm.weight", block));
      return part == ".attn_output.bias" && !config_.attention_output_bias;
    }
    return block < config_.layers.size() + config_.predictors;  // they stand behind the last layer
  }

  std::map<std::string, std::vector<WeightId>> weights_of_tensor_;
};

}  // namespace bantam
