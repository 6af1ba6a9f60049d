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

// Of a draft that shall show what a draft model is worth. Where it is not even made within so many steps, it is given up.
constexpr size_t kTryTokens = 3;
constexpr size_t kTrySteps = 64;
// So many steps without drafts are measured before the first draft. Then one has none after as many with drafts as were measured, at most
// these: first measurements may be far off.
constexpr size_t kPlainSteps = 3;
constexpr size_t kPlainAfter = 24;
// Of what the draft model has to read, the least that is worth a step; and all while it is not known how long that takes.
constexpr size_t kPiece = 16;

// How many guesses in a row are worth a row of the model's step.
size_t Depth(double right, size_t tokens_max) {
  size_t depth = 0;
  for (double all_right = right; depth < tokens_max && all_right >= kRightMin; all_right *= right) ++depth;
  return depth;
}

// Drafts of at most `length` tokens, as far as there is room for them.
std::vector<size_t> LengthsWithin(const DraftPlanner::Step& step, std::span<const DraftCandidate> candidates, size_t length) {
  std::vector<size_t> lengths;
  size_t left = step.outputs;
  const size_t share = std::max<size_t>(1, step.outputs / candidates.size());
  for (const DraftCandidate& candidate : candidates) {
    lengths.push_back(std::min({length, share, left, Depth(candidate.right, candidate.tokens_max)}));
    left -= lengths.back();
  }
  return lengths;
}

// What these drafts ask of both models.
struct DraftTimes {
  size_t drafted = 0;   // sequences
  double first_ns = 0;  // the draft model's first step, of what came since the last drafts
  double guess_ns = 0;  // its further ones
  double read_ns = 0;   // what it has to read before, shared out among the steps that follow
  double check_ns = 0;  // the model's step
  double tokens = 0;    // that come of it
};

DraftTimes TimesOf(const DraftPlanner::Step& step, std::span<const DraftCandidate> candidates, std::span<const size_t> lengths) {
  DraftTimes times = {.tokens = static_cast<double>(step.rows)};
  const auto draft_ns = [&](size_t rows) { return rows == 0 ? 0 : static_cast<double>(step.draft_cost.Predict(rows)); };
  const double read_ns = draft_ns(step.step_tokens) / static_cast<double>(step.step_tokens);
  size_t first = 0;
  size_t guesses = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (lengths[i] == 0) continue;
    ++times.drafted;
    guesses += lengths[i];
    // After a draft that was right to the end there are two.
    const size_t newest = std::min<size_t>(candidates[i].behind, 2);
    first += newest;
    double tokens = 1;
    double all_right = 1;
    for (size_t j = 0; j < lengths[i]; ++j) tokens += all_right *= candidates[i].right;
    times.tokens += tokens - 1;
    const double steps = std::max(1.0, static_cast<double>(candidates[i].remaining) / tokens);
    times.read_ns += read_ns * static_cast<double>(candidates[i].behind - newest) / steps;
  }
  times.first_ns = draft_ns(first);
  for (size_t j = 1; j < kDraftTokensMax; ++j) {
    times.guess_ns +=
        draft_ns(static_cast<size_t>(std::count_if(lengths.begin(), lengths.end(), [&](size_t length) { return length > j; })));
  }
  times.check_ns = static_cast<double>(step.cost.Predict(step.rows + guesses));
  return times;
}

// The lengths that give most tokens in a second, all zero where none pays.
std::vector<size_t> BestLengths(const DraftPlanner::Step& step, std::span<const DraftCandidate> candidates) {
  std::vector<size_t> best(candidates.size());
  if (!step.cost.known() || !step.draft_cost.known()) return best;
  const double without_ns = static_cast<double>(step.cost.Predict(step.rows));
  double best_gain = kGainMin;
  for (size_t length = 1; length <= kDraftTokensMax; ++length) {
    std::vector<size_t> lengths = LengthsWithin(step, candidates, length);
    const DraftTimes times = TimesOf(step, candidates, lengths);
    const double step_ns = times.first_ns + times.guess_ns + times.check_ns;
    if (times.drafted < step.rows && step_ns > step.slowdown_max * without_ns) break;
    const double gain = times.tokens / static_cast<double>(step.rows) * without_ns / (step_ns + times.read_ns);
    if (gain <= best_gain) continue;
    best_gain = gain;
    best = std::move(lengths);
  }
  return best;
}

// How much the draft model reads in front of its guesses: all of a step for a sequence that is alone, and beside others what leaves them
// their pace. Who cannot read on by a fair piece is left alone.
size_t RowsToRead(const DraftPlanner::Step& step, std::span<const DraftCandidate> candidates, std::vector<size_t>* lengths) {
  size_t least = 0;  // of those that go on from their last drafts
  size_t piece = kPiece;
  std::vector<size_t> ready = *lengths;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (ready[i] == 0) continue;
    if (candidates[i].behind <= 2) {
      least += candidates[i].behind;
    } else {
      ready[i] = 0;
      piece = std::min(piece, candidates[i].behind);
    }
  }
  size_t rows = std::max(least, step.step_tokens);
  if (step.rows == 1) return rows;
  if (!step.draft_cost.known()) {
    rows = least + piece;
  } else {
    const DraftTimes times = TimesOf(step, candidates, ready);
    const double left_ns = step.slowdown_max * static_cast<double>(step.cost.Predict(step.rows)) - times.guess_ns - times.check_ns;
    while (rows > least && static_cast<double>(step.draft_cost.Predict(rows)) > left_ns) rows = std::max(least, rows / 2);
  }
  if (rows < least + piece) *lengths = ready;
  return rows;
}

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

DraftWork DraftPlanner::Next(const Step& step, std::span<const DraftCandidate> candidates) {
  if (candidates.empty() || step.outputs == 0) return {};
  const size_t seen = step.cost.Seen(step.rows);
  const bool plain = seen < kPlainSteps || drafted_ >= std::min(seen, kPlainAfter);
  drafted_ = plain ? 0 : drafted_ + 1;
  if (plain) return {};
  ++idle_;
  DraftWork work = {.lengths = BestLengths(step, candidates)};
  if (std::any_of(work.lengths.begin(), work.lengths.end(), [](size_t length) { return length > 0; })) {
    try_after_ = kTryAfterMin;
  } else {
    if (idle_ <= try_after_) {
      drafted_ = 0;
      return {};
    }
    const auto nearest =
        std::min_element(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) { return a.behind < b.behind; });
    work.lengths[static_cast<size_t>(nearest - candidates.begin())] = std::min({nearest->tokens_max, step.outputs, kTryTokens});
    if (idle_ > try_after_ + kTrySteps) {
      try_after_ = std::min(2 * try_after_, kTryAfterMax);
      idle_ = 0;
    }
  }
  work.rows_max = RowsToRead(step, candidates, &work.lengths);
  return work;
}

void DraftPlanner::Observe(size_t drafted, size_t accepted) {
  if (drafted == 0) return;
  overall_.Observe(drafted, accepted);
  if (idle_ > try_after_) try_after_ = std::min(2 * try_after_, kTryAfterMax);
  idle_ = 0;
}

}  // namespace bantam
