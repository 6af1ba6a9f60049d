// bantam embed: vectors of texts.
#include <fmt/format.h>

#include <array>
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
  std::string pooling;
  bool has_normalize = false;
  bool normalize = true;
};

Result<std::optional<Pooling>> ReadPoolingName(const std::string& name) {
  constexpr std::array<std::pair<std::string_view, Pooling>, 4> kNames = {
      {{"mean", Pooling::kMean}, {"cls", Pooling::kFirst}, {"last", Pooling::kLast}, {"none", Pooling::kEveryToken}}};
  if (name.empty()) return std::optional<Pooling>();
  for (const auto& [known, pooling] : kNames) {
    if (known == name) return std::optional(pooling);
  }
  return Error(Code::kInvalidArgument, fmt::format("--pooling {}: expected mean, cls, last or none", name));
}

// A line for each vector: the numbers, or a JSON object.
std::string Show(size_t text, std::span<const float> vector, std::optional<size_t> token, bool json) {
  if (!json) return fmt::format("{}\n", fmt::join(vector, " "));
  const std::string place = token ? fmt::format(",\"token\":{}", *token) : "";
  return fmt::format("{{\"index\":{}{},\"embedding\":[{}]}}\n", text, place, fmt::join(vector, ","));
}

Status Embed(FileSystem& files, const Options& options) {
  TextOptions use;
  BANTAM_ASSIGN(use.pooling, ReadPoolingName(options.pooling));
  BANTAM_ASSIGN(OpenedEncoder opened, OpenEncoder(files, options.texts));
  std::vector<TextTokens> tokens;
  {
    BANTAM_ASSIGN(const std::vector<std::string> texts, ReadTexts(files, options.texts));
    for (size_t i = 0; i < texts.size(); ++i) {
      BANTAM_ASSIGN(TextTokens text, TokenizeText(opened.tokenizer, texts[i], opened.limit).With(fmt::format("text {}", i)));
      tokens.push_back(std::move(text));
    }
  }
  const bool unit = options.has_normalize ? options.normalize : opened.config.unit_length;
  BANTAM_ASSIGN(const ReadyEncoder ready, MakeEncoder(files, std::move(opened), options.texts, tokens, use));
  const size_t width = ready.encoder->width();
  const bool each_token = ready.loaded.model->program.pooling == Pooling::kEveryToken;
  const MonotonicClock clock;
  int64_t printing_ns = 0;
  const auto sink = [&](size_t text, std::span<float> rows) -> Status {
    const int64_t begin = clock.NowNs();
    for (size_t row = 0; row * width < rows.size(); ++row) {
      const std::span<float> vector = rows.subspan(row * width, width);
      if (unit) ScaleToUnitLength(vector);
      if (!Print(Show(text, vector, each_token ? std::optional(row) : std::nullopt, options.texts.json))) return OutputLost();
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
  CLI::App* verb = app.add_subcommand("embed", "a vector of each text, from an encoder such as MiniLM or ModernBERT");
  AddTextsOptions(*verb, &options->texts);
  verb->add_option(
      "--pooling", options->pooling,
      "how tokens become one vector: mean, cls (the first), last, or none, which prints each token's (default: the model's, or "
      "mean)");
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
