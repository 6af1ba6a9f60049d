#include "program/recurrence.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bantam {
namespace {

// Sums go over so many lanes whatever the instructions are, so that their order is always the same.
constexpr size_t kLanes = 16;

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

// Beyond this the logarithm is the number itself.
constexpr float kSoftplusLinear = 20.0f;
float Softplus(float x) { return x > kSoftplusLinear ? x : std::log1p(std::exp(x)); }

// state = state * decay + b * gain, and the sum of state * c. The state is read from `from` and written to `to`.
float Update(const float* from, float* to, size_t n, float decay, float gain, const float* b, const float* c) {
  float lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float next = from[i + lane] * decay + b[i + lane] * gain;
      to[i + lane] = next;
      lanes[lane] += next * c[i + lane];
    }
  }
  for (size_t lane = 0; i < n; ++i, ++lane) {
    to[i] = from[i] * decay + b[i] * gain;
    lanes[lane] += to[i] * c[i];
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

float UpdateEach(const float* from, float* to, size_t n, const float* decay, float d, float gain, const float* b, const float* c) {
  float sum = 0;
  for (size_t i = 0; i < n; ++i) {
    to[i] = from[i] * std::exp(d * decay[i]) + b[i] * gain;
    sum += to[i] * c[i];
  }
  return sum;
}

}  // namespace

void Convolve(const Convolution& convolution, size_t begin, size_t end) {
  const auto& [in, out, rows, columns, taps, weight, bias, silu, before, after] = convolution;
  // Row t of what the convolution sees; the first is taps - 1 rows before the step.
  const auto seen = [&](size_t t, size_t column) {
    if (t >= taps - 1) return in[(t - (taps - 1)) * columns + column];
    return before == nullptr ? 0.0f : before[t * columns + column];
  };
  for (size_t t = 0; t < rows; ++t) {
    for (size_t column = begin; column < end; ++column) {
      float sum = bias == nullptr ? 0.0f : bias[column];
      for (size_t k = 0; k < taps; ++k) sum += weight[column * taps + k] * seen(t + k, column);
      out[t * columns + column] = silu ? Silu(sum) : sum;
    }
  }
  for (size_t k = 0; k + 1 < taps; ++k) {
    for (size_t column = begin; column < end; ++column) after[k * columns + column] = seen(rows + k, column);
  }
}

void ScanHead(const Scan& scan) {
  const size_t n = scan.state_size;
  if (scan.before == nullptr) std::fill_n(scan.after, scan.head_dim * n, 0.0f);
  const float* from = scan.before == nullptr ? scan.after : scan.before;
  for (size_t t = 0; t < scan.rows; ++t) {
    const float* x = scan.x.data + t * scan.x.stride;
    const float* b = scan.b.data + t * scan.b.stride;
    const float* c = scan.c.data + t * scan.c.stride;
    const float d = Softplus(scan.dt.data[t * scan.dt.stride] + scan.dt_bias);
    const float decay = scan.decay.size() == 1 ? std::exp(d * scan.decay[0]) : 0;
    for (size_t i = 0; i < scan.head_dim; ++i) {
      float* to = scan.after + i * n;
      const float gain = d * x[i];
      const float sum = scan.decay.size() == 1 ? Update(from + i * n, to, n, decay, gain, b, c)
                                               : UpdateEach(from + i * n, to, n, scan.decay.data(), d, gain, b, c);
      scan.out[t * scan.out_stride + i] = sum + scan.skip * x[i];
    }
    from = scan.after;
  }
}

}  // namespace bantam
