#include "engine/text_classes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace bantam {

ClassActivation ActivationOf(const TextRules& rules, size_t classes) {
  return rules.activation.value_or(classes > 1 ? ClassActivation::kSoftmax : ClassActivation::kNothing);
}

void Activate(ClassActivation activation, std::span<float> scores) {
  switch (activation) {
    case ClassActivation::kNothing:
      return;
    case ClassActivation::kSigmoid:
      for (float& score : scores) score = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(score))));
      return;
    case ClassActivation::kSoftmax: {
      // In doubles, and of differences to the largest: no score is too large.
      const double largest = static_cast<double>(*std::max_element(scores.begin(), scores.end()));
      double sum = 0;
      for (const float score : scores) sum += std::exp(static_cast<double>(score) - largest);
      for (float& score : scores) score = static_cast<float>(std::exp(static_cast<double>(score) - largest) / sum);
      return;
    }
  }
}

Status CheckLabels(const TextRules& rules, size_t classes) {
  if (rules.labels.empty() || rules.labels.size() == classes) return Ok();
  return Error(Code::kCorrupt,
               fmt::format("{} labels for a classifier of {} classes; fetch or convert the model again", rules.labels.size(), classes));
}

std::vector<size_t> TopClasses(std::span<const float> values, size_t top) {
  std::vector<size_t> numbers(values.size());
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  std::stable_sort(numbers.begin(), numbers.end(), [&](size_t a, size_t b) { return values[a] > values[b]; });
  if (top != 0) numbers.resize(std::min(numbers.size(), top));
  return numbers;
}

float Ranking::Of(std::span<float> scores) const {
  Activate(activation, scores);
  return scores[which];
}

Result<Ranking> RankingOf(const TextRules& rules, size_t classes) {
  BANTAM_TRY(CheckLabels(rules, classes));
  if (classes == 1)
    return Ranking{0, rules.activation == ClassActivation::kSigmoid ? ClassActivation::kSigmoid : ClassActivation::kNothing};
  const auto yes = std::find(rules.labels.begin(), rules.labels.end(), "yes");
  const auto no = std::find(rules.labels.begin(), rules.labels.end(), "no");
  if (classes == 2 && yes != rules.labels.end() && no != rules.labels.end()) {
    return Ranking{static_cast<size_t>(yes - rules.labels.begin()), ClassActivation::kSoftmax};
  }
  return Error(Code::kUnsupported,
               fmt::format("a classifier of {} classes: texts are ranked by one score, so take a model that gives one (num_labels 1), such "
                           "as bge-reranker-base; bantam classify gives these",
                           classes));
}

Result<JudgeTemplate> JudgeTemplate::Parse(std::string_view text) {
  constexpr std::string_view kQuery = "{query}";
  constexpr std::string_view kDocument = "{document}";
  const size_t query = text.find(kQuery);
  const size_t document = text.find(kDocument);
  const bool once = query != std::string_view::npos && document != std::string_view::npos && query < document &&
                    text.find(kQuery, query + 1) == std::string_view::npos && text.find(kDocument, document + 1) == std::string_view::npos;
  if (!once) return Error(Code::kInvalidArgument, "expected a text with {query} and behind it {document}, each once");
  JudgeTemplate made;
  made.front_ = text.substr(0, query);
  made.between_ = text.substr(query + kQuery.size(), document - query - kQuery.size());
  made.behind_ = text.substr(document + kDocument.size());
  return made;
}

Result<TextTokens> JudgeTemplate::Tokenize(const Tokenizer& tokenizer, std::string_view query, std::string_view document,
                                           const TextLimit& limit) const {
  const auto encode = [&](std::string_view of) {
    const PromptPiece pieces[] = {{front_, true}, {std::string(query), false}, {between_, true}, {std::string(of), false}, {behind_, true}};
    return tokenizer.Encode(pieces);
  };
  BANTAM_TRY(CheckTextBytes(tokenizer, query.size() + (limit.truncate ? 0 : document.size()), limit));
  // More of it cannot fit.
  if (limit.truncate) document = document.substr(0, limit.tokens_max * tokenizer.longest_token());
  TextTokens made;
  BANTAM_ASSIGN(made.tokens, encode(document));
  if (made.tokens.empty()) return Error(Code::kInvalidArgument, "two empty texts have no tokens in this vocabulary; leave them out");
  if (made.tokens.size() <= limit.tokens_max) return made;
  if (!limit.truncate) return TextTooLong(made.tokens.size(), limit);
  // The longest beginning that fits: tokens of a cut text are not always the first of the whole one's.
  size_t fits = 0;
  for (size_t high = document.size(); fits + 1 < high;) {
    const size_t middle = fits + (high - fits) / 2;
    BANTAM_ASSIGN(const std::vector<uint32_t> tokens, encode(document.substr(0, middle)));
    (tokens.size() <= limit.tokens_max ? fits : high) = middle;
  }
  while (fits > 0 && (static_cast<unsigned char>(document[fits]) & 0xc0) == 0x80) --fits;  // no half characters
  if (fits == 0) return TextTooLong(made.tokens.size(), limit);
  BANTAM_ASSIGN(made.tokens, encode(document.substr(0, fits)));
  if (made.tokens.size() > limit.tokens_max) return TextTooLong(made.tokens.size(), limit);
  return made;
}

const std::string_view kQwen3JudgeTemplate =
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    "answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages "
    "that answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

}  // namespace bantam
