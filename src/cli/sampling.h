// Command-line options of the sampler.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/sampler.h"
#include "text/tokenizer.h"

namespace bantam {

// As given on the command line.
struct SamplingOptions {
  SamplerOptions sampler;
  std::string order;                                               // --samplers
  std::vector<std::string> logit_bias;                             // ID=BIAS
  std::vector<std::string> dry_breakers = {"\n", ":", "\"", "*"};  // texts
};

void AddSamplingOptions(CLI::App& verb, SamplingOptions* options);

// Errors: InvalidArgument, naming the option. `tokenizer` turns texts into tokens: every token that contains a breaker breaks.
Result<SamplerOptions> FinishSamplerOptions(const SamplingOptions& options, const Tokenizer& tokenizer);

}  // namespace bantam
