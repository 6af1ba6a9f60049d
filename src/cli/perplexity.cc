// bantam perplexity: how well a model predicts a text.
#include "engine/perplexity.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "base/json.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/open.h"
#include "model/vocabulary.h"

namespace bantam {
namespace {

constexpr size_t kWindowDefault = 512;
constexpr size_t kWindowMin = 4;
constexpr size_t kTextBytesMax = kInputBytesMax;

struct Options {
  std::string model;
  std::string text;
  size_t windows = 0;
  bool json = false;
  RunOptions run;
};

std::string Show(const PerplexityEstimate& e) { return fmt::format("perplexity {:.4f} +- {:.4f}", e.perplexity, e.error); }

Result<std::string> Measure(FileSystem& files, Options options) {
  if (options.run.context == 0) options.run.context = kWindowDefault;
  if (options.run.context < kWindowMin) {
    return Error(Code::kInvalidArgument, fmt::format("--context {}: expected at least {}", options.run.context, kWindowMin));
  }
  BANTAM_ASSIGN(const std::string path, FindModel(files, options.model));
  BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
  BANTAM_ASSIGN(const Tokenizer tokenizer, ReadVocabulary(file));
  if (options.run.kv.empty()) options.run.kv = "f16";  // a figure must not depend on how much memory is free
  BANTAM_ASSIGN(const std::string text, files.ReadText(options.text, kTextBytesMax));
  BANTAM_ASSIGN(std::vector<uint32_t> tokens, tokenizer.Encode(text, /*special=*/false));
  PerplexityOptions measure;
  measure.window = options.run.context;
  measure.windows_max = options.windows;
  if (!tokenizer.spec().prefix.empty()) {
    measure.bos = tokenizer.spec().prefix.front();
    tokens.insert(tokens.begin(), *measure.bos);
  }
  const StepShape shape = {std::min<size_t>(StepShape().step_tokens, options.run.context), /*all_outputs=*/true};
  const uint64_t text_bytes = text.capacity() + tokens.capacity() * sizeof(uint32_t);
  BANTAM_ASSIGN(Prepared prepared, Prepare(files, std::move(file), {&tokenizer, text_bytes, options.run, shape}));
  BANTAM_TRY(CheckVocabulary(tokenizer, prepared, path));
  NoteContext(prepared);
  DeferInterrupts();
  BANTAM_ASSIGN(const Loaded loaded, Load(files, std::move(prepared)));
  const MonotonicClock clock;
  const int64_t begin = clock.NowNs();
  const Progress line = MakeProgressLine();
  const auto progress = [&](const PerplexityEstimate& e, size_t windows) { line(Show(e), e.windows, windows); };
  BANTAM_ASSIGN(const PerplexityEstimate e, MeasurePerplexity(*loaded.session, tokens, measure, progress, Interrupted).With(options.text));
  EndProgressLine();
  const double seconds = static_cast<double>(clock.NowNs() - begin) * 1e-9;
  const double speed = static_cast<double>(e.windows * measure.window) / seconds;
  if (Interrupted()) Note("[interrupted: the figure is that of the windows so far]\n");
  if (options.json) {
    return DumpJson(Json{{"perplexity", e.perplexity},
                         {"error", e.error},
                         {"windows", e.windows},
                         {"window_tokens", measure.window},
                         {"scored_tokens", e.scored},
                         {"tokens_per_s", speed},
                         {"kernels", loaded.model->kernels->name},
                         {"kv_type", KvTypeName(loaded.plan.options.kv_type)},
                         {"weights", WeightFormName(loaded.plan.weight_form)},
                         {"interrupted", Interrupted()}},
                    /*indent=*/2) +
           "\n";
  }
  return fmt::format("{} ({} windows of {} tokens, {} scored; {:.1f} tokens/s; kernels {}, KV {})\n", Show(e), e.windows, measure.window,
                     e.scored, speed, loaded.model->kernels->name, KvTypeName(loaded.plan.options.kv_type));
}

}  // namespace

void AddPerplexityVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("perplexity",
                                      "how well a model predicts a text: windows of --context tokens (default 512), the second "
                                      "half of each scored, as llama.cpp does");
  verb->add_option("MODEL", options->model, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option("FILE", options->text, "the text")->required();
  verb->add_option("--chunks", options->windows, "windows to measure; 0: all")->check(WholeNumber())->capture_default_str();
  verb->add_flag("--json", options->json, "print JSON");
  verb->add_option("--context", options->run.context, "tokens of a window (default, and 0: 512)")->check(WholeNumber());
  verb->add_option("-t,--threads", options->run.threads, "threads (default, and 0: usable physical cores)")->check(WholeNumber());
  AddLoadOptions(*verb, &options->run);
  verb->footer("Example: bantam perplexity model.gguf wiki.test.raw --chunks 8");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Result<std::string> output = Measure(files, *options);
      EndProgressLine();
      if (!output.ok()) return Fail(output.error());
      const int code = PrintResult(*output);
      return code == 0 && Interrupted() ? ExitStatus(Code::kCancelled) : code;
    };
  });
}

}  // namespace bantam
