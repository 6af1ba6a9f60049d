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
float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// 1 over the length of a vector, in doubles: sums of squares of any order of magnitude.
float InverseLength(const float* x, size_t n, float epsilon) {
  double squares = static_cast<double>(epsilon);
  for (size_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return static_cast<float>(1 / std::sqrt(squares));
}

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
  for (size_t i = begin * width; i < end * width; ++i) {
    const float factor = Floats(op.factor)[i];
    Floats(op.out)[i] = Floats(op.in)[i] * (op.sigmoid ? Sigmoid(factor) : factor);
  }
}

void Executor::Execute(const SelectOp& op, int thread) {
  const size_t width = program_.buffers[op.out].width;
  const auto [begin, end] = RowShare(op.out, thread);
  for (size_t t = begin; t < end; ++t) {
    for (size_t run = 0; run * op.take < width; ++run) {
      std::copy_n(FloatRow(op.in, t) + op.first + run * op.stride, op.take, FloatRow(op.out, t) + run * op.take);
    }
  }
}

void Executor::Execute(const PermuteOp& op, int thread) {
  const size_t width = program_.buffers[op.out].width;
  const bool by_slot = op.ids != kNone;
  const size_t rows_per_input = by_slot && program_.buffers[op.in].rows == Rows::kTokens ? program_.experts_used : 1;
  const auto [begin, end] = RowShare(op.out, thread);
  for (size_t row = begin; row < end; ++row) {
    const size_t expert = by_slot ? static_cast<size_t>(IntegerRow(op.ids, 0)[row]) : 0;
    const uint32_t* order = weights_.Order(op.order) + expert * width;
    const float* in = FloatRow(op.in, row / rows_per_input);
    float* out = FloatRow(op.out, row);
    for (size_t c = 0; c < width; ++c) out[c] = in[order[c]];
  }
}

void Executor::Execute(const ConvolveOp& op, int thread) {
  const size_t columns = program_.buffers[op.in].width;
  const auto [first, last] = Share(columns, thread, pool_.team());
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
  const auto [first, last] = Share(op.heads, thread, pool_.team());
  ForEachSequence([&, first = first, last = last](size_t begin, size_t end) {
    for (size_t head = first; head < last; ++head) ScanHead(op, head, begin, end);
  });
}

void Executor::DeltaHead(const DeltaOp& op, size_t head, size_t begin, size_t end) const {
  const StepRow& row = step_->rows[begin];
  const size_t dim = op.head_dim;
  const size_t key_head = head % op.key_heads;
  const size_t state = op.state + head * dim * dim;
  const float root = 1.0f / std::sqrt(static_cast<float>(dim));
  const auto rows_of = [&](const Slice& slice, size_t index, size_t t) {
    return kernels::StateScan::Rows{FloatRow(slice.buffer, t) + slice.first + index * dim, program_.buffers[slice.buffer].width};
  };
  for (size_t t = begin; t < end; t += kernels::kScanRows) {
    const size_t rows = std::min(kernels::kScanRows, end - t);
    const auto q = rows_of(op.q, key_head, t);
    const auto k = rows_of(op.k, key_head, t);
    float q_scales[kernels::kScanRows], k_scales[kernels::kScanRows], betas[kernels::kScanRows], decays[kernels::kScanRows];
    for (size_t r = 0; r < rows; ++r) {
      q_scales[r] = root * InverseLength(q.data + r * q.stride, dim, op.epsilon);
      k_scales[r] = InverseLength(k.data + r * k.stride, dim, op.epsilon);
      betas[r] = Sigmoid(FloatRow(op.beta, t + r)[head]);
      const float step = Softplus(FloatRow(op.alpha, t + r)[head] + weights_.Vector(op.dt_bias)[head]);
      decays[r] = std::exp(step * weights_.Vector(op.decay)[head]);
    }
    const float* before = t > begin ? row.next_state + state : row.position == 0 ? nullptr : row.state + state;
    kernels_.delta({.q = q,
                    .k = k,
                    .v = rows_of(op.v, head, t),
                    .q_scales = q_scales,
                    .k_scales = k_scales,
                    .betas = betas,
                    .decays = decays,
                    .out = FloatRow(op.out, t) + head * dim,
                    .out_stride = program_.buffers[op.out].width,
                    .rows = rows,
                    .value_dim = dim,
                    .key_dim = dim,
                    .before = before,
                    .after = row.next_state + state});
  }
}

void Executor::Execute(const DeltaOp& op, int thread) {
  const auto [first, last] = Share(op.heads, thread, pool_.team());
  ForEachSequence([&, first = first, last = last](size_t begin, size_t end) {
    for (size_t head = first; head < last; ++head) DeltaHead(op, head, begin, end);
  });
}

}  // namespace bantam
