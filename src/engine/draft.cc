#include "engine/draft.h"

#include <algorithm>

namespace bantam {
namespace {

constexpr double kNewest = 0.15;
// A draft must promise so much more: costs are measured, and a little wrong.
constexpr double kGainMin = 1.05;
// Nothing is tried any more below this share, but it creeps back up to it, so that a text that begins to repeat itself is noticed.
constexpr double kRightMin = 0.2;
constexpr double kForget = 0.01;

}  // namespace

std::vector<uint32_t> LookUpDraft(std::span<const uint32_t> tokens, size_t tokens_max) {
  tokens = tokens.last(std::min(tokens.size(), kDraftHistoryMax));
  size_t best_length = kDraftMatchMin - 1;
  size_t best_end = 0;  // of the earlier occurrence
  for (size_t end = tokens.size() - std::min<size_t>(tokens.size(), 1); end > 0; --end) {
    size_t length = 0;
    while (length < kDraftMatchMax && length < end && tokens[end - 1 - length] == tokens[tokens.size() - 1 - length]) ++length;
    if (length <= best_length) continue;
    best_length = length;
    best_end = end;
    if (length == kDraftMatchMax) break;
  }
  if (best_end == 0) return {};
  std::vector<uint32_t> draft;
  for (size_t at = best_end; draft.size() < tokens_max; ++at) {
    draft.push_back(at < tokens.size() ? tokens[at] : draft[at - tokens.size()]);  // a text that goes round in circles goes on so
  }
  return draft;
}

void DraftLength::Observe(size_t drafted, size_t accepted) {
  if (drafted == 0) {
    if (right_ < kRightMin) right_ += kForget * (kRightMin - right_);
    return;
  }
  // Each accepted token was right, and the first one behind them was not.
  for (size_t i = 0; i < std::min(drafted, accepted + 1); ++i) right_ += kNewest * ((i < accepted ? 1.0 : 0.0) - right_);
}

size_t DraftLength::Best(const StepCost& cost, size_t rows, size_t tokens_max) const {
  if (!cost.known() || right_ < kRightMin / 2) return 0;
  const double without = static_cast<double>(cost.Predict(rows));
  size_t best = 0;
  double best_gain = kGainMin;
  double tokens = 1;
  double all_right = 1;
  for (size_t length = 1; length <= tokens_max; ++length) {
    all_right *= right_;
    tokens += all_right;
    // All that is in the step gets slower, not this sequence alone.
    const double gain =
        (static_cast<double>(rows) - 1 + tokens) / static_cast<double>(rows) * without / static_cast<double>(cost.Predict(rows + length));
    if (gain <= best_gain) continue;
    best_gain = gain;
    best = length;
  }
  return best;
}

}  // namespace bantam
