// The C library: include/bantam/bantam.h on an engine of its own.
#include <bantam/bantam.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "base/system_limits.h"
#include "base/threads.h"
#include "engine/engine_targets.h"
#include "engine/engine_thread.h"
#include "engine/json_request.h"
#include "library/boundary.h"
#include "model/adapter/adapter.h"
#include "model/load.h"
#include "model/model_digest.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "program/memory_plan.h"

using namespace bantam;  // NOLINT: the C types stand beside the library's own

namespace {

constexpr size_t kRequestBytesMax = size_t{16} << 20;

static_assert(static_cast<int>(StopReason::kError) + 1 == BANTAM_STOP_ERROR &&
              static_cast<int>(StopReason::kEndOfTurn) + 1 == BANTAM_STOP_END_OF_TURN);

}  // namespace

// Between an engine and its answers: either may go first.
struct Link {
  std::mutex mutex;
  EngineThread* thread = nullptr;  // none: the engine is closed
};

struct bantam_engine {
  std::unique_ptr<FileSystem> files = MakeFileSystem();
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  std::unique_ptr<MemoryBudget> budget;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Model> model;
  std::unique_ptr<Model> draft;  // or null
  MemoryPlan draft_plan;
  std::unique_ptr<Constraints> constraints;
  MemoryPlan plan;
  MonotonicClock clock;
  std::unique_ptr<EngineThread> thread;
  std::shared_ptr<Link> link = std::make_shared<Link>();
};

struct bantam_answer {
  std::shared_ptr<Link> link;
  EngineThread::Ticket ticket;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<ChoiceResult> choices;
  // What the last event points to.
  std::string text;
  std::string result;
};

namespace {

Result<PlanOptions> ReadPlanOptions(const bantam_engine_options& options, const Program& program, const SystemLimits& limits) {
  PlanOptions plan;
  if (options.threads > static_cast<uint32_t>(ThreadPool::kThreadsMax) || options.sequences > kSequencesMax) {
    return Error(Code::kInvalidArgument, fmt::format("threads {}, sequences {}: expected at most {} and {}", options.threads,
                                                     options.sequences, ThreadPool::kThreadsMax, kSequencesMax));
  }
  plan.threads = options.threads == 0 ? std::min(limits.cores, ThreadPool::kThreadsMax) : static_cast<int>(options.threads);
  plan.context = options.context == 0 ? std::min(program.context_max, kContextDefault) : options.context;
  if (plan.context > kContextLengthMax) {
    return Error(Code::kInvalidArgument, fmt::format("context {}: expected at most {}", plan.context, kContextLengthMax));
  }
  if (options.kv != nullptr) {
    const auto type = KvTypeFromName(options.kv);
    if (!type) return Error(Code::kInvalidArgument, fmt::format("kv {}: expected {}", options.kv, KvTypeNames()));
    plan.kv_type = *type;
  }
  PlanSequences(options.sequences == 0 ? kSequencesDefault : options.sequences, &plan);
  plan.narrow_kv = options.narrow_kv != 0;
  plan.prefetch = DefaultPrefetch();
  plan.uneven_cores = limits.uneven_cores;
  return plan;
}

// What the plan does not depend on.
Result<EngineOptions> ReadEngineOptions(const bantam_engine_options& options, bantam_engine* engine) {
  EngineOptions read;
  read.watch = [files = engine->files.get()] { return ReadMemoryPressure(*files, /*root=*/""); };
  if (options.requests_max != 0) read.admission.requests_max = options.requests_max;
  read.admission.first_token_max_ns = int64_t{options.first_token_ms_max} * 1'000'000;
  read.narrow_kv = options.narrow_kv != 0;
  read.exit_layer = options.exit_layer;
  if (options.notice != nullptr) {
    read.notice = [notice = options.notice, user = options.user](std::string_view change) { notice(user, std::string(change).c_str()); };
  }
  if (options.calibration != nullptr) {
    BANTAM_ASSIGN(Calibration calibration, Calibration::Open(*engine->files, options.calibration));
    read.calibration = std::make_shared<const Calibration>(std::move(calibration));
  }
  BANTAM_ASSIGN(const AdaptiveTargets targets,
                ReadAdaptiveTargets(static_cast<double>(options.target_token_ms), static_cast<double>(options.target_watts),
                                    static_cast<double>(options.target_memory_percent)));
  BANTAM_TRY(UseAdaptiveTargets(*engine->files, targets, engine->plan.options.sequences, &read));
  return read;
}

Status Open(const bantam_engine_options& options, bantam_engine* engine) {
  if (options.model == nullptr) return Error(Code::kInvalidArgument, "model is NULL: give the path of one");
  BANTAM_ASSIGN(ModelFile file, OpenModel(*engine->files, options.model));
  BANTAM_ASSIGN(Tokenizer tokenizer, ReadVocabulary(file));
  engine->tokenizer = std::make_shared<const Tokenizer>(std::move(tokenizer));
  if (Result<ChatTemplate> read = ReadChatTemplate(file, /*tools=*/false); read.ok()) engine->chat_template = std::move(read).value();
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, *kernels));
  if (outline.config.whole_texts) {
    return Error(Code::kUnsupported,
                 fmt::format("{}: such models read whole texts and write none: open it with bantam_encoder_open", options.model));
  }
  if (engine->tokenizer->size() > outline.program.vocabulary) {
    return Error(Code::kCorrupt, fmt::format("{}: {} tokens in the vocabulary and {} in the model; convert the model again", options.model,
                                             engine->tokenizer->size(), outline.program.vocabulary));
  }
  const SystemLimits limits = ReadSystemLimits(*engine->files, /*root=*/"", AffinityProcessors());
  FitRequest fit;
  BANTAM_ASSIGN(fit.wanted, ReadPlanOptions(options, outline.program, limits));
  fit.limit_bytes = LimitBytes(options.memory_bytes, limits);
  fit.held = {.vocabulary = engine->tokenizer->bytes(),
              .header = file.held_bytes(),
              .requests = RequestsBytes(outline.program.vocabulary),
              .spare = ConstraintsBytes(outline.program.vocabulary),
              .adapters = options.adapter_bytes};
  if (options.exit_layer > 0) fit.held.requests += ExitBytes(outline.program, fit.wanted);
  fit.fixed_context = options.context != 0;
  fit.fixed_kv = options.kv != nullptr;
  std::optional<DraftOutline> draft;
  if (options.draft_model != nullptr) {
    BANTAM_ASSIGN(ModelFile draft_file, OpenModel(*engine->files, options.draft_model));
    BANTAM_ASSIGN(draft, OutlineDraft(std::move(draft_file), *engine->tokenizer, outline));
    fit.held.draft = DraftBytesMin(*draft, fit.wanted);
  }
  BANTAM_ASSIGN(engine->plan, FitMemory(&outline.program, fit).With(options.model));
  if (draft) engine->draft_plan = PlanDraft(*draft, fit.limit_bytes - std::min(fit.limit_bytes, fit.held.spare), &engine->plan);
  engine->budget = std::make_unique<MemoryBudget>(fit.limit_bytes);
  BANTAM_ASSIGN(engine->pool, ThreadPool::Make(engine->plan.options.threads));
  const Progress progress = ProgressOf(options);
  BANTAM_ASSIGN(EngineOptions engine_options, ReadEngineOptions(options, engine));
  if (options.prefixes != nullptr) {
    engine_options.prefix_file = options.prefixes;
    BANTAM_ASSIGN(engine_options.model_digest, DigestModel(file, progress));
  }
  BANTAM_ASSIGN(engine->model, LoadModel(std::move(outline), file, {*engine->budget, *engine->pool}, progress));
  if (draft) {
    BANTAM_ASSIGN(engine->draft, LoadModel(std::move(draft->outline), draft->file, {*engine->budget, *engine->pool}, progress));
  }
  BANTAM_ASSIGN(engine->thread, EngineThread::Start({*engine->model, *engine->tokenizer, engine->plan, engine->clock, engine_options,
                                                     engine->draft.get(), engine->draft_plan},
                                                    {*engine->budget, *engine->pool}));
  engine->constraints = std::make_unique<Constraints>(*engine->tokenizer, *engine->budget);
  engine->link->thread = engine->thread.get();
  return Ok();
}

Status Ask(bantam_engine& engine, std::string_view text, bantam_answer* answer) {
  if (text.size() > kRequestBytesMax) {
    return Error(Code::kExhausted, fmt::format("a request of {} bytes: expected at most {}", text.size(), kRequestBytesMax));
  }
  BANTAM_ASSIGN(const Json json, ParseJson(text).With("request"));
  BANTAM_ASSIGN(Request request, ReadJsonRequest(json, {.tokenizer = *engine.tokenizer,
                                                        .chat_template = engine.chat_template ? &*engine.chat_template : nullptr,
                                                        .now = LocalTime(),
                                                        .defaults = {},
                                                        .constraints = engine.constraints.get(),
                                                        .context = engine.plan.options.context}));
  answer->choices.resize(request.choices);
  BANTAM_ASSIGN(answer->ticket, engine.thread->Submit(std::move(request)));
  answer->link = engine.link;
  answer->tokenizer = engine.tokenizer;
  return Ok();
}

// All of a choice that has ended.
std::string ResultOf(const bantam_answer& answer, size_t choice) {
  Json json = WriteAnswer(std::span(&answer.choices[choice], 1), *answer.tokenizer);
  Json result = std::move(json["choices"][0]);
  result["index"] = choice;
  result["usage"] = std::move(json["usage"]);
  return DumpJson(result, /*indent=*/-1);
}

bantam_wait Wait(bantam_answer& answer, int64_t timeout_ms, bantam_event* event, bantam_error* error) {
  constexpr int64_t kLongestMs = INT64_MAX / 1'000'000;
  std::optional<Event> next = answer.ticket.answer->Next(timeout_ms < 0 ? -1 : std::min(timeout_ms, kLongestMs) * 1'000'000);
  if (!next) return answer.ticket.answer->ended() ? BANTAM_WAIT_END : BANTAM_WAIT_TIMEOUT;
  bantam_event known{};
  known.size = event->size;
  known.choice = static_cast<uint32_t>(next->choice);
  known.tokens = static_cast<uint32_t>(next->token_count);
  known.confidence = -1;
  answer.text = next->text;
  ChoiceResult& choice = answer.choices[next->choice];
  choice.Add(std::move(*next));
  answer.result.clear();
  if (choice.finish) {
    const Finish& finish = *choice.finish;
    known.stop = static_cast<bantam_stop>(static_cast<int>(finish.reason) + 1);
    known.prompt_tokens = static_cast<uint32_t>(finish.usage.prompt_tokens);
    known.cached_tokens = static_cast<uint32_t>(finish.usage.cached_tokens);
    known.generated_tokens = static_cast<uint32_t>(finish.usage.generated_tokens);
    known.confidence = finish.confidence.value_or(-1);
    answer.result = ResultOf(answer, known.choice);
    if (finish.reason == StopReason::kError && finish.error) Tell(*finish.error, error);
  }
  known.text = answer.text.c_str();
  known.text_bytes = answer.text.size();
  known.result = answer.result.c_str();
  known.result_bytes = answer.result.size();
  std::memcpy(event, &known, std::min(event->size, sizeof(known)));
  return BANTAM_WAIT_EVENT;
}

}  // namespace

extern "C" {

const char* bantam_version(void) { return BANTAM_VERSION; }

bantam_code bantam_engine_open(const bantam_engine_options* options, bantam_engine** engine, bantam_error* error) {
  if (engine == nullptr) return Tell(Error(Code::kInvalidArgument, "engine is NULL: give a place for the handle"), error);
  *engine = nullptr;
  return Guarded(error, [&]() -> Status {
    auto opened = std::make_unique<bantam_engine>();
    BANTAM_TRY(Open(Known(options), opened.get()));
    *engine = opened.release();
    return Ok();
  });
}

void bantam_engine_close(bantam_engine* engine) {
  if (engine == nullptr) return;
  {
    const std::lock_guard lock(engine->link->mutex);
    engine->link->thread = nullptr;
  }
  delete engine;
}

bantam_code bantam_engine_load_adapter(bantam_engine* engine, const char* name, const char* path, float scale, bantam_error* error) {
  if (engine == nullptr || name == nullptr || path == nullptr) {
    return Tell(Error(Code::kInvalidArgument, "a pointer is NULL: engine, name and path are needed"), error);
  }
  return Guarded(error, [&]() -> Status {
    const Model& model = *engine->model;
    BANTAM_ASSIGN(AdapterOutline outline, OutlineAdapter(*engine->files, path, {model.config, model.program, *model.kernels}, scale));
    BANTAM_ASSIGN(auto adapter, LoadAdapter(std::move(outline), model, *engine->budget));
    return engine->thread->AddAdapter(name, std::move(adapter));
  });
}

bantam_code bantam_engine_unload_adapter(bantam_engine* engine, const char* name, bantam_error* error) {
  if (engine == nullptr || name == nullptr) {
    return Tell(Error(Code::kInvalidArgument, "a pointer is NULL: engine and name are needed"), error);
  }
  return Guarded(error, [&] { return engine->thread->RemoveAdapter(name); });
}

size_t bantam_engine_status(bantam_engine* engine, char* json, size_t capacity) {
  if (engine == nullptr) return 0;
  std::string text;
  const bantam_code code = Guarded(/*error=*/nullptr, [&] {
    const EngineCounters counters = engine->thread->counters();
    const EngineLoad load = engine->thread->load();
    text = DumpJson({{"memory",
                      {{"planned_bytes", engine->plan.total_bytes()},
                       {"limit_bytes", engine->budget->limit_bytes()},
                       {"weights_bytes", engine->plan.weights_bytes},
                       {"kv_bytes", engine->plan.kv_bytes}}},
                     {"context", engine->plan.options.context},
                     {"sequences", engine->plan.options.sequences},
                     {"threads", engine->plan.options.threads},
                     {"kv", KvTypeName(engine->plan.options.kv_type)},
                     {"adapters", engine->thread->adapters()},
                     {"requests", load.requests},
                     {"prompt_tokens_waiting", load.tokens},
                     {"steps", counters.steps},
                     {"prompt_tokens", counters.prompt_tokens},
                     {"cached_tokens", counters.cached_tokens},
                     {"generated_tokens", counters.generated_tokens},
                     {"drafted_tokens", counters.drafted_tokens},
                     {"accepted_tokens", counters.accepted_tokens},
                     {"draft_model",
                      {{"planned_bytes", engine->plan.draft_bytes},
                       {"steps", counters.draft_steps},
                       {"drafted_tokens", counters.model_drafted_tokens},
                       {"accepted_tokens", counters.model_accepted_tokens}}},
                     {"preemptions", counters.preemptions},
                     {"narrowed", counters.narrowed},
                     {"exited_tokens", counters.exited_tokens},
                     {"refusals", counters.refusals}},
                    /*indent=*/-1);
    return Ok();
  });
  if (code != BANTAM_OK || json == nullptr || text.size() >= capacity) return 0;
  std::memcpy(json, text.c_str(), text.size() + 1);
  return text.size();
}

bantam_code bantam_tokenize(bantam_engine* engine, const char* text, size_t text_bytes, int special, uint32_t* ids, size_t capacity,
                            size_t* count, bantam_error* error) {
  if (engine == nullptr || count == nullptr || (text == nullptr && text_bytes > 0) || (ids == nullptr && capacity > 0)) {
    return Tell(Error(Code::kInvalidArgument, "a pointer is NULL: engine, text, ids and count are needed"), error);
  }
  return Guarded(error, [&]() -> Status {
    BANTAM_ASSIGN(const std::vector<uint32_t> tokens, engine->tokenizer->Encode(std::string_view(text, text_bytes), special != 0));
    std::copy_n(tokens.begin(), std::min(capacity, tokens.size()), ids);
    *count = tokens.size();
    return Ok();
  });
}

bantam_code bantam_ask(bantam_engine* engine, const char* request, size_t request_bytes, bantam_answer** answer, bantam_error* error) {
  if (answer != nullptr) *answer = nullptr;
  if (engine == nullptr || request == nullptr || answer == nullptr) {
    return Tell(Error(Code::kInvalidArgument, "a pointer is NULL: engine, request and answer are needed"), error);
  }
  return Guarded(error, [&]() -> Status {
    auto asked = std::make_unique<bantam_answer>();
    BANTAM_TRY(Ask(*engine, {request, request_bytes}, asked.get()));
    *answer = asked.release();
    return Ok();
  });
}

bantam_wait bantam_answer_next(bantam_answer* answer, int64_t timeout_ms, bantam_event* event, bantam_error* error) {
  if (answer == nullptr || event == nullptr) return BANTAM_WAIT_END;
  bantam_wait waited = BANTAM_WAIT_END;
  const bantam_code code = Guarded(error, [&] {
    waited = Wait(*answer, timeout_ms, event, error);
    return Ok();
  });
  return code == BANTAM_OK ? waited : BANTAM_WAIT_END;
}

void bantam_answer_cancel(bantam_answer* answer) {
  if (answer == nullptr) return;
  (void)Guarded(/*error=*/nullptr, [&] {
    const std::lock_guard lock(answer->link->mutex);
    if (answer->link->thread != nullptr) answer->link->thread->Cancel(answer->ticket.id);
    return Ok();
  });
}

void bantam_answer_free(bantam_answer* answer) {
  bantam_answer_cancel(answer);
  delete answer;
}

}  // extern "C"
