// bantam compare: what a compressed model lost.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>

#include "cli/comparison.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace bantam {
namespace {

struct Arguments {
  std::string base;
  std::string candidate;
  std::string text;
  size_t windows = 0;
  bool json = false;
  RunOptions run;
};

Result<std::string> RunCompare(FileSystem& files, const Arguments& arguments) {
  if (arguments.run.context != 0 && arguments.run.context < kWindowMin) {
    return Error(Code::kInvalidArgument, fmt::format("--context {}: expected at least {}", arguments.run.context, kWindowMin));
  }
  BANTAM_ASSIGN(const std::string base_path, FindModel(files, arguments.base));
  BANTAM_ASSIGN(const std::string candidate_path, FindModel(files, arguments.candidate));
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
  BANTAM_ASSIGN(WindowModel candidate, LoadWindowModel(files, candidate_path, run, /*tokenizer=*/nullptr));
  BANTAM_ASSIGN(const MeasuredPair pair, MeasurePair(base, candidate, text, arguments.windows).With(arguments.text));
  if (Interrupted()) Note("[interrupted: the figures are those of the windows so far]\n");
  if (arguments.json) return DumpJson(PairJson(base, candidate, pair), /*indent=*/2) + "\n";
  return fmt::format("{} and {}\n{}", Printable(arguments.base), Printable(arguments.candidate), PairText(base, candidate, pair));
}

}  // namespace

void AddCompareVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("compare", "what a compressed model lost: perplexity and divergence from its base over a text");
  verb->add_option("BASE", arguments->base, "the model that CANDIDATE was made of")->required();
  verb->add_option("CANDIDATE", arguments->candidate, "a model of the same vocabulary")->required();
  verb->add_option("--text", arguments->text, "the text that both read")->required();
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
