// What a classifier says of a text: classes with probabilities, or one number that texts are ranked by.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/text_encoder.h"
#include "model/text_rules.h"
#include "text/tokenizer.h"

namespace bantam {

// What is made of the scores of `classes` classes: what the model says, or else a softmax of several, and of one the score itself.
ClassActivation ActivationOf(const TextRules& rules, size_t classes);

// Scores become probabilities, in place.
void Activate(ClassActivation activation, std::span<float> scores);

// Corrupt where the model names another number of classes than it has.
Status CheckLabels(const TextRules& rules, size_t classes);

// Numbers of the `top` classes of the largest values, the largest first; of equal ones the lower number. 0: all.
std::vector<size_t> TopClasses(std::span<const float> values, size_t top);

// How a classifier ranks a text that was read together with a query: by its only score, or by the probability of "yes" against "no".
struct Ranking {
  size_t which = 0;  // of the values
  ClassActivation activation = ClassActivation::kNothing;
  float Of(std::span<float> scores) const;  // changes them
};
// Unsupported for other classes.
Result<Ranking> RankingOf(const TextRules& rules, size_t classes);

// What a decoder is asked to judge by: a text with {query} and {document} in it, which ends where the answer would begin.
class JudgeTemplate {
 public:
  // InvalidArgument where it does not have each of the two once, the query first.
  static Result<JudgeTemplate> Parse(std::string_view text);

  // Names of control tokens mean those tokens in the template alone. Of what is too long the end of the document is left away
  // (TextLimit::truncate), or it is an error (Exhausted).
  Result<TextTokens> Tokenize(const Tokenizer& tokenizer, std::string_view query, std::string_view document, const TextLimit& limit) const;

 private:
  std::string front_;
  std::string between_;
  std::string behind_;
};

// That of Qwen3-Reranker (Zhang et al., "Qwen3 Embedding", 2025), as its publisher gives it.
extern const std::string_view kQwen3JudgeTemplate;

}  // namespace bantam
