// How texts are meant to be read and pooled, and what the classes of a classifier are, as the publisher says beside the model: metadata
// that no layer needs, but whoever makes vectors or classifies. docs/formats/safetensors.md lists the keys, which are our own.
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

// What makes probabilities of a classifier's scores.
enum class ClassActivation : uint8_t {
  kNothing,  // they are scores: of a regression, or of a reranker that says no more
  kSigmoid,  // of each class by itself: a text may be of several
  kSoftmax,  // of all: a text is of one
};
inline constexpr std::string_view kClassActivationNames[] = {"none", "sigmoid", "softmax"};
std::optional<ClassActivation> ClassActivationFromName(std::string_view name);

inline constexpr size_t kLabelBytesMax = 1024;
inline constexpr size_t kDimensionsMax = 256;

struct TextRules {
  bool pooling_given = false;             // how tokens become a vector; else it is their mean
  bool classifier_pooling_given = false;  // what a classifier reads; else what its family's mostly do
  size_t tokens_max = 0;                  // of a text, with what the vocabulary puts round it; 0: what the model was trained on
  bool lower_case = false;                // the text is, before it becomes tokens
  bool prompt_pooled = true;              // a mean takes the prompt's tokens in
  std::vector<TextPrompt> prompts;
  std::string default_prompt;       // the name of that in front of texts for which none is asked; empty: none is
  std::vector<std::string> labels;  // of classes, in their order; empty: they have none
  std::optional<ClassActivation> activation;
  // A vector's first so many numbers are one too (Kusupati et al., "Matryoshka representation learning", 2022): these, or any number.
  std::vector<uint32_t> dimensions;
  bool any_dimensions = false;
};

// Errors: Corrupt.
Result<TextRules> ReadTextRules(const Metadata& metadata, std::string_view architecture);

// What stands in front of each text: `prefix`, the prompt of that name, or the default. Errors: InvalidArgument (both are given, an unknown
// name), which list the names that are known.
Result<std::string> ChoosePrefix(const TextRules& rules, const std::optional<std::string>& prompt,
                                 const std::optional<std::string>& prefix);

// What a class is called: its label, or LABEL_2 as the publishers' code has it.
std::string LabelOf(const TextRules& rules, size_t number);

// InvalidArgument where a vector of `width` numbers may not be cut after so many.
Status CheckDimensions(const TextRules& rules, size_t dimensions, size_t width);

// The text as it becomes tokens.
std::string WholeText(const TextRules& rules, std::string_view prefix, std::string_view text);

}  // namespace bantam
