// Convolutions and state spaces of every vector set: a template over its registers (attention_impl.h says what `V` has), in an anonymous
// namespace, included by the set's file.
#pragma once

#include "kernels/activation_impl.h"
#include "kernels/kernel_types.h"

namespace bantam::kernels {
namespace {

// Row t of what the convolution sees, of which the first is taps - 1 rows before the call; null: zeros.
inline const float* SeenRow(const Convolution& c, size_t t) {
  if (t >= c.taps - 1) return c.in + (t - (c.taps - 1)) * c.columns;
  return c.before == nullptr ? nullptr : c.before + t * c.columns;
}

// `n` columns from `column` on, at most a register of them: fewer go through the same operations, so that bounds change no bit.
template <typename V>
void ConvolveLanes(const Convolution& c, size_t column, size_t n) {
  float weights[kTapsMax][V::kLanes];
  float lanes[V::kLanes] = {};
  for (size_t lane = 0; lane < V::kLanes; ++lane) {
    for (size_t k = 0; k < c.taps; ++k) weights[k][lane] = lane < n ? c.weight[(column + lane) * c.taps + k] : 0;
    if (c.bias != nullptr && lane < n) lanes[lane] = c.bias[column + lane];
  }
  const auto bias = V::Load(lanes);
  const auto load = [&](const float* row) {
    if (row == nullptr) return V::Zero();
    if (n == V::kLanes) return V::Load(row + column);
    for (size_t lane = 0; lane < n; ++lane) lanes[lane] = row[column + lane];
    return V::Load(lanes);
  };
  for (size_t t = 0; t < c.rows; ++t) {
    auto sum = bias;
    for (size_t k = 0; k < c.taps; ++k) sum = V::MultiplyAdd(V::Load(weights[k]), load(SeenRow(c, t + k)), sum);
    if (c.silu) sum = TimesSigmoid<V>(sum, sum);
    float* out = c.out + t * c.columns + column;
    if (n == V::kLanes) {
      V::Store(out, sum);
    } else {
      V::Store(lanes, sum);
      for (size_t lane = 0; lane < n; ++lane) out[lane] = lanes[lane];
    }
  }
}

template <typename V>
void Convolve(const Convolution& c) {
  for (size_t column = c.begin; column < c.end; column += V::kLanes) {
    ConvolveLanes<V>(c, column, c.end - column < V::kLanes ? c.end - column : V::kLanes);
  }
  for (size_t k = 0; k + 1 < c.taps; ++k) {
    const float* row = SeenRow(c, c.rows + k);
    for (size_t column = c.begin; column < c.end; ++column) c.after[k * c.columns + column] = row == nullptr ? 0 : row[column];
  }
}

// Registers of a row of the state from element `first` on stay where they are while all rows of the call pass; adds what they give.
template <typename V, size_t kRegisters>
void ScanElements(const StateScan& s, size_t i, size_t first, float* sums) {
  typename V::F state[kRegisters];
  const size_t at = i * s.state_size + first;
  for (size_t r = 0; r < kRegisters; ++r) state[r] = s.before == nullptr ? V::Zero() : V::Load(s.before + at + r * V::kLanes);
  for (size_t t = 0; t < s.rows; ++t) {
    const float* b = s.b.data + t * s.b.stride + first;
    const float* c = s.c.data + t * s.c.stride + first;
    const auto step = V::Set(s.steps[t]);
    const auto gain = V::Set(s.steps[t] * s.x.data[t * s.x.stride + i]);
    auto decay = s.decays == nullptr ? V::Zero() : V::Set(s.decays[t]);
    auto total = V::Zero();
    for (size_t r = 0; r < kRegisters; ++r) {
      if (s.decays == nullptr) decay = V::Exp(V::Multiply(step, V::Load(s.rates + first + r * V::kLanes)));
      state[r] = V::MultiplyAdd(state[r], decay, V::Multiply(V::Load(b + r * V::kLanes), gain));
      total = V::MultiplyAdd(state[r], V::Load(c + r * V::kLanes), total);
    }
    sums[t] += V::Total(total);
  }
  for (size_t r = 0; r < kRegisters; ++r) V::Store(s.after + at + r * V::kLanes, state[r]);
}

// Elements that fill no register.
template <typename V>
void ScanRest(const StateScan& s, size_t i, size_t first, float* sums) {
  float lanes[V::kLanes];
  for (size_t t = 0; t < s.rows; ++t) {
    const float gain = s.steps[t] * s.x.data[t * s.x.stride + i];
    for (size_t n = first; n < s.state_size; ++n) {
      float decay = 0;
      if (s.decays == nullptr) {
        V::Store(lanes, V::Exp(V::Set(s.steps[t] * s.rates[n])));
        decay = lanes[0];
      } else {
        decay = s.decays[t];
      }
      const float* from = t > 0 ? s.after : s.before;
      const size_t at = i * s.state_size + n;
      const float next = (from == nullptr ? 0 : from[at] * decay) + s.b.data[t * s.b.stride + n] * gain;
      s.after[at] = next;
      sums[t] += next * s.c.data[t * s.c.stride + n];
    }
  }
}

template <typename V>
void Scan(const StateScan& s) {
  for (size_t i = 0; i < s.head_dim; ++i) {
    float sums[kScanRows] = {};
    size_t n = 0;
    for (; n + 8 * V::kLanes <= s.state_size; n += 8 * V::kLanes) ScanElements<V, 8>(s, i, n, sums);
    for (; n + 2 * V::kLanes <= s.state_size; n += 2 * V::kLanes) ScanElements<V, 2>(s, i, n, sums);
    for (; n + V::kLanes <= s.state_size; n += V::kLanes) ScanElements<V, 1>(s, i, n, sums);
    if (n < s.state_size) ScanRest<V>(s, i, n, sums);
    for (size_t t = 0; t < s.rows; ++t) s.out[t * s.out_stride + i] = sums[t] + s.skip * s.x.data[t * s.x.stride + i];
  }
}

// What a vector register does not fill goes through scalars, in every row alike.
template <typename V>
float Dot(const float* a, const float* b, size_t n) {
  auto sums = V::Zero();
  size_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) sums = V::MultiplyAdd(V::Load(a + i), V::Load(b + i), sums);
  float sum = V::Total(sums);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// y = y * decay + x * factor.
template <typename V>
void ScaleAndAdd(float* y, float decay, const float* x, float factor, size_t n) {
  size_t i = 0;
  for (; i + V::kLanes <= n; i += V::kLanes) {
    V::Store(y + i, V::MultiplyAdd(V::Load(x + i), V::Set(factor), V::Multiply(V::Load(y + i), V::Set(decay))));
  }
  for (; i < n; ++i) y[i] = y[i] * decay + x[i] * factor;
}

template <typename V>
void Delta(const DeltaScan& s) {
  for (size_t i = 0; i < s.value_dim; ++i) {
    float* row = s.after + i * s.key_dim;
    if (s.before != s.after) {
      for (size_t n = 0; n < s.key_dim; ++n) row[n] = s.before == nullptr ? 0 : s.before[i * s.key_dim + n];
    }
    for (size_t t = 0; t < s.rows; ++t) {
      const float* k = s.k.data + t * s.k.stride;
      const float known = s.decays[t] * s.k_scales[t] * Dot<V>(row, k, s.key_dim);
      const float correction = s.betas[t] * (s.v.data[t * s.v.stride + i] - known);
      ScaleAndAdd<V>(row, s.decays[t], k, correction * s.k_scales[t], s.key_dim);
      s.out[t * s.out_stride + i] = s.q_scales[t] * Dot<V>(row, s.q.data + t * s.q.stride, s.key_dim);
    }
  }
}

}  // namespace
}  // namespace bantam::kernels
