// bantam bench: how fast models read prompts and decode here, and what share of the machine that is.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "engine/machine.h"
#include "engine/speed.h"
#include "model/arch/registry.h"
#include "model/open.h"

namespace bantam {
namespace {

constexpr size_t kStepTokens = 128;
constexpr int kRepetitionsMax = 1000;
constexpr size_t kTokensMax = 1 << 20;

struct Options {
  std::vector<std::string> models;
  std::vector<size_t> prompts = {128, 512};
  std::vector<size_t> decodes = {128};
  std::vector<size_t> depths = {0};
  std::vector<int> threads;
  int repetitions = 5;
  bool json = false;
  bool profile = false;
  RunOptions run;
};

std::vector<SpeedTest> TestsOf(const Options& options) {
  std::vector<SpeedTest> tests;
  for (const size_t depth : options.depths) {
    for (const size_t n : options.prompts) {
      if (n > 0) tests.push_back({.prompt = true, .tokens = n, .depth = depth});
    }
    for (const size_t n : options.decodes) {
      if (n > 0) tests.push_back({.prompt = false, .tokens = n, .depth = depth});
    }
  }
  return tests;
}

// Limits of the machine with the threads of one run.
struct Limits {
  double bytes_per_s = 0;
  double multiplies_per_s = 0;
};

std::string ProfileText(const std::vector<OperationTime>& times, size_t tokens) {
  std::string text;
  for (const OperationTime& time : times) {
    text += fmt::format("      {:<18} {:>4} operations {:>10.1f} us/token {:>5.1f} %\n", time.name, time.operations,
                        time.seconds * 1e6 / static_cast<double>(tokens), 100 * time.share);
  }
  return text;
}

Json ProfileJson(const std::vector<OperationTime>& times) {
  Json rows = Json::array();
  for (const OperationTime& time : times) {
    rows.push_back({{"operation", time.name}, {"count", time.operations}, {"seconds", time.seconds}, {"share", time.share}});
  }
  return rows;
}

// Everything on one model with one number of threads.
class Bench {
 public:
  Bench(const Options& options, Loaded loaded) : options_(options), loaded_(std::move(loaded)) {
    const KernelSet& kernels = *loaded_.model->kernels;
    limits_.bytes_per_s = MeasureReadBandwidth(loaded_.model->weights.bytes(), kernels, *loaded_.pool, clock_);
    limits_.multiplies_per_s = MeasurePeak(kernels.int8_peak, *loaded_.pool, clock_);
  }

  std::string Header(const std::string& model) const {
    const PlanOptions& plan = loaded_.plan.options;
    return fmt::format(
        "{}: {} thread{}, kernels {}, KV {}{}; this machine reads {:.1f} GB/s and multiplies {:.0f} G/s in 8 bits\n"
        "  {:<28} {:>9} {:>9} {:>9} {:>7} {:>10} {:>9} {:>10}\n",
        Printable(model), plan.threads, plan.threads == 1 ? "" : "s", loaded_.model->kernels->name, KvTypeName(plan.kv_type),
        loaded_.plan.weight_form == WeightForm::kRows ? ", weights in rows" : "", limits_.bytes_per_s * 1e-9,
        limits_.multiplies_per_s * 1e-9, "median tokens/s of", "", "least", "most", "GB/s", "of memory", "G mul/s", "of 8-bit");
  }

  Status Run(const SpeedTest& test, const std::string& model, std::string* text, Json* rows) {
    Session& session = *loaded_.session;
    BANTAM_TRY(TimeRun(session, test, clock_, Interrupted));  // the first run finds cold caches
    std::vector<double> speeds;
    for (int i = 0; i < options_.repetitions && !Interrupted(); ++i) {
      BANTAM_ASSIGN(const double seconds, TimeRun(session, test, clock_, Interrupted));
      speeds.push_back(static_cast<double>(test.tokens) / seconds);
    }
    if (speeds.empty()) return Error(Code::kCancelled, "measuring was interrupted");
    const double median = Median(speeds);
    const auto [least, most] = std::minmax_element(speeds.begin(), speeds.end());
    const SpeedWork work = WorkOf(session, loaded_.model->program, test, loaded_.plan.options);
    const double seconds = static_cast<double>(test.tokens) / median;
    const double bytes_per_s = work.bytes / seconds;
    const double multiplies_per_s = work.multiplies / seconds;
    *text += fmt::format("  {:<28} {:>9.2f} {:>9.2f} {:>9.2f} {:>7.1f} {:>8.1f} % {:>9.1f} {:>8.1f} %\n", test.Name(), median, *least,
                         *most, bytes_per_s * 1e-9, 100 * bytes_per_s / limits_.bytes_per_s, multiplies_per_s * 1e-9,
                         100 * multiplies_per_s / limits_.multiplies_per_s);
    rows->push_back({{"model", model},
                     {"threads", loaded_.plan.options.threads},
                     {"kernels", loaded_.model->kernels->name},
                     {"kv_type", KvTypeName(loaded_.plan.options.kv_type)},
                     {"weights", WeightFormName(loaded_.plan.weight_form)},
                     {"test", test.prompt ? "prompt" : "decode"},
                     {"tokens", test.tokens},
                     {"depth", test.depth},
                     {"repetitions", speeds.size()},
                     {"tokens_per_s", median},
                     {"tokens_per_s_min", *least},
                     {"tokens_per_s_max", *most},
                     {"bytes_per_s", bytes_per_s},
                     {"memory_bytes_per_s", limits_.bytes_per_s},
                     {"multiplies_per_s", multiplies_per_s},
                     {"int8_multiplies_per_s", limits_.multiplies_per_s}});
    return options_.profile ? Profile(test, text, &rows->back()) : Ok();
  }

 private:
  Status Profile(const SpeedTest& test, std::string* text, Json* row) {
    StepProfile profile = {clock_, {}};
    BANTAM_TRY(TimeRun(*loaded_.session, test, clock_, Interrupted, &profile));
    const auto times = SumProfile(loaded_.model->program, profile);
    const double kv_blocks = static_cast<double>(profile.kv_blocks) / static_cast<double>(test.tokens);
    *text += ProfileText(times, test.tokens);
    *text += fmt::format("      attention read {:.1f} blocks of {} keys and values per token\n", kv_blocks, kKvBlockTokens);
    (*row)["profile"] = ProfileJson(times);
    (*row)["kv_blocks_per_token"] = kv_blocks;
    return Ok();
  }

  const Options& options_;
  Loaded loaded_;
  MonotonicClock clock_;
  Limits limits_;
};

Status CheckOptions(const Options& options) {
  for (const auto* counts : {&options.prompts, &options.decodes, &options.depths}) {
    for (const size_t count : *counts) {
      if (count > kTokensMax) return Error(Code::kInvalidArgument, fmt::format("{} tokens: expected at most {}", count, kTokensMax));
    }
  }
  for (const int threads : options.threads) {
    if (threads < 1 || threads > ThreadPool::kThreadsMax) {
      return Error(Code::kInvalidArgument, fmt::format("--threads {}: expected 1 to {}", threads, ThreadPool::kThreadsMax));
    }
  }
  if (options.repetitions < 1 || options.repetitions > kRepetitionsMax) {
    return Error(Code::kInvalidArgument, fmt::format("--repetitions {}: expected 1 to {}", options.repetitions, kRepetitionsMax));
  }
  if (TestsOf(options).empty()) return Error(Code::kInvalidArgument, "nothing to measure: -p and -n are both 0; give one");
  return Ok();
}

Result<std::string> Measure(FileSystem& files, Options options) {
  BANTAM_TRY(CheckOptions(options));
  if (options.threads.empty()) {
    options.threads = {1};
    const int cores = ReadSystemLimits(files, /*root=*/"", AffinityProcessors()).cores;
    if (cores > 1) options.threads.push_back(cores);
  }
  const std::vector<SpeedTest> tests = TestsOf(options);
  // A model that cannot be run is known before minutes are spent on others.
  for (const std::string& model : options.models) {
    BANTAM_ASSIGN(const std::string path, FindModel(files, model));
    BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
    BANTAM_TRY(ReadConfig(file));
  }
  std::string text;
  Json rows = Json::array();
  DeferInterrupts();
  for (const std::string& model : options.models) {
    for (const int threads : options.threads) {
      RunOptions run = options.run;
      run.threads = threads;
      run.context = 0;
      for (const SpeedTest& test : tests) run.context = std::max(run.context, test.context());
      BANTAM_ASSIGN(const std::string path, FindModel(files, model));
      BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
      BANTAM_ASSIGN(Prepared prepared,
                    Prepare(files, std::move(file), {/*tokenizer=*/nullptr, /*text_bytes=*/0, run, {kStepTokens, /*all_outputs=*/false}}));
      BANTAM_ASSIGN(Loaded loaded, Load(files, std::move(prepared)));
      EndProgressLine();
      Bench bench(options, std::move(loaded));
      std::string part = bench.Header(model);
      for (const SpeedTest& test : tests) {
        BANTAM_TRY(bench.Run(test, model, &part, &rows));
        // The table grows while it is measured.
        if (!options.json && !Print(part)) return OutputLost();
        part.clear();
      }
    }
  }
  return options.json ? DumpJson(rows, /*indent=*/2) + "\n" : std::string();
}

}  // namespace

void AddBenchVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("bench", "how fast models read prompts and decode, and what share of this machine's limits that is");
  verb->add_option("MODEL", options->models, ".gguf files, Hugging Face folders, or names in the model folder")->required();
  const auto list = [&](const char* name, auto& values, const char* help) {
    return verb->add_option(name, values, help)->delimiter(',')->allow_extra_args(false)->check(WholeNumber())->capture_default_str();
  };
  list("-p,--prompt", options->prompts, "tokens of prompts; 0: none");
  list("-n,--decode", options->decodes, "tokens to decode; 0: none");
  list("-d,--depth", options->depths, "tokens in the context before");
  verb->add_option("-t,--threads", options->threads, "numbers of threads, such as 1,2 (default: 1 and all physical cores)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(WholeNumber());
  verb->add_option("--repetitions", options->repetitions, "the median of this many runs")->check(WholeNumber())->capture_default_str();
  verb->add_flag("--json", options->json, "print JSON");
  verb->add_flag("--profile", options->profile, "show the time of each kind of operation");
  AddLoadOptions(*verb, &options->run);
  verb->footer("Examples: bantam bench model.gguf\n          bantam bench a.gguf b.gguf -p 512 -n 64 -d 0,2048 -t 1,2,4 --json");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Result<std::string> output = Measure(files, *options);
      EndProgressLine();
      return output.ok() ? PrintResult(*output) : Fail(output.error());
    };
  });
}

}  // namespace bantam
