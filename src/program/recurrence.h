// What carries a sequence's past in a state of fixed size instead of keys and values: short convolutions and selective state spaces.
#pragma once

#include <cstddef>
#include <span>

namespace bantam {

// Depthwise causal convolution of columns [begin, end): out[t][c] = sum over k of weight[c][k] * in[t - taps + 1 + k][c] (+ bias[c]),
// through SiLU where wanted. Rows before the first are `before` [taps - 1][columns], or zeros where that is null; `after` gets the last
// taps - 1 rows.
struct Convolution {
  const float* in;  // [rows][columns]
  float* out;       // [rows][columns]
  size_t rows;
  size_t columns;
  size_t taps;
  const float* weight;
  const float* bias;  // or null
  bool silu;
  const float* before;
  float* after;
};
void Convolve(const Convolution& convolution, size_t begin, size_t end);

// One head of a selective state space: for each row
//   d = softplus(dt + dt_bias), state[i][n] = exp(d * decay[n]) * state[i][n] + d * x[i] * b[n], out[i] = sum over n of state[i][n] * c[n]
//   + skip * x[i].
// With one decay for the whole state: Dao and Gu, "Transformers are SSMs", 2024; with one for each of its elements: Gu and Dao, "Mamba:
// linear-time sequence modeling with selective state spaces", 2023. Rows of every operand are `stride` floats apart.
struct Scan {
  struct Operand {
    const float* data;
    size_t stride;
  };
  Operand x;   // [head_dim]
  Operand b;   // [state_size]
  Operand c;   // [state_size]
  Operand dt;  // one number
  float* out;  // [head_dim]
  size_t out_stride;
  size_t rows;
  size_t head_dim;
  std::span<const float> decay;  // one number, or state_size of them; negative
  size_t state_size;
  float dt_bias;
  float skip;
  const float* before;  // [head_dim][state_size], or null: zeros
  float* after;         // may not be `before`
};
void ScanHead(const Scan& scan);

}  // namespace bantam
