// Sampler: from logits to the next token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/rng.h"

namespace bantam {

struct SamplerOptions {
  float temperature = 0;         // 0: the most likely token
  uint32_t top_k = 40;           // 0: all
  float top_p = 0.95f;           // 1: all
  float min_p = 0.05f;           // 0: all
  float repetition_penalty = 1;  // 1: none
  uint32_t penalty_window = 64;  // last tokens that the penalty covers
  uint64_t seed = 0;
};

// InvalidArgument names the option that is out of range.
Status CheckSamplerOptions(const SamplerOptions& options);

// In this order: repetition penalty, top-k, top-p, min-p, temperature, draw. Equal seeds give equal tokens. After the first
// token nothing is allocated.
class Sampler {
 public:
  Sampler(const SamplerOptions& options, size_t vocabulary);

  // `logits` is [vocabulary]. Of equal logits the lower id wins.
  uint32_t Sample(std::span<const float> logits);

  // Tells the sampler of a token that entered the context, for the penalty.
  void Accept(uint32_t token);
  // The same for a whole context, in place of what it knew.
  void Observe(std::span<const uint32_t> context);
  // Starts over from the seed.
  void Reset();

 private:
  struct Candidate {
    float logit;
    uint32_t token;
  };
  void Penalize(std::span<const float> logits);
  void KeepTopK();
  void ToProbabilities(float temperature);
  void KeepTopP();
  void KeepMinP();

  SamplerOptions options_;
  Rng rng_;
  std::vector<Candidate> candidates_;
  std::vector<float> probabilities_;
  std::vector<uint32_t> recent_;  // ring
  size_t accepted_ = 0;
};

}  // namespace bantam
