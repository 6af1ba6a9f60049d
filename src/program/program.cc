#include "program/program.h"

#include <algorithm>

#include "kernels/kernel_types.h"

namespace bantam {
namespace {

template <typename... Functions>
struct Overloaded : Functions... {
  using Functions::operator()...;
};
template <typename... Functions>
Overloaded(Functions...) -> Overloaded<Functions...>;

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

const char* OpName(const Op& op) {
  static constexpr const char* kNames[] = {
      "embed",     "embed_positions", "norm",  "rope_angles",   "rope",          "kv_append",   "attend", "matmul",  "activate", "add",
      "pointwise", "gate_rows",       "route", "expert_matmul", "combine",       "multiply",    "select", "permute", "convolve", "scan",
      "delta",     "gather_outputs",  "pool",  "quantize",      "norm_quantize", "gated_matmul"};
  static_assert(std::size(kNames) == std::variant_size_v<Op>);
  return kNames[op.index()];
}

OpBuffers BuffersOf(const Op& op) {
  return std::visit(Overloaded{
                        [](const auto& o) {
                          return OpBuffers{{o.in}, {o.out}};
                        },
                        [](const EmbedOp& o) {
                          return OpBuffers{{}, {o.out}};
                        },
                        [](const EmbedPositionsOp& o) {
                          return OpBuffers{{o.out}, {o.out}};
                        },
                        [](const RopeAnglesOp& o) {
                          return OpBuffers{{}, {o.out}};
                        },
                        [](const RopeOp& o) {
                          return OpBuffers{{o.angles, o.in}, {o.in}};
                        },
                        [](const KvAppendOp& o) {
                          return OpBuffers{{o.keys, o.values}, {}};
                        },
                        [](const MatMulOp& o) {
                          OpBuffers buffers{{o.in}, {}};
                          for (const MatMulPart& part : o.parts) {
                            buffers.writes.push_back(part.out);
                            if (part.accumulate) buffers.reads.push_back(part.out);
                          }
                          return buffers;
                        },
                        [](const ActivateOp& o) {
                          OpBuffers buffers{{o.in}, {o.out}};
                          if (o.factor != kNone) buffers.reads.push_back(o.factor);
                          return buffers;
                        },
                        [](const AddOp& o) {
                          return OpBuffers{{o.in, o.out}, {o.out}};
                        },
                        [](const PointwiseOp& o) {
                          return OpBuffers{{o.buffer}, {o.buffer}};
                        },
                        [](const GateRowsOp& o) {
                          return OpBuffers{{o.gate, o.rows}, {o.rows}};
                        },
                        [](const RouteOp& o) {
                          return OpBuffers{{o.logits}, {o.ids, o.weights}};
                        },
                        [](const ExpertMatMulOp& o) {
                          return OpBuffers{{o.in, o.ids}, {o.out}};
                        },
                        [](const CombineOp& o) {
                          return OpBuffers{{o.in, o.weights}, {o.out}};
                        },
                        [](const MultiplyOp& o) {
                          return OpBuffers{{o.in, o.factor}, {o.out}};
                        },
                        [](const PermuteOp& o) {
                          return o.ids == kNone ? OpBuffers{{o.in}, {o.out}} : OpBuffers{{o.in, o.ids}, {o.out}};
                        },
                        [](const DeltaOp& o) {
                          return OpBuffers{{o.q.buffer, o.k.buffer, o.v.buffer, o.alpha, o.beta}, {o.out}};
                        },
                        [](const ScanOp& o) {
                          return OpBuffers{{o.x.buffer, o.b.buffer, o.c.buffer, o.dt}, {o.out}};
                        },
                        [](const NormQuantizeOp& o) {
                          return OpBuffers{{o.norm.in}, {o.norm.out}};
                        },
                    },
                    op);
}

}  // namespace bantam
