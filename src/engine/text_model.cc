#include "engine/text_model.h"

#include <fmt/format.h>

#include <utility>

#include "model/arch/registry.h"
#include "model/vocabulary.h"
#include "text/normalizer.h"

namespace bantam {
namespace {

constexpr std::string_view kTurnBegins = "<|im_start|>";

// Of a decoder's answers. The order is that of labels "yes" and "no".
Result<std::vector<uint32_t>> AnswerTokens(const Tokenizer& tokenizer) {
  std::vector<uint32_t> answers;
  for (const char* answer : {"yes", "no"}) {
    BANTAM_ASSIGN(const std::vector<uint32_t> tokens, tokenizer.Encode(answer, /*special=*/false));
    if (tokens.size() != 1) {
      return Error(Code::kUnsupported,
                   fmt::format("the model has no classifier, and \"{}\" is {} tokens of its vocabulary, so it cannot be "
                               "asked for yes or no; take a reranker",
                               answer, tokens.size()));
    }
    answers.push_back(tokens[0]);
  }
  return answers;
}

}  // namespace

Result<TextModel> ReadTextModel(ModelFile& file) {
  BANTAM_ASSIGN(Config config, ReadConfig(file));
  BANTAM_ASSIGN(TextRules rules, ReadTextRules(file.metadata, config.architecture).With(file.path));
  BANTAM_ASSIGN(const auto judge, file.metadata.Text("tokenizer.chat_template.rerank").With(file.path));
  BANTAM_ASSIGN(Tokenizer tokenizer, ReadVocabulary(file));
  const TensorInfo* classifier = file.directory.Find("cls.output.weight");
  return TextModel{std::move(config), std::move(rules), std::move(tokenizer), classifier == nullptr ? 0 : classifier->rows(),
                   std::string(judge.value_or(""))};
}

Status CheckPrefix(const TextRules& rules, std::string_view prefix, Pooling pooling) {
  if (prefix.empty() || rules.prompt_pooled || pooling != Pooling::kMean) return Ok();
  return Error(Code::kUnsupported,
               "the model's mean leaves out what a prompt says (include_prompt false), which is not supported: give none (--prefix \"\")");
}

Result<TextTokens> RankPlan::Tokenize(const Tokenizer& tokenizer, std::string_view query, std::string_view document,
                                      const TextLimit& limit) const {
  const std::string asked = lower_case ? Lowercase(query) : std::string(query);
  const std::string read = lower_case ? Lowercase(document) : std::string(document);
  if (judge) return judge->Tokenize(tokenizer, asked, read, limit);
  BANTAM_ASSIGN(const std::vector<uint32_t> first, TokenizePart(tokenizer, asked, limit));
  return TokenizePair(tokenizer, first, read, limit);
}

Result<RankPlan> PlanRanking(const TextModel& model, const std::optional<std::string>& wanted) {
  RankPlan plan;
  plan.lower_case = model.rules.lower_case;
  const bool decoder = !model.config.later_tokens;
  if (wanted && !decoder)
    return Error(Code::kInvalidArgument, "a template is for decoders; this model reads the query and a text as a pair");
  if (model.classes > 0) {
    BANTAM_ASSIGN(plan.ranking, RankingOf(model.rules, model.classes));
  } else if (decoder && !model.config.no_output) {
    BANTAM_ASSIGN(plan.answers, AnswerTokens(model.tokenizer));
    plan.ranking = {0, ClassActivation::kSoftmax};
  } else {
    return Error(Code::kUnsupported, "the model has no classifier (cls.output.weight): it makes vectors, and ranks nothing");
  }
  if (!decoder) return plan;
  std::string text = wanted.value_or(model.judge_template);
  if (text.empty() && model.classes > 0) return plan;
  if (text.empty()) {
    BANTAM_ASSIGN(const std::vector<uint32_t> tokens, model.tokenizer.Encode(kTurnBegins, /*special=*/true));
    if (tokens.size() != 1) {
      return Error(Code::kUnsupported,
                   "the model has no classifier, and is not asked as Qwen3-Reranker is, for its vocabulary has no "
                   "<|im_start|>; say how it is asked for yes or no (--template)");
    }
    text = kQwen3JudgeTemplate;
  }
  BANTAM_ASSIGN(plan.judge, JudgeTemplate::Parse(text).With("the template"));
  return plan;
}

}  // namespace bantam
