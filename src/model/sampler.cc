#include "model/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace bantam {

Status CheckSamplerOptions(const SamplerOptions& options) {
  const auto bad = [](std::string_view option, float value, std::string_view expected) {
    return Error(Code::kInvalidArgument, fmt::format("{} {}: expected {}", option, value, expected));
  };
  if (!(options.temperature >= 0 && options.temperature <= 100)) return bad("--temperature", options.temperature, "0 to 100");
  if (!(options.top_p > 0 && options.top_p <= 1)) return bad("--top-p", options.top_p, "more than 0, at most 1");
  if (!(options.min_p >= 0 && options.min_p <= 1)) return bad("--min-p", options.min_p, "0 to 1");
  if (!(options.repetition_penalty > 0 && options.repetition_penalty <= 100)) {
    return bad("--repetition-penalty", options.repetition_penalty, "more than 0, at most 100");
  }
  return Ok();
}

Sampler::Sampler(const SamplerOptions& options, size_t vocabulary)
    : options_(options), rng_(options.seed), recent_(options.repetition_penalty == 1.0f ? 0 : options.penalty_window) {
  CHECK(vocabulary > 0);
  candidates_.resize(vocabulary);
  probabilities_.reserve(vocabulary);
}

void Sampler::Accept(uint32_t token) {
  if (!recent_.empty()) recent_[accepted_ % recent_.size()] = token;
  ++accepted_;
}

void Sampler::Observe(std::span<const uint32_t> context) {
  accepted_ = 0;
  for (const uint32_t token : context.last(std::min(context.size(), recent_.size()))) Accept(token);
}

void Sampler::Reset() {
  rng_ = Rng(options_.seed);
  accepted_ = 0;
}

uint32_t Sampler::Sample(std::span<const float> logits) {
  Penalize(logits);
  if (options_.temperature == 0) {
    const auto best =
        std::max_element(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; });
    return best->token;
  }
  KeepTopK();
  ToProbabilities(/*temperature=*/1);
  KeepTopP();
  KeepMinP();
  ToProbabilities(options_.temperature);
  double target = rng_.Uniform();
  for (size_t i = 0; i + 1 < candidates_.size(); ++i) {
    target -= static_cast<double>(probabilities_[i]);
    if (target < 0) return candidates_[i].token;
  }
  return candidates_.back().token;
}

// A token seen in the window: its logit is divided by the penalty if positive, multiplied if negative
// (Keskar et al., "CTRL", 2019, section 4.1).
void Sampler::Penalize(std::span<const float> logits) {
  candidates_.resize(logits.size());
  for (uint32_t token = 0; token < logits.size(); ++token) {
    // A damaged model may produce NaN, which has no order: it is never chosen.
    candidates_[token] = {std::isnan(logits[token]) ? -std::numeric_limits<float>::infinity() : logits[token], token};
  }
  const size_t n = std::min(accepted_, recent_.size());
  for (size_t i = 0; i < n; ++i) {
    if (recent_[i] >= logits.size()) continue;
    const float logit = logits[recent_[i]];
    if (std::isnan(logit)) continue;
    candidates_[recent_[i]].logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  }
}

// Leaves the k largest, largest first.
void Sampler::KeepTopK() {
  const auto larger = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; };
  const size_t k = options_.top_k == 0 ? candidates_.size() : std::min<size_t>(options_.top_k, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k), candidates_.end(), larger);
  candidates_.resize(k);
}

void Sampler::ToProbabilities(float temperature) {
  probabilities_.resize(candidates_.size());
  float total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    probabilities_[i] = std::exp((candidates_[i].logit - candidates_[0].logit) / temperature);
    total += probabilities_[i];
  }
  for (float& probability : probabilities_) probability /= total;
}

// The smallest set of most likely tokens whose mass reaches p (Holtzman et al., "The curious case of neural text
// degeneration", 2020).
void Sampler::KeepTopP() {
  float mass = 0;
  size_t n = 0;
  while (n == 0 || (n < candidates_.size() && mass < options_.top_p)) mass += probabilities_[n++];
  candidates_.resize(n);
}

// Tokens at least min_p times as likely as the most likely one (Nguyen et al., "Turning up the heat: min-p sampling", 2024).
void Sampler::KeepMinP() {
  size_t n = 1;
  while (n < candidates_.size() && probabilities_[n] >= options_.min_p * probabilities_[0]) ++n;
  candidates_.resize(n);
}

}  // namespace bantam
