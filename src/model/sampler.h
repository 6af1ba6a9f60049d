// Sampler: from logits to the next token, by a chain of steps (sampler_steps.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/rng.h"
#include "model/sampler_steps.h"

namespace bantam {

enum class SamplerStep : uint8_t { kPenalties, kDry, kTopNSigma, kTopK, kTypical, kTopP, kMinP, kXtc, kTemperature };

// "penalties", "dry", "top-n-sigma", "top-k", "typical", "top-p", "min-p", "xtc", "temperature".
std::string_view SamplerStepName(SamplerStep step);
// Names separated by commas, each at most once. InvalidArgument lists the names.
Result<std::vector<SamplerStep>> ParseSamplerSteps(std::string_view names);

// In the order of their declaration.
std::vector<SamplerStep> AllSamplerSteps();

inline constexpr uint32_t kSamplerWindowMax = 1 << 16;

struct SamplerOptions {
  // The order of the steps; those left out are not applied.
  std::vector<SamplerStep> order = AllSamplerSteps();
  float temperature = 0;           // 0: the most likely token after penalties
  float temperature_range = 0;     // dynamic: from temperature - range to temperature + range
  float temperature_exponent = 1;  // of the relative entropy
  uint32_t top_k = 40;             // 0: all
  float top_p = 0.95f;             // 1: all
  float min_p = 0.05f;             // 0: all
  float typical = 1;               // 1: all
  float top_n_sigma = 0;           // 0: all
  XtcOptions xtc;
  PenaltyOptions penalties;
  uint32_t penalty_window = 64;  // last tokens that penalties cover
  DryOptions dry;
  uint32_t dry_window = 4096;          // last tokens among which repetitions are sought
  std::vector<uint32_t> dry_breakers;  // repetitions do not reach across these tokens, which are never penalised
  MirostatOptions mirostat;            // in place of all steps but penalties, dry and temperature
  // Added to logits before everything else; minus infinity bans a token.
  std::vector<std::pair<uint32_t, float>> logit_bias;
  uint64_t seed = 0;
};

// InvalidArgument names the option that is out of range.
Status CheckSamplerOptions(const SamplerOptions& options);

// Equal seeds, options and logits give equal tokens (with one C library: its exponential is used). After the first token nothing is
// allocated.
class Sampler {
 public:
  Sampler(const SamplerOptions& options, size_t vocabulary);
  // Shares the list, which is scratch, with other samplers of the same vocabulary; it outlives them.
  Sampler(const SamplerOptions& options, CandidateList* list);
  // What one with a shared list holds.
  static uint64_t Bytes(const SamplerOptions& options, size_t vocabulary);

  // `logits` is [vocabulary]. Of equal logits the lower id wins. With `allowed`, a bit for each token and at least one of them set, all
  // others do not exist; a bias bans no token if it would leave none.
  uint32_t Sample(std::span<const float> logits, std::span<const uint32_t> allowed = {});

  // Tells the sampler of a token that entered the context, for penalties and repetitions.
  void Accept(uint32_t token);
  // The same for a whole context, in place of what it knew.
  void Observe(std::span<const uint32_t> context);
  // Starts over from the seed.
  void Reset();

 private:
  Sampler(const SamplerOptions& options, std::unique_ptr<CandidateList> own, CandidateList* list);
  // The token accepted `age` tokens ago; 0 is the last one.
  uint32_t Past(size_t age) const { return history_[(accepted_ - 1 - age) % history_.size()]; }
  void Apply(SamplerStep step);
  void ApplyTemperatureStep();
  void ApplyDry();

  const SamplerOptions options_;
  const size_t vocabulary_;
  const size_t likeliest_;  // so many tokens of the largest logits decide, whatever is drawn; 0: all do
  Rng rng_;
  float mu_ = 0;  // of mirostat
  std::unique_ptr<CandidateList> own_list_;
  CandidateList& list_;
  std::vector<uint32_t> history_;  // ring of the last tokens, as long as the longest window in use
  size_t accepted_ = 0;
  std::vector<uint32_t> counts_;    // [vocabulary], in the penalty window
  std::vector<uint32_t> longest_;   // [vocabulary], of DRY
  std::vector<uint32_t> reversed_;  // the history of DRY, newest first
  std::vector<uint32_t> matches_;   // scratch of FindRepetitions
  std::vector<bool> breaks_;        // [vocabulary], of DRY
};

}  // namespace bantam
