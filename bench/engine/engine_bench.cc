// Measures the engine: many streams at once, a long prompt beside them, a flood of low requests. Prints a table to stderr and JSON to
// stdout.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory_budget.h"
#include "base/rng.h"
#include "base/system_limits.h"
#include "base/threads.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "engine/speed.h"
#include "model/load.h"
#include "model/open.h"
#include "model/vocabulary.h"
#include "program/exit_points.h"

namespace bantam {
namespace {

struct Options {
  std::string model;
  std::string draft;
  std::string only;
  int threads = 2;
  std::vector<size_t> streams = {1, 4, 8};
  size_t prompt = 64;
  size_t decode = 32;
  int repetitions = 3;
};

// What a stream went through: nanoseconds from the start of the case.
struct Stream {
  int64_t submitted_ns = 0;
  std::vector<int64_t> token_ns;
  bool finished = false;
  std::vector<uint32_t> tokens = {};  // where they were asked for
};

class Bench {
 public:
  Bench(const Model& model, const Tokenizer& tokenizer, const MemoryPlan& plan, ThreadPool& pool, const Model* draft,
        const MemoryPlan& draft_plan)
      : model_(model), tokenizer_(tokenizer), plan_(plan), pool_(pool), draft_(draft), draft_plan_(draft_plan) {}

  enum class Drafts : uint8_t { kNone, kOfText, kOfModelToo };
  void Start(Drafts drafts = Drafts::kNone, size_t exit_layer = 0) {
    drafts_ = drafts;
    streams_.clear();
    engine_.reset();
    budget_ = std::make_unique<MemoryBudget>(UINT64_MAX);
    EngineOptions options;
    options.admission.requests_max = 4096;
    options.admission.bytes_max = UINT64_MAX;
    options.exit_layer = exit_layer;
    const auto sink = [this](Event event) {
      Stream& stream = streams_[event.request];
      for (size_t i = 0; i < event.token_count; ++i) stream.token_ns.push_back(clock_.NowNs());
      for (const TokenInfo& info : event.tokens) stream.tokens.push_back(info.chosen.token);
      stream.finished |= event.finish.has_value();
    };
    engine_ = Engine::Make({model_, tokenizer_, plan_, clock_, options, drafts == Drafts::kOfModelToo ? draft_ : nullptr, draft_plan_},
                           {*budget_, pool_}, sink)
                  .value();
  }
  // Random tokens, and no end before `tokens`.
  RequestId Ask(size_t prompt, size_t tokens, Priority priority = Priority::kNormal, const std::string& client = {}) {
    Request request;
    for (size_t i = 0; i < prompt; ++i) request.tokens.push_back(static_cast<uint32_t>(rng_.Next() % tokenizer_.size()));
    request.tokens_max = tokens;
    request.tokens_min = tokens;
    request.priority = priority;
    request.client = client;
    request.speculate = drafts_ != Drafts::kNone;
    const int64_t now = clock_.NowNs();
    const RequestId id = engine_->Submit(std::move(request)).value();
    streams_[id].submitted_ns = now;
    return id;
  }
  RequestId Ask(Request request) {
    const RequestId id = engine_->Submit(std::move(request)).value();
    streams_[id].submitted_ns = clock_.NowNs();
    return id;
  }
  bool Step() { return engine_->Step().value(); }
  const Stream& stream(RequestId id) { return streams_[id]; }
  const Clock& clock() const { return clock_; }
  const MemoryPlan& plan() const { return plan_; }
  const Model& model() const { return model_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  ThreadPool& pool() { return pool_; }
  const EngineCounters& counters() const { return engine_->counters(); }

 private:
  const Model& model_;
  const Tokenizer& tokenizer_;
  const MemoryPlan& plan_;
  ThreadPool& pool_;
  const Model* draft_;
  const MemoryPlan& draft_plan_;
  Drafts drafts_ = Drafts::kNone;
  MonotonicClock clock_;
  Rng rng_{7};
  std::unique_ptr<MemoryBudget> budget_;
  std::unique_ptr<Engine> engine_;
  std::map<RequestId, Stream> streams_;
};

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[static_cast<size_t>(share * static_cast<double>(values.size() - 1) + 0.5)];
}

// As llama-batched-bench has it: prompts of all streams, then a token of each at a time.
Json Streams(Bench& bench, size_t streams, const Options& options) {
  bench.Start();
  const int64_t begin = bench.clock().NowNs();
  std::vector<RequestId> ids;
  for (size_t i = 0; i < streams; ++i) ids.push_back(bench.Ask(options.prompt, options.decode));
  while (bench.Step()) {
  }
  int64_t all_began = 0;
  int64_t end = 0;
  size_t later = 0;  // tokens behind the moment when all had one
  for (const RequestId id : ids) all_began = std::max(all_began, bench.stream(id).token_ns.front());
  for (const RequestId id : ids) {
    for (const int64_t at : bench.stream(id).token_ns) {
      end = std::max(end, at);
      later += at > all_began ? 1 : 0;
    }
  }
  const size_t tokens = streams * options.decode;
  return {{"decode_tokens_per_s", static_cast<double>(later) / Seconds(end - all_began)},
          {"generated_tokens_per_s", static_cast<double>(tokens) / Seconds(end - begin)},
          {"tokens_per_s", static_cast<double>(tokens + streams * options.prompt) / Seconds(end - begin)}};
}

// Streams without a draft model and with it, in turn; with drafts of the text in both.
Json DraftModels(Bench& bench, size_t streams, const Options& options) {
  const auto tokens_per_s = [&](Bench::Drafts drafts) {
    bench.Start(drafts);
    const int64_t begin = bench.clock().NowNs();
    for (size_t i = 0; i < streams; ++i) bench.Ask(options.prompt, options.decode);
    while (bench.Step()) {
    }
    return static_cast<double>(streams * options.decode) / Seconds(bench.clock().NowNs() - begin);
  };
  const double without = tokens_per_s(Bench::Drafts::kOfText);
  const double with = tokens_per_s(Bench::Drafts::kOfModelToo);
  const EngineCounters& counters = bench.counters();
  const double guesses = static_cast<double>(std::max<uint64_t>(1, counters.model_drafted_tokens));
  return {{"generated_tokens_per_s", with},
          {"ratio", with / without},
          {"draft_steps", static_cast<double>(counters.draft_steps)},
          {"right", static_cast<double>(counters.model_accepted_tokens) / guesses}};
}

// Early exit, on text that the model writes: how fast, how many tokens left, and how likely all layers find the answers, beside their own.
class Exits {
 public:
  Exits(Bench& bench, const Options& options) : bench_(bench), options_(options) {}

  Json Measure(size_t layer, float confidence) {
    if (prompts_.empty()) MakePrompts();
    const double without = Run(/*layer=*/0, /*confidence=*/0, /*details=*/false);
    const double with = Run(layer, confidence, /*details=*/false);
    const EngineCounters counters = bench_.counters();
    Run(layer, confidence, /*details=*/true);
    return {{"tokens_per_s", with},
            {"ratio", with / without},
            {"left", static_cast<double>(counters.exited_tokens) / static_cast<double>(counters.generated_tokens)},
            {"log_p", LogP()},
            {"log_p_of_all_layers", whole_log_p_}};
  }

 private:
  static constexpr size_t kPrompt = 24;

  void MakePrompts() {
    bench_.Start();
    for (uint64_t seed = 0; seed < 8; ++seed) {
      Request request = {.tokens = bench_.tokenizer().WithPrefix({}), .tokens_max = kPrompt, .tokens_min = kPrompt};
      if (request.tokens.empty()) request.tokens = {static_cast<uint32_t>(seed + 100)};
      request.sampler.temperature = 0.8f;
      request.sampler.seed = seed;
      request.token_details = true;
      prompts_.push_back(request.tokens);
      ids_.push_back(bench_.Ask(request));
    }
    while (bench_.Step()) {
    }
    for (size_t i = 0; i < prompts_.size(); ++i) {
      const std::vector<uint32_t>& tokens = bench_.stream(ids_[i]).tokens;
      prompts_[i].insert(prompts_[i].end(), tokens.begin(), tokens.end());
    }
    Run(/*layer=*/0, /*confidence=*/0, /*details=*/true);
    whole_log_p_ = LogP();
  }

  // One stream at a time: what a person waits for. Tokens per second.
  double Run(size_t layer, float confidence, bool details) {
    bench_.Start(Bench::Drafts::kNone, layer);
    ids_.clear();
    int64_t ns = 0;
    for (const auto& prompt : prompts_) {
      Request request = {.tokens = prompt, .tokens_max = options_.decode, .tokens_min = options_.decode, .speculate = false};
      request.exit_confidence = confidence;
      request.token_details = details;
      ids_.push_back(bench_.Ask(std::move(request)));
      while (bench_.Step()) {
      }
      const std::vector<int64_t>& at = bench_.stream(ids_.back()).token_ns;
      ns += at.back() - at.front();
    }
    return static_cast<double>(prompts_.size() * (options_.decode - 1)) / Seconds(ns);
  }

  // Of the answers' tokens, on average, by all layers.
  double LogP() {
    MemoryBudget budget(UINT64_MAX);
    PlanOptions plan = {.context = bench_.plan().options.context, .step_outputs = bench_.plan().options.step_tokens};
    plan.threads = options_.threads;
    const auto session = Session::Make(bench_.model(), PlanMemory(bench_.model().program, plan, {}), {budget, bench_.pool()}).value();
    double sum = 0;
    size_t count = 0;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      std::vector<uint32_t> text = prompts_[i];
      const std::vector<uint32_t>& answer = bench_.stream(ids_[i]).tokens;
      text.insert(text.end(), answer.begin(), answer.end());
      session->Truncate(0);
      size_t position = 0;
      const Status read = session->AppendForLogits(text, [&](std::span<const float> logits) {
        for (size_t at = 0; at < logits.size(); at += session->vocabulary(), ++position) {
          if (position + 1 < prompts_[i].size() || position + 1 == text.size()) continue;
          sum += static_cast<double>(DescribeToken(logits.subspan(at, session->vocabulary()), text[position + 1], 0).chosen.logprob);
          ++count;
        }
        return Ok();
      });
      CHECK(read.ok());
    }
    return sum / static_cast<double>(count);
  }

  Bench& bench_;
  const Options& options_;
  std::vector<std::vector<uint32_t>> prompts_;
  std::vector<RequestId> ids_;
  double whole_log_p_ = 0;
};

// Streams that come one after another, of mixed lengths.
Json Staggered(Bench& bench, size_t streams, const Options& options) {
  bench.Start();
  Rng rng(3);
  const int64_t begin = bench.clock().NowNs();
  size_t tokens = 0;
  size_t asked = 0;
  for (size_t step = 0; asked < 3 * streams || bench.Step(); ++step) {
    if (asked < 3 * streams && step % 4 == 0) {
      const size_t decode = options.decode / 2 + rng.Next() % options.decode;
      bench.Ask(options.prompt / 2 + rng.Next() % options.prompt, decode);
      tokens += decode;
      ++asked;
    }
    if (asked < 3 * streams) bench.Step();
  }
  return {{"generated_tokens_per_s", static_cast<double>(tokens) / Seconds(bench.clock().NowNs() - begin)}};
}

// Four streams, and beside them a prompt of 4,000 tokens: what becomes of the time between their tokens.
Json LongPrompt(Bench& bench, const Options&) {
  constexpr size_t kOthers = 4;
  bench.Start();
  std::vector<RequestId> ids;
  const size_t context = bench.plan().options.context;
  for (size_t i = 0; i < kOthers; ++i) ids.push_back(bench.Ask(16, context - 20));
  const auto gaps_since = [&](size_t first) {
    std::vector<double> gaps;
    for (const RequestId id : ids) {
      const auto& at = bench.stream(id).token_ns;
      for (size_t i = std::max<size_t>(first, 1); i < at.size(); ++i) gaps.push_back(Seconds(at[i] - at[i - 1]) * 1e3);
    }
    return gaps;
  };
  while (bench.stream(ids[0]).token_ns.size() < 20) bench.Step();
  const size_t warm = bench.stream(ids[0]).token_ns.size();
  while (bench.stream(ids[0]).token_ns.size() < warm + 100) bench.Step();
  const std::vector<double> before = gaps_since(warm);
  const size_t from = bench.stream(ids[0]).token_ns.size();
  const int64_t begin = bench.clock().NowNs();
  const RequestId prompt = bench.Ask(std::min<size_t>(4000, context - 20), 4);
  while (bench.stream(prompt).token_ns.empty() && bench.Step()) {
  }
  const std::vector<double> beside = gaps_since(from);
  return {{"p99_ms_alone", Percentile(before, 0.99)},
          {"p99_ms_beside", Percentile(beside, 0.99)},
          {"ratio", Percentile(beside, 0.99) / Percentile(before, 0.99)},
          {"median_ratio", Percentile(beside, 0.5) / Percentile(before, 0.5)},
          {"prompt_s", Seconds(bench.clock().NowNs() - begin)}};
}

// High requests alone, and under a flood of low ones: the time to the first token.
Json Flood(Bench& bench, const Options& options) {
  constexpr int kRounds = 20;
  constexpr size_t kPrompt = 200;
  const auto wait_for = [&](RequestId id) {
    while (bench.stream(id).token_ns.empty()) bench.Step();
    return Seconds(bench.stream(id).token_ns.front() - bench.stream(id).submitted_ns) * 1e3;
  };
  bench.Start();
  std::vector<double> alone;
  for (int i = 0; i < kRounds; ++i) alone.push_back(wait_for(bench.Ask(kPrompt, 2, Priority::kHigh)));
  bench.Start();
  Rng rng(5);
  std::vector<double> flooded;
  std::vector<double> steps;
  for (int i = 0; i < kRounds; ++i) {
    for (int j = 0; j < 10; ++j) bench.Ask(kPrompt, 200, Priority::kLow, "low");
    for (uint64_t s = 0, end = 1 + rng.Next() % 8; s < end; ++s) {
      const int64_t begin = bench.clock().NowNs();
      bench.Step();
      steps.push_back(Seconds(bench.clock().NowNs() - begin) * 1e3);
    }
    flooded.push_back(wait_for(bench.Ask(kPrompt, 2, Priority::kHigh)));
  }
  const double limit = 1.2 * Percentile(alone, 0.99) + Percentile(steps, 0.99);
  (void)options;
  return {{"p99_ms_alone", Percentile(alone, 0.99)},
          {"p99_ms_flooded", Percentile(flooded, 0.99)},
          {"step_ms", Percentile(steps, 0.99)},
          {"of_limit", Percentile(flooded, 0.99) / limit}};
}

Status Main(const Options& options) {
  const std::unique_ptr<FileSystem> files = MakeFileSystem();
  BANTAM_ASSIGN(ModelFile file, OpenModel(*files, options.model));
  BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, *kernels));
  PlanOptions plan_options;
  plan_options.context = std::min(outline.program.context_max, kContextDefault);
  plan_options.threads = options.threads;
  plan_options.prefetch = DefaultPrefetch();
  PlanSequences(std::max(kSequencesDefault, *std::max_element(options.streams.begin(), options.streams.end())), &plan_options);
  plan_options.kv_tokens = 4 * plan_options.context;
  MemoryPlan plan = PlanMemory(outline.program, plan_options, {});
  std::optional<DraftOutline> outlined;
  MemoryPlan draft_plan;
  if (!options.draft.empty()) {
    BANTAM_ASSIGN(ModelFile draft_file, OpenModel(*files, options.draft));
    BANTAM_ASSIGN(outlined, OutlineDraft(std::move(draft_file), tokenizer, outline));
    draft_plan = PlanDraft(*outlined, UINT64_MAX, &plan);
  }
  BANTAM_ASSIGN(const std::unique_ptr<ThreadPool> pool, ThreadPool::Make(options.threads));
  MemoryBudget budget(UINT64_MAX);
  BANTAM_ASSIGN(const std::unique_ptr<Model> model, LoadModel(std::move(outline), file, {budget, *pool}, nullptr));
  std::unique_ptr<Model> draft;
  if (outlined) {
    BANTAM_ASSIGN(draft, LoadModel(std::move(outlined->outline), outlined->file, {budget, *pool}, nullptr));
  }
  Bench bench(*model, tokenizer, plan, *pool, draft.get(), draft_plan);

  std::vector<std::pair<std::string, std::function<Json()>>> cases;
  for (const size_t streams : options.streams) {
    cases.emplace_back(fmt::format("streams {}", streams), [&, streams] { return Streams(bench, streams, options); });
  }
  for (const size_t streams : options.streams) {
    if (draft != nullptr)
      cases.emplace_back(fmt::format("drafts {}", streams), [&, streams] { return DraftModels(bench, streams, options); });
  }
  Exits exits(bench, options);
  const size_t layers = FindExitPoints(model->program).layers.size() + 1;
  for (const size_t layer : {layers / 2, layers * 3 / 4, layers - 1}) {
    for (const float confidence : {0.5f, 0.8f, 0.95f}) {
      if (layer == 0 || options.only.find("exits") == std::string::npos) continue;  // curves, only where they are wanted
      cases.emplace_back(fmt::format("exits {} of {} at {}", layer, layers, confidence),
                         [&exits, layer, confidence] { return exits.Measure(layer, confidence); });
    }
  }
  for (const size_t streams : options.streams) {
    cases.emplace_back(fmt::format("staggered {}", streams), [&, streams] { return Staggered(bench, streams, options); });
  }
  cases.emplace_back("long prompt", [&] { return LongPrompt(bench, options); });
  cases.emplace_back("flood", [&] { return Flood(bench, options); });
  Json rows = Json::array();
  for (const auto& [name, run] : cases) {
    if (name.find(options.only) == std::string::npos) continue;
    std::vector<Json> runs;
    for (int i = 0; i < options.repetitions; ++i) runs.push_back(run());
    Json row = {{"case", name}};
    std::string line = fmt::format("{:<14}", name);
    for (const auto& [key, value] : runs[0].items()) {
      std::vector<double> values;
      for (const Json& each : runs) values.push_back(each[key].get<double>());
      row[key] = Median(values);
      line += fmt::format(" {} {:.4g}", key, Median(values));
    }
    std::fprintf(stderr, "%s\n", line.c_str());
    rows.push_back(std::move(row));
  }
  std::fprintf(stdout, "%s\n", DumpJson(rows, /*indent=*/1).c_str());
  return Ok();
}

}  // namespace
}  // namespace bantam

int main(int argc, char** argv) {
  bantam::Options options;
  CLI::App app("measures the engine");
  app.add_option("MODEL", options.model, "a model, also one of random weights (make_model)")->required();
  app.add_option("--draft-model", options.draft, "a smaller model of the same vocabulary, for the cases drafts N");
  app.add_option("--only", options.only, "cases whose name contains this: streams N, drafts N, exits, staggered N, long prompt, flood");
  app.add_option("-t,--threads", options.threads, "threads")->capture_default_str();
  app.add_option("--streams", options.streams, "numbers of streams")->delimiter(',')->capture_default_str();
  app.add_option("-p,--prompt", options.prompt, "tokens of each stream's prompt")->capture_default_str();
  app.add_option("-n,--decode", options.decode, "tokens of each stream's answer")->capture_default_str();
  app.add_option("--repetitions", options.repetitions, "the median of this many runs")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const bantam::Status done = bantam::Main(options);
  if (done.ok()) return 0;
  std::fprintf(stderr, "%s\n", done.error().message().c_str());
  return 1;
}
