// Random load on an engine for a while: prompts that share beginnings, priorities, several answers, schemas, adapters that come and go, KV
// of both types, searches, early exits, deadlines, cancellations. Every answer must be that of a run of its own, none that was taken may
// fail, and memory must stay what was planned and not grow. Exit code 1 where it did not. With --group the process first moves into a
// memory control group (version 1) of its own, whose limit is that much above the plan.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "base/rng.h"
#include "base/system_limits.h"
#include "base/threads.h"
#include "engine/constraints.h"
#include "engine/engine_thread.h"
#include "engine/session.h"
#include "formats/gguf_writer.h"
#include "model/adapter/adapter.h"
#include "model/load.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "program/exit_points.h"

namespace bantam {
namespace {

struct Options {
  std::string model;
  std::string memory = "1G";
  std::string group;  // folder of a control group that is made and left
  std::string above = "10M";
  double seconds = 10;
  int threads = 2;
  size_t context = 1024;
  uint64_t seed = 1;
  uint64_t spare_bytes = 0;  // beside the plan, for masks
  // What the process held before it knew of a model.
  uint64_t process_anonymous_bytes = 0;
  uint64_t process_file_bytes = 0;
};

// Of the second half of a run.
constexpr uint64_t kGrowthBytesMax = uint64_t{4} << 20;

// Requests that are asked again and again, with what a session of its own answers.
struct Question {
  Request request;
  std::vector<std::string> answers;
};

using NamedAdapter = std::pair<std::string, std::shared_ptr<const Adapter>>;
constexpr size_t kAdapters = 2;
constexpr uint64_t kRank = 4;

// Random numbers for every layer's queries, or what else the model has of that shape.
Status WriteAdapter(FileSystem& files, const std::string& path, const ModelFile& model, uint64_t seed) {
  std::vector<GgufTensor> tensors;
  for (const TensorInfo& tensor : model.directory.tensors()) {
    if (!tensor.name.ends_with("attn_q.weight") && !tensor.name.ends_with("attn_qkv.weight")) continue;
    tensors.push_back({fmt::format("{}.lora_a", tensor.name), DType::kF32, {tensor.dimensions[0], kRank}});
    tensors.push_back({fmt::format("{}.lora_b", tensor.name), DType::kF32, {kRank, tensor.dimensions[1]}});
  }
  const std::string_view architecture = *model.metadata.Text("general.architecture").value();
  const std::vector<MetadataEntry> metadata = {{"general.architecture", architecture, ValueType::kString},
                                               {"general.type", std::string_view("adapter"), ValueType::kString},
                                               {"adapter.type", std::string_view("lora"), ValueType::kString},
                                               {"adapter.lora.alpha", double{kRank}, ValueType::kF32}};
  BANTAM_ASSIGN(const auto writer, GgufWriter::Make(files, path, metadata, tensors));
  Rng rng(seed);
  for (const GgufTensor& tensor : tensors) {
    std::vector<float> numbers(tensor.dimensions[0] * tensor.dimensions[1]);
    for (float& number : numbers) number = static_cast<float>(rng.Uniform() - 0.5);
    BANTAM_TRY(writer->Append(std::as_bytes(std::span(numbers))));
  }
  return writer->Commit();
}

// What answers have to be, of each kind.
constexpr std::pair<ConstraintKind, std::string_view> kConstraints[] = {
    {ConstraintKind::kJsonSchema, R"({"type":"object","properties":{"n":{"type":"integer","minimum":3},"s":{"type":"string","maxLength":9},
       "e":{"enum":["red","green"]},"a":{"type":"array","items":{"type":"boolean"},"maxItems":3}},"required":["n","e"],
       "additionalProperties":false})"},
    {ConstraintKind::kJsonObject, ""},
    {ConstraintKind::kGbnf, "root ::= word (\" \" word){1,5} \".\"\nword ::= [a-z]{1,8}\n"},
    {ConstraintKind::kRegex, "(yes|no|[0-9]{1,4})(, [a-z]+){0,3}"},
};

// Two thirds of the layers are asked first, where a model has an exit.
size_t ExitLayer(const Program& program) {
  return (FindExitPoints(program).layers.size() + 1) * 2 / 3 * (FindExitPoints(program).layers.empty() ? 0 : 1);
}

Request RandomRequest(Rng& rng, size_t vocabulary, size_t context) {
  Request request;
  Rng beginning(rng.Next() % 4);
  for (uint64_t i = 0, end = rng.Next() % (context / 3); i < end; ++i) {
    request.tokens.push_back(static_cast<uint32_t>(3 + beginning.Next() % (vocabulary - 3)));
  }
  for (uint64_t i = 0, end = 1 + rng.Next() % 40; i < end; ++i)
    request.tokens.push_back(static_cast<uint32_t>(3 + rng.Next() % (vocabulary - 3)));
  request.tokens_max = 1 + rng.Next() % 80;
  request.choices = rng.Next() % 4 == 0 ? 1 + rng.Next() % 3 : 1;
  request.sampler.temperature = rng.Next() % 2 == 0 ? 0 : 1;
  request.sampler.seed = rng.Next();
  return request;
}

// Token by token, with a mask for each.
Result<std::string> AnswerConstrained(Session& session, Sampler& sampler, const Tokenizer& tokenizer, const Request& request) {
  TokenConstraint constraint(request.constraint);
  std::vector<uint32_t> mask(constraint.vocabulary().words());
  TokenStream stream(tokenizer);
  std::string text;
  for (size_t i = 0; i < request.tokens_max; ++i) {
    BANTAM_TRY(constraint.Mask(mask));
    const uint32_t token = sampler.Sample(session.logits(), mask);
    BANTAM_TRY(constraint.Accept(token));
    if (tokenizer.EndsTurn(token)) break;
    text += stream.Push(token);
    sampler.Accept(token);
    BANTAM_TRY(session.Append(std::span(&token, 1)));
  }
  return text + stream.Finish();
}

// By an engine that has nothing else to do.
Status AnswerAlone(Question* question, const Model& model, const Tokenizer& tokenizer, PlanOptions options, ThreadPool& pool,
                   const std::vector<NamedAdapter>& adapters) {
  MemoryBudget budget(UINT64_MAX);
  const MonotonicClock clock;
  PlanSequences(kSequencesDefault, &options);
  options.kv_tokens = kSequencesDefault * options.context;
  options.narrow_kv = true;
  EngineOptions engine_options;
  engine_options.exit_layer = ExitLayer(model.program);
  question->answers.resize(question->request.choices);
  const auto sink = [&](Event event) { question->answers[event.choice] += event.text; };
  BANTAM_ASSIGN(const auto engine,
                Engine::Make({model, tokenizer, PlanMemory(model.program, options, {}), clock, engine_options}, {budget, pool}, sink));
  for (const auto& [name, adapter] : adapters) BANTAM_TRY(engine->AddAdapter(name, adapter));
  BANTAM_TRY(engine->Submit(question->request));
  while (!engine->idle()) BANTAM_TRY(engine->Step());
  return Ok();
}

Status Answer(Question* question, const Model& model, const Tokenizer& tokenizer, const PlanOptions& options, ThreadPool& pool,
              const std::vector<NamedAdapter>& adapters) {
  MemoryBudget budget(UINT64_MAX);
  const MonotonicClock clock;
  if (question->request.beams > 0 || question->request.exit_confidence > 0) {
    return AnswerAlone(question, model, tokenizer, options, pool, adapters);
  }
  PlanOptions planned = options;
  planned.kv_type = question->request.kv_type.value_or(options.kv_type);
  for (size_t choice = 0; choice < question->request.choices; ++choice) {
    BANTAM_ASSIGN(const auto session, Session::Make(model, PlanMemory(model.program, planned, {}), {budget, pool}));
    for (const auto& [name, adapter] : adapters) {
      if (name == question->request.adapter) BANTAM_TRY(session->Use(adapter, budget));
    }
    BANTAM_TRY(session->Append(question->request.tokens));
    SamplerOptions sampler_options = question->request.sampler;
    sampler_options.seed += choice;
    Sampler sampler(sampler_options, model.program.vocabulary);
    sampler.Observe(question->request.tokens);
    if (question->request.constraint != nullptr) {
      BANTAM_ASSIGN(std::string text, AnswerConstrained(*session, sampler, tokenizer, question->request));
      question->answers.push_back(std::move(text));
      continue;
    }
    GenerateOptions generate;
    generate.tokens_max = question->request.tokens_max;
    BANTAM_ASSIGN(const GenerateResult result, Generate(*session, sampler, tokenizer, clock, generate));
    question->answers.push_back(result.text);
  }
  return Ok();
}

// Out of /proc/self/status, in bytes.
uint64_t Resident(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    uint64_t kib = 0;
    if (line.starts_with(key) && std::sscanf(line.c_str() + key.size() + 1, "%lu", &kib) == 1) return kib * 1024;
  }
  return 0;
}

Status JoinGroup(const Options& options, uint64_t limit_bytes) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::create_directory(options.group, error);
  std::ofstream(options.group + "/memory.limit_in_bytes") << limit_bytes;
  std::ofstream(options.group + "/cgroup.procs") << ::getpid();
  std::ifstream procs(options.group + "/cgroup.procs");
  for (std::string line; std::getline(procs, line);) {
    if (line == std::to_string(::getpid())) return Ok();
  }
  return Error(Code::kDenied, fmt::format("{}: this process could not be moved there", options.group));
}

struct Running {
  EngineThread::Ticket ticket;
  size_t question = 0;
  bool cancelled = false;
  bool late = false;
  std::vector<std::string> texts;
};

class Soak {
 public:
  Soak(EngineThread& engine, const std::vector<Question>& questions, const std::vector<NamedAdapter>& adapters, uint64_t seed)
      : engine_(engine), questions_(questions), adapters_(adapters), rng_(seed) {}

  void Run(double seconds) {
    const MonotonicClock clock;
    const int64_t end = clock.NowNs() + static_cast<int64_t>(seconds * 1e9);
    while (clock.NowNs() < end || !running_.empty()) {
      if (clock.NowNs() < end && running_.size() < 40 && rng_.Next() % 2 == 0) Ask();
      if (!running_.empty() && rng_.Next() % 12 == 0) {
        Running& one = running_[rng_.Next() % running_.size()];
        engine_.Cancel(one.ticket.id);
        one.cancelled = true;
      }
      if (rng_.Next() % 50 == 0) ChangeAdapters();
      Listen();
    }
  }
  Json Report() const {
    return {{"asked", asked_},
            {"refused", refused_},
            {"cancelled", cancelled_},
            {"late", late_},
            {"answered", answered_},
            {"wrong", wrong_},
            {"constrained", constrained_},
            {"adapted", adapted_},
            {"failed", failed_},
            {"adapters_changed", adapters_changed_}};
  }
  bool good() const { return wrong_ == 0 && failed_ == 0 && answered_ > 0; }

 private:
  void Ask() {
    Running one;
    one.question = rng_.Next() % questions_.size();
    Request request = questions_[one.question].request;
    request.priority = static_cast<Priority>(rng_.Next() % kPriorities);
    request.client = std::to_string(rng_.Next() % 3);
    request.cache = rng_.Next() % 8 != 0;
    if (rng_.Next() % 16 == 0) request.deadline_ns = static_cast<int64_t>(1 + rng_.Next() % 200) * 1'000'000;
    one.texts.resize(request.choices);
    Result<EngineThread::Ticket> ticket = engine_.Submit(std::move(request));
    ++asked_;
    if (!ticket.ok()) {
      ++refused_;
      return;
    }
    one.ticket = *ticket;
    running_.push_back(std::move(one));
  }
  // One goes, or comes back. Those that run with it go on.
  void ChangeAdapters() {
    const auto& [name, adapter] = adapters_[rng_.Next() % adapters_.size()];
    if (!engine_.RemoveAdapter(name).ok()) CHECK(engine_.AddAdapter(name, adapter).ok());
    ++adapters_changed_;
  }
  void Listen() {
    for (size_t i = 0; i < running_.size();) {
      Running& one = running_[i];
      const std::optional<Event> event = one.ticket.answer->Next(i == 0 ? 2'000'000 : 0);
      if (event) {
        one.texts[event->choice] += event->text;
        if (event->finish && event->finish->reason == StopReason::kError) {
          ++failed_;
          std::fprintf(stderr, "failed: %s\n", event->finish->error->message().c_str());
        }
        if (event->finish && event->finish->reason == StopReason::kDeadline) one.late = true;
      }
      if (!one.ticket.answer->ended()) {
        ++i;
        continue;
      }
      if (one.cancelled) {
        ++cancelled_;
      } else if (one.late) {
        ++late_;
      } else {
        const Question& question = questions_[one.question];
        ++answered_;
        wrong_ += one.texts == question.answers ? 0 : 1;
        constrained_ += question.request.constraint != nullptr ? 1 : 0;
        adapted_ += question.request.adapter.empty() ? 0 : 1;
      }
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  EngineThread& engine_;
  const std::vector<Question>& questions_;
  const std::vector<NamedAdapter>& adapters_;
  Rng rng_;
  std::vector<Running> running_;
  size_t asked_ = 0;
  size_t refused_ = 0;
  size_t cancelled_ = 0;
  size_t late_ = 0;
  size_t constrained_ = 0;
  size_t adapted_ = 0;
  size_t adapters_changed_ = 0;
  size_t answered_ = 0;
  size_t wrong_ = 0;
  size_t failed_ = 0;
};

// Adapters of this model, in files that are gone when it returns.
Result<std::vector<AdapterOutline>> MakeAdapters(FileSystem& files, const ModelFile& file, const AdapterFor& model) {
  std::vector<AdapterOutline> outlines;
  const std::string folder = (std::filesystem::temp_directory_path() / fmt::format("engine_soak.{}", ::getpid())).string();
  std::filesystem::create_directory(folder);
  const auto make = [&]() -> Status {
    for (uint64_t i = 0; i < kAdapters; ++i) {
      const std::string path = fmt::format("{}/{}.gguf", folder, i);
      BANTAM_TRY(WriteAdapter(files, path, file, /*seed=*/i));
      BANTAM_ASSIGN(AdapterOutline outline, OutlineAdapter(files, path, model));
      outlines.push_back(std::move(outline));
    }
    return Ok();
  };
  const Status made = make();
  std::filesystem::remove_all(folder);
  BANTAM_TRY(Status(made));
  return outlines;
}

// Everything that one run of the engine needs.
struct Setup {
  Options options;
  const Model& model;
  const Tokenizer& tokenizer;
  const MemoryPlan& plan;
  const PlanOptions& solo;
  MemoryBudget& budget;
  ThreadPool& pool;
  const std::vector<NamedAdapter>& adapters;
};

Result<bool> RunSoak(const Setup& setup) {
  const Options& options = setup.options;
  Constraints constraints(setup.tokenizer, setup.budget);
  Rng rng(options.seed);
  std::vector<Question> questions(24);
  for (size_t i = 0; i < questions.size(); ++i) {
    Request& request = questions[i].request;
    request = RandomRequest(rng, setup.tokenizer.size(), setup.solo.context);
    if (i % 3 == 1) request.adapter = setup.adapters[rng.Next() % setup.adapters.size()].first;
    if (i % 2 == 1) {
      const auto& [kind, source] = kConstraints[i / 2 % std::size(kConstraints)];
      BANTAM_ASSIGN(request.constraint, constraints.Get(kind, source));
    }
    if (i % 5 == 2) request.kv_type = KvType::kInt8;
    if (i % 8 == 3 || i % 8 == 4) {
      request.beams = 2 + rng.Next() % 3;
      request.choices = 1 + rng.Next() % 2;
      request.sampler = {};
    } else if (i % 4 == 2 && ExitLayer(setup.model.program) > 0) {
      request.exit_confidence = 0.3f;
    }
    BANTAM_TRY(Answer(&questions[i], setup.model, setup.tokenizer, setup.solo, setup.pool, setup.adapters));
  }
  const MonotonicClock clock;
  EngineOptions engine_options;
  engine_options.check = true;
  engine_options.exit_layer = ExitLayer(setup.model.program);
  BANTAM_ASSIGN(const auto engine,
                EngineThread::Start({setup.model, setup.tokenizer, setup.plan, clock, engine_options}, {setup.budget, setup.pool}));
  for (const auto& [name, adapter] : setup.adapters) BANTAM_TRY(engine->AddAdapter(name, adapter));
  Soak soak(*engine, questions, setup.adapters, options.seed);
  soak.Run(options.seconds / 2);
  const uint64_t half_bytes = Resident("RssAnon");
  soak.Run(options.seconds / 2);
  Json report = soak.Report();
  const EngineCounters counters = engine->counters();
  const uint64_t anonymous = Resident("RssAnon");
  const int64_t growth = static_cast<int64_t>(anonymous) - static_cast<int64_t>(half_bytes);
  const uint64_t mapped = setup.model.weights.mapped_bytes();
  // What the plan counts for the program itself is a limit for all of them; here it is what this one has.
  const uint64_t used = setup.plan.total_bytes() - setup.plan.reserve_bytes - setup.plan.header_bytes;
  report.update({{"steps", counters.steps},
                 {"generated_tokens", counters.generated_tokens},
                 {"cached_tokens", counters.cached_tokens},
                 {"accepted_tokens", counters.accepted_tokens},
                 {"preemptions", counters.preemptions},
                 {"exited_tokens", counters.exited_tokens},
                 {"planned_bytes", setup.plan.total_bytes()},
                 {"anonymous_bytes", anonymous},
                 {"file_bytes", Resident("RssFile")},
                 {"planned_anonymous_bytes", options.process_anonymous_bytes + used - mapped},
                 {"planned_file_bytes", options.process_file_bytes + mapped},
                 {"growth_bytes", growth}});
  std::fprintf(stdout, "%s\n", DumpJson(report, /*indent=*/1).c_str());
  // Pages of the pool that were not touched before, and what an allocator keeps.
  const auto touched = static_cast<int64_t>(kGrowthBytesMax + setup.plan.kv_bytes / 8);
  return soak.good() && anonymous <= setup.plan.total_bytes() + options.spare_bytes && growth <= touched;
}

Result<bool> Main(Options options) {
  options.process_anonymous_bytes = Resident("RssAnon");
  options.process_file_bytes = Resident("RssFile");
  const std::unique_ptr<FileSystem> files = MakeFileSystem();
  BANTAM_ASSIGN(ModelFile file, OpenModel(*files, options.model));
  BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, *kernels));
  BANTAM_ASSIGN(std::vector<AdapterOutline> outlines, MakeAdapters(*files, file, {outline.config, outline.program, *kernels}));
  FitRequest fit;
  fit.wanted.context = std::min(outline.program.context_max, options.context);
  fit.wanted.threads = options.threads;
  fit.wanted.prefetch = DefaultPrefetch();
  const PlanOptions solo = fit.wanted;
  PlanSequences(kSequencesDefault, &fit.wanted);
  fit.wanted.narrow_kv = true;
  BANTAM_ASSIGN(fit.limit_bytes, ParseBytes(options.memory, "--memory"));
  fit.held = {.vocabulary = tokenizer.bytes(), .header = file.held_bytes(), .requests = RequestsBytes(outline.program.vocabulary)};
  for (const AdapterOutline& adapter : outlines) fit.held.adapters += adapter.bytes;
  fit.held.adapters += AdapterScratchBytes(outline.program, fit.wanted, kRank);
  fit.held.requests += ExitBytes(outline.program, fit.wanted);
  BANTAM_ASSIGN(const MemoryPlan plan, FitMemory(&outline.program, fit));
  std::fputs(Describe(plan).c_str(), stderr);
  BANTAM_ASSIGN(const uint64_t above, ParseBytes(options.above, "--above"));
  if (!options.group.empty()) BANTAM_TRY(JoinGroup(options, plan.total_bytes() + above));
  // Room for masks that are kept comes on top of what the pool may grow into.
  options.spare_bytes = std::size(kConstraints) * (TokenMasks::kBytesMax + (1 << 20)) + ConstraintsBytes(tokenizer.size());
  MemoryBudget budget(fit.limit_bytes + options.spare_bytes);
  BANTAM_ASSIGN(const std::unique_ptr<ThreadPool> pool, ThreadPool::Make(options.threads));
  BANTAM_ASSIGN(const std::unique_ptr<Model> model, LoadModel(std::move(outline), file, {budget, *pool}, nullptr));
  file = {};
  std::vector<NamedAdapter> adapters;
  for (AdapterOutline& adapter : outlines) {
    BANTAM_ASSIGN(auto loaded, LoadAdapter(std::move(adapter), *model, budget));
    adapters.emplace_back(fmt::format("adapter{}", adapters.size()), std::move(loaded));
  }
  outlines.clear();
  return RunSoak({options, *model, tokenizer, plan, solo, budget, *pool, adapters});
}

}  // namespace
}  // namespace bantam

int main(int argc, char** argv) {
  bantam::Options options;
  CLI::App app("random load on an engine, with every answer checked");
  app.add_option("MODEL", options.model, "a model that writes texts")->required();
  app.add_option("--seconds", options.seconds, "how long")->capture_default_str();
  app.add_option("--memory", options.memory, "the engine's limit")->capture_default_str();
  app.add_option("--context", options.context, "tokens")->capture_default_str();
  app.add_option("-t,--threads", options.threads, "threads")->capture_default_str();
  app.add_option("--seed", options.seed, "of the load")->capture_default_str();
  app.add_option("--group", options.group, "folder of a memory control group to make and join, such as /sys/fs/cgroup/memory/soak");
  app.add_option("--above", options.above, "of the group's limit above the plan")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const bantam::Result<bool> done = bantam::Main(options);
  if (!done.ok()) std::fprintf(stderr, "%s\n", done.error().message().c_str());
  return done.ok() && *done ? 0 : 1;
}
