// How far a model's activations are from those of the one that it was made of, layer by layer.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/threads.h"
#include "compress/window_runner.h"

namespace bantam {

struct ObservedModel {
  const Model& model;
  WindowRunner& runner;
};

// By the matrix that reads it ("blk.3.ffn_down.weight"; those that read the same have one entry), in the order of the program: the sum of
// squared differences of what the products of both read over the sum of squares of the base's, over the windows of these tokens. What
// only one of them has, or has in another width, is left out. Empty where the models have not as many layers: their places mean nothing.
// Errors: those of the runners, Cancelled.
Result<std::vector<std::pair<std::string, double>>> MeasureLayerErrors(const ObservedModel& base, const ObservedModel& candidate,
                                                                       std::span<const uint32_t> tokens,
                                                                       const Cancelled& cancelled = nullptr);

}  // namespace bantam
