// bantam logits: the logits of every token of a list, for comparison with other systems.
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>

#include "cli/ids.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/open.h"

namespace bantam {
namespace {

constexpr size_t kChunkMax = 4096;

struct Options {
  std::string model;
  std::string tokens;
  std::string out;
  size_t chunk = 128;
  RunOptions run;
};

Status WriteLogits(FileSystem& files, Options options) {
  if (options.chunk < 1 || options.chunk > kChunkMax) {
    return Error(Code::kInvalidArgument, fmt::format("--chunk {}: expected 1 to {}", options.chunk, kChunkMax));
  }
  BANTAM_ASSIGN(const std::string path, FindModel(files, options.model));
  BANTAM_ASSIGN(ModelFile file, OpenModel(files, path));
  BANTAM_ASSIGN(const std::string text, files.ReadText(options.tokens, kIdsBytesMax));
  BANTAM_ASSIGN(const auto ids, ParseIds(text, options.tokens, Code::kCorrupt));
  if (ids.empty()) return Error(Code::kCorrupt, fmt::format("{}: no token ids; give at least one", options.tokens));
  if (options.run.context == 0) options.run.context = ids.size();
  const StepShape shape = {std::min(options.chunk, ids.size()), /*all_outputs=*/true};
  BANTAM_ASSIGN(Prepared prepared, Prepare(files, std::move(file), {/*tokenizer=*/nullptr, /*text_bytes=*/0, options.run, shape}));
  BANTAM_TRY(CheckIds(ids, options.tokens, prepared.outline.program.vocabulary));
  DeferInterrupts();
  for (const std::string& input : {path, options.tokens}) {
    std::error_code ignored;
    if (!std::filesystem::equivalent(input, options.out, ignored)) continue;
    return Error(Code::kInvalidArgument, fmt::format("--out {}: that is {}, which is read; name another file", options.out, input));
  }
  // An output that cannot be written is known before the model is loaded.
  BANTAM_ASSIGN(const auto writer, files.Create(options.out));
  BANTAM_ASSIGN(const Loaded loaded, Load(files, std::move(prepared)));
  const auto sink = [&](std::span<const float> logits) { return writer->Append(std::as_bytes(logits)); };
  BANTAM_TRY(loaded.session->AppendForLogits(ids, sink, Interrupted));
  return writer->Commit();
}

}  // namespace

void AddLogitsVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("logits", "raw little-endian f32 logits [tokens, vocabulary] of a list of token ids");
  verb->add_option("MODEL", options->model, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option("--tokens", options->tokens, "file of ids separated by white space")->required();
  verb->add_option("--out", options->out, "file for the logits")->required();
  verb->add_option("--chunk", options->chunk, "tokens per step")->capture_default_str();
  AddRunOptions(*verb, &options->run);
  verb->footer("Example: bantam logits model.gguf --tokens ids.txt --out logits.f32 --kv f32 --kernels ref");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Status written = WriteLogits(files, *options);
      EndProgressLine();
      return written.ok() ? 0 : Fail(written.error());
    };
  });
}

}  // namespace bantam
