// Generation: one answer as it grows: from logits to tokens to text, and when it ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/request.h"
#include "model/sampler.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"

namespace bantam {

// log sum exp of logits, which log p of each is its logit less of.
double LogSumExp(std::span<const float> logits);

// log p of one token under logits [vocabulary], and of the `count` likeliest.
TokenInfo DescribeToken(std::span<const float> logits, uint32_t token, size_t count);

class Generation {
 public:
  // The tokenizer and the list, which is scratch for all, outlive it. Errors: InvalidArgument of options and stops.
  static Result<std::unique_ptr<Generation>> Make(const Request& request, size_t choice, const Tokenizer& tokenizer,
                                                  CandidateList* scratch);
  // What Make holds on to, roughly: bytes.
  static uint64_t Bytes(const Request& request, size_t vocabulary);

  // Takes the next token from logits [vocabulary] and adds what is new to `event`. Nothing is returned for a token that ends the answer's
  // turn, which does not enter the context. ended() then tells. Corrupt where the logits are no numbers.
  Result<std::optional<uint32_t>> Next(std::span<const float> logits, Event* event);
  // The same in two halves, for beam search: the likeliest tokens that may come, likeliest first, at most `count`, with their
  // probabilities in the model's distribution; and one of them taken.
  Result<std::vector<TokenLogprob>> Likeliest(std::span<const float> logits, size_t count);
  Status Take(TokenInfo token, Event* event);
  // Another answer that begins as this one. Only of beam search.
  std::unique_ptr<Generation> Fork() const;
  // Ends it for a reason from outside. What was held back goes to `event`.
  void End(StopReason reason, Event* event);
  // Tokens of the text that has to come next, where an answer is constrained: at most `tokens_max`.
  std::vector<uint32_t> Forced(size_t tokens_max) const;
  // How many of these tokens, which would come next, a constraint allows, from the first on; all without one.
  size_t Allows(std::span<const uint32_t> tokens) const;

  bool ended() const { return finish_.has_value(); }
  const Finish& finish() const { return *finish_; }
  size_t tokens() const { return tokens_; }

 private:
  Generation(const Request& request, size_t choice, const Tokenizer& tokenizer, StopStrings stops, CandidateList* scratch);
  Generation(const Generation& other);
  // Tokens that may come, as the sampler wants them; empty: all. Unsupported as TokenConstraint::Mask.
  Result<std::span<const uint32_t>> Allowed();
  bool observes() const { return request_.token_details || request_.confidence_min > 0; }
  void Emit(const std::string& text, Event* event);

  const Request& request_;
  const Tokenizer& tokenizer_;
  CandidateList* const scratch_;
  std::unique_ptr<Sampler> sampler_;  // none where beam search chooses
  TokenStream stream_;
  StopStrings stops_;
  std::vector<uint32_t> not_ending_;  // a bit for each token but those that end a turn, while tokens_min is not reached
  std::optional<TokenConstraint> constraint_;
  std::vector<uint32_t> mask_;  // scratch, where there is a constraint
  bool echoed_ = false;
  size_t tokens_ = 0;
  size_t observed_ = 0;  // tokens whose probability counts, the end of turn among them
  double logprobs_ = 0;  // their sum
  std::optional<Finish> finish_;
};

}  // namespace bantam
