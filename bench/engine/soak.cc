// Random load on an engine for a while: every answer must be that of a run of its own, none that was taken may fail, and memory must stay
// what was planned. Exit code 1 where it did not. With --group the process first moves into a memory control group (version 1) of its own,
// whose limit is that much above the plan.
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
#include "engine/engine_thread.h"
#include "engine/session.h"
#include "model/load.h"
#include "model/open.h"
#include "model/vocabulary.h"

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
};

// Requests that are asked again and again, with what a session of its own answers.
struct Question {
  Request request;
  std::vector<std::string> answers;
};

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

Status Answer(Question* question, const Model& model, const Tokenizer& tokenizer, const PlanOptions& options, ThreadPool& pool) {
  MemoryBudget budget(UINT64_MAX);
  const MonotonicClock clock;
  for (size_t choice = 0; choice < question->request.choices; ++choice) {
    BANTAM_ASSIGN(const auto session, Session::Make(model, PlanMemory(model.program, options, {}), {budget, pool}));
    BANTAM_TRY(session->Append(question->request.tokens));
    SamplerOptions sampler_options = question->request.sampler;
    sampler_options.seed += choice;
    Sampler sampler(sampler_options, model.program.vocabulary);
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
  std::vector<std::string> texts;
};

class Soak {
 public:
  Soak(EngineThread& engine, const std::vector<Question>& questions, uint64_t seed) : engine_(engine), questions_(questions), rng_(seed) {}

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
      Listen();
    }
  }
  Json Report() const {
    return {{"asked", asked_},       {"refused", refused_}, {"cancelled", cancelled_},
            {"answered", answered_}, {"wrong", wrong_},     {"failed", failed_}};
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
      }
      if (!one.ticket.answer->ended()) {
        ++i;
        continue;
      }
      if (one.cancelled) {
        ++cancelled_;
      } else {
        ++answered_;
        wrong_ += one.texts == questions_[one.question].answers ? 0 : 1;
      }
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  EngineThread& engine_;
  const std::vector<Question>& questions_;
  Rng rng_;
  std::vector<Running> running_;
  size_t asked_ = 0;
  size_t refused_ = 0;
  size_t cancelled_ = 0;
  size_t answered_ = 0;
  size_t wrong_ = 0;
  size_t failed_ = 0;
};

Result<bool> Main(const Options& options) {
  const std::unique_ptr<FileSystem> files = MakeFileSystem();
  BANTAM_ASSIGN(ModelFile file, OpenModel(*files, options.model));
  BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, *kernels));
  FitRequest fit;
  fit.wanted.context = std::min(outline.program.context_max, options.context);
  fit.wanted.threads = options.threads;
  fit.wanted.prefetch = DefaultPrefetch();
  const PlanOptions solo = fit.wanted;
  PlanSequences(kSequencesDefault, &fit.wanted);
  BANTAM_ASSIGN(fit.limit_bytes, ParseBytes(options.memory, "--memory"));
  fit.held = {tokenizer.bytes(), file.held_bytes(), RequestsBytes(outline.program.vocabulary)};
  BANTAM_ASSIGN(const MemoryPlan plan, FitMemory(&outline.program, fit));
  std::fputs(Describe(plan).c_str(), stderr);
  BANTAM_ASSIGN(const uint64_t above, ParseBytes(options.above, "--above"));
  if (!options.group.empty()) BANTAM_TRY(JoinGroup(options, plan.total_bytes() + above));
  MemoryBudget budget(fit.limit_bytes);
  BANTAM_ASSIGN(const std::unique_ptr<ThreadPool> pool, ThreadPool::Make(options.threads));
  BANTAM_ASSIGN(const std::unique_ptr<Model> model, LoadModel(std::move(outline), file, {budget, *pool}, nullptr));
  file = {};
  Rng rng(options.seed);
  std::vector<Question> questions(16);
  for (Question& question : questions) {
    question.request = RandomRequest(rng, tokenizer.size(), solo.context);
    BANTAM_TRY(Answer(&question, *model, tokenizer, solo, *pool));
  }
  const MonotonicClock clock;
  EngineOptions engine_options;
  engine_options.check = true;
  BANTAM_ASSIGN(const auto engine, EngineThread::Start({*model, tokenizer, plan, clock, engine_options}, {budget, *pool}));
  Soak soak(*engine, questions, options.seed);
  soak.Run(options.seconds / 2);
  const uint64_t half_bytes = Resident("RssAnon");
  soak.Run(options.seconds / 2);
  Json report = soak.Report();
  const EngineCounters counters = engine->counters();
  const uint64_t anonymous = Resident("RssAnon");
  report.update({{"steps", counters.steps},
                 {"generated_tokens", counters.generated_tokens},
                 {"cached_tokens", counters.cached_tokens},
                 {"accepted_tokens", counters.accepted_tokens},
                 {"preemptions", counters.preemptions},
                 {"planned_bytes", plan.total_bytes()},
                 {"anonymous_bytes", anonymous},
                 {"file_bytes", Resident("RssFile")},
                 {"growth_bytes", static_cast<int64_t>(anonymous) - static_cast<int64_t>(half_bytes)}});
  std::fprintf(stdout, "%s\n", DumpJson(report, /*indent=*/1).c_str());
  return soak.good() && anonymous <= plan.total_bytes();
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
