#include "engine/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"

namespace bantam {
namespace {

// -log softmax(logits)[token]. A NaN makes it NaN: a damaged model has no perplexity.
double Surprise(std::span<const float> logits, uint32_t token) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += static_cast<double>(std::exp(logit - largest));
  return std::log(total) - static_cast<double>(logits[token] - largest);
}

// The running mean of -log p and of its square.
class Sums {
 public:
  void Add(double surprise) {
    sum_ += surprise;
    squares_ += surprise * surprise;
    ++count_;
  }
  PerplexityEstimate Estimate(size_t windows) const {
    const double n = static_cast<double>(count_);
    const double mean = sum_ / n;
    const double variance = squares_ / n - mean * mean;
    const double perplexity = std::exp(mean);
    return {windows, count_, perplexity, count_ > 1 && variance > 0 ? std::sqrt(variance / (n - 1)) * perplexity : 0};
  }

 private:
  double sum_ = 0;
  double squares_ = 0;
  size_t count_ = 0;
};

}  // namespace

Result<PerplexityEstimate> MeasurePerplexity(Session& session, std::span<const uint32_t> tokens, const PerplexityOptions& options,
                                             const PerplexityProgress& progress, const Cancelled& cancelled) {
  CHECK(options.window >= 4 && options.window <= session.context());
  const size_t fitting = tokens.size() / options.window;
  const size_t windows = options.windows_max == 0 ? fitting : std::min(fitting, options.windows_max);
  if (windows == 0) {
    return Error(Code::kInvalidArgument, fmt::format("the text has {} tokens and a window {}; give a longer text or a smaller --context",
                                                     tokens.size(), options.window));
  }
  const size_t vocabulary = session.vocabulary();
  const size_t half = options.window / 2;
  std::vector<uint32_t> window(options.window);
  Progress stop;
  if (cancelled) stop = [&](std::string_view, uint64_t, uint64_t) { return !cancelled(); };
  Sums sums;
  PerplexityEstimate last;
  for (size_t w = 0; w < windows; ++w) {
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(w * options.window);
    window.assign(begin, begin + static_cast<std::ptrdiff_t>(options.window));
    if (options.bos) window[0] = *options.bos;
    session.Truncate(0);
    Status read = session.Append(std::span(window).first(half), stop);
    size_t next = half + 1;  // the token that the next row of logits predicts
    const auto score = [&](std::span<const float> logits) {
      for (; !logits.empty(); logits = logits.subspan(vocabulary)) sums.Add(Surprise(logits.first(vocabulary), window[next++]));
      return Ok();
    };
    if (read.ok()) read = session.AppendForLogits(std::span(window).subspan(half, window.size() - 1 - half), score, cancelled);
    if (!read.ok() && read.error().code() == Code::kCancelled && w > 0) return last;
    BANTAM_TRY(read);
    last = sums.Estimate(w + 1);
    if (!std::isfinite(last.perplexity)) {
      return Error(Code::kCorrupt, fmt::format("window {}: the model's logits are no numbers, or the text is impossible for it", w + 1));
    }
    if (progress) progress(last, windows);
  }
  return last;
}

}  // namespace bantam
