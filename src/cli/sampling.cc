#include "cli/sampling.h"

#include <fmt/format.h>

#include <charconv>

#include "cli/load.h"

namespace bantam {
namespace {

constexpr char kGroup[] = "Sampling";

// "15043=-1.5", "2=-inf".
Result<std::pair<uint32_t, float>> ParseBias(const std::string& text) {
  std::pair<uint32_t, float> bias;
  const char* end = text.data() + text.size();
  const auto id = std::from_chars(text.data(), end, bias.first);
  if (id.ec == std::errc() && id.ptr != end && *id.ptr == '=') {
    const auto value = std::from_chars(id.ptr + 1, end, bias.second);
    if (value.ec == std::errc() && value.ptr == end) return bias;
  }
  return Error(Code::kInvalidArgument, fmt::format("--logit-bias {}: expected a token id, =, and a number, such as 15043=-1.5", text));
}

std::string DefaultOrder() {
  std::string names;
  for (const SamplerStep step : SamplerOptions().order) names += fmt::format("{}{}", names.empty() ? "" : ",", SamplerStepName(step));
  return names;
}

}  // namespace

void AddSamplingOptions(CLI::App& verb, SamplingOptions* options) {
  SamplerOptions& s = options->sampler;
  options->order = DefaultOrder();
  const auto add = [&](const char* name, auto& value, const char* help) {
    return verb.add_option(name, value, help)->capture_default_str()->group(kGroup);
  };
  add("--temperature", s.temperature, "0 always takes the likeliest token, and leaves nothing to the other samplers but penalties");
  add("--seed", s.seed, "of the draws when the temperature is above 0: equal seeds give equal answers")->check(WholeNumber(UINT64_MAX));
  add("--top-k", s.top_k, "keep the k likeliest tokens; 0: all")->check(WholeNumber(UINT32_MAX));
  add("--top-p", s.top_p, "keep the likeliest tokens up to this mass; 1: all");
  add("--min-p", s.min_p, "keep tokens this likely relative to the likeliest; 0: all");
  add("--typical", s.typical, "keep the most typical tokens up to this mass; 1: all");
  add("--top-n-sigma", s.top_n_sigma, "keep logits this many standard deviations from the largest; 0: all");
  add("--xtc-probability", s.xtc.probability, "chance of leaving out all likely tokens but one");
  add("--xtc-threshold", s.xtc.threshold, "tokens at least this likely are likely");
  add("--temperature-range", s.temperature_range, "temperature moves this far to both sides with the entropy; 0: fixed");
  add("--temperature-exponent", s.temperature_exponent, "of the relative entropy");
  add("--repetition-penalty", s.penalties.repetition, "divide logits of recent tokens; 1: off");
  add("--frequency-penalty", s.penalties.frequency, "subtract this for each recent occurrence");
  add("--presence-penalty", s.penalties.presence, "subtract this for any recent occurrence");
  add("--penalty-window", s.penalty_window, "how many tokens are recent")->check(WholeNumber(kSamplerWindowMax));
  add("--dry-multiplier", s.dry.multiplier, "penalty of tokens that extend a repetition; 0: off");
  add("--dry-base", s.dry.base, "growth of that penalty with the repetition's length");
  add("--dry-allowed-length", s.dry.allowed_length, "shortest repetition that is penalised")->check(WholeNumber(UINT32_MAX));
  add("--dry-window", s.dry_window, "tokens among which repetitions are sought")->check(WholeNumber(kSamplerWindowMax));
  verb.add_option("--dry-breaker", options->dry_breakers,
                  "repetitions do not reach across tokens with this text (may be repeated; default: newline, colon, quote and asterisk)")
      ->allow_extra_args(false)
      ->group(kGroup);
  add("--mirostat", s.mirostat.version, "1 or 2: keep the surprise of the text at a target instead of cutting candidates")
      ->check(WholeNumber(2));
  add("--mirostat-tau", s.mirostat.tau, "that target, in bits");
  add("--mirostat-eta", s.mirostat.eta, "how fast it is approached");
  verb.add_option("--logit-bias", options->logit_bias, "ID=BIAS: add to a token's logit; -inf bans it (may be repeated)")
      ->allow_extra_args(false)
      ->group(kGroup);
  add("--samplers", options->order, "the steps and their order");
}

Result<SamplerOptions> FinishSamplerOptions(const SamplingOptions& options, const Tokenizer& tokenizer) {
  SamplerOptions sampler = options.sampler;
  BANTAM_ASSIGN(sampler.order, ParseSamplerSteps(options.order));
  for (const std::string& text : options.logit_bias) {
    BANTAM_ASSIGN(const auto bias, ParseBias(text));
    if (bias.first >= tokenizer.size()) {
      return Error(Code::kInvalidArgument,
                   fmt::format("--logit-bias {}: expected an id below the vocabulary's {} tokens", text, tokenizer.size()));
    }
    sampler.logit_bias.push_back(bias);
  }
  for (uint32_t token = 0; sampler.dry.multiplier > 0 && token < tokenizer.size(); ++token) {
    const std::string text = tokenizer.Decode(std::span(&token, 1), /*special=*/false);
    for (const std::string& breaker : options.dry_breakers) {
      if (breaker.empty() || text.find(breaker) == std::string::npos) continue;
      sampler.dry_breakers.push_back(token);
      break;
    }
  }
  BANTAM_TRY(CheckSamplerOptions(sampler));
  return sampler;
}

}  // namespace bantam
