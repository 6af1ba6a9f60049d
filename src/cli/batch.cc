// bantam batch: a file of requests, answered in order.
#include "engine/batch.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/disk.h"
#include "cli/batch_texts.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/sampling.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "engine/engine_targets.h"
#include "model/vocabulary.h"

namespace bantam {
namespace {

struct Options {
  std::string input;
  std::string output;
  size_t sequences = kSequencesDefault;
  size_t tokens_max = 512;
  bool force = false;
  std::vector<std::string> adapters;  // --lora
  std::string draft;                  // --draft-model
  std::string calibration;            // a file; empty: none
  size_t exit_layer = 0;
  double target_ms = 0;
  double target_watts = 0;
  double target_percent = 0;
  SamplingOptions sampling;
  TextBatchOptions texts;  // with the model's and the run's options, which are those of answers too
  std::string task;        // --task; empty: what the model is for
};

Result<EngineOptions> ReadEngineOptions(FileSystem& files, const Options& options) {
  EngineOptions engine;
  // Lines wait in their file, not in a queue: memory is the only limit.
  engine.admission = {.requests_max = SIZE_MAX, .tokens_max = SIZE_MAX, .bytes_max = UINT64_MAX};
  engine.notice = [](std::string_view change) { Note(fmt::format("[{}]\n", change)); };
  engine.watch = [&files] { return ReadMemoryPressure(files, /*root=*/""); };
  engine.exit_layer = options.exit_layer;
  if (options.calibration.empty()) return engine;
  BANTAM_ASSIGN(Calibration calibration, Calibration::Open(files, options.calibration));
  engine.calibration = std::make_shared<const Calibration>(std::move(calibration));
  return engine;
}

// What the run was like, for people.
std::string Describe(const BatchSummary& summary, const EngineCounters& counters, int64_t ns, const MemoryPlan& plan) {
  const double seconds = static_cast<double>(ns) * 1e-9;
  const std::string resumed = summary.resumed == 0 ? "" : fmt::format(" ({} were there already)", summary.resumed);
  const std::string drafted = counters.draft_steps == 0
                                  ? ""
                                  : fmt::format(" ({} of {} guesses of the draft model were right, in {} steps)",
                                                counters.model_accepted_tokens, counters.model_drafted_tokens, counters.draft_steps);
  return fmt::format(
      "{} line{} answered{}, {} with an error; {} prompt tokens, {} of them kept from others; {} tokens generated{}, {:.1f} tokens/s with "
      "up "
      "to {} at once; peak memory {} of {} planned\n",
      summary.lines, summary.lines == 1 ? "" : "s", resumed, summary.errors, counters.prompt_tokens + counters.cached_tokens,
      counters.cached_tokens, counters.generated_tokens, drafted, static_cast<double>(counters.generated_tokens) / seconds,
      plan.options.sequences, FormatBytes(PeakResidentBytes()), FormatBytes(plan.total_bytes()));
}

Result<PrepareRequest> WhatToPrepare(FileSystem& files, const Options& options, const Tokenizer& tokenizer) {
  PrepareRequest request = {
      &tokenizer, /*text_bytes=*/0, options.texts.common.run, {.sequences = options.sequences, .exits = options.exit_layer > 0}};
  request.kv_check = true;
  for (const std::string& text : options.adapters) {
    BANTAM_ASSIGN(AdapterOption adapter, ParseAdapterOption(text, /*named=*/true));
    request.adapters.push_back(std::move(adapter));
  }
  if (!options.draft.empty()) {
    BANTAM_ASSIGN(request.draft, FindModel(files, options.draft));
  }
  return request;
}

// What a batch is of.
enum class Task : uint8_t { kAnswers, kVectors, kScores };
Result<Task> TaskOf(const std::string& name, const TextModel& model) {
  constexpr std::pair<std::string_view, Task> kTasks[] = {
      {"answers", Task::kAnswers}, {"vectors", Task::kVectors}, {"scores", Task::kScores}};
  for (const auto& [known, task] : kTasks) {
    if (known == name) return task;
  }
  if (!name.empty()) return Error(Code::kInvalidArgument, fmt::format("--task {}: expected answers, vectors or scores", name));
  if (model.classes > 0) return Task::kScores;
  const bool pooled = model.rules.pooling_given && model.config.pooling != Pooling::kEveryToken;
  return model.config.whole_texts || pooled ? Task::kVectors : Task::kAnswers;
}

// Chats and texts that are gone on with. Takes the model's file.
Status Answers(FileSystem& files, const Options& options, OpenedEncoder& opened, const BatchPlaces& places) {
  BANTAM_ASSIGN(AdaptiveTargets targets, ReadAdaptiveTargets(options.target_ms, options.target_watts, options.target_percent));
  // What is cut here stays cut: these answers are kept.
  targets.answer_tokens_min = SIZE_MAX;
  BANTAM_ASSIGN(EngineOptions engine_options, ReadEngineOptions(files, options));
  ModelFile file = std::move(opened.file);
  const Tokenizer& tokenizer = opened.model.tokenizer;
  const Result<ChatTemplate> chat_template = ReadChatTemplate(file, /*tools=*/false);
  JsonRequestContext context = {.tokenizer = tokenizer,
                                .chat_template = chat_template.ok() ? &*chat_template : nullptr,
                                .now = LocalTime(),
                                .defaults = {.tokens_max = options.tokens_max, .priority = Priority::kBatch}};
  BANTAM_ASSIGN(context.defaults.sampler, FinishSamplerOptions(options.sampling, tokenizer));
  BANTAM_ASSIGN(const PrepareRequest request, WhatToPrepare(files, options, tokenizer));
  DeferInterrupts();
  BANTAM_ASSIGN(Prepared prepared, Prepare(files, std::move(file), request));
  BANTAM_TRY(CheckVocabulary(tokenizer, prepared, opened.path));
  NoteContext(prepared);
  BANTAM_ASSIGN(const Loaded loaded, LoadWithoutSession(files, std::move(prepared)));
  context.context = loaded.plan.options.context;
  Constraints constraints(tokenizer, *loaded.budget);
  context.constraints = &constraints;
  if (places.force) BANTAM_TRY(places.output.Truncate(0));  // not before everything else is sure
  const MonotonicClock clock;
  Engine* engine = nullptr;
  BANTAM_TRY(UseAdaptiveTargets(files, targets, loaded.plan.options.sequences, &engine_options).With("--target-power"));
  const auto make_engine = [&](Engine::Sink sink) -> Result<std::unique_ptr<Engine>> {
    BANTAM_ASSIGN(auto made,
                  Engine::Make({*loaded.model, tokenizer, loaded.plan, clock, engine_options, loaded.draft.get(), loaded.draft_plan},
                               {*loaded.budget, *loaded.pool}, sink));
    for (const auto& [name, adapter] : loaded.adapters) BANTAM_TRY(made->AddAdapter(name, adapter));
    engine = made.get();
    return made;
  };
  EngineCounters counters;
  const int64_t begin = clock.NowNs();
  const auto progress = [&, line = MakeProgressLine()](std::string_view step, uint64_t done, uint64_t total) {
    if (engine != nullptr) {
      counters = engine->counters();
      engine->Look();
    }
    return !Interrupted() && (!line || line(step, done, total));
  };
  const BatchRun run = {
      .input = places.input, .output = places.output, .context = context, .ahead = 4 * options.sequences, .progress = progress};
  const Result<BatchSummary> summary = RunBatch(run, make_engine);
  EndProgressLine();
  if (!summary.ok()) return Error(summary.error()).With(places.path);
  Note(Describe(*summary, counters, clock.NowNs() - begin, loaded.plan));
  return Ok();
}

bool OnlyOfAnswers(const Options& options) {
  return !options.adapters.empty() || !options.draft.empty() || !options.calibration.empty() || options.target_ms != 0 ||
         options.target_watts != 0 || options.target_percent != 0 || options.exit_layer != 0;
}

Status Batch(FileSystem& files, const Options& options) {
  BANTAM_TRY(CheckSamplerOptions(options.sampling.sampler));
  const std::unique_ptr<Disk> disk = MakeDisk();
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> input, disk->OpenForReading(options.input));
  std::error_code unknown;
  if (std::filesystem::equivalent(options.input, options.output, unknown)) {
    return Error(Code::kInvalidArgument, fmt::format("{}: IN and OUT are one file; name another for the answers", options.output));
  }
  BANTAM_ASSIGN(OpenedEncoder opened, OpenEncoder(files, options.texts.common));
  BANTAM_ASSIGN(const Task task, TaskOf(options.task, opened.model));
  if (task == Task::kAnswers) {
    BANTAM_TRY(CheckGoesOn(opened.model.config).With(opened.path));
  } else if (OnlyOfAnswers(options)) {
    return Error(Code::kInvalidArgument,
                 "--lora, --draft-model, --calibration, --exit-layer and --target-latency, -power and -memory are for answers; leave them "
                 "away, or ask "
                 "for answers (--task answers)");
  }
  // Before the weights are read: another process that writes there is known at once.
  BANTAM_ASSIGN(const std::unique_ptr<FileLock> lock, disk->Lock(options.output + ".lock"));
  if (lock == nullptr) return Error(Code::kUnavailable, fmt::format("{}: another process writes it; wait for its end", options.output));
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> output, disk->OpenPart(options.output));
  const BatchPlaces places = {*input, *output, options.output, options.force};
  if (task == Task::kAnswers) return Answers(files, options, opened, places);
  return BatchOfTexts(files, options.texts, opened, task == Task::kScores, places);
}

}  // namespace

void AddBatchVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("batch", "answer a file of requests, many at once: chats, vectors, classes or rankings");
  verb->add_option("MODEL", options->texts.common.model, "a .gguf file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option(
          "IN", options->input,
          "requests, a JSON object on each line: \"messages\" or \"prompt\", max_tokens, temperature and so on as in OpenAI's chat "
          "completions; \"input\" for vectors, \"classify\" for classes, \"query\" and \"documents\" for a ranking; also its batch form "
          "with "
          "\"custom_id\" and \"body\"")
      ->required();
  verb->add_option("OUT", options->output, "answers, in the same order; what is there already is gone on with")->required();
  verb->add_option("-n,--tokens", options->tokens_max, "most tokens of an answer, where a request does not say")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{UINT32_MAX}));
  verb->add_option("--sequences", options->sequences, "requests that are computed at once, if memory allows")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, kSequencesMax));
  verb->add_option("--lora", options->adapters,
                   "an adapter for requests that name it (\"adapter\"), as NAME=PATH or NAME=PATH:SCALE; may be given again")
      ->allow_extra_args(false);
  verb->add_option("--calibration", options->calibration, "a file of measured confidences: what \"confidence\" then says");
  verb->add_option("--target-latency", options->target_ms,
                   "milliseconds between an answer's tokens: while more (for 95 of 100), fewer requests run at once; 0: any")
      ->capture_default_str();
  verb->add_option("--target-power", options->target_watts,
                   "watts that the machine measures: while more, fewer requests run at once; 0: any")
      ->capture_default_str();
  verb->add_option("--target-memory", options->target_percent,
                   "percent of the memory in use: while more, prefixes go and fewer requests run at once; 0: any")
      ->capture_default_str();
  verb->add_option(
      "--draft-model", options->draft,
      "a smaller model of the same vocabulary that guesses what comes next: the same answers in fewer steps; used where it pays");
  verb->add_option("--exit-layer", options->exit_layer,
                   "so many layers are asked first by requests that say \"exit_confidence\", the others where those are not sure; 0: none")
      ->capture_default_str();
  verb->add_flag("--force", options->force, "begin anew, whatever OUT holds");
  verb->add_option(
      "--task", options->task,
      "answers, vectors, or scores (classes and rankings) (default: scores of models with a classifier, vectors of encoders and of "
      "models that say how tokens become one, else answers)");
  AddTextBatchOptions(*verb, &options->texts);
  AddSamplingOptions(*verb, &options->sampling);
  AddRunOptions(*verb, &options->texts.common.run);
  AddKvCheckOption(*verb, &options->texts.common.run);
  verb->footer(
      "Example: printf '{\"prompt\": \"Water boils at\"}\\n' >in.jsonl; bantam batch MODEL in.jsonl out.jsonl\n"
      "Each line of OUT has \"index\", \"id\" (of the request's \"custom_id\" or \"id\"), \"usage\", and \"choices\", \"embeddings\", "
      "\"labels\" or "
      "\"results\"; or \"error\".");
  verb->callback([options, action] {
    *action = [options](FileSystem& files) {
      const Status done = Batch(files, *options);
      return done.ok() ? 0 : Fail(done.error());
    };
  });
}

}  // namespace bantam
