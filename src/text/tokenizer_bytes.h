// A vocabulary as packages hold it, ready to use (docs/formats/package.md, "Tokenizer").
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"
#include "text/chat_template.h"
#include "text/tokenizer_spec.h"

namespace bantam {

struct StoredTokenizer {
  TokenizerSpec spec;
  TemplateTokens names;  // what chat templates call the special tokens
};

std::string EncodeTokenizer(const StoredTokenizer& tokenizer);

// Corrupt, naming the field, when the bytes are too few or too many, a number is outside its list, or lists contradict each other.
Result<StoredTokenizer> DecodeTokenizer(std::span<const std::byte> bytes);

// The names alone, which stand in front: nothing behind them is looked at.
Result<TemplateTokens> DecodeTokenizerNames(std::span<const std::byte> bytes);

}  // namespace bantam
