// What a compressed model lost: how its logits differ from those of the model that it was made of, over a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "base/clock.h"
#include "base/result.h"
#include "base/threads.h"
#include "compress/window_runner.h"

namespace bantam {

struct CompareOptions {
  size_t windows_max = 0;       // 0: all that the text fills
  std::optional<uint32_t> bos;  // takes the place of each window's first token
};

struct Estimate {
  double value = 0;
  double error = 0;  // standard error
};

// Over the second half of each window, as MeasurePerplexity has it; logarithms are natural.
struct Comparison {
  size_t windows = 0;
  size_t scored = 0;  // tokens
  Estimate base_perplexity;
  Estimate perplexity;  // of the candidate
  Estimate ratio;       // of the two, with the error of the difference: both read the same tokens
  Estimate divergence;  // mean Kullback-Leibler divergence of the candidate's probabilities from the base's, in nats
  double divergence_median = 0;
  double divergence_999 = 0;  // 99.9 % of tokens have less
  double divergence_max = 0;
  Estimate same_top;  // part of the tokens where both find the same one likeliest
};

// Called after each window with what is known so far.
using CompareProgress = std::function<void(const Comparison& comparison, size_t windows)>;

// Both runners have whole windows of the same size and step_outputs of step_tokens; what is kept is a few numbers a token. Errors:
// InvalidArgument (the text fills no window, vocabularies of different sizes), Corrupt (logits that are no numbers), Cancelled (before the
// first window was done; later the comparison so far is returned), those of the runners.
Result<Comparison> Compare(WindowRunner& base, WindowRunner& candidate, std::span<const uint32_t> tokens, const CompareOptions& options,
                           ThreadPool& pool, const CompareProgress& progress, const Cancelled& cancelled = nullptr);

// Tokens per second of one token after another, behind the first half of these. Cancelled; those of the runner.
Result<double> MeasureDecoding(WindowRunner& runner, std::span<const uint32_t> tokens, const Clock& clock,
                               const Cancelled& cancelled = nullptr);

}  // namespace bantam
