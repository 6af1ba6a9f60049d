// The activations of every vector set: a template over its registers (attention_impl.h says what `V` has), in an anonymous namespace,
// included by the set's file.
#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {
namespace {

// x / (1 + exp(-y)).
template <typename V>
inline typename V::F TimesSigmoid(typename V::F x, typename V::F y) {
  return V::Divide(x, V::Add(V::Set(1), V::Exp(V::Subtract(V::Zero(), y))));
}

template <typename V>
inline typename V::F Min(typename V::F a, typename V::F b) {
  return V::Subtract(V::Zero(), V::Max(V::Subtract(V::Zero(), a), V::Subtract(V::Zero(), b)));
}

// x times the normal distribution function: max(x, 0) - |x| Q(|x|), Q(y) = erfc(y / sqrt(2)) / 2 by formula 7.1.26 of Abramowitz and
// Stegun, "Handbook of mathematical functions", 1964 (factors halved), which is right to 1e-7.
template <typename V>
inline typename V::F ErfGelu(typename V::F x) {
  const auto size = V::Max(x, V::Subtract(V::Zero(), x));
  const auto t = V::Divide(V::Set(1), V::MultiplyAdd(size, V::Set(0.3275911f * 0.707106781186548f), V::Set(1)));
  constexpr float kFactors[] = {-0.7265760135f, 0.7107068705f, -0.142248368f, 0.127414796f};
  auto sum = V::Set(0.5307027145f);
  for (const float next : kFactors) sum = V::MultiplyAdd(sum, t, V::Set(next));
  const auto tail = V::Multiply(V::Multiply(sum, t), V::Exp(V::Multiply(V::Multiply(size, size), V::Set(-0.5f))));
  return V::Subtract(V::Max(x, V::Zero()), V::Multiply(size, tail));
}

template <typename V, Activation kActivation>
inline typename V::F Apply(typename V::F x) {
  if constexpr (kActivation == Activation::kSilu) return TimesSigmoid<V>(x, x);
  if constexpr (kActivation == Activation::kGelu) {
    // (1 + tanh(y)) / 2 = 1 / (1 + exp(-2 y)).
    constexpr float kTwice = 2 * 0.797884560802865f;
    const auto cubic = V::MultiplyAdd(V::Multiply(V::Multiply(x, x), x), V::Set(kTwice * 0.044715f), V::Multiply(x, V::Set(kTwice)));
    return TimesSigmoid<V>(x, cubic);
  }
  if constexpr (kActivation == Activation::kErfGelu) return ErfGelu<V>(x);
  const auto positive = V::Max(x, V::Zero());
  if constexpr (kActivation == Activation::kRelu) return positive;
  if constexpr (kActivation == Activation::kReluSquared) return V::Multiply(positive, positive);
  if constexpr (kActivation == Activation::kClampedSilu) {
    const auto low = Min<V>(x, V::Set(7));
    return TimesSigmoid<V>(low, V::Multiply(low, V::Set(1.702f)));
  }
}

template <typename V, Activation kActivation>
inline typename V::F Gate(typename V::F x, typename V::F factor) {
  if constexpr (kActivation == Activation::kClampedSilu) factor = V::Add(Min<V>(V::Max(factor, V::Set(-7)), V::Set(7)), V::Set(1));
  return V::Multiply(Apply<V, kActivation>(x), factor);
}

template <typename V, Activation kActivation>
void Activate(const float* x, const float* factor, size_t n, float* out) {
  size_t i = 0;
  if (factor == nullptr) {
    for (; i + V::kLanes <= n; i += V::kLanes) V::Store(out + i, Apply<V, kActivation>(V::Load(x + i)));
  } else {
    for (; i + V::kLanes <= n; i += V::kLanes) V::Store(out + i, Gate<V, kActivation>(V::Load(x + i), V::Load(factor + i)));
  }
  if (i == n) return;
  float last[2][V::kLanes] = {};
  for (size_t k = i; k < n; ++k) {
    last[0][k - i] = x[k];
    if (factor != nullptr) last[1][k - i] = factor[k];
  }
  const auto values = V::Load(last[0]);
  V::Store(last[0], factor == nullptr ? Apply<V, kActivation>(values) : Gate<V, kActivation>(values, V::Load(last[1])));
  for (size_t k = i; k < n; ++k) out[k] = last[0][k - i];
}

}  // namespace
}  // namespace bantam::kernels
