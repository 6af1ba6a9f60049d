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
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/sampling.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/arch/registry.h"
#include "model/open.h"
#include "model/vocabulary.h"

namespace bantam {
namespace {

struct Options {
  std::string model;
  std::string input;
  std::string output;
  size_t sequences = kSequencesDefault;
  size_t tokens_max = 512;
  bool force = false;
  std::vector<std::string> adapters;  // --lora
  std::string draft;                  // --draft-model
  SamplingOptions sampling;
  RunOptions run;
};

// Between two looks at the machine's memory.
constexpr int64_t kLookNs = 500'000'000;

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
  PrepareRequest request = {&tokenizer, /*text_bytes=*/0, options.run, {.sequences = options.sequences}};
  for (const std::string& text : options.adapters) {
    BANTAM_ASSIGN(AdapterOption adapter, ParseAdapterOption(text, /*named=*/true));
    request.adapters.push_back(std::move(adapter));
  }
  if (!options.draft.empty()) {
    BANTAM_ASSIGN(request.draft, FindModel(files, options.draft));
  }
  return request;
}

Status Batch(FileSystem& files, const Options& options) {
  BANTAM_TRY(CheckSamplerOptions(options.sampling.sampler));
  const std::unique_ptr<Disk> disk = MakeDisk();
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> input, disk->OpenForReading(options.input));
  std::error_code unknown;
  if (std::filesystem::equivalent(options.input, options.output, unknown)) {
    return Error(Code::kInvalidArgument, fmt::format("{}: IN and OUT are one file; name another for the answers", options.output));
  }
  BANTAM_ASSIGN(const std::string path, FindModel(files, options.model));
  BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
  BANTAM_ASSIGN(const Config config, ReadConfig(file));
  BANTAM_TRY(CheckUse(config, /*whole_texts=*/false).With(path));
  BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
  const Result<ChatTemplate> chat_template = ReadChatTemplate(file, /*tools=*/false);
  JsonRequestContext context = {.tokenizer = tokenizer,
                                .chat_template = chat_template.ok() ? &*chat_template : nullptr,
                                .now = LocalTime(),
                                .defaults = {.tokens_max = options.tokens_max, .priority = Priority::kBatch}};
  BANTAM_ASSIGN(context.defaults.sampler, FinishSamplerOptions(options.sampling, tokenizer));
  // Before the weights are read: another process that writes there is known at once.
  BANTAM_ASSIGN(const std::unique_ptr<FileLock> lock, disk->Lock(options.output + ".lock"));
  if (lock == nullptr) return Error(Code::kUnavailable, fmt::format("{}: another process writes it; wait for its end", options.output));
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> output, disk->OpenPart(options.output));
  BANTAM_ASSIGN(const PrepareRequest request, WhatToPrepare(files, options, tokenizer));
  DeferInterrupts();
  BANTAM_ASSIGN(Prepared prepared, Prepare(files, std::move(file), request));
  BANTAM_TRY(CheckVocabulary(tokenizer, prepared, path));
  NoteContext(prepared);
  context.context = prepared.plan.options.context;
  BANTAM_ASSIGN(const Loaded loaded, LoadWithoutSession(std::move(prepared)));
  Constraints constraints(tokenizer, *loaded.budget);
  context.constraints = &constraints;
  if (options.force) BANTAM_TRY(output->Truncate(0));  // not before everything else is sure
  const MonotonicClock clock;
  Engine* engine = nullptr;
  EngineOptions engine_options;
  // Lines wait in their file, not in a queue: memory is the only limit.
  engine_options.admission = {.requests_max = SIZE_MAX, .tokens_max = SIZE_MAX, .bytes_max = UINT64_MAX};
  engine_options.notice = [](std::string_view change) { Note(fmt::format("[{}]\n", change)); };
  const auto make_engine = [&](Engine::Sink sink) -> Result<std::unique_ptr<Engine>> {
    BANTAM_ASSIGN(auto made,
                  Engine::Make({*loaded.model, tokenizer, loaded.plan, clock, engine_options, loaded.draft.get(), loaded.draft_plan},
                               {*loaded.budget, *loaded.pool}, sink));
    for (const auto& [name, adapter] : loaded.adapters) BANTAM_TRY(made->AddAdapter(name, adapter));
    engine = made.get();
    return made;
  };
  EngineCounters counters;
  PressureGauge gauge;
  int64_t next_look_ns = 0;
  const int64_t begin = clock.NowNs();
  const auto progress = [&, line = MakeProgressLine()](std::string_view step, uint64_t done, uint64_t total) {
    if (engine != nullptr) {
      counters = engine->counters();
      const int64_t now_ns = clock.NowNs();
      if (now_ns >= next_look_ns) engine->SetPressure(gauge.Update(now_ns, ReadMemoryPressure(files, /*root=*/"")));
      if (now_ns >= next_look_ns) next_look_ns = now_ns + kLookNs;
    }
    return !Interrupted() && (!line || line(step, done, total));
  };
  const BatchRun run = {.input = *input, .output = *output, .context = context, .ahead = 4 * options.sequences, .progress = progress};
  const Result<BatchSummary> summary = RunBatch(run, make_engine);
  EndProgressLine();
  if (!summary.ok()) return Error(summary.error()).With(options.output);
  Note(Describe(*summary, counters, clock.NowNs() - begin, loaded.plan));
  return Ok();
}

}  // namespace

void AddBatchVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("batch", "answer a file of requests, many at once");
  verb->add_option("MODEL", options->model, "a .gguf file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option(
          "IN", options->input,
          "requests, a JSON object on each line: \"messages\" or \"prompt\", max_tokens, temperature and so on as in OpenAI's chat "
          "completions; also its batch form with \"custom_id\" and \"body\"")
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
  verb->add_option(
      "--draft-model", options->draft,
      "a smaller model of the same vocabulary that guesses what comes next: the same answers in fewer steps; used where it pays");
  verb->add_flag("--force", options->force, "begin anew, whatever OUT holds");
  AddSamplingOptions(*verb, &options->sampling);
  AddRunOptions(*verb, &options->run);
  verb->footer(
      "Example: printf '{\"prompt\": \"Water boils at\"}\\n' >in.jsonl; bantam batch MODEL in.jsonl out.jsonl\n"
      "Each line of OUT has \"index\", \"id\" (of the request's \"custom_id\" or \"id\"), and \"choices\" and \"usage\", or \"error\".");
  verb->callback([options, action] {
    *action = [options](FileSystem& files) {
      const Status done = Batch(files, *options);
      return done.ok() ? 0 : Fail(done.error());
    };
  });
}

}  // namespace bantam
