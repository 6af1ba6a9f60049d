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

 private:
  double right_ = 0.7;  // share of tokens that are, as long as those in front of them are: where nothing was observed, try
};

}  // namespace bantam
