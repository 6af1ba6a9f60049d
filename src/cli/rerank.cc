// bantam rerank: texts in the order in which they answer a query.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
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
Result<Candidates> ReadCandidates(const Options& options, const OpenedEncoder& opened, const std::vector<std::string>& texts) {
  Candidates candidates;
  BANTAM_ASSIGN(const std::vector<uint32_t> query, TokenizePart(opened.tokenizer, options.query, opened.limit).With("the query"));
  const bool lines = options.texts.texts.empty();
  for (size_t i = 0; i < texts.size(); ++i) {
    if (lines && texts[i].find_first_not_of(" \t\v\f\r") == std::string::npos) continue;
    BANTAM_ASSIGN(TextTokens pair,
                  TokenizePair(opened.tokenizer, query, texts[i], opened.limit).With(fmt::format("the query and text {}", i)));
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
  BANTAM_ASSIGN(OpenedEncoder opened, OpenEncoder(files, options.texts));
  BANTAM_ASSIGN(const std::vector<std::string> texts, ReadTexts(files, options.texts));
  BANTAM_ASSIGN(const Candidates candidates, ReadCandidates(options, opened, texts));
  const std::vector<TextTokens>& pairs = candidates.pairs;
  if (!use.pooling && !opened.rules.classifier_pooling_given && opened.config.classifier_pooling == Pooling::kMean) {
    Note("[the file does not say what its classifier reads: the mean of all tokens is taken; --pooling mean or cls says so]\n");
  }
  BANTAM_ASSIGN(const ReadyEncoder ready, MakeEncoder(files, std::move(opened), options.texts, pairs, use));
  std::vector<Scored> scores;
  const auto sink = [&](size_t text, std::span<float> score) -> Status {
    scores.push_back({candidates.numbers[text], score[0]});
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
  CLI::App* verb = app.add_subcommand("rerank", "texts sorted by how well they answer a query, from an encoder with a classifier");
  AddTextsOptions(*verb, &options->texts);
  verb->add_option("--query", options->query, "what the texts are to answer")->required();
  verb->add_option("--pooling", options->texts.pooling,
                   "what the classifier reads: mean (of all tokens), cls (the first) or last (default: as the model says)");
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
