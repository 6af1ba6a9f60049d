// bantam tune: measures what is fastest for a model on this machine, and keeps it beside the model.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/tuning.h"
#include "cli/verbs.h"
#include "engine/speed.h"
#include "model/open.h"

namespace bantam {
namespace {

constexpr size_t kPromptTokens = 128;
constexpr size_t kDecodeTokensMax = 64;
constexpr int kRounds = 5;
// What a run is to take: slow models get fewer tokens, and fewer rounds where the fewest tokens take longer.
constexpr double kRunSeconds = 0.4;
constexpr int kRoundsMin = 3;
// Below this the default stays: two runs of the same differ by as much.
constexpr double kGainMin = 1.03;

struct Options {
  std::string model;
  bool json = false;
  RunOptions run;
};

// One choice: what it is called, what is run, and how fast that was.
struct Candidate {
  std::string name;
  PlanOptions plan;
  ThreadPool* pool = nullptr;  // while it is measured
  double prompt = 0;           // tokens/s, medians; 0: not measured
  double decode = 0;
};

// The geometric mean of what was measured.
double Score(const Candidate& candidate) {
  if (candidate.prompt == 0) return candidate.decode;
  return candidate.decode == 0 ? candidate.prompt : std::sqrt(candidate.prompt * candidate.decode);
}

struct Table {
  std::string what;
  std::vector<Candidate> candidates;
};

// The first, or what is clearly faster.
size_t Choose(const std::vector<Candidate>& candidates) {
  size_t best = 0;
  for (size_t i = 1; i < candidates.size(); ++i) {
    if (Score(candidates[i]) > Score(candidates[best])) best = i;
  }
  return Score(candidates[best]) > kGainMin * Score(candidates[0]) ? best : 0;
}

class Tuner {
 public:
  Tuner(FileSystem& files, const Options& options, std::string path) : files_(files), options_(options), path_(std::move(path)) {}

  Result<Tuning> Run() {
    const SystemLimits limits = ReadSystemLimits(files_, /*root=*/"", AffinityProcessors());
    tuning_.processor = ProcessorName(files_, /*root=*/"");
    tuning_.cores = limits.cores;
    tuning_.threads = std::min(limits.cores, ThreadPool::kThreadsMax);
    BANTAM_TRY(ChooseSet());
    BANTAM_TRY(ChooseWeights());
    BANTAM_ASSIGN(Loaded loaded, LoadWith(tuning_.kernels, tuning_.weights));
    PlanOptions plan = loaded.plan.options;
    BANTAM_TRY(ChooseThreads(loaded, &plan));
    BANTAM_ASSIGN(const auto pool, ThreadPool::Make(tuning_.threads));
    BANTAM_TRY(ChoosePrefetch(loaded, *pool, &plan));
    BANTAM_TRY(ChooseTile(loaded, *pool, plan));
    return tuning_;
  }

  const std::vector<Table>& tables() const { return tables_; }

 private:
  Result<Prepared> PrepareWith(const std::string& kernels, const std::string& weights) {
    RunOptions run = options_.run;
    run.kernels = kernels;
    run.weights = weights;
    run.threads = tuning_.threads;
    run.context = kPromptTokens;
    run.tuned = false;
    BANTAM_ASSIGN(ModelFile file, OpenModel(files_, path_));
    tuning_.model_bytes = file.size_bytes;
    return Prepare(files_, std::move(file), {nullptr, /*text_bytes=*/0, run, {kPromptTokens, false}});
  }

  Result<Loaded> LoadWith(const std::string& kernels, const std::string& weights) {
    BANTAM_ASSIGN(Prepared prepared, PrepareWith(kernels, weights));
    Result<Loaded> loaded = Load(files_, std::move(prepared));
    EndProgressLine();
    return loaded;
  }

  // Measures all candidates in turn, round by round, so that what else the machine does meets them alike. Each run has a session of its
  // own, for the memory is planned for one.
  Status Measure(Loaded& loaded, bool prompt, bool decode, Table* table) {
    loaded.session.reset();
    if (prompt) BANTAM_TRY(MeasureKind(loaded, /*prompt=*/true, &Candidate::prompt, table));
    return decode ? MeasureKind(loaded, /*prompt=*/false, &Candidate::decode, table) : Ok();
  }

  // Seconds of a run of some tokens with a candidate.
  Result<double> Time(const Loaded& loaded, const Candidate& candidate, bool prompt, size_t tokens) {
    MemoryPlan plan = loaded.plan;
    plan.options = candidate.plan;
    BANTAM_ASSIGN(const auto session, Session::Make(*loaded.model, plan, {*loaded.budget, *candidate.pool}));
    // The first run touches pages for the first time.
    BANTAM_TRY(TimeRun(*session, {.prompt = prompt, .tokens = prompt ? kernels::kTileColumns : 1}, clock_, Interrupted));
    return TimeRun(*session, {.prompt = prompt, .tokens = tokens}, clock_, Interrupted);
  }

  Status MeasureKind(const Loaded& loaded, bool prompt, double Candidate::*speed, Table* table) {
    const size_t trial = prompt ? kernels::kTileColumns : 2;
    BANTAM_ASSIGN(const double seconds, Time(loaded, table->candidates[0], prompt, trial));
    const double fitting = kRunSeconds * static_cast<double>(trial) / seconds;
    const double most = static_cast<double>(prompt ? kPromptTokens : kDecodeTokensMax);
    size_t tokens = static_cast<size_t>(std::clamp(fitting, static_cast<double>(trial), most));
    if (prompt) tokens = tokens / kernels::kTileColumns * kernels::kTileColumns;
    const int rounds = fitting < static_cast<double>(trial) ? kRoundsMin : kRounds;
    std::vector<std::vector<double>> speeds(table->candidates.size());
    for (int round = 0; round < rounds; ++round) {
      for (size_t i = 0; i < speeds.size(); ++i) {
        if (!progress_(fmt::format("measuring {}", table->what), static_cast<uint64_t>(round), static_cast<uint64_t>(rounds))) {
          return Error(Code::kCancelled, "tuning was interrupted");
        }
        BANTAM_ASSIGN(const double run, Time(loaded, table->candidates[i], prompt, tokens));
        speeds[i].push_back(static_cast<double>(tokens) / run);
      }
    }
    for (size_t i = 0; i < speeds.size(); ++i) table->candidates[i].*speed = Median(speeds[i]);
    return Ok();
  }

  Status ChooseSet() {
    Table table = {"kernels", {}};
    const std::vector<const KernelSet*> sets = RunnableKernels();
    for (const KernelSet* set : sets) {
      // The reference, which comes last, is there to be right, not fast.
      if (set == sets.back() && !table.candidates.empty()) continue;
      Result<Loaded> loaded = LoadWith(set->name, tuning_.weights);
      if (!loaded.ok() && loaded.error().code() == Code::kUnavailable) continue;  // its self-test failed
      if (!loaded.ok()) return std::move(loaded).error();
      Table one = {table.what, {{set->name, loaded->plan.options, loaded->pool.get()}}};
      BANTAM_TRY(Measure(*loaded, /*prompt=*/true, /*decode=*/true, &one));
      table.candidates.push_back(one.candidates[0]);
    }
    CHECK(!table.candidates.empty());
    tuning_.kernels = table.candidates[Choose(table.candidates)].name;
    tables_.push_back(std::move(table));
    return Ok();
  }

  // Where panels fit and rows differ: decoding waits for memory with panels on small boards, and packs rows for each token.
  Status ChooseWeights() {
    Table table = {"weights", {}};
    BANTAM_ASSIGN(const Prepared automatic, PrepareWith(tuning_.kernels, "auto"));
    Program rows = automatic.outline.program;
    if (automatic.plan.weight_form == WeightForm::kRows || !KeepRows(&rows)) return Ok();
    for (const WeightForm form : {WeightForm::kPanels, WeightForm::kRows}) {
      const std::string name(WeightFormName(form));
      Result<Loaded> loaded = LoadWith(tuning_.kernels, name);
      if (!loaded.ok()) return std::move(loaded).error();
      Table one = {table.what, {{name, loaded->plan.options, loaded->pool.get()}}};
      BANTAM_TRY(Measure(*loaded, /*prompt=*/true, /*decode=*/true, &one));
      table.candidates.push_back(one.candidates[0]);
    }
    if (Choose(table.candidates) != 0) tuning_.weights = table.candidates[1].name;
    tables_.push_back(std::move(table));
    return Ok();
  }

  Status ChooseThreads(Loaded& loaded, PlanOptions* plan) {
    Table table = {"threads", {}};
    std::vector<std::unique_ptr<ThreadPool>> pools;
    for (int threads = tuning_.threads; threads >= 1; threads /= 2) {
      BANTAM_ASSIGN(auto pool, ThreadPool::Make(threads));
      PlanOptions some = *plan;
      some.threads = threads;
      table.candidates.push_back({fmt::format("{}", threads), some, pool.get()});
      pools.push_back(std::move(pool));
    }
    BANTAM_TRY(Measure(loaded, /*prompt=*/true, /*decode=*/true, &table));
    *plan = table.candidates[Choose(table.candidates)].plan;
    tuning_.threads = plan->threads;
    tables_.push_back(std::move(table));
    return Ok();
  }

  Status ChoosePrefetch(Loaded& loaded, ThreadPool& pool, PlanOptions* plan) {
    Table table = {"prefetch", {}};
    std::vector<size_t> distances = {plan->prefetch.one};
    for (const size_t distance : {0, 1024, 2048, 4096, 8192, 16384}) {
      if (distance != plan->prefetch.one) distances.push_back(distance);
    }
    for (const size_t distance : distances) {
      PlanOptions some = *plan;
      some.prefetch.one = distance;
      table.candidates.push_back({fmt::format("{}", distance), some, &pool});
    }
    BANTAM_TRY(Measure(loaded, /*prompt=*/false, /*decode=*/true, &table));
    *plan = table.candidates[Choose(table.candidates)].plan;
    tuning_.prefetch = plan->prefetch.one;
    tables_.push_back(std::move(table));
    return Ok();
  }

  Status ChooseTile(Loaded& loaded, ThreadPool& pool, const PlanOptions& plan) {
    Table table = {"token_tile", {}};
    for (const size_t tile : {kTokenTile, kTokenTile / 2, kTokenTile / 4}) {
      PlanOptions some = plan;
      some.token_tile = tile;
      table.candidates.push_back({fmt::format("{}", tile), some, &pool});
    }
    BANTAM_TRY(Measure(loaded, /*prompt=*/true, /*decode=*/false, &table));
    tuning_.token_tile = table.candidates[Choose(table.candidates)].plan.token_tile;
    tables_.push_back(std::move(table));
    return Ok();
  }

  FileSystem& files_;
  const Options& options_;
  const std::string path_;
  MonotonicClock clock_;
  const Progress progress_ = MakeProgressLine();
  Tuning tuning_;
  std::vector<Table> tables_;
};

std::string ToText(const std::vector<Table>& tables, const Tuning& tuning, const std::string& path) {
  std::string text =
      fmt::format("{} with {} core{}; median tokens/s\n", Printable(tuning.processor), tuning.cores, tuning.cores == 1 ? "" : "s");
  const auto figure = [](double value) { return value == 0 ? std::string("-") : fmt::format("{:.1f}", value); };
  text += fmt::format("  {:<12} {:<10} {:>12} {:>12}\n", "", "", fmt::format("prompt {}", kPromptTokens), "decode");
  for (const Table& table : tables) {
    const size_t chosen = Choose(table.candidates);
    for (size_t i = 0; i < table.candidates.size(); ++i) {
      const Candidate& row = table.candidates[i];
      text += fmt::format("  {:<12} {:<10} {:>12} {:>12}{}\n", i == 0 ? table.what : "", row.name, figure(row.prompt), figure(row.decode),
                          i == chosen ? "  chosen" : "");
    }
  }
  return text + fmt::format("kept in {}; bantam takes it from there\n", Printable(TuningPath(path)));
}

Json ToJson(const std::vector<Table>& tables, const std::string& path) {
  Json json = {{"file", TuningPath(path)}};
  for (const Table& table : tables) {
    Json rows = Json::array();
    for (const Candidate& row : table.candidates) {
      rows.push_back({{"name", row.name}, {"prompt_tokens_per_s", row.prompt}, {"decode_tokens_per_s", row.decode}});
    }
    json[table.what] = {{"measured", rows}, {"chosen", table.candidates[Choose(table.candidates)].name}};
  }
  return json;
}

Result<std::string> Tune(FileSystem& files, const Options& options) {
  BANTAM_ASSIGN(const std::string path, FindModel(files, options.model));
  // Whether it can be kept is known before a minute is spent.
  BANTAM_ASSIGN(const auto writer, files.Create(TuningPath(path)));
  DeferInterrupts();
  Tuner tuner(files, options, path);
  BANTAM_ASSIGN(const Tuning tuning, tuner.Run());
  BANTAM_TRY(WriteTuning(*writer, tuning));
  return options.json ? DumpJson(ToJson(tuner.tables(), path), /*indent=*/2) + "\n" : ToText(tuner.tables(), tuning, path);
}

}  // namespace

void AddTuneVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("tune",
                                      "measure in about a minute which kernels, form of weights, threads, prefetch distance and tile are "
                                      "fastest here, and keep that beside the model");
  verb->add_option("MODEL", options->model, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option("--memory", options->run.memory, "hard limit for the whole process, such as 512M; auto: what is available")
      ->capture_default_str();
  verb->add_flag("--json", options->json, "print JSON");
  verb->footer("Example: bantam tune model.gguf");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Result<std::string> output = Tune(files, *options);
      EndProgressLine();
      return output.ok() ? PrintResult(*output) : Fail(output.error());
    };
  });
}

}  // namespace bantam
