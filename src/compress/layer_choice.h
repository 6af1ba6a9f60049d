// Which layers a model can do without: whole ones, by what the model says without them on a text.
#pragma once

#include <cstddef>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "compress/calibrate.h"
#include "compress/window_runner.h"

namespace bantam {

struct LayerChoice {
  std::vector<size_t> dropped;     // in the order in which they were chosen
  std::vector<double> divergence;  // mean of the model without the layers up to there, from the whole one, in nats
  std::vector<double> alone;       // [layers]: of the model without that one
};

// `count` layers, below the model's: one after the other the one without which the probabilities of the second half of each window diverge
// least from those of the whole model. Of a window as many tokens are read as a step of the runner has, and at most kLayerChoiceTokens
// together, of windows from all over the text. Errors: Unsupported for models whose layers cannot be left away one by one (states, several
// streams); Corrupt (logits that are no numbers), Cancelled, those of the runner.
inline constexpr size_t kLayerChoiceTokens = 4096;
Result<LayerChoice> ChooseLayers(const Model& model, WindowRunner& runner, const CalibrationWindows& windows, size_t count,
                                 ThreadPool& pool, const Progress& progress);

}  // namespace bantam
