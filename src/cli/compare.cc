// bantam compare: what a compressed model lost.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>

#include "cli/comparison.h"
#include "cli/evaluation.h"
#include "cli/model_folder.h"
#include "cli/out_file.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace bantam {
namespace {

struct Arguments {
  std::string base;
  std::string candidate;
  std::string text;
  std::string task;
  std::string candidate_kv;
  std::string picture;
  size_t windows = 0;
  bool json = false;
  RunOptions run;
};

struct EvaluatedPair {
  Evaluation base;
  Evaluation candidate;
  size_t only_base = 0;  // questions that only it answers
  size_t only_candidate = 0;
};

Result<EvaluatedPair> EvaluatePair(WindowModel& base, WindowModel& candidate, const Tokenizer& tokenizer, const std::string& path) {
  const std::unique_ptr<Disk> disk = MakeDisk();
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> input, disk->OpenForReading(path));
  EvaluatedPair pair;
  BANTAM_ASSIGN(pair.base, EvaluateTask(base, tokenizer, *input).With(path));
  BANTAM_ASSIGN(pair.candidate, EvaluateTask(candidate, tokenizer, *input).With(path));
  for (size_t i = 0; i < std::min(pair.base.verdicts.size(), pair.candidate.verdicts.size()); ++i) {
    const bool was = pair.base.verdicts[i] == Verdict::kRight;
    const bool is = pair.candidate.verdicts[i] == Verdict::kRight;
    pair.only_base += was && !is ? 1 : 0;
    pair.only_candidate += is && !was ? 1 : 0;
  }
  return pair;
}

std::string EvaluatedText(const EvaluatedPair& pair) {
  return fmt::format("  questions: base {}; candidate {}\n  answered by the base alone {}, by the candidate alone {}\n{}",
                     TallyText(pair.base.all()), TallyText(pair.candidate.all()), pair.only_base, pair.only_candidate,
                     EvaluationText(pair.candidate));
}

Result<std::string> RunCompare(FileSystem& files, const Arguments& arguments) {
  if (arguments.run.context != 0 && arguments.run.context < kWindowMin) {
    return Error(Code::kInvalidArgument, fmt::format("--context {}: expected at least {}", arguments.run.context, kWindowMin));
  }
  BANTAM_ASSIGN(const std::string base_path, FindModel(files, arguments.base));
  BANTAM_ASSIGN(const std::string candidate_path, FindModel(files, arguments.candidate));
  if (!arguments.picture.empty()) {
    BANTAM_TRY(CheckNewFile(arguments.picture, {base_path, candidate_path, arguments.text, arguments.task}));
  }
  RunOptions run = arguments.run;
  if (run.context == 0) {
    // Both read the same windows.
    BANTAM_ASSIGN(const size_t window, WindowOf(files, base_path));
    BANTAM_ASSIGN(const size_t other, WindowOf(files, candidate_path));
    run.context = std::min(window, other);
  }
  std::unique_ptr<Tokenizer> tokenizer;
  BANTAM_ASSIGN(WindowModel base, LoadWindowModel(files, base_path, run, &tokenizer));
  BANTAM_ASSIGN(const WindowText text, ReadWindowText(files, *tokenizer, arguments.text));
  if (!arguments.candidate_kv.empty()) run.kv = arguments.candidate_kv;
  BANTAM_ASSIGN(WindowModel candidate, LoadWindowModel(files, candidate_path, run, /*tokenizer=*/nullptr));
  BANTAM_ASSIGN(const MeasuredPair pair, MeasurePair(base, candidate, text, arguments.windows).With(arguments.text));
  if (Interrupted()) Note("[interrupted: the figures are those of the windows so far]\n");
  Json json = PairJson(base, candidate, pair);
  std::string told =
      fmt::format("{} and {}\n{}", Printable(arguments.base), Printable(arguments.candidate), PairText(base, candidate, pair));
  if (!arguments.picture.empty() && !Interrupted()) {
    BANTAM_ASSIGN(const LayerErrors errors, LayerErrorsOf(base, candidate, text));
    json["activation_errors"] = LayerErrorsJson(errors);
    std::vector<BarChart> charts;
    if (!errors.empty()) charts.push_back(ChartOfLayerErrors(errors));
    BANTAM_TRY(WritePicture(files, arguments.picture, charts));
  }
  if (!arguments.task.empty() && !Interrupted()) {
    BANTAM_ASSIGN(const EvaluatedPair evaluated, EvaluatePair(base, candidate, *tokenizer, arguments.task));
    json["task"] = {{"base", EvaluationJson(evaluated.base)},
                    {"candidate", EvaluationJson(evaluated.candidate)},
                    {"only_base", evaluated.only_base},
                    {"only_candidate", evaluated.only_candidate}};
    told += EvaluatedText(evaluated);
  }
  return arguments.json ? DumpJson(json, /*indent=*/2) + "\n" : told;
}

}  // namespace

void AddCompareVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("compare", "what a compressed model lost: perplexity and divergence from its base over a text");
  verb->add_option("BASE", arguments->base, "the model that CANDIDATE was made of")->required();
  verb->add_option("CANDIDATE", arguments->candidate, "a model of the same vocabulary")->required();
  verb->add_option("--text", arguments->text, "the text that both read")->required();
  verb->add_option("--task", arguments->task,
                   "questions as bantam eval reads them, asked of both; longer ones than --context are left out");
  verb->add_option("--candidate-kv", arguments->candidate_kv, "the candidate's KV type, where it is to differ from --kv");
  verb->add_option("--picture", arguments->picture, "a PNG file for a picture of the errors, layer by layer");
  verb->add_option("--windows", arguments->windows, "windows of the text to read; 0: all")->check(WholeNumber())->capture_default_str();
  verb->add_flag("--json", arguments->json, "print JSON");
  const std::string windows = fmt::format("tokens of a window (default, and 0: {}, or what the models were trained on)", kWindowTokens);
  verb->add_option("--context", arguments->run.context, windows)->check(WholeNumber());
  verb->add_option("-t,--threads", arguments->run.threads, "threads (default, and 0: usable physical cores)")->check(WholeNumber());
  AddLoadOptions(*verb, &arguments->run);
  verb->footer("Example: bantam compare model-f16.gguf model-q4_k_m.gguf --text wiki.test.raw --windows 32");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      DeferInterrupts();
      const Result<std::string> text = RunCompare(files, *arguments);
      EndProgressLine();
      if (!text.ok()) return Fail(text.error());
      const int code = PrintResult(*text);
      return code == 0 && Interrupted() ? ExitStatus(Code::kCancelled) : code;
    };
  });
}

}  // namespace bantam
