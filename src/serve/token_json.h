// Tokens and their probabilities as several APIs write them.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/json.h"
#include "engine/request.h"
#include "text/tokenizer.h"

namespace bantam {

// A token's own bytes, which may be half a character.
std::string TokenBytes(const Tokenizer& tokenizer, uint32_t token);

// [{"token", "logprob", "bytes", "top_logprobs": [{"token", "logprob", "bytes"}]}], of each token in turn.
Json LogprobsJson(const Tokenizer& tokenizer, std::span<const TokenInfo> tokens);

}  // namespace bantam
