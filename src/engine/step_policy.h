// The policy: which sequences take part in the next step, and with how many tokens. Pure functions of a snapshot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/step_cost.h"

namespace bantam {

enum class Priority : uint8_t { kHigh, kNormal, kLow, kBatch };
inline constexpr size_t kPriorities = 4;
std::string_view PriorityName(Priority priority);  // "high", "normal", "low", "batch"
std::optional<Priority> PriorityFromName(std::string_view name);

struct PolicyOptions {
  size_t residents_max = 8;   // sequences that hold KV at once
  size_t step_tokens = 128;   // most rows of a step
  size_t step_outputs = 8;    // most rows of a step whose logits are wanted
  double slowdown_max = 1.5;  // what prompts and lower priorities may make of the time between others' tokens
  // After so long a request counts as one priority higher, until it ends or loses its KV; but nothing becomes high by waiting.
  int64_t ageing_ns = 30'000'000'000;
};

// One sequence, as the policy sees it.
struct SequenceView {
  Priority priority = Priority::kNormal;
  int64_t waiting_since_ns = 0;  // since arrival, or since it lost its KV
  uint64_t arrival = 0;          // a number that grows, and that all sequences of a request share
  int64_t deadline_ns = INT64_MAX;
  double service = 0;     // what its client had so far, in tokens
  bool resident = false;  // holds KV
  bool begun = false;     // holds none, but others of its request rest until it is computed
  bool decoding = false;  // its prompt is computed: `pending` are its last token, and drafts behind it
  bool waits = false;     // for what another one computes: it has its place, and nothing to do yet
  size_t pending = 0;     // tokens to compute; a resident without any waits for others of its request, and gives way to them
  size_t blocks = 0;      // of KV that all its tokens need; of those that are not resident
  size_t held = 0;        // blocks that come back if it goes; of residents
};

struct PolicySnapshot {
  int64_t now_ns = 0;
  std::vector<SequenceView> sequences = {};
  size_t blocks_available = 0;  // free, or only cached
  const StepCost* cost = nullptr;
};

struct Grant {
  size_t sequence = 0;  // index in the snapshot
  size_t tokens = 0;
};
struct StepPlan {
  std::vector<Grant> grants;  // most important first
  // All sequences, most important first. A grant takes KV only from residents that are ranked below it, from the last one on.
  std::vector<size_t> ranked;
  // Residents that have to go for the grants to have a place among PolicyOptions::residents_max.
  std::vector<size_t> displaced;
};

// Decoding sequences of the highest priority that has work come first and always; then prompts of it and what is lower, in their order, as
// far as the step stays within slowdown_max of what those decoding alone would take. While a high prompt is read, nothing lower runs.
StepPlan PlanStep(const PolicyOptions& options, const PolicySnapshot& snapshot);

// The priority that counts now.
Priority Aged(const PolicyOptions& options, const SequenceView& sequence, int64_t now_ns);

// The order of importance: indices, most important first.
std::vector<size_t> Rank(const PolicyOptions& options, const PolicySnapshot& snapshot);

// Nothing says that the plan is good; this says that it is possible. Empty, or what is wrong.
std::string_view CheckPlan(const PolicyOptions& options, const PolicySnapshot& snapshot, const StepPlan& plan);

}  // namespace bantam
