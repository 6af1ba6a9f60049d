#include "engine/admission.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/memory_budget.h"

namespace bantam {

void EngineLoad::Add(const Request& request, uint64_t bytes_held) {
  Class& of = classes[static_cast<size_t>(request.priority)];
  of.prompt_tokens += request.tokens.size();
  of.answers += SequencesOf(request);
  ++requests;
  tokens += request.tokens.size();
  bytes += bytes_held;
}

int64_t PredictFirstToken(const PolicyOptions& policy, const EngineLoad& load, const Request& request, size_t cached) {
  if (!load.cost.known()) return 0;
  double tokens = static_cast<double>(request.tokens.size() - std::min(cached, request.tokens.size() - 1));
  size_t decoding = 0;
  size_t answers = 0;
  for (size_t p = 0; p <= static_cast<size_t>(request.priority); ++p) {
    tokens += static_cast<double>(load.classes[p].prompt_tokens);
    decoding += load.classes[p].decoding;
    answers += load.classes[p].answers;
  }
  // While others decode, prompts get what slowdown_max leaves of each step.
  const size_t rows =
      decoding == 0 ? load.step_tokens : std::max(decoding + 1, load.cost.RowsWithin(decoding, policy.slowdown_max, load.step_tokens));
  const double steps = std::max(1.0, tokens / static_cast<double>(rows - std::min(decoding, rows - 1)));
  // Of those in front of it, so many rounds of all places end before it has one. A sequence that runs is half through, on average.
  const double places = static_cast<double>(load.places);
  const double rounds = answers < load.places ? 0 : std::floor(static_cast<double>(answers - load.places) / places) + 0.5;
  const double answer_ns = load.answer_tokens * static_cast<double>(load.cost.Predict(std::min(load.places, load.step_tokens)));
  return static_cast<int64_t>(std::min(1e18, steps * static_cast<double>(load.cost.Predict(rows)) + rounds * answer_ns));
}

Status Admit(const AdmissionLimits& limits, const PolicyOptions& policy, const EngineLoad& load, const Request& request, uint64_t bytes,
             size_t cached) {
  const int64_t predicted_ns = PredictFirstToken(policy, load, request, cached);
  const double seconds = static_cast<double>(predicted_ns) / 1e9;
  const auto refuse = [&](std::string_view why) {
    return Error(Code::kUnavailable,
                 fmt::format("{}; a first token would come in {:.1f} s; try again then, or ask for less", why, seconds));
  };
  if (load.short_of_memory) return refuse("the machine is short of memory");
  if (load.requests >= limits.requests_max) {
    return refuse(fmt::format("{} requests wait or run already, as many as are allowed", load.requests));
  }
  if (load.tokens + request.tokens.size() > limits.tokens_max) {
    return refuse(fmt::format("a prompt of {} tokens after {} that wait passes the limit of {}", request.tokens.size(), load.tokens,
                              limits.tokens_max));
  }
  if (load.bytes + bytes > limits.bytes_max) {
    return refuse(fmt::format("requests hold {} already, and this one's {} would pass the limit of {}", FormatBytes(load.bytes),
                              FormatBytes(bytes), FormatBytes(limits.bytes_max)));
  }
  const int64_t wait_max = request.first_token_max_ns > 0 ? request.first_token_max_ns : limits.first_token_max_ns;
  if (wait_max > 0 && predicted_ns > wait_max) {
    return refuse(fmt::format("the wait for a first token is limited to {:.1f} s", static_cast<double>(wait_max) / 1e9));
  }
  // What it is sure to need: its prompt, and the answer's fewest tokens.
  const double least_ns =
      static_cast<double>(predicted_ns) + static_cast<double>(request.tokens_min) * static_cast<double>(load.cost.Predict(1));
  if (request.deadline_ns > 0 && least_ns > static_cast<double>(request.deadline_ns)) {
    return refuse(fmt::format("the deadline of {:.1f} s cannot be met", static_cast<double>(request.deadline_ns) / 1e9));
  }
  return Ok();
}

}  // namespace bantam
