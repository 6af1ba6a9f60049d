// What is made of a token's logits first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

namespace bantam {

// log of the sum of exp, and the likeliest token.
struct LogitShape {
  float largest = 0;
  double log_total = 0;
  size_t top = 0;

  // log of the probability of a token with this logit.
  double LogProbability(float logit) const { return static_cast<double>(logit - largest) - log_total; }
};

inline LogitShape ShapeOf(std::span<const float> logits) {
  const auto top = std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += static_cast<double>(std::exp(logit - *top));
  return {*top, std::log(total), static_cast<size_t>(top - logits.begin())};
}

// Kullback-Leibler divergence of the candidate's probabilities from the base's, in nats; below 0 only by rounding.
inline double DivergenceOf(std::span<const float> base, const LogitShape& p, std::span<const float> candidate, const LogitShape& q) {
  double divergence = 0;
  const double normal = std::exp(-p.log_total);
  for (size_t i = 0; i < base.size(); ++i) {
    // Beyond this a probability is nothing beside the error of the sum.
    constexpr float kFar = 40;
    if (p.largest - base[i] > kFar) continue;
    divergence +=
        static_cast<double>(std::exp(base[i] - p.largest)) * normal * (p.LogProbability(base[i]) - q.LogProbability(candidate[i]));
  }
  return std::max(divergence, 0.0);
}

}  // namespace bantam
