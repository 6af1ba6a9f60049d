// bantam eval: how many questions of a file a model answers.
#include <fmt/format.h>

#include <memory>
#include <span>
#include <string>

#include "cli/evaluation.h"
#include "cli/model_folder.h"
#include "cli/out_file.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/model_digest.h"
#include "model/open.h"
#include "security/sha256.h"

namespace bantam {
namespace {

constexpr size_t kContextMost = 2048;  // unless the user says otherwise
constexpr size_t kNameDigits = 16;

struct Arguments {
  std::string model;
  std::string task;
  std::string out;
  bool force = false;
  bool json = false;
  RunOptions run;
};

// Keeps the answers, and goes on with those that are there.
Result<Evaluation> EvaluateInto(FileSystem& files, Disk& disk, const Arguments& arguments, WindowModel& model, const Tokenizer& tokenizer,
                                PartFile& input) {
  BANTAM_ASSIGN(const std::unique_ptr<FileLock> lock, disk.Lock(arguments.out + ".lock"));
  if (lock == nullptr) return Error(Code::kUnavailable, fmt::format("{}: another process writes it; wait for its end", arguments.out));
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> output, disk.OpenPart(arguments.out));
  BANTAM_ASSIGN(const ModelFile file, OpenModel(files, model.path));
  BANTAM_ASSIGN(const Digest digest, DigestModel(file, MakeProgressLine()));
  if (arguments.force) BANTAM_TRY(output->Truncate(0));
  // What answers depend on, beside the model.
  const RunOptions& run = arguments.run;
  const std::string asked_with = fmt::format("{} {} {} {}", HexOf(digest), model.runner->window(), run.kv, run.rope_scaling);
  const std::string name = HexOf(Sha256Of(std::as_bytes(std::span(asked_with)))).substr(0, kNameDigits);
  return EvaluateTask(model, tokenizer, {input, *output}, name).With(arguments.out);
}

Result<std::string> Eval(FileSystem& files, const Arguments& arguments) {
  const std::unique_ptr<Disk> disk = MakeDisk();
  BANTAM_ASSIGN(const std::unique_ptr<PartFile> input, disk->OpenForReading(arguments.task));
  BANTAM_ASSIGN(const std::string path, FindModel(files, arguments.model));
  if (!arguments.out.empty()) {
    BANTAM_TRY(CheckNewFile(arguments.out, {arguments.task}));
    BANTAM_ASSIGN(const ModelFile file, OpenModel(files, path));
    BANTAM_TRY(CheckOut(files, path, file.further_paths, arguments.out, /*force=*/true));
  }
  RunOptions run = arguments.run;
  if (run.context == 0) {
    BANTAM_ASSIGN(run.context, WindowOf(files, path, kContextMost));
  }
  std::unique_ptr<Tokenizer> tokenizer;
  BANTAM_ASSIGN(WindowModel model, LoadWindowModel(files, path, run, &tokenizer));
  Result<Evaluation> evaluated = arguments.out.empty() ? EvaluateTask(model, *tokenizer, *input).With(arguments.task)
                                                       : EvaluateInto(files, *disk, arguments, model, *tokenizer, *input);
  BANTAM_ASSIGN(const Evaluation evaluation, std::move(evaluated));
  if (Interrupted()) Note("[interrupted: the figures are those of the questions so far]\n");
  if (arguments.json) return DumpJson(EvaluationJson(evaluation), /*indent=*/2) + "\n";
  return fmt::format("{}: {}\n{}", Printable(arguments.task), TallyText(evaluation.all()), EvaluationText(evaluation));
}

}  // namespace

void AddEvalVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("eval", "how many questions of a file a model answers: choices, classes, gaps, exact answers");
  verb->add_option("MODEL", arguments->model, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option("--task", arguments->task,
                   "questions, a JSON object on each line: {\"task\": \"choice\", \"prompt\": ..., \"choices\": [...], \"answer\": 0}, or "
                   "\"class\" (labels), \"cloze\" (text with a ____), \"exact\" (answer)")
      ->required();
  verb->add_option("--out", arguments->out, "a file for what was answered; what is there already is gone on with");
  verb->add_flag("--force", arguments->force, "begin anew, whatever --out holds");
  verb->add_flag("--json", arguments->json, "print JSON");
  verb->add_option("--context", arguments->run.context,
                   fmt::format("tokens of the longest question (default, and 0: {}, or what the model was trained on)", kContextMost))
      ->check(WholeNumber());
  verb->add_option("-t,--threads", arguments->run.threads, "threads (default, and 0: usable physical cores)")->check(WholeNumber());
  AddLoadOptions(*verb, &arguments->run);
  verb->footer("Example: bantam eval model-q4_k_m.gguf --task questions.jsonl --out answers.jsonl");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      DeferInterrupts();
      const Result<std::string> text = Eval(files, *arguments);
      EndProgressLine();
      if (!text.ok()) return Fail(text.error());
      const int code = PrintResult(*text);
      return code == 0 && Interrupted() ? ExitStatus(Code::kCancelled) : code;
    };
  });
}

}  // namespace bantam
