// Admission: whether a request is taken at all. Pure functions, so that the answer does not wait for a step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "engine/request.h"
#include "engine/step_cost.h"
#include "engine/step_policy.h"

namespace bantam {

struct AdmissionLimits {
  size_t requests_max = 256;                // that wait or run
  size_t tokens_max = 1 << 20;              // of their prompts that are not computed yet
  uint64_t bytes_max = uint64_t{64} << 20;  // that they hold beside KV
  int64_t first_token_max_ns = 0;           // the longest predicted wait, 0: any
};

// What there is to do, per priority.
struct EngineLoad {
  struct Class {
    size_t prompt_tokens = 0;  // to compute before anything new of this priority is
    size_t decoding = 0;       // sequences
    size_t answers = 0;        // that are not ended, whether they wait or run
  };
  std::array<Class, kPriorities> classes;
  size_t requests = 0;
  size_t tokens = 0;
  uint64_t bytes = 0;
  size_t step_tokens = 128;
  size_t places = SIZE_MAX;      // sequences that run at once
  double answer_tokens = 100;    // of an answer, on average
  bool short_of_memory = false;  // the machine is: nothing new is taken
  StepCost cost;

  void Add(const Request& request, uint64_t bytes_held);
};

// When the first token of a request would come, counted from now: prompts of its priority and above in front of it, and its own but for
// `cached` tokens, at the measured pace; and where they take all places, as many average answers as have to end first. 0 while nothing was
// measured.
int64_t PredictFirstToken(const PolicyOptions& policy, const EngineLoad& load, const Request& request, size_t cached);

// Ok, or Unavailable with what is in the way and the prediction.
Status Admit(const AdmissionLimits& limits, const PolicyOptions& policy, const EngineLoad& load, const Request& request, uint64_t bytes,
             size_t cached);

}  // namespace bantam
