#include "program/routing.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bantam {

Probabilities::Probabilities(const RouteOp& op, std::span<const float> logits)
    : sigmoid_(op.gating == Gating::kSigmoid), largest_(-std::numeric_limits<float>::infinity()) {
  if (sigmoid_) return;
  for (const float logit : logits) largest_ = std::max(largest_, logit);
  // Where weights are made to sum to 1, what they are relative to does not matter.
  if ((op.normalize && op.selection_bias == kNone) || op.gating == Gating::kSoftmaxOfChosen) return;
  total_ = 0;
  for (const float logit : logits) total_ += std::exp(logit - largest_);
}

float Probabilities::Of(float logit) const { return sigmoid_ ? 1.0f / (1.0f + std::exp(-logit)) : std::exp(logit - largest_) / total_; }

float SparseMixerWeight(std::span<const float> logits, std::span<const int32_t> chosen, float jitter) {
  const float own = logits[static_cast<size_t>(chosen.back())];
  const auto before = chosen.first(chosen.size() - 1);
  float total = 0;
  for (size_t e = 0; e < logits.size(); ++e) {
    if (std::find(before.begin(), before.end(), static_cast<int32_t>(e)) != before.end()) continue;
    const bool left_out = (own - logits[e]) / std::max(std::fabs(logits[e]), own) > 2 * jitter;
    if (!left_out) total += std::exp(logits[e] - own);
  }
  return 1 / total;
}

}  // namespace bantam
