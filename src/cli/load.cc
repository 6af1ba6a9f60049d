#include "cli/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>
#include <optional>
#include <utility>

#include "base/disk.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/tuning.h"
#include "engine/constraints.h"
#include "engine/engine.h"
#include "model/checked_packages.h"
#include "model/open.h"
#include "program/replan.h"

namespace bantam {

CLI::Validator WholeNumber(uint64_t max) {
  const auto check = [max](std::string& text) {
    uint64_t number = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, number);
    const bool digits = !text.empty() && parsed.ec == std::errc() && parsed.ptr == end && number <= max;
    return digits ? std::string() : fmt::format("{}: expected a whole number from 0 to {}", text, max);
  };
  return CLI::Validator(check, "");
}

void AddLoadOptions(CLI::App& verb, RunOptions* options) {
  verb.add_option("--memory", options->memory, "hard limit for the whole process, such as 512M; auto: what is available")
      ->capture_default_str();
  verb.add_option("--kernels", options->kernels, fmt::format("kernel set: auto or {}", fmt::join(KernelSetNames(), ", ")))
      ->capture_default_str();
  verb.add_option("--kv", options->kv, fmt::format("KV type: {} (default: f16, of encoders f32; q8 when memory is short)", KvTypeNames()));
  verb.add_option("--weights", options->weights,
                  "IQ1, IQ2, IQ3, TQ and Q1_0 in memory: panels (fast), rows (small, as in the file) or auto (panels if they fit)")
      ->capture_default_str();
  verb.add_option("--rope-scaling", options->rope_scaling,
                  "stretch the positions for a longer context, such as yarn:4: linear, ntk, dynamic or yarn, and a factor");
  verb.add_option("--verify", options->verify,
                  "check a package's weights before they are used: always, never, or changed: unless they were checked since the machine "
                  "started and the file has not changed")
      ->capture_default_str()
      ->check(CLI::IsMember({"always", "changed", "never"}));
  verb.add_flag("!--no-tuned", options->tuned, "leave away what bantam tune keeps beside the model");
}

void AddKvCheckOption(CLI::App& verb, RunOptions* options) {
  verb.add_flag("!--no-kv-check", options->kv_check,
                "take --kv as it is, without measuring first on a short text whether that costs this model too much");
}

void AddRunOptions(CLI::App& verb, RunOptions* options) {
  verb.add_option("--context", options->context, "tokens of the context (default, and 0: the model's, at most 4096)")->check(WholeNumber());
  verb.add_option("-t,--threads", options->threads, "threads (default, and 0: what bantam tune found, or the usable physical cores)")
      ->check(WholeNumber());
  AddLoadOptions(verb, options);
}

Result<RopeOverride> ParseRopeScaling(const std::string& text) {
  RopeOverride rope;
  if (text.empty()) return rope;
  const size_t colon = std::min(text.find(':'), text.size());
  const auto scaling = RopeScalingFromName(std::string_view(text).substr(0, colon));
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + std::min(colon + 1, text.size()), end, rope.factor);
  const bool known = scaling == RopeScaling::kLinear || scaling == RopeScaling::kNtk || scaling == RopeScaling::kDynamicNtk ||
                     scaling == RopeScaling::kYarn;
  if (!known || parsed.ec != std::errc() || parsed.ptr != end || !(rope.factor >= 1 && rope.factor <= 1000)) {
    return Error(
        Code::kInvalidArgument,
        fmt::format("--rope-scaling {}: expected linear, ntk, dynamic or yarn, a colon and a factor from 1 to 1000, such as yarn:4", text));
  }
  rope.scaling = *scaling;
  return rope;
}

Result<AdapterOption> ParseAdapterOption(const std::string& text, bool named) {
  AdapterOption option;
  const size_t equals = named ? text.find('=') : std::string::npos;
  option.name = named ? text.substr(0, std::min(equals, text.size())) : "";
  option.path = equals == std::string::npos ? text : text.substr(equals + 1);
  const size_t colon = option.path.rfind(':');
  if (colon != std::string::npos) {
    const char* end = option.path.data() + option.path.size();
    const auto parsed = std::from_chars(option.path.data() + colon + 1, end, option.scale);
    if (parsed.ec == std::errc() && parsed.ptr == end) {
      option.path.resize(colon);
    } else {
      option.scale = 1;  // the colon is the path's own
    }
  }
  const bool complete = !option.path.empty() && (!named || (equals != std::string::npos && !option.name.empty()));
  if (complete && std::isfinite(option.scale)) return option;
  return Error(Code::kInvalidArgument, fmt::format("--lora {}: expected {}PATH or {}PATH:SCALE, such as {}adapter:0.5", text,
                                                   named ? "NAME=" : "", named ? "NAME=" : "", named ? "polite=" : ""));
}

namespace {

// Opens the adapters, and what they and their rows need of the memory.
Result<uint64_t> OutlineAdapters(FileSystem& files, const std::vector<AdapterOption>& options, const PlanOptions& plan,
                                 Prepared* prepared) {
  uint64_t bytes = 0;
  size_t rank = 0;
  const ModelOutline& model = prepared->outline;
  for (const AdapterOption& option : options) {
    BANTAM_ASSIGN(AdapterOutline outline, OutlineAdapter(files, option.path, {model.config, model.program, *model.kernels}, option.scale));
    bytes += outline.bytes;
    rank = std::max(rank, outline.rank_max);
    prepared->adapters.emplace_back(option.name, std::move(outline));
  }
  return bytes + (rank == 0 ? 0 : AdapterScratchBytes(model.program, plan, rank));
}

Result<PlanOptions> ReadPlanOptions(const RunOptions& options, const ModelOutline& outline, int cores, const StepShape& shape) {
  PlanOptions plan;
  if (options.threads < 0 || options.threads > ThreadPool::kThreadsMax) {
    return Error(Code::kInvalidArgument, fmt::format("--threads {}: expected 1 to {}", options.threads, ThreadPool::kThreadsMax));
  }
  plan.threads = options.threads == 0 ? std::min(cores, ThreadPool::kThreadsMax) : options.threads;
  // What is kept of whole texts is small.
  if (outline.program.whole_texts) plan.kv_type = KvType::kF32;
  if (!options.kv.empty()) {
    const auto type = KvTypeFromName(options.kv);
    if (!type) return Error(Code::kInvalidArgument, fmt::format("--kv {}: expected {}", options.kv, KvTypeNames()));
    plan.kv_type = *type;
  }
  if (options.context > kContextLengthMax) {
    return Error(Code::kInvalidArgument, fmt::format("--context {}: expected at most {}", options.context, kContextLengthMax));
  }
  plan.context = options.context == 0 ? std::min(outline.program.context_max, kContextDefault) : options.context;
  plan.step_tokens = shape.step_tokens;
  plan.step_outputs = shape.all_outputs ? shape.step_tokens : std::max<size_t>(shape.texts, 1);
  plan.step_texts = std::max<size_t>(shape.texts, 1);
  if (shape.sequences != 0) PlanSequences(shape.sequences, &plan);
  plan.narrow_kv = shape.narrow_kv;
  return plan;
}

// Takes the type that was found good enough into the plan, where there is room for it, and says so.
void TakeKv(const KvDivergences& known, const FitRequest& fit, const Program& program, KvType type, MemoryPlan* plan) {
  const KvType wanted = plan->options.kv_type;
  if (type == wanted) return;
  std::optional<MemoryPlan> better = ReplanKv(fit, *plan, program, type);
  if (!better) {
    Note(
        fmt::format("[keys and values in {} cost this model a mean KL divergence of more than {}; but for {} memory is short, so they are "
                    "taken]\n",
                    KvTypeName(wanted), kKvDivergenceMax, KvTypeName(type)));
    return;
  }
  Note(KvFallbackNote(known, wanted, type));
  *plan = std::move(*better);
}

// Since 1970.
int64_t RealTimeNs() {
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Finds out what is known of the KV type that was asked for, and takes a better one if that is known to be needed. What goes wrong with the
// check is no reason not to run the model.
Status KnowKv(FileSystem& files, const ModelFile& file, const PrepareRequest& request, Prepared* prepared) {
  const Program& program = prepared->outline.program;
  const KvType wanted = prepared->plan.options.kv_type;
  if (!request.kv_check || !request.run.kv_check || request.run.kv.empty() || IsFloat(wanted) || !CanCheckKv(program)) return Ok();
  BANTAM_ASSIGN(const RopeOverride rope, ParseRopeScaling(request.run.rope_scaling));
  BANTAM_ASSIGN(KvChecks known, FindKvChecks(files, {file, RealTimeNs()}, MakeProgressLine()));
  const std::string rope_name = KvRopeName(rope);
  const KvDivergences& measured = known.by_rope[rope_name];
  const KvChoice choice = ChooseKvType(measured, wanted);
  if (choice.known) {
    TakeKv(measured, prepared->fit, program, choice.type, &prepared->plan);
    return Ok();
  }
  BANTAM_ASSIGN(std::vector<uint32_t> tokens, KvCheckTokens(*request.tokenizer, program));
  prepared->kv_check = Prepared::KvCheck{std::move(known), rope_name, wanted, std::move(tokens)};
  return Ok();
}

void NoteNotMeasured(KvType type, const Error& error) {
  Note(fmt::format("[what --kv {} costs this model could not be measured: {}]\n", KvTypeName(type), Printable(error.message())));
}

// Measures types until one is good enough, and plans anew if that is not the one of the plan.
void CheckKv(FileSystem& files, const Prepared& prepared, Loaded* loaded) {
  KvChecks checks = prepared.kv_check->known;
  KvDivergences& measured = checks.by_rope[prepared.kv_check->rope];
  const KvType wanted = prepared.kv_check->wanted;
  constexpr int64_t kTimeMaxNs = 10'000'000'000;
  const MonotonicClock clock;
  const int64_t end_ns = clock.NowNs() + kTimeMaxNs;
  const auto stop = [&](bool one) { return Interrupted() || (one && clock.NowNs() > end_ns); };
  KvChoice choice = ChooseKvType(measured, wanted);
  for (; !choice.known; choice = ChooseKvType(measured, wanted)) {
    const auto divergence = MeasureKvType(*loaded->model, choice.type, prepared.kv_check->tokens, {*loaded->budget, *loaded->pool}, stop);
    if (!divergence.ok()) return NoteNotMeasured(wanted, divergence.error());
    measured[choice.type] = *divergence;
  }
  // Where it cannot be written down, the next start measures again.
  (void)WriteKvChecks(files, prepared.file.path, checks, prepared.kv_check->rope);
  TakeKv(measured, prepared.fit, loaded->model->program, choice.type, &loaded->plan);
}

// What is kept beside the model, if it holds here. What is wrong with it is no reason not to run the model.
std::optional<Tuning> TuningFor(FileSystem& files, const ModelFile& file, int cores) {
  Result<std::optional<Tuning>> tuning = ReadTuning(files, file.path);
  if (!tuning.ok()) {
    Note(fmt::format("[{}; it is ignored: run bantam tune again]\n", Printable(tuning.error().message())));
    return std::nullopt;
  }
  if (!*tuning) return std::nullopt;
  const bool holds =
      (*tuning)->processor == ProcessorName(files, /*root=*/"") && (*tuning)->cores == cores && (*tuning)->model_bytes == file.size_bytes;
  if (holds) return std::move(*tuning);
  Note(fmt::format("[{} is of another processor, number of cores or model; it is ignored: run bantam tune again]\n",
                   Printable(TuningPath(file.path))));
  return std::nullopt;
}

// The budget of all models of the process, whose limit is what was free at the start; `limit_bytes`, which is free now, becomes what others
// leave of it.
std::shared_ptr<MemoryBudget> ShareMemory(ProcessMemory& process, uint64_t* limit_bytes) {
  if (process.budget == nullptr) process.budget = std::make_shared<MemoryBudget>(*limit_bytes);
  *limit_bytes =
      std::min(*limit_bytes, process.budget->limit_bytes() - std::min(process.budget->limit_bytes(), process.planned_bytes.load()));
  return process.budget;
}

std::string CheckedFolder() { return fmt::format("{}/checked", CacheFolder()); }

void TrustChecked(FileSystem& files, const RunOptions& run, ModelFile& file) {
  const bool checked = run.verify == "changed" && CheckedPackages(files, CheckedFolder(), /*root=*/"").Has(*file.source);
  if (checked || run.verify == "never") file.source->Trust();
}

// Where it cannot be written down, the next start checks again.
void RememberChecked(FileSystem& files, const TensorSource& source) {
  if (!source.AllChecked() || !MakeDisk()->MakeFolders(CacheFolder(), "checked").ok()) return;
  (void)CheckedPackages(files, CheckedFolder(), /*root=*/"").Remember(source, RealTimeNs());
}

}  // namespace

Result<uint64_t> MemoryLimitOf(const SystemLimits& limits, const std::string& memory) {
  if (memory == "auto") return limits.memory_available_bytes;
  BANTAM_ASSIGN(const uint64_t asked, ParseBytes(memory, "--memory"));
  // More than is free would end with the system killing the process.
  return std::min(asked, limits.memory_available_bytes);
}

Result<Prepared> Prepare(FileSystem& files, ModelFile file, const PrepareRequest& request) {
  Prepared prepared;
  TrustChecked(files, request.run, file);
  const SystemLimits limits = ReadSystemLimits(files, /*root=*/"", AffinityProcessors());
  const std::optional<Tuning> tuning = request.run.tuned ? TuningFor(files, file, limits.cores) : std::nullopt;
  RunOptions run = request.run;
  if (tuning && run.kernels == "auto") {
    const bool runs = ChooseKernels(tuning->kernels).ok();
    if (runs) run.kernels = tuning->kernels;
    if (!runs)
      Note(fmt::format("[{}: the kernel set {} cannot run here; the fastest that can is taken]\n", Printable(TuningPath(file.path)),
                       tuning->kernels));
  }
  if (tuning && run.weights == "auto") run.weights = tuning->weights;
  if (tuning && run.threads == 0) run.threads = tuning->threads;
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels(run.kernels));
  BANTAM_ASSIGN(const RopeOverride rope, ParseRopeScaling(request.run.rope_scaling));
  BANTAM_ASSIGN(prepared.outline, OutlineModel(file, *kernels, rope, request.text));
  if (request.shape.texts == 0) BANTAM_TRY(CheckGoesOn(prepared.outline.config).With(file.path));
  FitRequest fit;
  BANTAM_ASSIGN(fit.wanted, ReadPlanOptions(run, prepared.outline, limits.cores, request.shape));
  fit.wanted.uneven_cores = limits.uneven_cores;
  fit.wanted.prefetch = DefaultPrefetch();
  if (tuning) fit.wanted.prefetch.one = tuning->prefetch;
  if (tuning) fit.wanted.token_tile = tuning->token_tile;
  BANTAM_ASSIGN(fit.limit_bytes, MemoryLimitOf(limits, request.run.memory));
  if (request.run.process != nullptr) prepared.shared_budget = ShareMemory(*request.run.process, &fit.limit_bytes);
  fit.held.vocabulary = request.tokenizer == nullptr ? 0 : request.tokenizer->bytes() + request.text_bytes;
  fit.held.header = file.held_bytes();
  if (request.shape.sequences != 0) {
    fit.held.requests = RequestsBytes(prepared.outline.program.vocabulary);
    if (request.shape.exits) fit.held.requests += ExitBytes(prepared.outline.program, fit.wanted);
    fit.held.spare = ConstraintsBytes(prepared.outline.program.vocabulary);
  }
  BANTAM_ASSIGN(fit.held.adapters, OutlineAdapters(files, request.adapters, fit.wanted, &prepared));
  if (!request.draft.empty()) {
    BANTAM_ASSIGN(ModelFile draft, OpenModel(files, request.draft));
    TrustChecked(files, request.run, draft);
    BANTAM_ASSIGN(prepared.draft, OutlineDraft(std::move(draft), *request.tokenizer, prepared.outline));
    fit.held.draft = DraftBytesMin(*prepared.draft, fit.wanted);
  }
  fit.fixed_context = request.run.context != 0;
  fit.fixed_kv = !request.run.kv.empty();
  if (run.weights != "auto") {
    fit.weight_form = WeightFormFromName(run.weights);
    if (!fit.weight_form) return Error(Code::kInvalidArgument, fmt::format("--weights {}: expected auto, panels or rows", run.weights));
  }
  BANTAM_ASSIGN(prepared.plan, FitMemory(&prepared.outline.program, fit).With(file.path));
  prepared.fit = fit;
  if (const Status known = KnowKv(files, file, request, &prepared); !known.ok()) {
    NoteNotMeasured(prepared.plan.options.kv_type, known.error());
  }
  if (prepared.draft) {
    prepared.draft_plan = PlanDraft(*prepared.draft, fit.limit_bytes - std::min(fit.limit_bytes, fit.held.spare), &prepared.plan);
  }
  if (request.run.weights == WeightFormName(WeightForm::kRows) && prepared.plan.weight_form != WeightForm::kRows) {
    Note("[--weights rows: no weights of this model would be smaller as in the file]\n");
  }
  prepared.rows_for_memory = !fit.weight_form && prepared.plan.weight_form == WeightForm::kRows;
  prepared.process = request.run.process;
  if (request.run.process != nullptr) prepared.planned = PlannedShare(*request.run.process, prepared.plan.total_bytes());
  prepared.memory_limit_bytes = fit.limit_bytes;
  prepared.processors = limits.processors;
  prepared.file = std::move(file);
  return prepared;
}

void NoteContext(const Prepared& prepared) {
  const size_t context_max = prepared.outline.program.context_max;
  if (prepared.plan.options.context > context_max) {
    Note(fmt::format("[the model was trained on {} tokens; what it makes of more is unreliable]\n", context_max));
  }
}

Status CheckVocabulary(const Tokenizer& tokenizer, const Prepared& prepared, const std::string& path) {
  const size_t tokens = prepared.outline.program.vocabulary;
  if (tokenizer.size() <= tokens) return Ok();
  return Error(Code::kCorrupt,
               fmt::format("{}: {} tokens in the vocabulary and {} in the model; convert the model again", path, tokenizer.size(), tokens));
}

Status CheckGoesOn(const Config& config) {
  if (!config.whole_texts) return Ok();
  if (config.later_tokens) {
    return Error(
        Code::kUnsupported,
        fmt::format("{} models read whole texts and write none; use bantam embed, or bantam classify or rerank if it has a classifier",
                    config.architecture));
  }
  return Error(
      Code::kUnsupported,
      "tie_word_embeddings is false, but there is no output matrix (lm_head.weight): what is there makes vectors or classes of texts "
      "(bantam embed, bantam classify) and goes on with none; if it should, fetch the files again");
}

Result<Loaded> LoadWithoutSession(FileSystem& files, Prepared prepared) {
  Loaded loaded;
  loaded.planned = std::move(prepared.planned);
  loaded.plan = prepared.plan;
  loaded.budget = prepared.shared_budget != nullptr ? prepared.shared_budget : std::make_shared<MemoryBudget>(prepared.memory_limit_bytes);
  BANTAM_ASSIGN(loaded.pool, ThreadPool::Make(prepared.plan.options.threads));
  BANTAM_ASSIGN(loaded.model, LoadModel(std::move(prepared.outline), prepared.file, {*loaded.budget, *loaded.pool}, MakeProgressLine()));
  if (const TensorSource* source = loaded.model->weights.source(); source != nullptr) RememberChecked(files, *source);
  if (prepared.kv_check) {
    CheckKv(files, prepared, &loaded);
    if (prepared.draft) {
      const uint64_t limit = prepared.memory_limit_bytes - std::min(prepared.memory_limit_bytes, prepared.fit.held.spare);
      prepared.draft_plan = PlanDraft(*prepared.draft, limit, &loaded.plan);
    }
    if (prepared.process != nullptr) loaded.planned = PlannedShare(*prepared.process, loaded.plan.total_bytes());
  }
  if (prepared.draft) {
    loaded.draft_plan = prepared.draft_plan;
    BANTAM_ASSIGN(loaded.draft,
                  LoadModel(std::move(prepared.draft->outline), prepared.draft->file, {*loaded.budget, *loaded.pool}, MakeProgressLine()));
    if (const TensorSource* source = loaded.draft->weights.source(); source != nullptr) RememberChecked(files, *source);
  }
  for (auto& [name, outline] : prepared.adapters) {
    BANTAM_ASSIGN(auto adapter, LoadAdapter(std::move(outline), *loaded.model, *loaded.budget));
    loaded.adapters.emplace_back(name, std::move(adapter));
  }
  return loaded;
}

Result<Loaded> Load(FileSystem& files, Prepared prepared) {
  BANTAM_ASSIGN(Loaded loaded, LoadWithoutSession(files, std::move(prepared)));
  BANTAM_ASSIGN(loaded.session, Session::Make(*loaded.model, loaded.plan, {*loaded.budget, *loaded.pool}));
  if (!loaded.adapters.empty()) BANTAM_TRY(loaded.session->Use(loaded.adapters[0].second, *loaded.budget));
  return loaded;
}

}  // namespace bantam
