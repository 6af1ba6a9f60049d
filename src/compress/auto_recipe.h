// A format for each tensor, so that the model fits and loses as little as it can.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "compress/importance.h"
#include "formats/model_file.h"

namespace bantam {

struct TensorChoice {
  std::string name;
  DType type;
  double loss;  // relative error of what its products give, as PredictLosses has it
};
struct AutoChoice {
  std::vector<TensorChoice> tensors;  // those that are compressible
  uint64_t weights_bytes = 0;         // in memory, of all tensors
};

// What a tensor would cost in one format.
struct FormatCost {
  DType type;
  uint64_t bytes = 0;  // in memory
  double loss = 0;
};
struct FormatCosts {
  std::string name;
  std::vector<FormatCost> candidates;  // by rising bytes and falling loss
};

// Packs some rows of each tensor in every format that its rows divide by. The loss is the squared error over the square of the weights,
// columns weighed by importance: to first order the relative error of what the product gives, for which products of one model
// count much the same (Malinovskii et al., "Pushing the limits of LLM quantization via the linearity theorem", 2024). Errors: those of the
// source, Corrupt (weights that are no numbers, named), Cancelled.
Result<std::vector<FormatCosts>> PredictLosses(ModelFile& file, const Importance* importance, ThreadPool& pool, const Progress& progress);

// The formats of the least sum of losses whose bytes, with `other_bytes` for all else, are at most `limit_bytes`: from the smallest of
// each tensor up, always the step that takes most off the loss for its bytes. Exhausted, with the numbers, when the smallest are too large.
Result<AutoChoice> ChooseTypes(std::span<const FormatCosts> tensors, uint64_t other_bytes, uint64_t limit_bytes);

// Memory of the tensors that are not compressible.
uint64_t KeptBytes(const ModelFile& file);

}  // namespace bantam
