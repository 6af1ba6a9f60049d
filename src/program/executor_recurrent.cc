// The executor's operations on a sequence's state.
#include "base/check.h"
#include "program/executor.h"
#include "program/recurrence.h"

namespace bantam {

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
    Convolve({.in = FloatRow(op.in, begin),
              .out = FloatRow(op.out, begin),
              .rows = end - begin,
              .columns = columns,
              .taps = op.taps,
              .weight = weights_.Vector(op.weight),
              .bias = op.bias == kNone ? nullptr : weights_.Vector(op.bias),
              .silu = op.silu,
              .before = row.position == 0 ? nullptr : row.state + op.state,
              .after = row.next_state + op.state},
             first, last);
  });
}

void Executor::Execute(const ScanOp& op, int thread) {
  const auto [first, last] = Share(op.heads, thread, pool_.size());
  const size_t decays = program_.weights[op.decay].columns / op.heads;
  const size_t head_state = op.head_dim * op.state_size;
  ForEachSequence([&, first = first, last = last](size_t begin, size_t end) {
    const StepRow& row = step_->rows[begin];
    const auto operand = [&](const Slice& slice, size_t offset) {
      return Scan::Operand{FloatRow(slice.buffer, begin) + slice.first + offset, program_.buffers[slice.buffer].width};
    };
    for (size_t head = first; head < last; ++head) {
      const size_t group = head / (op.heads / op.groups);
      const size_t state = op.state + head * head_state;
      ScanHead({.x = operand(op.x, head * op.head_dim),
                .b = operand(op.b, group * op.state_size),
                .c = operand(op.c, group * op.state_size),
                .dt = operand({op.dt}, head),
                .out = FloatRow(op.out, begin) + head * op.head_dim,
                .out_stride = program_.buffers[op.out].width,
                .rows = end - begin,
                .head_dim = op.head_dim,
                .decay = {weights_.Vector(op.decay) + head * decays, decays},
                .state_size = op.state_size,
                .dt_bias = weights_.Vector(op.dt_bias)[head],
                .skip = weights_.Vector(op.skip)[head],
                .before = row.position == 0 ? nullptr : row.state + state,
                .after = row.next_state + state});
    }
  });
}

}  // namespace bantam
