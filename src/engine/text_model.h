// What is known of a model that is to read whole texts before its weights are: how texts become tokens, and how its classifier ranks them.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/text_classes.h"
#include "engine/text_encoder.h"
#include "formats/model_file.h"
#include "model/config.h"
#include "model/text_rules.h"
#include "text/tokenizer.h"

namespace bantam {

struct TextModel {
  Config config;
  TextRules rules;
  Tokenizer tokenizer;
  size_t classes = 0;               // of its classifier; 0: it has none
  std::string judge_template = {};  // of GGUF files of decoders that rank; empty: they have none
};
// Errors: those of reading the config and the vocabulary.
Result<TextModel> ReadTextModel(ModelFile& file);

// Unsupported for a text with something in front of it where the mean of its tokens is to leave that out.
Status CheckPrefix(const TextRules& rules, std::string_view prefix, Pooling pooling);

// How a text is ranked.
struct RankPlan {
  std::vector<uint32_t> answers;  // TextOptions::answers
  std::optional<JudgeTemplate> judge;
  Ranking ranking;
  bool lower_case = false;  // both texts, as the model's rules have it

  Result<TextTokens> Tokenize(const Tokenizer& tokenizer, std::string_view query, std::string_view document, const TextLimit& limit) const;
};
// By its classifier, or of a decoder without one by "yes" and "no", asked with `wanted`, what its file says, or Qwen3-Reranker's words.
// Errors: Unsupported (no classifier, one of other classes, a vocabulary without those tokens), those of templates.
Result<RankPlan> PlanRanking(const TextModel& model, const std::optional<std::string>& wanted);

}  // namespace bantam
