#include "model/sampler_steps.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace bantam {
namespace {

bool Likelier(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; }

// -sum p log p, in nats.
double Entropy(std::span<const float> probabilities) {
  double entropy = 0;
  for (const float p : probabilities) {
    if (p > 0) entropy -= static_cast<double>(p) * std::log(static_cast<double>(p));
  }
  return entropy;
}

std::ptrdiff_t Index(size_t n) { return static_cast<std::ptrdiff_t>(n); }

Candidate CandidateOf(std::span<const float> logits, uint32_t token) {
  return {std::isnan(logits[token]) ? -std::numeric_limits<float>::infinity() : logits[token], token};
}

constexpr size_t kWordBits = 32;

// Whether one of a word's logits is larger: compilers turn this into a few comparisons of vectors.
bool AnyAbove(const float* logits, float least) {
  uint32_t any = 0;
  for (size_t i = 0; i < kWordBits; ++i) any |= logits[i] > least ? 1 : 0;
  return any != 0;
}

}  // namespace

CandidateList::CandidateList(size_t vocabulary) : vocabulary_(vocabulary) {
  CHECK(vocabulary > 0);
  items_.reserve(vocabulary);
  probabilities_.reserve(vocabulary);
}

void CandidateList::Fill(std::span<const float> logits, std::span<const uint32_t> allowed) {
  sorted_ = false;
  if (allowed.empty()) {
    items_.resize(logits.size());
    for (uint32_t token = 0; token < logits.size(); ++token) items_[token] = CandidateOf(logits, token);
    return;
  }
  items_.clear();
  for (size_t word = 0; word < allowed.size(); ++word) {
    for (uint32_t bits = allowed[word]; bits != 0; bits &= bits - 1) {
      const uint32_t token = static_cast<uint32_t>(kWordBits * word) + static_cast<uint32_t>(std::countr_zero(bits));
      if (token < logits.size()) items_.push_back(CandidateOf(logits, token));
    }
  }
  CHECK(!items_.empty());
}

// The list is a heap whose first is the least likely; what comes later has a higher id.
void CandidateList::Offer(const Candidate& candidate, size_t count) {
  if (items_.size() == count) {
    if (!(candidate.logit > items_.front().logit)) return;
    std::pop_heap(items_.begin(), items_.end(), Likelier);
    items_.pop_back();
  }
  items_.push_back(candidate);
  std::push_heap(items_.begin(), items_.end(), Likelier);
}

void CandidateList::FillLikeliest(std::span<const float> logits, std::span<const uint32_t> allowed, size_t count) {
  sorted_ = false;
  items_.clear();
  for (size_t begin = 0; begin < logits.size(); begin += kWordBits) {
    const size_t length = std::min(kWordBits, logits.size() - begin);
    // A vocabulary may have fewer tokens than the model has logits.
    const size_t word = begin / kWordBits;
    uint32_t bits = allowed.empty() ? UINT32_MAX : word < allowed.size() ? allowed[word] : 0;
    if (length < kWordBits) bits &= (uint32_t{1} << length) - 1;
    if (bits == 0) continue;
    if (items_.size() == count && length == kWordBits && !AnyAbove(&logits[begin], items_.front().logit)) continue;
    for (; bits != 0; bits &= bits - 1) {
      Offer(CandidateOf(logits, static_cast<uint32_t>(begin) + static_cast<uint32_t>(std::countr_zero(bits))), count);
    }
  }
  CHECK(!items_.empty());
  std::sort(items_.begin(), items_.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
}

void CandidateList::Sort() {
  if (!sorted_) std::sort(items_.begin(), items_.end(), Likelier);
  sorted_ = true;
}

void CandidateList::Cut(size_t n) {
  DCHECK(sorted_);
  items_.resize(std::clamp<size_t>(n, 1, items_.size()));
}

void CandidateList::DropImpossible() {
  const auto possible = [](const Candidate& candidate) { return candidate.logit != -std::numeric_limits<float>::infinity(); };
  if (std::any_of(items_.begin(), items_.end(), possible))
    std::erase_if(items_, [&](const Candidate& candidate) { return !possible(candidate); });
}

float CandidateList::Largest() const {
  if (sorted_) return items_.front().logit;
  float largest = items_.front().logit;
  for (const Candidate& candidate : items_) largest = std::max(largest, candidate.logit);
  return largest;
}

std::span<const float> CandidateList::Probabilities() {
  const float largest = Largest();
  probabilities_.resize(items_.size());
  float total = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    // Two infinities have no difference: equal to the largest is the largest.
    probabilities_[i] = items_[i].logit == largest ? 1.0f : std::exp(items_[i].logit - largest);
    total += probabilities_[i];
  }
  for (float& probability : probabilities_) probability /= total;
  return probabilities_;
}

void KeepTopK(CandidateList& list, size_t k) {
  auto& items = list.items_;
  if (k == 0 || k >= items.size()) return;
  if (!list.sorted_) std::partial_sort(items.begin(), items.begin() + Index(k), items.end(), Likelier);
  items.resize(k);
  list.sorted_ = true;
}

void KeepTopP(CandidateList& list, float p) {
  if (p >= 1) return;
  list.Sort();
  const auto probabilities = list.Probabilities();
  float mass = 0;
  size_t n = 0;
  while (n < probabilities.size() && (n == 0 || mass < p)) mass += probabilities[n++];
  list.Cut(n);
}

void KeepMinP(CandidateList& list, float min_p) {
  if (min_p <= 0) return;
  // p_i / p_max = exp(l_i - l_max).
  const float least = list.Largest() + std::log(min_p);
  std::erase_if(list.items(), [&](const Candidate& candidate) { return candidate.logit < least; });
}

void KeepTypical(CandidateList& list, float p) {
  if (p >= 1) return;
  list.Sort();
  const auto probabilities = list.Probabilities();
  const double entropy = Entropy(probabilities);
  const auto distance = [&](size_t i) {
    const double surprise =
        probabilities[i] > 0 ? -std::log(static_cast<double>(probabilities[i])) : std::numeric_limits<double>::infinity();
    return std::fabs(surprise - entropy);
  };
  // Surprise rises along the sorted list, so distances fall to a least one and rise again: the set is an interval around it.
  const size_t n = probabilities.size();
  size_t low = 0;
  while (low + 1 < n && distance(low + 1) <= distance(low)) ++low;
  size_t high = low + 1;
  float mass = probabilities[low];
  while (mass < p && (low > 0 || high < n)) {
    if (high == n || (low > 0 && distance(low - 1) <= distance(high))) {
      mass += probabilities[--low];
    } else {
      mass += probabilities[high++];
    }
  }
  list.Cut(high);
  list.items().erase(list.items().begin(), list.items().begin() + Index(low));
}

void KeepTopNSigma(CandidateList& list, float n) {
  if (n <= 0) return;
  double sum = 0;
  size_t count = 0;
  for (const Candidate& candidate : list.items()) {
    if (!std::isfinite(candidate.logit)) continue;
    sum += static_cast<double>(candidate.logit);
    ++count;
  }
  if (count == 0) return;
  const double mean = sum / static_cast<double>(count);
  double squares = 0;
  for (const Candidate& candidate : list.items()) {
    if (std::isfinite(candidate.logit)) squares += std::pow(static_cast<double>(candidate.logit) - mean, 2);
  }
  const double sigma = std::sqrt(squares / static_cast<double>(count));
  const double least = static_cast<double>(list.Largest()) - static_cast<double>(n) * sigma;
  std::erase_if(list.items(), [&](const Candidate& candidate) { return static_cast<double>(candidate.logit) < least; });
}

void ExcludeTopChoices(CandidateList& list, const XtcOptions& options, Rng& rng) {
  // Above one half there cannot be two.
  if (options.probability <= 0 || options.threshold > 0.5f) return;
  // Drawn in any case, so that equal seeds stay in step whatever the logits.
  if (rng.Uniform() >= static_cast<double>(options.probability)) return;
  list.Sort();
  const auto probabilities = list.Probabilities();
  size_t n = 0;
  while (n < probabilities.size() && probabilities[n] >= options.threshold && probabilities[n] > 0) ++n;
  if (n >= 2) list.items().erase(list.items().begin(), list.items().begin() + Index(n - 1));
}

void ApplyTemperature(CandidateList& list, float temperature) {
  if (temperature == 1) return;
  for (Candidate& candidate : list.items()) candidate.logit /= temperature;
}

void ApplyDynamicTemperature(CandidateList& list, const DynamicTemperature& options) {
  const size_t n = list.items().size();
  if (n < 2) return;
  const double relative = Entropy(list.Probabilities()) / std::log(static_cast<double>(n));
  const double part = std::pow(std::clamp(relative, 0.0, 1.0), static_cast<double>(options.exponent));
  const double temperature = static_cast<double>(options.low) + static_cast<double>(options.high - options.low) * part;
  ApplyTemperature(list, std::max(static_cast<float>(temperature), kTemperatureMin));
}

void Penalize(CandidateList& list, const PenaltyOptions& options, std::span<const uint32_t> counts) {
  for (Candidate& candidate : list.items()) {
    const uint32_t count = counts[candidate.token];
    if (count == 0 || !std::isfinite(candidate.logit)) continue;
    candidate.logit = candidate.logit > 0 ? candidate.logit / options.repetition : candidate.logit * options.repetition;
    candidate.logit -= static_cast<float>(count) * options.frequency + options.presence;
  }
  list.Unsort();
}

void PenalizeRepetitions(CandidateList& list, const DryOptions& options, std::span<const uint32_t> longest) {
  for (Candidate& candidate : list.items()) {
    const uint32_t length = longest[candidate.token];
    if (length == 0 || length < options.allowed_length) continue;
    const float penalty = options.multiplier * std::pow(options.base, static_cast<float>(length - options.allowed_length));
    candidate.logit -= std::min(penalty, std::numeric_limits<float>::max());
  }
  list.Unsort();
}

namespace {

// The place of a draw among the first n probabilities, which need not add up to 1 to the last bit.
size_t DrawPlace(std::span<const float> probabilities, size_t n, Rng& rng) {
  double total = 0;
  for (size_t i = 0; i < n; ++i) total += static_cast<double>(probabilities[i]);
  double target = rng.Uniform() * total;
  size_t last_possible = 0;
  for (size_t i = 0; i < n; ++i) {
    if (!(probabilities[i] > 0)) continue;
    last_possible = i;
    target -= static_cast<double>(probabilities[i]);
    if (target < 0) break;
  }
  return last_possible;
}

}  // namespace

uint32_t Draw(CandidateList& list, Rng& rng) {
  const auto probabilities = list.Probabilities();
  return list.items()[DrawPlace(probabilities, probabilities.size(), rng)].token;
}

namespace {

// Algorithm 1's number of candidates.
size_t MirostatK(std::span<const float> probabilities, size_t vocabulary, float mu) {
  constexpr size_t kZipfTokens = 100;
  double tb = 0;
  double tt = 0;
  for (size_t i = 0; i + 1 < std::min(kZipfTokens, probabilities.size()); ++i) {
    if (!(probabilities[i + 1] > 0)) break;
    const double t = std::log(static_cast<double>(i + 2) / static_cast<double>(i + 1));
    tb += t * std::log(static_cast<double>(probabilities[i]) / static_cast<double>(probabilities[i + 1]));
    tt += t * t;
  }
  const double s = tt > 0 ? tb / tt : 0;
  const double e = s - 1;
  const double k = std::pow(e * std::exp2(static_cast<double>(mu)) / (1 - std::pow(static_cast<double>(vocabulary), -e)), 1 / s);
  // No law fits: a flat distribution, or s = 1.
  if (!(k < static_cast<double>(probabilities.size()))) return probabilities.size();
  return static_cast<size_t>(std::max(k, 1.0));
}

}  // namespace

uint32_t DrawMirostat(CandidateList& list, const MirostatOptions& options, size_t vocabulary, float* mu, Rng& rng) {
  list.Sort();
  const auto probabilities = list.Probabilities();
  size_t n = 0;
  if (options.version == 1) {
    n = MirostatK(probabilities, vocabulary, *mu);
  } else {
    while (n < probabilities.size() && -std::log2(probabilities[n]) <= *mu) ++n;
  }
  n = std::clamp<size_t>(n, 1, probabilities.size());
  const size_t drawn = DrawPlace(probabilities, n, rng);
  *mu -= options.eta * (-std::log2(probabilities[drawn]) - options.tau);
  return list.items()[drawn].token;
}

}  // namespace bantam
