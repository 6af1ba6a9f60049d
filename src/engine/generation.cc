#include "engine/generation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace bantam {
namespace {

// A position within a grammar and its scratch: what a deep one holds.
constexpr uint64_t kConstraintBytes = 64 << 10;

Error NoNumbers() {
  return Error(Code::kCorrupt, "the model's logits are no numbers; its file is damaged, or it needs another KV type (--kv f32)");
}

}  // namespace

double LogSumExp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  return static_cast<double>(largest) + std::log(sum);
}

std::string_view StopReasonName(StopReason reason) {
  constexpr std::string_view kNames[] = {"end of turn", "length", "context full", "cancelled", "stop string", "deadline", "error"};
  return kNames[static_cast<size_t>(reason)];
}

TokenInfo DescribeToken(std::span<const float> logits, uint32_t token, size_t count) {
  const double normalizer = LogSumExp(logits);
  const auto logprob = [&](uint32_t id) { return static_cast<float>(static_cast<double>(logits[id]) - normalizer); };
  TokenInfo info = {{token, logprob(token)}, {}};
  if (count == 0) return info;
  std::vector<uint32_t> ids(logits.size());
  for (uint32_t id = 0; id < ids.size(); ++id) ids[id] = id;
  const auto middle = ids.begin() + static_cast<std::ptrdiff_t>(std::min(count, ids.size()));
  std::partial_sort(ids.begin(), middle, ids.end(),
                    [&](uint32_t a, uint32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  for (auto id = ids.begin(); id != middle; ++id) info.top.push_back({*id, logprob(*id)});
  return info;
}

Generation::Generation(const Request& request, size_t choice, const Tokenizer& tokenizer, StopStrings stops, CandidateList* scratch)
    : request_(request), tokenizer_(tokenizer), scratch_(scratch), stream_(tokenizer, request.written), stops_(std::move(stops)) {
  if (request.beams == 0) {
    SamplerOptions options = request.sampler;
    options.seed += choice;
    sampler_ = std::make_unique<Sampler>(options, scratch);
    sampler_->Observe(request.tokens);
  }
  if (!request.constraint) return;
  constraint_.emplace(request.constraint);
  mask_.resize(request.constraint->vocabulary().words());
}

Generation::Generation(const Generation& other)
    : request_(other.request_),
      tokenizer_(other.tokenizer_),
      scratch_(other.scratch_),
      stream_(other.stream_),
      stops_(other.stops_),
      not_ending_(other.not_ending_),
      constraint_(other.constraint_),
      mask_(other.mask_),
      echoed_(other.echoed_),
      tokens_(other.tokens_),
      observed_(other.observed_),
      logprobs_(other.logprobs_),
      finish_(other.finish_) {
  CHECK(other.sampler_ == nullptr);
}

std::unique_ptr<Generation> Generation::Fork() const { return std::unique_ptr<Generation>(new Generation(*this)); }

Result<std::unique_ptr<Generation>> Generation::Make(const Request& request, size_t choice, const Tokenizer& tokenizer,
                                                     CandidateList* scratch) {
  BANTAM_TRY(CheckSamplerOptions(request.sampler));
  BANTAM_ASSIGN(StopStrings stops, StopStrings::Make(request.stops));
  std::unique_ptr<Generation> generation(new Generation(request, choice, tokenizer, std::move(stops), scratch));
  if (request.tokens_min > 0) {
    const size_t vocabulary = scratch->vocabulary();
    generation->not_ending_.assign((vocabulary + 31) / 32, 0);
    for (uint32_t token = 0; token < vocabulary; ++token) {
      if (!tokenizer.EndsTurn(token)) generation->not_ending_[token / 32] |= uint32_t{1} << token % 32;
    }
    // A vocabulary that can only end does.
    const auto& words = generation->not_ending_;
    if (std::all_of(words.begin(), words.end(), [](uint32_t word) { return word == 0; })) generation->not_ending_.clear();
  }
  return generation;
}

uint64_t Generation::Bytes(const Request& request, size_t vocabulary) {
  uint64_t bytes = sizeof(Generation) + Sampler::Bytes(request.sampler, vocabulary);
  if (request.tokens_min > 0) bytes += vocabulary / 8 + sizeof(uint32_t);
  if (request.constraint) bytes += request.constraint->vocabulary().words() * sizeof(uint32_t) + kConstraintBytes;
  for (const std::string& stop : request.stops) bytes += sizeof(std::string) + stop.size();
  return bytes;
}

void Generation::Emit(const std::string& text, Event* event) {
  if (!std::exchange(echoed_, true)) event->text += request_.echo;
  event->text += text;
}

Result<std::span<const uint32_t>> Generation::Allowed() {
  const bool may_end = tokens_ >= request_.tokens_min;
  if (!constraint_) return may_end ? std::span<const uint32_t>() : std::span<const uint32_t>(not_ending_);
  BANTAM_TRY(constraint_->Mask(mask_));
  if (may_end || not_ending_.empty()) return std::span<const uint32_t>(mask_);
  // An answer that can only end does so, however short it is.
  const auto goes_on = [&](size_t word) { return (mask_[word] & not_ending_[word]) != 0; };
  bool any = false;
  for (size_t word = 0; word < mask_.size() && !any; ++word) any = goes_on(word);
  for (size_t word = 0; word < mask_.size() && any; ++word) mask_[word] &= not_ending_[word];
  return std::span<const uint32_t>(mask_);
}

std::vector<uint32_t> Generation::Forced(size_t tokens_max) const {
  if (!constraint_ || tokens_max == 0) return {};
  const std::string forced = constraint_->Forced();
  if (forced.empty()) return {};
  Result<std::vector<uint32_t>> encoded = tokenizer_.Encode(forced, /*special=*/false);
  std::vector<uint32_t> tokens = encoded.ok() ? std::move(encoded).value() : std::vector<uint32_t>();
  std::string spelled;
  for (const uint32_t token : tokens) spelled += constraint_->vocabulary().TextOf(token);
  // Some vocabularies put a space in front of every text: what comes here is spelled with the longest tokens then.
  if (spelled != forced) tokens = constraint_->vocabulary().Spell(forced);
  tokens.resize(std::min(tokens.size(), tokens_max));
  return tokens;
}

size_t Generation::Allows(std::span<const uint32_t> tokens) const {
  if (!constraint_ || tokens.empty()) return tokens.size();
  TokenConstraint ahead = *constraint_;
  size_t allowed = 0;
  while (allowed < tokens.size() && ahead.Accept(tokens[allowed]).ok()) ++allowed;
  return allowed;
}

Result<std::optional<uint32_t>> Generation::Next(std::span<const float> logits, Event* event) {
  BANTAM_ASSIGN(const std::span<const uint32_t> allowed, Allowed());
  const uint32_t token = sampler_->Sample(logits, allowed);
  if (!std::isfinite(logits[token])) return NoNumbers();
  TokenInfo info = {{token, 0}, {}};
  if (observes()) info = DescribeToken(logits, token, request_.token_details ? request_.top_logprobs : 0);
  BANTAM_TRY(Take(std::move(info), event));
  if (tokenizer_.EndsTurn(token)) return std::optional<uint32_t>();
  sampler_->Accept(token);
  return std::optional<uint32_t>(token);
}

Result<std::vector<TokenLogprob>> Generation::Likeliest(std::span<const float> logits, size_t count) {
  BANTAM_ASSIGN(const std::span<const uint32_t> allowed, Allowed());
  scratch_->FillLikeliest(logits, allowed, count);
  scratch_->Sort();
  const double normalizer = LogSumExp(logits);
  std::vector<TokenLogprob> likeliest;
  for (const Candidate& candidate : scratch_->items()) {
    const uint32_t token = candidate.token;
    likeliest.push_back({token, static_cast<float>(static_cast<double>(logits[token]) - normalizer)});
    if (!std::isfinite(likeliest.back().logprob)) return NoNumbers();
    if (likeliest.size() == count) break;
  }
  return likeliest;
}

Status Generation::Take(TokenInfo info, Event* event) {
  const uint32_t token = info.chosen.token;
  if (constraint_) BANTAM_TRY(constraint_->Accept(token));
  const bool ends = tokenizer_.EndsTurn(token);
  if (observes()) {
    logprobs_ += static_cast<double>(info.chosen.logprob);
    ++observed_;
    if (request_.token_details && !ends) event->tokens.push_back(std::move(info));
  }
  if (ends) {
    End(StopReason::kEndOfTurn, event);
    return Ok();
  }
  ++tokens_;
  ++event->token_count;
  Emit(stops_.Push(stream_.Push(token)), event);
  if (stops_.stopped()) {
    End(StopReason::kStopString, event);
  } else if (tokens_ == request_.tokens_max) {
    End(StopReason::kLength, event);
  }
  return Ok();
}

void Generation::End(StopReason reason, Event* event) {
  CHECK(!ended());
  finish_.emplace();
  Emit(stops_.Push(stream_.Finish()), event);
  if (stops_.stopped() && reason != StopReason::kError) reason = StopReason::kStopString;
  Emit(stops_.Finish(), event);
  finish_->reason = reason;
  finish_->stop = stops_.found();
  finish_->usage.generated_tokens = tokens_;
  if (observed_ > 0) {
    finish_->confidence = static_cast<float>(std::exp(logprobs_ / static_cast<double>(observed_)));
    finish_->low_confidence = *finish_->confidence < request_.confidence_min;
  }
}

}  // namespace bantam
