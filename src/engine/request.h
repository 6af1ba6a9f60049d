// What an engine is asked, and what it answers: values, which travel between threads and, some day, processes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/step_policy.h"
#include "engine/stop_reason.h"
#include "model/sampler.h"
#include "program/kv_layout.h"
#include "text/structured/token_constraint.h"

namespace bantam {

using RequestId = uint64_t;

inline constexpr size_t kChoicesMax = 16;
inline constexpr size_t kTopLogprobsMax = 20;
inline constexpr size_t kBeamsMax = 16;
inline constexpr float kLengthPenaltyMax = 4;

struct Request {
  std::vector<uint32_t> tokens = {};  // the prompt, with the vocabulary's prefix
  size_t tokens_max = 256;            // of an answer; 0 only with prompt_details
  size_t tokens_min = 0;              // an answer does not end its turn before
  SamplerOptions sampler = {};
  std::vector<std::string> stops = {};  // texts that end the answer, and are no part of it
  size_t choices = 1;                   // answers to the same prompt; choice i draws with seed + i
  // Beam search: so many beginnings go on at once, and the `choices` best answers come all at their end, the best first. 0: none.
  size_t beams = 0;
  float length_penalty = 1;  // of beam search, see BeamScore
  // Early exit (EngineOptions::exit_layer): where the likeliest token has this probability or more behind that layer, the answer goes on
  // with what those layers say. 0: all layers are asked.
  float exit_confidence = 0;
  Priority priority = Priority::kNormal;
  int64_t deadline_ns = 0;                      // from arrival to the last token, 0: none
  int64_t first_token_max_ns = 0;               // refused if the first token is expected later, 0: the engine's limit
  std::string client = {};                      // who asks, for fairness among clients
  std::string tenant = {};                      // prefixes are shared within one only
  std::string adapter = {};                     // one of the engine's, by name; empty: none
  std::optional<KvType> kv_type = {};           // the plan's, or 8 bits; none: the plan's, or 8 bits where EngineOptions::narrow_kv says so
  bool cache = true;                            // takes prefixes that are kept, and leaves its own
  bool speculate = true;                        // drafts, where they pay
  bool token_details = false;                   // events name every token with its logarithm of the probability
  size_t top_logprobs = 0;                      // and so many of the likeliest tokens, with token_details
  bool prompt_details = false;                  // the prompt's tokens are named too, which takes no prefix; not with beams or early exit
  std::shared_ptr<TokenMasks> constraint = {};  // what the answer has to be (Constraints); null: any text
  std::vector<uint32_t> written = {};           // control tokens that are part of the text, by their names (OutputDialect::MarkerTokens)
  std::string echo = {};                        // stands in front of each answer's text; stops do not look at it
  float confidence_min = 0;                     // an answer below is marked; 0: confidence is not computed unless token_details
};

// That run for it at once.
inline size_t SequencesOf(const Request& request) { return request.beams > 0 ? request.beams : request.choices; }

struct TokenLogprob {
  uint32_t token = 0;
  float logprob = 0;  // natural, of the model's distribution before any step of the sampler
};
struct TokenInfo {
  TokenLogprob chosen = {};
  std::vector<TokenLogprob> top = {};  // likeliest first
};

struct Usage {
  size_t prompt_tokens = 0;
  size_t cached_tokens = 0;            // of them, taken from a prefix that was kept
  std::optional<KvType> kv_type = {};  // none: it never had any
  size_t exited_tokens = 0;            // of the generated ones, that left early; of all choices
  size_t generated_tokens = 0;
  size_t drafted_tokens = 0;
  size_t accepted_tokens = 0;  // of the drafted ones
  int64_t queued_ns = 0;       // from arrival to the first step
  int64_t first_token_ns = 0;  // from arrival
  int64_t total_ns = 0;
};

struct Finish {
  StopReason reason = StopReason::kEndOfTurn;
  std::string stop = {};  // the one that was found
  Usage usage = {};
  // The geometric mean of the probabilities of the answer's tokens, its end included: exp(mean log p). Where it was asked for. With
  // EngineOptions::calibration what that makes of it, and the mean beside it.
  std::optional<float> confidence = {};
  std::optional<float> computed_confidence = {};
  bool low_confidence = false;
  std::optional<float> beam_score = {};
  std::optional<Error> error = {};  // with kError
};

// Something new of one choice.
struct Event {
  RequestId request = 0;
  size_t choice = 0;
  std::string text = {};  // whole characters, and no part of what may become a stop
  std::vector<TokenInfo> tokens = {};
  std::vector<TokenInfo> prompt = {};  // with the first event of a choice, where they were asked for; p of the first one is NaN
  size_t token_count = 0;              // generated with this event
  std::optional<Finish> finish = {};
};

}  // namespace bantam
