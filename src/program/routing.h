// The weights of the experts that a router's logits choose.
#pragma once

#include <cstdint>
#include <span>

#include "program/program.h"

namespace bantam {

// Logits to the experts' probabilities; of softmaxes, relative to the largest or to the sum over all.
class Probabilities {
 public:
  Probabilities(const RouteOp& op, std::span<const float> logits);
  float Of(float logit) const;

 private:
  const bool sigmoid_;
  float largest_;
  float total_ = 1;
};

// SparseMixer's weight of the last of `chosen` (Liu, Gao and Chen, "Grin: gradient-informed MoE", 2024): its softmax over the experts not
// chosen before whose logits are within 2 * jitter of its own, relative to the larger of both magnitudes.
float SparseMixerWeight(std::span<const float> logits, std::span<const int32_t> chosen, float jitter);

}  // namespace bantam
