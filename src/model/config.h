// What a model is, as data: one Config, and a plan per layer. Lowering reads only this; arch/<family>.cc writes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "program/program.h"
#include "text/tokenizer_spec.h"

namespace bantam {

// Bounds on hyper-parameters: far above any model of 8 B parameters, low enough that no product of them overflows.
inline constexpr uint32_t kLayersMax = 512;
inline constexpr uint32_t kHeadsMax = 1024;
inline constexpr uint32_t kHeadDimMax = 1024;
inline constexpr uint32_t kWidthMax = 1 << 17;
inline constexpr uint32_t kExpertsMax = 1024;
inline constexpr uint32_t kContextLengthMax = 1 << 24;

enum class FeedForward : uint8_t { kGated, kExperts };

struct LayerPlan {
  size_t heads = 0;
  size_t kv_heads = 0;
  size_t head_dim = 0;
  size_t window = 0;  // tokens that a query sees, itself included; 0: all
  FeedForward feed_forward = FeedForward::kGated;
  size_t feed_forward_width = 0;
};

struct Config {
  std::string architecture;
  size_t width = 0;        // D
  size_t context_max = 0;  // positions seen in training
  float norm_epsilon = 0;
  float attention_scale = 0;
  RopeSpec rope;
  size_t experts = 0;
  size_t experts_used = 1;
  std::vector<LayerPlan> layers;
};

}  // namespace bantam
