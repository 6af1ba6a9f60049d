// How an encoder's texts are meant to be read and pooled, as its publisher says beside the model: metadata that no layer needs, but whoever
// makes vectors. docs/formats/safetensors.md lists the keys, which are our own.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

// What a publisher wants in front of a text, by its use: "query" for what is looked for, "passage" for what is found.
struct TextPrompt {
  std::string name;
  std::string text;
};
inline constexpr size_t kPromptsMax = 256;
inline constexpr size_t kPromptNameBytesMax = 256;
inline constexpr size_t kPromptBytesMax = 65'536;

struct TextRules {
  bool pooling_given = false;             // how tokens become a vector; else it is their mean
  bool classifier_pooling_given = false;  // what a classifier reads; else what its family's mostly do
  size_t tokens_max = 0;                  // of a text, with what the vocabulary puts round it; 0: what the model was trained on
  bool lower_case = false;                // the text is, before it becomes tokens
  bool prompt_pooled = true;              // a mean takes the prompt's tokens in
  std::vector<TextPrompt> prompts;
  std::string default_prompt;  // the name of that in front of texts for which none is asked; empty: none is
};

// Of an encoder's file. Errors: Corrupt.
Result<TextRules> ReadTextRules(const Metadata& metadata, std::string_view architecture);

// What stands in front of each text: `prefix`, the prompt of that name, or the default. Errors: InvalidArgument (both are given, an unknown
// name), which list the names that are known.
Result<std::string> ChoosePrefix(const TextRules& rules, const std::optional<std::string>& prompt,
                                 const std::optional<std::string>& prefix);

// The text as it becomes tokens.
std::string WholeText(const TextRules& rules, std::string_view prefix, std::string_view text);

}  // namespace bantam
