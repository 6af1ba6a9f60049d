// bantam rerank: texts in the order in which they answer a query.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/json.h"
#include "cli/terminal.h"
#include "cli/texts.h"
#include "cli/verbs.h"
#include "text/utf8.h"

namespace bantam {
namespace {

struct Options {
  TextsOptions texts;
  std::string query;
  std::optional<std::string> judge;  // --template
  size_t top = 0;
};

struct Scored {
  size_t index;
  float score;
};

std::string Show(const Scored& scored, const std::string& text, bool json) {
  if (!json) return fmt::format("{:.6f}\t{}\t{}\n", scored.score, scored.index, Printable(text));
  return DumpJson(Json{{"index", scored.index}, {"score", scored.score}, {"text", ReplaceInvalidUtf8(text)}}, /*indent=*/-1) + "\n";
}

// The texts that are ranked, of which each keeps its number, read together with the query.
struct Candidates {
  std::vector<size_t> numbers;
  std::vector<TextTokens> pairs;
};
Result<Candidates> ReadCandidates(const Options& options, const OpenedEncoder& opened, const RankPlan& plan,
                                  const std::vector<std::string>& texts) {
  Candidates candidates;
  const Tokenizer& tokenizer = opened.model.tokenizer;
  const bool lines = options.texts.texts.empty();
  for (size_t i = 0; i < texts.size(); ++i) {
    if (lines && texts[i].find_first_not_of(" \t\v\f\r") == std::string::npos) continue;
    BANTAM_ASSIGN(TextTokens pair,
                  plan.Tokenize(tokenizer, options.query, texts[i], opened.limit).With(fmt::format("the query and text {}", i)));
    candidates.numbers.push_back(i);
    candidates.pairs.push_back(std::move(pair));
  }
  const size_t skipped = texts.size() - candidates.pairs.size();
  if (candidates.pairs.empty()) return Error(Code::kInvalidArgument, "no texts: all lines are blank");
  if (skipped != 0) Note(fmt::format("[{} blank line{} skipped]\n", skipped, skipped == 1 ? "" : "s"));
  return candidates;
}

Result<std::string> Rerank(FileSystem& files, const Options& options) {
  TextOptions use;
  use.classify = true;
  BANTAM_ASSIGN(use.pooling, ReadPoolingName(options.texts));
  if (use.pooling == Pooling::kEveryToken) return Error(Code::kInvalidArgument, "--pooling none: a score is one for a whole text");
  BANTAM_ASSIGN(const auto activation, ReadActivationName(options.texts));
  BANTAM_ASSIGN(OpenedEncoder opened, OpenEncoder(files, options.texts));
  BANTAM_ASSIGN(RankPlan plan, PlanRanking(opened.model, options.judge).With(opened.path));
  use.answers = plan.answers;
  if (activation) plan.ranking.activation = *activation;
  BANTAM_ASSIGN(const std::vector<std::string> texts, ReadTexts(files, options.texts));
  BANTAM_ASSIGN(const Candidates candidates, ReadCandidates(options, opened, plan, texts));
  const std::vector<TextTokens>& pairs = candidates.pairs;
  NoteClassifierPooling(opened, use.pooling);
  BANTAM_ASSIGN(const ReadyEncoder ready, MakeEncoder(files, opened, options.texts, ShapeOf(pairs), use));
  std::vector<Scored> scores;
  const auto sink = [&](size_t text, std::span<float> values) -> Status {
    scores.push_back({candidates.numbers[text], plan.ranking.Of(values)});
    return Ok();
  };
  const MonotonicClock clock;
  const int64_t begin = clock.NowNs();
  BANTAM_TRY(ready.encoder->Encode(pairs, sink, Interrupted));
  Note(EncodingStats(ready, pairs, clock.NowNs() - begin));
  // What is no number comes last.
  const auto key = [](const Scored& scored) {
    return scored.score == scored.score ? scored.score : -std::numeric_limits<float>::infinity();
  };
  std::stable_sort(scores.begin(), scores.end(), [&](const Scored& a, const Scored& b) { return key(a) > key(b); });
  if (options.top != 0) scores.resize(std::min(scores.size(), options.top));
  std::string output;
  for (const Scored& scored : scores) output += Show(scored, texts[scored.index], options.texts.json);
  return output;
}

}  // namespace

void AddRerankVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "rerank", "texts sorted by how well they answer a query, from a model with a classifier, or a decoder that says yes or no");
  AddTextsOptions(*verb, &options->texts);
  verb->add_option("--query", options->query, "what the texts are to answer")->required();
  verb->add_option("--pooling", options->texts.pooling,
                   "what the classifier reads: mean (of all tokens), cls (the first) or last (default: as the model says)");
  AddActivationOption(*verb, &options->texts);
  verb->add_option(
      "--template", options->judge,
      "how a decoder is asked: a text with {query} and {document} in it that ends where its yes or no begins, in which names of "
      "control tokens mean those (default: the model's, or Qwen3-Reranker's)");
  verb->add_option("--top", options->top, "print only so many; 0: all")->check(WholeNumber())->capture_default_str();
  verb->footer(
      "Example: bantam rerank bge-reranker-base --query \"what leaks?\" --file manual.txt\nLines are score, number of the text from 0 on, "
      "text. Blank lines of a file are no texts, but count.");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Result<std::string> output = Rerank(files, *options);
      EndProgressLine();
      return output.ok() ? PrintResult(*output) : Fail(output.error());
    };
  });
}

}  // namespace bantam
