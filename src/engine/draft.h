// Drafts: guesses at the next tokens that one step checks all at once. The text is the same as without them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/step_cost.h"

namespace bantam {

// What followed the last time that the newest tokens occurred before (Saxena, "Prompt lookup decoding", 2023): the longest match of at most
// kDraftMatchMax tokens, of equals the latest. `tokens_max` tokens, or none without a match of kDraftMatchMin.
inline constexpr size_t kDraftMatchMax = 4;
inline constexpr size_t kDraftMatchMin = 2;
inline constexpr size_t kDraftTokensMax = 8;
// Looks back no further.
inline constexpr size_t kDraftHistoryMax = 8192;
std::vector<uint32_t> LookUpDraft(std::span<const uint32_t> tokens, size_t tokens_max);

// How often drafts of a sequence were right, and how long the next one should be.
class DraftLength {
 public:
  // Of `drafted` tokens the first `accepted` were what the sampler took.
  void Observe(size_t drafted, size_t accepted);
  // The length that gives most tokens in a second, at most `tokens_max`; 0 where none pays. `rows` are in the step anyway, this sequence's
  // newest token among them.
  size_t Best(const StepCost& cost, size_t rows, size_t tokens_max) const;
  double right() const { return right_; }

 private:
  double right_ = 0.7;  // share of tokens that are, as long as those in front of them are: where nothing was observed, try
};

// ---- Drafts of a model ----

// A sequence that a draft model could guess for.
struct DraftCandidate {
  double right = 0;       // share of its guesses that are, as long as those in front of them are
  size_t tokens_max = 0;  // of a draft, at least 1
  size_t behind = 0;      // tokens that the draft model has not read, at least the newest one
  size_t remaining = 1;   // tokens that the answer still gets, about
};

// Where the draft model guesses in a step, and how much it reads for that.
struct DraftWork {
  std::vector<size_t> lengths;  // of each candidate's draft; 0: it is left alone
  size_t rows_max = 0;          // tokens that it reads before it guesses
};

// Decides from step to step whether a draft model runs. It pays where what is right of its guesses saves more steps than they take: its
// own, one for each token of the longest draft, what it has to read first, and rows of the model's step. Where it does not it is tried
// again, after more and more steps. Now and then a step goes without, for what that takes has to be known.
class DraftPlanner {
 public:
  struct Step {
    const StepCost& cost;        // of the model
    const StepCost& draft_cost;  // of the draft model
    size_t rows = 0;             // that are in the model's step anyway
    size_t outputs = 0;          // guesses that the step has room for
    size_t step_tokens = 0;      // of a step of the draft model, at most
    double slowdown_max = 1;     // what it may make of the time between tokens of those for whom nothing is guessed
  };
  DraftWork Next(const Step& step, std::span<const DraftCandidate> candidates);
  // A draft of the model was looked at.
  void Observe(size_t drafted, size_t accepted);
  // Of all sequences: what is expected of one that begins.
  const DraftLength& overall() const { return overall_; }

 private:
  static constexpr size_t kTryAfterMin = 32;
  static constexpr size_t kTryAfterMax = 1024;

  DraftLength overall_;
  size_t idle_ = kTryAfterMin;  // steps since the last draft
  size_t try_after_ = kTryAfterMin;
  size_t drafted_ = 0;  // steps since the last one without
};

}  // namespace bantam
