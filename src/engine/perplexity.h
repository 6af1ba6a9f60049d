// Perplexity of a text: how surprised a model is by it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "base/result.h"
#include "engine/session.h"

namespace bantam {

struct PerplexityOptions {
  size_t window = 512;          // tokens of a window, at least 4
  size_t windows_max = 0;       // 0: all that the text fills
  std::optional<uint32_t> bos;  // takes the place of each window's first token
};

struct PerplexityEstimate {
  size_t windows = 0;
  size_t scored = 0;  // tokens whose probability counts
  double perplexity = 0;
  double error = 0;  // standard error
};

// Called after each window with the estimate so far.
using PerplexityProgress = std::function<void(const PerplexityEstimate& estimate, size_t windows)>;

// exp of the mean of -log p over the second half of each window of `tokens`, p after the window's earlier tokens only: the windows that
// llama.cpp's tool uses, so that figures compare. Needs a session for whole windows with logits of every token of a step; it is
// emptied. Errors: InvalidArgument (the text fills no window), Cancelled (before the first window was done; later the estimate so far is
// returned), Corrupt (logits that are no numbers), those of Session::Append.
Result<PerplexityEstimate> MeasurePerplexity(Session& session, std::span<const uint32_t> tokens, const PerplexityOptions& options,
                                             const PerplexityProgress& progress, const Cancelled& cancelled = nullptr);

}  // namespace bantam
