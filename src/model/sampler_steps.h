// The steps of a sampler as free functions on a list of candidates: each changes logits, or drops candidates and keeps at least one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"

namespace bantam {

struct Candidate {
  float logit;
  uint32_t token;
};

class CandidateList {
 public:
  explicit CandidateList(size_t vocabulary);
  size_t vocabulary() const { return vocabulary_; }

  // All tokens with their logits, in the order of their ids; NaN counts as minus infinity, for it has no order. With `allowed`, a bit for
  // each token, those that are set.
  void Fill(std::span<const float> logits, std::span<const uint32_t> allowed = {});
  // Of those only the `count` likeliest, at least one; of equal logits the lower ids. Looks at each logit once.
  void FillLikeliest(std::span<const float> logits, std::span<const uint32_t> allowed, size_t count);

  std::vector<Candidate>& items() { return items_; }
  const std::vector<Candidate>& items() const { return items_; }
  // After a change of logits that may change their order.
  void Unsort() { sorted_ = false; }
  // Likeliest first; of equal logits the lower id.
  void Sort();
  // Leaves the first n of the sorted list, at least one.
  void Cut(size_t n);
  // Removes candidates of minus infinity, unless there are no others.
  void DropImpossible();
  float Largest() const;
  // The softmax of the candidates' logits, in their order. Valid until the next change.
  std::span<const float> Probabilities();

 private:
  friend void KeepTopK(CandidateList& list, size_t k);
  void Offer(const Candidate& candidate, size_t count);
  const size_t vocabulary_;
  std::vector<Candidate> items_;
  std::vector<float> probabilities_;
  bool sorted_ = false;
};

// The k likeliest (Fan et al., "Hierarchical neural story generation", 2018). 0: all.
void KeepTopK(CandidateList& list, size_t k);

// The smallest set of likeliest tokens with a mass of at least p (Holtzman et al., "The curious case of neural text
// degeneration", 2020).
void KeepTopP(CandidateList& list, float p);

// Tokens with p_i >= min_p * max p (Nguyen et al., "Turning up the heat: min-p sampling", 2024).
void KeepMinP(CandidateList& list, float min_p);

// Tokens whose surprise is nearest to the entropy H: the smallest set, in rising order of |-log p_i - H|, with a mass of at least p
// (Meister et al., "Locally typical sampling", 2023, equation 7).
void KeepTypical(CandidateList& list, float p);

// Tokens with l_i >= max l - n * sigma, sigma the standard deviation of all candidates' logits (Tang et al., "Top-n-sigma: not all logits
// are you need", 2024).
void KeepTopNSigma(CandidateList& list, float n);

// Exclude top choices: with the given probability, of all tokens with p_i >= threshold only the least likely stays, and with it everything
// below (p-e-w, "Exclude Top Choices", text-generation-webui pull request 6335, 2024).
struct XtcOptions {
  float probability = 0;
  float threshold = 0.1f;
};
void ExcludeTopChoices(CandidateList& list, const XtcOptions& options, Rng& rng);

// Below this a temperature makes no difference but infinities.
inline constexpr float kTemperatureMin = 1e-4f;
// l_i / T.
void ApplyTemperature(CandidateList& list, float temperature);

// T = low + (high - low) * (H / log n)^exponent, with H the entropy of the n candidates: sure models are sampled colder (kalomaze,
// "Dynamic temperature", koboldcpp, 2023).
struct DynamicTemperature {
  float low = 0;
  float high = 0;
  float exponent = 1;
};
void ApplyDynamicTemperature(CandidateList& list, const DynamicTemperature& options);

// What tokens of the recent past cost. Repetition: l / r if l > 0, else l * r (Keskar et al., "CTRL", 2019, section 4.1). Frequency and
// presence: l - count * frequency - [count > 0] * presence (OpenAI's API reference).
struct PenaltyOptions {
  float repetition = 1;
  float frequency = 0;
  float presence = 0;
};
// `counts` is [vocabulary]: how often each token occurs in the window.
void Penalize(CandidateList& list, const PenaltyOptions& options, std::span<const uint32_t> counts);

// Don't repeat yourself: a token that would extend a repetition of the last n tokens loses multiplier * base^(n - allowed_length) when
// n >= allowed_length (p-e-w, "DRY", text-generation-webui pull request 5677, 2024).
struct DryOptions {
  float multiplier = 0;  // 0: off
  float base = 1.75f;
  uint32_t allowed_length = 2;
};
// `longest` is [vocabulary]: the longest repetition that each token would extend.
void PenalizeRepetitions(CandidateList& list, const DryOptions& options, std::span<const uint32_t> longest);

// For each token that followed an earlier occurrence of the history's last n tokens, the largest such n: linear in the history (the Z
// algorithm on the reversed history: Gusfield, "Algorithms on strings, trees, and sequences", section 1.4). Repetitions do not reach
// beyond `reach` tokens. `z` has the size of the history; calls found(token, n).
template <typename Found>
void FindRepetitions(std::span<const uint32_t> reversed_history, size_t reach, std::span<uint32_t> z, Found found) {
  const std::span<const uint32_t>& r = reversed_history;
  size_t begin = 0;
  size_t end = 0;  // of the rightmost match with the start, as yet
  for (size_t i = 1; i < r.size(); ++i) {
    size_t length = i < end ? std::min<size_t>(z[i - begin], end - i) : 0;
    while (i + length < r.size() && r[length] == r[i + length]) ++length;
    if (i + length > end) {
      begin = i;
      end = i + length;
    }
    z[i] = static_cast<uint32_t>(length);
    if (length > 0) found(r[i - 1], std::min(length, reach));
  }
}

// Draws one of the candidates by its probability.
uint32_t Draw(CandidateList& list, Rng& rng);

// Mirostat (Basu et al., "Mirostat: a neural text decoding algorithm that directly controls perplexity", 2021): keeps the surprise
// -log2 p of drawn tokens near tau, p before truncation. `mu`, twice tau at first, moves by -eta * (surprise - tau) with each draw.
struct MirostatOptions {
  int version = 0;  // 0: off
  float tau = 5;
  float eta = 0.1f;
};
// Version 1 (algorithm 1): keeps the k likeliest, k = (e 2^mu / (1 - V^-e))^(1/s) with e = s - 1 and s = sum(t b) / sum(t t), the exponent
// of a Zipf law fitted to the likeliest 100: t_i = log((i + 1) / i), b_i = log(p_i / p_(i+1)). Version 2 (algorithm 2): keeps tokens with a
// surprise of at most mu.
uint32_t DrawMirostat(CandidateList& list, const MirostatOptions& options, size_t vocabulary, float* mu, Rng& rng);

}  // namespace bantam
