#include "program/fuse.h"

#include <algorithm>
#include <map>
#include <utility>

namespace bantam {
namespace {

bool Contains(const std::vector<BufferId>& list, BufferId buffer) { return std::find(list.begin(), list.end(), buffer) != list.end(); }

// Whether the value that `buffer` holds after operation `from` is read again before it is overwritten, except by `except`.
bool ReadLater(const std::vector<Op>& ops, size_t from, BufferId buffer, size_t except) {
  for (size_t i = from + 1; i < ops.size(); ++i) {
    if (i == except) continue;
    const OpBuffers buffers = BuffersOf(ops[i]);
    if (Contains(buffers.reads, buffer)) return true;
    if (Contains(buffers.writes, buffer)) return false;
  }
  return false;
}

InputForm InputOf(const Program& program, const KernelSet& kernels, WeightId weight) {
  return InputOf(kernels, Info(program.weights[weight].dtype).panel);
}

// The operation that `product` can be part of: an earlier product of the same input in the same activation form, if between them nothing
// but products and sums of these stand (the factors of matrices of low rank), which touch neither what it reads nor what it writes.
MatMulOp* Joinable(std::vector<Op>* ops, const MatMulOp& product, const Program& program, const KernelSet& kernels) {
  constexpr size_t kApartMax = 8;
  for (size_t i = ops->size(); i-- > 0 && ops->size() - i <= kApartMax;) {
    Op& op = (*ops)[i];
    auto* before = std::get_if<MatMulOp>(&op);
    if (before == nullptr && !std::holds_alternative<AddOp>(op)) return nullptr;
    if (before != nullptr && before->in == product.in && before->parts.size() < kMatMulPartsMax &&
        InputOf(program, kernels, before->parts[0].weight) == InputOf(program, kernels, product.parts[0].weight)) {
      return before;
    }
    const OpBuffers touched = BuffersOf(op);
    const BufferId out = product.parts[0].out;
    if (Contains(touched.reads, out) || Contains(touched.writes, out) || Contains(touched.writes, product.in)) return nullptr;
  }
  return nullptr;
}

// Products of one input become one operation.
void MergeProducts(Program* program, const KernelSet& kernels) {
  std::vector<Op> fused;
  for (Op& op : program->ops) {
    const auto* product = std::get_if<MatMulOp>(&op);
    if (MatMulOp* before = product == nullptr ? nullptr : Joinable(&fused, *product, *program, kernels); before != nullptr) {
      before->parts.push_back(product->parts[0]);
      continue;
    }
    fused.push_back(std::move(op));
  }
  program->ops = std::move(fused);
}

// out = W in; sum += out  becomes  sum += W in.
void MergeAdditions(Program* program) {
  std::vector<Op>& ops = program->ops;
  for (size_t i = 0; i + 1 < ops.size(); ++i) {
    auto* product = std::get_if<MatMulOp>(&ops[i]);
    const auto* add = std::get_if<AddOp>(&ops[i + 1]);
    if (product == nullptr || add == nullptr || product->parts.size() != 1) continue;
    MatMulPart& part = product->parts[0];
    // A product of the sum itself cannot write into it: other threads still read it.
    if (add->scale != 1 || part.out != add->in || part.accumulate || product->in == add->out ||
        ReadLater(ops, i, part.out, /*except=*/i + 1))
      continue;
    part.out = add->out;
    part.accumulate = true;
    ops.erase(ops.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
}

// {gate, up} = W in; h = activation(gate) * up  becomes one operation.
void MergeGates(Program* program) {
  std::vector<Op>& ops = program->ops;
  for (size_t i = 0; i + 1 < ops.size(); ++i) {
    const auto* products = std::get_if<MatMulOp>(&ops[i]);
    const auto* activate = std::get_if<ActivateOp>(&ops[i + 1]);
    if (products == nullptr || activate == nullptr || activate->divisors != kNone || products->parts.size() != 2) continue;
    if (products->parts[0].out != activate->in || products->parts[1].out != activate->factor) continue;
    if (ReadLater(ops, i, activate->in, /*except=*/i + 1) || ReadLater(ops, i, activate->factor, /*except=*/i + 1)) continue;
    ops[i] = GatedMatMulOp{products->in, products->parts[0], products->parts[1], activate->out, activate->activation};
    ops.erase(ops.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
}

// The input of a product, and the form that its weights want. No buffer for other operations.
struct WantedInput {
  BufferId* in = nullptr;
  InputForm form = InputForm::kFloats;
};
WantedInput InputOf(const Program& program, const KernelSet& kernels, Op* op) {
  if (auto* product = std::get_if<MatMulOp>(op)) return {&product->in, InputOf(program, kernels, product->parts[0].weight)};
  // Gate and up were merged because they want the same form.
  if (auto* gated = std::get_if<GatedMatMulOp>(op)) return {&gated->in, InputOf(program, kernels, gated->gate.weight)};
  if (auto* expert = std::get_if<ExpertMatMulOp>(op)) return {&expert->in, InputOf(program, kernels, expert->weight)};
  return {};
}

// Puts a QuantizeOp in front of the first operation that wants a value in another form; later ones share it until it changes.
void QuantizeInputs(Program* program, const KernelSet& kernels) {
  struct Twin {
    BufferId buffer;
    bool current = false;  // whether it holds the float buffer's value
  };
  std::map<BufferId, std::map<InputForm, Twin>> twins;  // of a float buffer
  std::vector<Op> fused;
  for (Op& op : program->ops) {
    if (const WantedInput wanted = InputOf(*program, kernels, &op); wanted.form != InputForm::kFloats) {
      const BufferId floats = *wanted.in;
      const auto [entry, added] = twins[floats].try_emplace(wanted.form, Twin{static_cast<BufferId>(program->buffers.size())});
      Twin& twin = entry->second;
      if (added) {
        const bool integers = wanted.form == InputForm::kBlocks;
        BufferSpec spec = program->buffers[floats];
        spec.name += integers ? ".q" : ".bf16";
        spec.form = integers ? BufferForm::kQuantized : BufferForm::kBf16;
        program->buffers.push_back(std::move(spec));
      }
      if (!twin.current) fused.push_back(QuantizeOp{floats, twin.buffer});
      twin.current = true;
      *wanted.in = twin.buffer;
    }
    for (const BufferId written : BuffersOf(op).writes) {
      for (auto& [form, twin] : twins[written]) twin.current = false;
    }
    fused.push_back(std::move(op));
  }
  program->ops = std::move(fused);
}

// norm; quantize  becomes one operation when nobody else reads the norm's floats.
void MergeNorms(Program* program) {
  std::vector<Op>& ops = program->ops;
  for (size_t i = 0; i + 1 < ops.size(); ++i) {
    const auto* norm = std::get_if<NormOp>(&ops[i]);
    const auto* quantize = std::get_if<QuantizeOp>(&ops[i + 1]);
    if (norm == nullptr || quantize == nullptr || quantize->in != norm->out || norm->groups != 1) continue;
    if (ReadLater(ops, i, norm->out, /*except=*/i + 1)) continue;
    NormOp fused = *norm;
    fused.out = quantize->out;
    ops[i] = NormQuantizeOp{fused};
    ops.erase(ops.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
}

// Buffers that no operation touches any more take no memory.
void DropUnused(Program* program) {
  std::vector<bool> used(program->buffers.size());
  for (const Op& op : program->ops) {
    const OpBuffers buffers = BuffersOf(op);
    for (const BufferId buffer : buffers.reads) used[buffer] = true;
    for (const BufferId buffer : buffers.writes) used[buffer] = true;
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) program->buffers[i].width = 0;
  }
}

}  // namespace

Program Fuse(Program program, const KernelSet& kernels) {
  MergeProducts(&program, kernels);
  MergeAdditions(&program);
  MergeGates(&program);
  QuantizeInputs(&program, kernels);
  MergeNorms(&program);
  DropUnused(&program);
  return program;
}

}  // namespace bantam
