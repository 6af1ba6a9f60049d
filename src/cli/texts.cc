#include "cli/texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "model/open.h"

namespace bantam {
namespace {

// Short texts share steps of about so many tokens, which products of whole tiles and all threads like.
constexpr size_t kStepTokens = 512;
constexpr size_t kStepTextsMax = 64;

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

// What a user asks for, or the publisher, or the length of the training; a table of positions ends it for all of them.
TextLimit LimitOf(const TextsOptions& options, const RopeOverride& rope, const TextRules& rules, const Config& config) {
  const size_t longest = config.position_table ? config.context_max : kContextLengthMax;
  size_t tokens = config.context_max;
  if (rules.tokens_max != 0) tokens = rope.scaling == RopeScaling::kNone ? rules.tokens_max : std::max(tokens, rules.tokens_max);
  if (options.run.context != 0) tokens = options.run.context;
  tokens = std::min(tokens, longest);
  return {tokens, options.truncate, tokens < longest};
}

}  // namespace

void AddTextsOptions(CLI::App& verb, TextsOptions* options) {
  verb.add_option("MODEL", options->model, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb.add_option("TEXT", options->texts, "the texts; without them and --file, the lines of standard input");
  verb.add_option("--file", options->file, "read the texts from this file, one from each line");
  verb.add_flag("--json", options->json, "print a JSON object on each line");
  AddTextLimitOptions(verb, options);
}

void AddTextLimitOptions(CLI::App& verb, TextsOptions* options) {
  verb.add_flag("--truncate", options->truncate, "leave the end of a text away that is too long (default: that is an error)");
  verb.add_option("--context", options->run.context,
                  "most tokens of a text (default, and 0: what the publisher says, or what the model was trained on)")
      ->check(WholeNumber());
  verb.add_option("-t,--threads", options->run.threads, "threads (default, and 0: what bantam tune found, or the usable physical cores)")
      ->check(WholeNumber());
  AddLoadOptions(verb, &options->run);
}

void AddActivationOption(CLI::App& verb, TextsOptions* options) {
  verb.add_option(
      "--activation", options->activation,
      "what makes probabilities of scores: softmax (of all classes), sigmoid (of each by itself) or none (default: as the model "
      "says, or softmax of several classes and none of one)");
}

Result<std::optional<ClassActivation>> ReadActivationName(const TextsOptions& options) {
  if (options.activation.empty()) return std::optional<ClassActivation>();
  const auto activation = ClassActivationFromName(options.activation);
  if (activation) return activation;
  return Error(Code::kInvalidArgument, fmt::format("--activation {}: expected softmax, sigmoid or none", options.activation));
}

Result<std::optional<Pooling>> ReadPoolingName(const TextsOptions& options) {
  constexpr std::array<std::pair<std::string_view, Pooling>, 4> kNames = {
      {{"mean", Pooling::kMean}, {"cls", Pooling::kFirst}, {"last", Pooling::kLast}, {"none", Pooling::kEveryToken}}};
  if (options.pooling.empty()) return std::optional<Pooling>();
  for (const auto& [known, pooling] : kNames) {
    if (known == options.pooling) return std::optional(pooling);
  }
  return Error(Code::kInvalidArgument, fmt::format("--pooling {}: expected mean, cls, last or none", options.pooling));
}

Result<std::vector<std::string>> ReadTexts(FileSystem& files, const TextsOptions& options) {
  if (!options.texts.empty() && !options.file.empty()) {
    return Error(Code::kInvalidArgument, "TEXT and --file were both given; give one");
  }
  if (!options.texts.empty()) return options.texts;
  std::vector<std::string> texts;
  if (!options.file.empty()) {
    BANTAM_ASSIGN(const std::string text, files.ReadText(options.file, kInputBytesMax));
    texts = Lines(text);
  } else {
    if (StdinIsTerminal()) Note("[reading a text from each line of standard input; Ctrl-D ends it]\n");
    BANTAM_ASSIGN(const std::string text, ReadStdin(kInputBytesMax));
    texts = Lines(text);
  }
  if (texts.empty()) return Error(Code::kInvalidArgument, "no texts: give some, a --file, or lines on standard input");
  return texts;
}

Result<OpenedEncoder> OpenEncoder(FileSystem& files, const TextsOptions& options) {
  BANTAM_ASSIGN(std::string path, FindModel(files, options.model));
  BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
  BANTAM_ASSIGN(TextModel model, ReadTextModel(file));
  BANTAM_ASSIGN(const RopeOverride rope, ParseRopeScaling(options.run.rope_scaling));
  BANTAM_TRY(StretchContext(rope, &model.config).With(path));
  const TextLimit limit = LimitOf(options, rope, model.rules, model.config);
  return OpenedEncoder{std::move(path), std::move(file), std::move(model), limit};
}

void NoteClassifierPooling(const OpenedEncoder& opened, const std::optional<Pooling>& asked) {
  if (asked || opened.model.rules.classifier_pooling_given || opened.model.config.classifier_pooling != Pooling::kMean) return;
  Note("[the file does not say what its classifier reads: the mean of all tokens is taken; --pooling mean or cls says so]\n");
}

TextsShape ShapeOf(std::span<const TextTokens> texts) {
  TextsShape shape;
  shape.texts = texts.size();
  for (const TextTokens& text : texts) {
    shape.longest = std::max(shape.longest, text.tokens.size());
    shape.total += text.tokens.size();
    shape.bytes += sizeof(TextTokens) + text.tokens.capacity() * sizeof(uint32_t);
  }
  return shape;
}

Result<ReadyEncoder> MakeEncoder(FileSystem& files, OpenedEncoder& opened, const TextsOptions& options, const TextsShape& texts,
                                 const TextOptions& use) {
  TextOptions whole = use;
  whole.whole = true;
  RunOptions run = options.run;
  run.context = texts.longest;
  StepShape shape;
  shape.step_tokens = std::max(texts.longest, std::min(texts.total, kStepTokens));
  shape.texts = std::clamp<size_t>(texts.texts, 1, std::min(kStepTextsMax, shape.step_tokens));
  const Config& config = opened.model.config;
  const Pooling pooling = use.pooling.value_or(use.classify ? config.classifier_pooling : config.pooling);
  if (use.classify && use.answers.empty() && pooling == Pooling::kEveryToken) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: scores are those of a whole text: say what is read of it (--pooling mean, cls or last)", opened.path));
  }
  shape.all_outputs = !use.classify && pooling == Pooling::kEveryToken;
  BANTAM_ASSIGN(Prepared prepared, Prepare(files, std::move(opened.file), {&opened.model.tokenizer, texts.bytes, run, shape, whole}));
  BANTAM_TRY(CheckVocabulary(opened.model.tokenizer, prepared, opened.path));
  NoteContext(prepared);
  DeferInterrupts();
  ReadyEncoder ready;
  BANTAM_ASSIGN(ready.loaded, LoadWithoutSession(files, std::move(prepared)));
  EndProgressLine();
  BANTAM_ASSIGN(ready.encoder, TextEncoder::Make(*ready.loaded.model, ready.loaded.plan, {*ready.loaded.budget, *ready.loaded.pool}));
  return ready;
}

std::string EncodingStats(const ReadyEncoder& ready, std::span<const TextTokens> texts, int64_t ns) {
  size_t tokens = 0;
  for (const TextTokens& text : texts) tokens += text.tokens.size();
  const double seconds = static_cast<double>(std::max<int64_t>(ns, 1)) * 1e-9;
  return fmt::format("{} text{} of {} tokens, {:.1f} tokens/s; kernels {}, {} thread{}; peak memory {} of {} planned\n", texts.size(),
                     texts.size() == 1 ? "" : "s", tokens, static_cast<double>(tokens) / seconds, ready.loaded.model->kernels->name,
                     ready.loaded.plan.options.threads, ready.loaded.plan.options.threads == 1 ? "" : "s", FormatBytes(PeakResidentBytes()),
                     FormatBytes(ready.loaded.plan.total_bytes()));
}

}  // namespace bantam
