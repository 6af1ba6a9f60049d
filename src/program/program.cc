#include "program/program.h"

#include <algorithm>
#include <cmath>

#include "kernels/kernel_types.h"

namespace bantam {
namespace {

// What BuffersOf says of each kind; most read one and write another.
struct Buffers {
  template <typename Plain>
  OpBuffers operator()(const Plain& o) const {
    return OpBuffers{{o.in}, {o.out}};
  }
  OpBuffers operator()(const EmbedOp& o) const { return OpBuffers{{}, {o.out}}; }
  OpBuffers operator()(const EmbedPositionsOp& o) const { return OpBuffers{{o.out}, {o.out}}; }
  OpBuffers operator()(const RopeAnglesOp& o) const { return OpBuffers{{}, {o.out}}; }
  OpBuffers operator()(const RopeOp& o) const { return OpBuffers{{o.angles, o.in}, {o.in}}; }
  OpBuffers operator()(const KvAppendOp& o) const { return OpBuffers{{o.keys, o.values}, {}}; }
  OpBuffers operator()(const MatMulOp& o) const {
    OpBuffers buffers{{o.in}, {}};
    for (const MatMulPart& part : o.parts) {
      buffers.writes.push_back(part.out);
      if (part.accumulate) buffers.reads.push_back(part.out);
    }
    return buffers;
  }
  OpBuffers operator()(const ActivateOp& o) const {
    OpBuffers buffers{{o.in}, {o.out}};
    if (o.factor != kNone) buffers.reads.push_back(o.factor);
    return buffers;
  }
  OpBuffers operator()(const AddOp& o) const { return OpBuffers{{o.in, o.out}, {o.out}}; }
  OpBuffers operator()(const PointwiseOp& o) const { return OpBuffers{{o.buffer}, {o.buffer}}; }
  OpBuffers operator()(const GateRowsOp& o) const { return OpBuffers{{o.gate, o.rows}, {o.rows}}; }
  OpBuffers operator()(const RouteOp& o) const { return OpBuffers{{o.logits}, {o.ids, o.weights}}; }
  OpBuffers operator()(const ExpertMatMulOp& o) const { return OpBuffers{{o.in, o.ids}, {o.out}}; }
  OpBuffers operator()(const CombineOp& o) const { return OpBuffers{{o.in, o.weights}, {o.out}}; }
  OpBuffers operator()(const MultiplyOp& o) const { return OpBuffers{{o.in, o.factor}, {o.out}}; }
  OpBuffers operator()(const PermuteOp& o) const { return o.ids == kNone ? OpBuffers{{o.in}, {o.out}} : OpBuffers{{o.in, o.ids}, {o.out}}; }
  OpBuffers operator()(const DeltaOp& o) const { return OpBuffers{{o.q.buffer, o.k.buffer, o.v.buffer, o.alpha, o.beta}, {o.out}}; }
  OpBuffers operator()(const ScanOp& o) const { return OpBuffers{{o.x.buffer, o.b.buffer, o.c.buffer, o.dt}, {o.out}}; }
  OpBuffers operator()(const PlaceOp& o) const { return OpBuffers{{o.in, o.out}, {o.out}}; }
  OpBuffers operator()(const WeighOp& o) const { return OpBuffers{{o.buffer}, {o.buffer}}; }
  OpBuffers operator()(const MatchLengthOp& o) const { return OpBuffers{{o.in, o.buffer}, {o.buffer}}; }
  OpBuffers operator()(const CutBelowOp& o) const { return OpBuffers{{o.buffer}, {o.buffer}}; }
  OpBuffers operator()(const MixPartsOp& o) const { return OpBuffers{{o.in, o.coefficients}, {o.out}}; }
  OpBuffers operator()(const AddToPartsOp& o) const {
    OpBuffers buffers{{o.in, o.out}, {o.out}};
    if (o.coefficients != kNone) buffers.reads.push_back(o.coefficients);
    return buffers;
  }
  OpBuffers operator()(const NormQuantizeOp& o) const { return OpBuffers{{o.norm.in}, {o.norm.out}}; }
};

}  // namespace

size_t Program::RowWidthBytes(BufferId buffer) const {
  const BufferSpec& spec = buffers[buffer];
  switch (spec.form) {
    case BufferForm::kFloats:
      return spec.width * sizeof(float);
    case BufferForm::kQuantized:
      return spec.width / 32 * sizeof(kernels::ActivationBlock);
    case BufferForm::kBf16:
      return (spec.width + 1) / 2 * 2 * sizeof(uint16_t);
    case BufferForm::kIntegers:
      return spec.width * sizeof(int32_t);
  }
  return 0;
}

size_t WindowMax(const Program& program) {
  size_t widest = 0;
  for (const KvHeads& layer : program.kv_layers) widest = std::max(widest, layer.window);
  return widest;
}

namespace {

// The step of everything that reads what operation `from` leaves in `out`; 0 where they differ, or one has none.
float CommonStep(const StaticSteps& steps, const Program& program, size_t from, BufferId out) {
  float common = 0;
  for (size_t i = from + 1; i < program.ops.size(); ++i) {
    const OpBuffers buffers = BuffersOf(program.ops[i]);
    if (std::find(buffers.reads.begin(), buffers.reads.end(), out) != buffers.reads.end()) {
      std::vector<WeightId> weights;
      if (const auto* product = std::get_if<MatMulOp>(&program.ops[i])) {
        for (const MatMulPart& part : product->parts) weights.push_back(part.weight);
      } else if (const auto* gated = std::get_if<GatedMatMulOp>(&program.ops[i])) {
        weights = {gated->gate.weight, gated->up.weight};
      } else {
        return 0;
      }
      for (const WeightId weight : weights) {
        const auto step = steps.find(program.weights[weight].name);
        if (step == steps.end() || (common != 0 && step->second != common)) return 0;
        common = step->second;
      }
    }
    if (std::find(buffers.writes.begin(), buffers.writes.end(), out) != buffers.writes.end()) break;
  }
  return common;
}

}  // namespace

size_t SetStaticSteps(const StaticSteps& steps, Program* program) {
  size_t count = 0;
  for (size_t i = 0; i < program->ops.size(); ++i) {
    auto* quantize = std::get_if<QuantizeOp>(&program->ops[i]);
    auto* norm = std::get_if<NormQuantizeOp>(&program->ops[i]);
    if (quantize == nullptr && norm == nullptr) continue;
    float& step = quantize != nullptr ? quantize->step : norm->step;
    step = CommonStep(steps, *program, i, quantize != nullptr ? quantize->out : norm->norm.out);
    count += step != 0 ? 1 : 0;
  }
  return count;
}

const char* OpName(const Op& op) {
  static constexpr const char* kNames[] = {
      "embed",   "embed_positions", "norm",          "rope_angles", "rope",      "kv_append",    "attend",
      "matmul",  "activate",        "add",           "pointwise",   "gate_rows", "route",        "expert_matmul",
      "combine", "multiply",        "select",        "permute",     "convolve",  "scan",         "delta",
      "place",   "weigh",           "match_length",  "cut_below",   "mix_parts", "add_to_parts", "gather_outputs",
      "pool",    "quantize",        "norm_quantize", "gated_matmul"};
  static_assert(std::size(kNames) == std::variant_size_v<Op>);
  return kNames[op.index()];
}

OpBuffers BuffersOf(const Op& op) { return std::visit(Buffers{}, op); }

float AttentionTemperature::At(size_t position) const {
  return scale == 0 ? 1 : static_cast<float>(1 + static_cast<double>(scale) * std::log1p(static_cast<double>(position / length)));
}

}  // namespace bantam
