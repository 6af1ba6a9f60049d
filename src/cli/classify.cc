// bantam classify: the classes of texts, or of pairs of texts, with probabilities.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/json.h"
#include "cli/terminal.h"
#include "cli/texts.h"
#include "cli/verbs.h"
#include "engine/text_classes.h"
#include "text/utf8.h"

namespace bantam {
namespace {

struct Options {
  TextsOptions texts;
  bool pairs = false;
  std::optional<size_t> top;
};

Result<TextTokens> TokenizeLine(const Options& options, const OpenedEncoder& opened, const std::string& line) {
  const Tokenizer& tokenizer = opened.model.tokenizer;
  if (!options.pairs) return TokenizeText(tokenizer, WholeText(opened.model.rules, "", line), opened.limit);
  const size_t tab = line.find('\t');
  if (tab == std::string::npos || line.find('\t', tab + 1) != std::string::npos) {
    return Error(Code::kInvalidArgument, "expected two texts with a tab between them (--pairs)");
  }
  BANTAM_ASSIGN(const std::vector<uint32_t> first,
                TokenizePart(tokenizer, WholeText(opened.model.rules, "", line.substr(0, tab)), opened.limit));
  return TokenizePair(tokenizer, first, WholeText(opened.model.rules, "", line.substr(tab + 1)), opened.limit);
}

// A line for each class, or a JSON object.
struct Shown {
  size_t index;
  const std::string& text;
  std::span<const float> values;
  size_t top;
  const char* kind;  // of value
};
std::string Show(const Shown& shown, const TextRules& rules, bool json) {
  std::string lines;
  Json list = Json::array();
  for (const size_t number : TopClasses(shown.values, shown.top)) {
    const std::string label = LabelOf(rules, number);
    if (json) list.push_back({{"label", ReplaceInvalidUtf8(label)}, {shown.kind, shown.values[number]}});
    if (!json) lines += fmt::format("{:.6f}\t{}\t{}\t{}\n", shown.values[number], Printable(label), shown.index, Printable(shown.text));
  }
  if (!json) return lines;
  return DumpJson(Json{{"index", shown.index}, {"labels", std::move(list)}, {"text", ReplaceInvalidUtf8(shown.text)}}, /*indent=*/-1) +
         "\n";
}

Status Classify(FileSystem& files, const Options& options) {
  TextOptions use;
  use.classify = true;
  BANTAM_ASSIGN(use.pooling, ReadPoolingName(options.texts));
  if (use.pooling == Pooling::kEveryToken) return Error(Code::kInvalidArgument, "--pooling none: classes are those of a whole text");
  BANTAM_ASSIGN(const auto wanted, ReadActivationName(options.texts));
  BANTAM_ASSIGN(OpenedEncoder opened, OpenEncoder(files, options.texts));
  const size_t classes = opened.model.classes;
  if (classes == 0) {
    return Error(Code::kUnsupported,
                 fmt::format("{}: the model has no classifier (cls.output.weight), so it knows no classes", opened.path));
  }
  BANTAM_TRY(CheckLabels(opened.model.rules, classes).With(opened.path));
  const ClassActivation activation = wanted.value_or(ActivationOf(opened.model.rules, classes));
  BANTAM_ASSIGN(const std::vector<std::string> texts, ReadTexts(files, options.texts));
  std::vector<TextTokens> tokens;
  for (size_t i = 0; i < texts.size(); ++i) {
    BANTAM_ASSIGN(TextTokens text, TokenizeLine(options, opened, texts[i]).With(fmt::format("text {}", i)));
    tokens.push_back(std::move(text));
  }
  NoteClassifierPooling(opened, use.pooling);
  BANTAM_ASSIGN(const ReadyEncoder ready, MakeEncoder(files, opened, options.texts, ShapeOf(tokens), use));
  // Of one class a text is; of several by themselves it may be any.
  const size_t top = options.top.value_or(activation == ClassActivation::kSoftmax ? 1 : 0);
  const char* kind = activation == ClassActivation::kNothing ? "score" : "probability";
  const auto sink = [&](size_t text, std::span<float> values) -> Status {
    BANTAM_TRY(CheckNumbers(values).With(fmt::format("text {}", text)));
    Activate(activation, values);
    return Print(Show({text, texts[text], values, top, kind}, opened.model.rules, options.texts.json)) ? Ok() : OutputLost();
  };
  const MonotonicClock clock;
  const int64_t begin = clock.NowNs();
  BANTAM_TRY(ready.encoder->Encode(tokens, sink, Interrupted));
  Note(EncodingStats(ready, tokens, clock.NowNs() - begin));
  return Ok();
}

}  // namespace

void AddClassifyVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("classify", "the classes of texts with their probabilities, from a model with a classifier");
  AddTextsOptions(*verb, &options->texts);
  verb->add_flag("--pairs", options->pairs, "each text is two, such as a premise and a hypothesis, with a tab between them");
  verb->add_option("--top", options->top,
                   "print only so many classes of a text; 0: all (default: the likeliest, or all where each is by itself)")
      ->check(WholeNumber());
  AddActivationOption(*verb, &options->texts);
  verb->add_option("--pooling", options->texts.pooling,
                   "what the classifier reads: mean (of all tokens), cls (the first) or last (default: as the model says)");
  verb->footer(
      "Example: bantam classify distilbert-sst2 \"what a pump\"\nLines are probability, label, number of the text from 0 on, text.");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Status done = Classify(files, *options);
      EndProgressLine();
      return done.ok() ? 0 : Fail(done.error());
    };
  });
}

}  // namespace bantam
