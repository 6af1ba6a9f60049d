// bantam embed: vectors of texts.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/json.h"
#include "cli/terminal.h"
#include "cli/texts.h"
#include "cli/verbs.h"

namespace bantam {
namespace {

struct Options {
  TextsOptions texts;
  std::optional<std::string> prompt;
  std::optional<std::string> prefix;
  std::optional<size_t> dimensions;
  bool has_normalize = false;
  bool normalize = true;
};

// A line for each vector: the numbers, or a JSON object.
std::string Show(size_t text, std::span<const float> vector, std::optional<size_t> token, bool json) {
  if (!json) return fmt::format("{}\n", fmt::join(vector, " "));
  const std::string place = token ? fmt::format(",\"token\":{}", *token) : "";
  return fmt::format("{{\"index\":{}{},\"embedding\":[{}]}}\n", text, place, fmt::join(vector, ","));
}

// What stands in front of each text; the user hears of what was not asked for.
Result<std::string> PrefixOf(const Options& options, const OpenedEncoder& opened, Pooling pooling) {
  BANTAM_ASSIGN(std::string prefix, ChoosePrefix(opened.model.rules, options.prompt, options.prefix));
  BANTAM_TRY(CheckPrefix(opened.model.rules, prefix, pooling));
  if (!prefix.empty() && !options.prompt && !options.prefix) {
    Note(fmt::format("[in front of each text stands \"{}\", the model's prompt {}; --prefix \"\" leaves it away]\n", Printable(prefix),
                     Printable(opened.model.rules.default_prompt)));
  }
  return prefix;
}

Result<std::vector<TextTokens>> ReadTokens(FileSystem& files, const TextsOptions& options, const OpenedEncoder& opened,
                                           const std::string& prefix) {
  std::vector<TextTokens> tokens;
  BANTAM_ASSIGN(const std::vector<std::string> texts, ReadTexts(files, options));
  for (size_t i = 0; i < texts.size(); ++i) {
    BANTAM_ASSIGN(TextTokens text, TokenizeText(opened.model.tokenizer, WholeText(opened.model.rules, prefix, texts[i]), opened.limit)
                                       .With(fmt::format("text {}", i)));
    tokens.push_back(std::move(text));
  }
  return tokens;
}

Status Embed(FileSystem& files, const Options& options) {
  TextOptions use;
  BANTAM_ASSIGN(use.pooling, ReadPoolingName(options.texts));
  BANTAM_ASSIGN(OpenedEncoder opened, OpenEncoder(files, options.texts));
  const Pooling pooling = use.pooling.value_or(opened.model.config.pooling);
  BANTAM_ASSIGN(const std::string prefix, PrefixOf(options, opened, pooling));
  BANTAM_ASSIGN(const std::vector<TextTokens> tokens, ReadTokens(files, options.texts, opened, prefix));
  if (!use.pooling && !opened.model.rules.pooling_given) {
    Note(fmt::format("[the model does not say how its tokens become one vector: {} is taken; --pooling mean, cls or last says so]\n",
                     pooling == Pooling::kMean ? "their mean" : "that of the last"));
  }
  const bool unit = options.has_normalize ? options.normalize : opened.model.config.unit_length;
  BANTAM_ASSIGN(const ReadyEncoder ready, MakeEncoder(files, opened, options.texts, ShapeOf(tokens), use));
  const size_t width = ready.encoder->width();
  if (options.dimensions && *options.dimensions > width) {
    return Error(Code::kInvalidArgument, fmt::format("--dimensions {}: expected at most the vector's {}", *options.dimensions, width));
  }
  const bool each_token = pooling == Pooling::kEveryToken;
  const MonotonicClock clock;
  int64_t printing_ns = 0;
  const auto sink = [&](size_t text, std::span<float> rows) -> Status {
    const int64_t begin = clock.NowNs();
    for (size_t row = 0; row * width < rows.size(); ++row) {
      const std::span<float> vector = rows.subspan(row * width, width);
      BANTAM_TRY(CheckNumbers(vector).With(fmt::format("text {}", text)));
      const std::span<float> kept = vector.first(options.dimensions.value_or(width));
      if (unit) ScaleToUnitLength(kept);
      if (!Print(Show(text, kept, each_token ? std::optional(row) : std::nullopt, options.texts.json))) return OutputLost();
    }
    printing_ns += clock.NowNs() - begin;
    return Ok();
  };
  const int64_t begin = clock.NowNs();
  BANTAM_TRY(ready.encoder->Encode(tokens, sink, Interrupted));
  Note(EncodingStats(ready, tokens, clock.NowNs() - begin - printing_ns));
  return Ok();
}

}  // namespace

void AddEmbedVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "embed", "a vector of each text, from an encoder such as MiniLM or ModernBERT, or from a decoder such as Qwen3-Embedding");
  AddTextsOptions(*verb, &options->texts);
  verb->add_option(
      "--pooling", options->texts.pooling,
      "how tokens become one vector: mean, cls (the first), last, or none, which prints each token's (default: the model's, or "
      "mean, of decoders last)");
  verb->add_option(
      "--prompt", options->prompt,
      "put the model's prompt of this name in front of each text, such as query or passage (default: the model's own default)");
  verb->add_option("--prefix", options->prefix, "put this in front of each text, such as \"query: \"; \"\": nothing");
  verb->add_option("--dimensions", options->dimensions,
                   "cut vectors after so many numbers, which mean something of models that were trained for it (Matryoshka)")
      ->check(CLI::Range(size_t{1}, size_t{kWidthMax}));
  CLI::Option* normalize = verb->add_flag("--normalize,!--no-normalize", options->normalize,
                                          "scale vectors to unit length (default: as the model says, or yes)");
  verb->footer("Example: bantam embed all-MiniLM-L6-v2 \"a pump that leaks\" \"a broken seal\"");
  verb->callback([=] {
    options->has_normalize = normalize->count() > 0;
    *action = [=](FileSystem& files) {
      const Status done = Embed(files, *options);
      EndProgressLine();
      return done.ok() ? 0 : Fail(done.error());
    };
  });
}

}  // namespace bantam
