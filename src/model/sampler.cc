#include "model/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/check.h"

namespace bantam {
namespace {

constexpr std::pair<SamplerStep, std::string_view> kStepNames[] = {
    {SamplerStep::kPenalties, "penalties"}, {SamplerStep::kDry, "dry"},         {SamplerStep::kTopNSigma, "top-n-sigma"},
    {SamplerStep::kTopK, "top-k"},          {SamplerStep::kTypical, "typical"}, {SamplerStep::kTopP, "top-p"},
    {SamplerStep::kMinP, "min-p"},          {SamplerStep::kXtc, "xtc"},         {SamplerStep::kTemperature, "temperature"}};

bool HasPenalties(const PenaltyOptions& options) { return options.repetition != 1 || options.frequency != 0 || options.presence != 0; }

bool Uses(const SamplerOptions& options, SamplerStep step) {
  return std::find(options.order.begin(), options.order.end(), step) != options.order.end();
}
bool Penalizes(const SamplerOptions& options) {
  return Uses(options, SamplerStep::kPenalties) && HasPenalties(options.penalties) && options.penalty_window > 0;
}
bool SeeksRepetitions(const SamplerOptions& options) {
  return Uses(options, SamplerStep::kDry) && options.dry.multiplier > 0 && options.dry_window > 0;
}
// Of tokens that are remembered.
size_t HistoryLength(const SamplerOptions& options) {
  return std::max<size_t>(Penalizes(options) ? options.penalty_window : 0, SeeksRepetitions(options) ? options.dry_window : 0);
}

// Are found one by one whatever the vocabulary.
constexpr uint64_t kFewCandidates = 256;

bool Greedy(const SamplerOptions& options) { return options.temperature == 0 && options.temperature_range == 0; }

// Whether a step looks at more than what KeepTopK would leave of its candidates.
bool LooksAtAll(const SamplerOptions& options, SamplerStep step) {
  switch (step) {
    case SamplerStep::kPenalties:
    case SamplerStep::kDry:
      return false;
    case SamplerStep::kTopNSigma:
      return options.top_n_sigma > 0;
    case SamplerStep::kTypical:
      return options.typical < 1;
    case SamplerStep::kTopP:
      return options.top_p < 1;
    case SamplerStep::kMinP:
      return options.min_p > 0;
    case SamplerStep::kXtc:
      return options.xtc.probability > 0;
    case SamplerStep::kTopK:
    case SamplerStep::kTemperature:
      return true;
  }
  return true;
}

// How many of the likeliest tokens decide, where these are cut before anything looks at the others; 0: all do. Whoever only loses by
// biases and penalties makes way for as many others.
size_t DecidingTokens(const SamplerOptions& options, size_t vocabulary) {
  uint64_t kept = 1;
  if (!Greedy(options)) {
    const auto first =
        std::find_if(options.order.begin(), options.order.end(), [&](SamplerStep step) { return LooksAtAll(options, step); });
    if (options.mirostat.version != 0 || first == options.order.end() || *first != SamplerStep::kTopK || options.top_k == 0) return 0;
    kept = options.top_k;
  }
  if (SeeksRepetitions(options)) return 0;
  // One more, so that what is cut is cut, and sorted, as if all were there.
  uint64_t losers = 1;
  for (const auto& [token, bias] : options.logit_bias) {
    if (bias > 0) return 0;
    ++losers;
  }
  if (Penalizes(options)) {
    const PenaltyOptions& penalties = options.penalties;
    if (penalties.repetition < 1 || penalties.frequency < 0 || penalties.presence < 0) return 0;
    losers += options.penalty_window;
  }
  // Of many candidates a heap is slower than the list.
  constexpr uint64_t kShareMax = 8;
  return kept + losers <= std::max<uint64_t>(vocabulary / kShareMax, kFewCandidates) ? static_cast<size_t>(kept + losers) : 0;
}

struct FloatRange {
  std::string_view option;
  float value;
  float low;
  float high;
  bool low_excluded = false;
};

}  // namespace

std::string_view SamplerStepName(SamplerStep step) { return kStepNames[static_cast<size_t>(step)].second; }

std::vector<SamplerStep> AllSamplerSteps() {
  std::vector<SamplerStep> steps;
  for (const auto& row : kStepNames) steps.push_back(row.first);
  return steps;
}

Result<std::vector<SamplerStep>> ParseSamplerSteps(std::string_view names) {
  std::vector<SamplerStep> steps;
  while (!names.empty()) {
    const size_t end = std::min(names.find(','), names.size());
    const std::string_view name = names.substr(0, end);
    names.remove_prefix(std::min(end + 1, names.size()));
    const auto found = std::find_if(std::begin(kStepNames), std::end(kStepNames), [&](const auto& row) { return row.second == name; });
    if (found == std::end(kStepNames) || std::find(steps.begin(), steps.end(), found->first) != steps.end()) {
      std::string all;
      for (const auto& row : kStepNames) all += fmt::format("{}{}", all.empty() ? "" : ", ", row.second);
      return Error(Code::kInvalidArgument, fmt::format("--samplers {}: expected names separated by commas, each once, of {}", name, all));
    }
    steps.push_back(found->first);
  }
  return steps;
}

Status CheckSamplerOptions(const SamplerOptions& options) {
  const FloatRange ranges[] = {{"--temperature", options.temperature, 0, 100},
                               {"--temperature-range", options.temperature_range, 0, 100},
                               {"--temperature-exponent", options.temperature_exponent, 0, 100},
                               {"--top-p", options.top_p, 0, 1, /*low_excluded=*/true},
                               {"--min-p", options.min_p, 0, 1},
                               {"--typical", options.typical, 0, 1, /*low_excluded=*/true},
                               {"--top-n-sigma", options.top_n_sigma, 0, 1000},
                               {"--xtc-probability", options.xtc.probability, 0, 1},
                               {"--xtc-threshold", options.xtc.threshold, 0, 1},
                               {"--repetition-penalty", options.penalties.repetition, 0, 100, /*low_excluded=*/true},
                               {"--frequency-penalty", options.penalties.frequency, -100, 100},
                               {"--presence-penalty", options.penalties.presence, -100, 100},
                               {"--dry-multiplier", options.dry.multiplier, 0, 1000},
                               {"--dry-base", options.dry.base, 1, 1000},
                               {"--mirostat-tau", options.mirostat.tau, 0, 100},
                               {"--mirostat-eta", options.mirostat.eta, 0, 1}};
  for (const FloatRange& range : ranges) {
    if ((range.low_excluded ? range.value > range.low : range.value >= range.low) && range.value <= range.high) continue;
    return Error(Code::kInvalidArgument, fmt::format("{} {}: expected {} {} and at most {}", range.option, range.value,
                                                     range.low_excluded ? "more than" : "at least", range.low, range.high));
  }
  const std::pair<std::string_view, uint32_t> windows[] = {{"--penalty-window", options.penalty_window},
                                                           {"--dry-window", options.dry_window}};
  for (const auto& [option, value] : windows) {
    if (value > kSamplerWindowMax) {
      return Error(Code::kInvalidArgument, fmt::format("{} {}: expected at most {}", option, value, kSamplerWindowMax));
    }
  }
  if (options.mirostat.version < 0 || options.mirostat.version > 2) {
    return Error(Code::kInvalidArgument, fmt::format("--mirostat {}: expected 0 (off), 1 or 2", options.mirostat.version));
  }
  for (const auto& [token, bias] : options.logit_bias) {
    if (std::isnan(bias) || bias == INFINITY) {
      return Error(Code::kInvalidArgument, fmt::format("--logit-bias {}={}: expected a number, or -inf to ban the token", token, bias));
    }
  }
  return Ok();
}

Sampler::Sampler(const SamplerOptions& options, size_t vocabulary)
    : Sampler(options, std::make_unique<CandidateList>(vocabulary), nullptr) {}

Sampler::Sampler(const SamplerOptions& options, CandidateList* list) : Sampler(options, nullptr, list) {}

Sampler::Sampler(const SamplerOptions& options, std::unique_ptr<CandidateList> own, CandidateList* list)
    : options_(options),
      vocabulary_((own ? own.get() : list)->vocabulary()),
      likeliest_(DecidingTokens(options, vocabulary_)),
      rng_(options.seed),
      own_list_(std::move(own)),
      list_(own_list_ ? *own_list_ : *list) {
  if (Penalizes(options_)) counts_.resize(vocabulary_);
  if (SeeksRepetitions(options_)) {
    longest_.resize(vocabulary_);
    reversed_.reserve(options_.dry_window);
    matches_.resize(options_.dry_window);
    breaks_.resize(vocabulary_);
    for (const uint32_t token : options_.dry_breakers) {
      if (token < vocabulary_) breaks_[token] = true;
    }
  }
  history_.resize(HistoryLength(options_));
  Reset();
}

uint64_t Sampler::Bytes(const SamplerOptions& options, size_t vocabulary) {
  uint64_t words = HistoryLength(options) + options.dry_breakers.size() + 2 * options.logit_bias.size();
  if (Penalizes(options)) words += vocabulary;
  if (SeeksRepetitions(options)) words += vocabulary + vocabulary / 32 + 2 * uint64_t{options.dry_window};
  return words * sizeof(uint32_t);
}

void Sampler::Accept(uint32_t token) {
  if (history_.empty()) return;
  const auto count = [&](uint32_t t, uint32_t change) {
    if (t < counts_.size()) counts_[t] += change;
  };
  // The penalty window may be shorter than the history: what leaves it is still there.
  if (!counts_.empty() && accepted_ >= options_.penalty_window) count(Past(options_.penalty_window - 1), UINT32_MAX);
  history_[accepted_ % history_.size()] = token;
  ++accepted_;
  count(token, 1);
}

void Sampler::Observe(std::span<const uint32_t> context) {
  accepted_ = 0;
  std::fill(counts_.begin(), counts_.end(), 0);
  for (const uint32_t token : context.last(std::min(context.size(), history_.size()))) Accept(token);
}

void Sampler::Reset() {
  rng_ = Rng(options_.seed);
  mu_ = 2 * options_.mirostat.tau;
  Observe({});
}

uint32_t Sampler::Sample(std::span<const float> logits, std::span<const uint32_t> allowed) {
  if (likeliest_ == 0) {
    list_.Fill(logits, allowed);
  } else {
    list_.FillLikeliest(logits, allowed, likeliest_);
  }
  for (const auto& [token, bias] : options_.logit_bias) {
    const auto found = std::lower_bound(list_.items().begin(), list_.items().end(), token,
                                        [](const Candidate& candidate, uint32_t id) { return candidate.token < id; });
    if (found == list_.items().end() || found->token != token) continue;
    found->logit = std::isinf(bias) ? bias : found->logit + bias;  // infinities of both signs have no sum
  }
  if (!options_.logit_bias.empty()) list_.DropImpossible();
  const bool greedy = Greedy(options_);
  const bool mirostat = options_.mirostat.version != 0 && !greedy;
  for (const SamplerStep step : options_.order) {
    const bool changes_logits = step == SamplerStep::kPenalties || step == SamplerStep::kDry;
    if (changes_logits || (!greedy && (!mirostat || step == SamplerStep::kTemperature))) Apply(step);
  }
  if (greedy) {
    // Of equal ones the lower id; penalties keep the order of tokens.
    const auto& items = list_.items();
    return std::max_element(items.begin(), items.end(), [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; })->token;
  }
  if (mirostat) return DrawMirostat(list_, options_.mirostat, vocabulary_, &mu_, rng_);
  return Draw(list_, rng_);
}

void Sampler::Apply(SamplerStep step) {
  switch (step) {
    case SamplerStep::kPenalties:
      if (!counts_.empty()) Penalize(list_, options_.penalties, counts_);
      return;
    case SamplerStep::kDry:
      if (!longest_.empty()) ApplyDry();
      return;
    case SamplerStep::kTopNSigma:
      return KeepTopNSigma(list_, options_.top_n_sigma);
    case SamplerStep::kTopK:
      return KeepTopK(list_, options_.top_k);
    case SamplerStep::kTypical:
      return KeepTypical(list_, options_.typical);
    case SamplerStep::kTopP:
      return KeepTopP(list_, options_.top_p);
    case SamplerStep::kMinP:
      return KeepMinP(list_, options_.min_p);
    case SamplerStep::kXtc:
      return ExcludeTopChoices(list_, options_.xtc, rng_);
    case SamplerStep::kTemperature:
      return ApplyTemperatureStep();
  }
}

void Sampler::ApplyTemperatureStep() {
  if (options_.temperature_range > 0) {
    const float low = std::max(0.0f, options_.temperature - options_.temperature_range);
    return ApplyDynamicTemperature(list_, {low, options_.temperature + options_.temperature_range, options_.temperature_exponent});
  }
  ApplyTemperature(list_, std::max(options_.temperature, kTemperatureMin));
}

void Sampler::ApplyDry() {
  reversed_.clear();
  const size_t known = std::min({accepted_, history_.size(), static_cast<size_t>(options_.dry_window)});
  size_t reach = known;
  for (size_t age = 0; age < known; ++age) {
    const uint32_t token = Past(age);
    reversed_.push_back(token);
    if (token < vocabulary_ && breaks_[token]) reach = std::min(reach, age);
  }
  FindRepetitions(reversed_, reach, matches_, [&](uint32_t token, size_t length) {
    if (token < vocabulary_ && !breaks_[token]) longest_[token] = std::max(longest_[token], static_cast<uint32_t>(length));
  });
  PenalizeRepetitions(list_, options_.dry, longest_);
  for (const uint32_t token : reversed_) {
    if (token < vocabulary_) longest_[token] = 0;
  }
}

}  // namespace bantam
