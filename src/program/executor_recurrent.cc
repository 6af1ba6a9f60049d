// The executor's operations on a sequence's state.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "program/executor.h"

namespace bantam {
namespace {

// Beyond this the logarithm is the number itself.
constexpr float kSoftplusLinear = 20.0f;
float Softplus(float x) { return x > kSoftplusLinear ? x : std::log1p(std::exp(x)); }

}  // namespace

template <typename Work>
void Executor::ForEachSequence(const Work& work) const {
  const std::span<const StepRow> rows = step_->rows;
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    const auto follows = [&](size_t next) { return rows[next].next_state == rows[begin].next_state; };
    for (end = begin + 1; end < rows.size() && follows(end);) ++end;
    DCHECK(rows[begin].next_state != nullptr);
    work(begin, end);
  }
}

void Executor::Execute(const MultiplyOp& op, int thread) {
  const size_t width = program_.buffers[op.out].width;
  const auto [begin, end] = RowShare(op.out, thread);
  for (size_t i = begin * width; i < end * width; ++i) Floats(op.out)[i] = Floats(op.in)[i] * Floats(op.factor)[i];
}

void Executor::Execute(const ConvolveOp& op, int thread) {
  const size_t columns = program_.buffers[op.in].width;
  const auto [first, last] = Share(columns, thread, pool_.size());
  ForEachSequence([&, first = first, last = last](size_t begin, size_t end) {
    const StepRow& row = step_->rows[begin];
    kernels_.convolve({.in = FloatRow(op.in, begin),
                       .out = FloatRow(op.out, begin),
                       .rows = end - begin,
                       .columns = columns,
                       .taps = op.taps,
                       .weight = weights_.Vector(op.weight),
                       .bias = op.bias == kNone ? nullptr : weights_.Vector(op.bias),
                       .silu = op.silu,
                       .before = row.position == 0 ? nullptr : row.state + op.state,
                       .after = row.next_state + op.state,
                       .begin = first,
                       .end = last});
  });
}

void Executor::ScanHead(const ScanOp& op, size_t head, size_t begin, size_t end) const {
  const StepRow& row = step_->rows[begin];
  const size_t group = head / (op.heads / op.groups);
  const size_t state = op.state + head * op.head_dim * op.state_size;
  const size_t decays = program_.weights[op.decay].columns / op.heads;
  const float* rates = weights_.Vector(op.decay) + head * decays;
  const auto rows_of = [&](const Slice& slice, size_t offset, size_t t) {
    return kernels::StateScan::Rows{FloatRow(slice.buffer, t) + slice.first + offset, program_.buffers[slice.buffer].width};
  };
  for (size_t t = begin; t < end; t += kernels::kScanRows) {
    const size_t rows = std::min(kernels::kScanRows, end - t);
    float steps[kernels::kScanRows];
    float factors[kernels::kScanRows];
    for (size_t r = 0; r < rows; ++r) {
      steps[r] = Softplus(FloatRow(op.dt, t + r)[head] + weights_.Vector(op.dt_bias)[head]);
      factors[r] = decays == 1 ? std::exp(steps[r] * rates[0]) : 0;
    }
    const float* before = t > begin ? row.next_state + state : row.position == 0 ? nullptr : row.state + state;
    kernels_.scan({.x = rows_of(op.x, head * op.head_dim, t),
                   .b = rows_of(op.b, group * op.state_size, t),
                   .c = rows_of(op.c, group * op.state_size, t),
                   .steps = steps,
                   .decays = decays == 1 ? factors : nullptr,
                   .rates = rates,
                   .out = FloatRow(op.out, t) + head * op.head_dim,
                   .out_stride = program_.buffers[op.out].width,
                   .rows = rows,
                   .head_dim = op.head_dim,
                   .state_size = op.state_size,
                   .skip = weights_.Vector(op.skip)[head],
                   .before = before,
                   .after = row.next_state + state});
  }
}

void Executor::Execute(const ScanOp& op, int thread) {
  const auto [first, last] = Share(op.heads, thread, pool_.size());
  ForEachSequence([&, first = first, last = last](size_t begin, size_t end) {
    for (size_t head = first; head < last; ++head) ScanHead(op, head, begin, end);
  });
}

}  // namespace bantam
