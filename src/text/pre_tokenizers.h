// The pre-tokenizers that GGUF files name (tokenizer.ggml.pre), as the regular expressions of the models they come from.
#pragma once

#include <span>
#include <string_view>

namespace bantam {

// The pattern of GPT-2, which many others build on.
extern const std::string_view kGpt2Pattern;

// Punctuation as BERT's pre-tokenizer has it: ASCII's symbols count.
inline constexpr std::string_view kPunctuationPattern = R"([\p{P}!-/:-@\[-`{-~])";

struct NamedPreTokenizer {
  std::string_view name;
  std::span<const std::string_view> patterns;  // each cuts up what the ones before it left
  bool ignore_merges = false;                  // a word that is a token needs no merging
  bool add_bos = false;                        // where the file does not say
};

// Null when no model of that name is known.
const NamedPreTokenizer* FindPreTokenizer(std::string_view name);

// All of them, for tests.
std::span<const NamedPreTokenizer> NamedPreTokenizers();

}  // namespace bantam
