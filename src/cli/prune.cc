// bantam prune: a model of fewer layers, narrower feed-forwards, fewer heads or with zeros, and what that cost (docs/compression.md).
#include "compress/prune.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/watched_files.h"
#include "cli/compressing.h"
#include "cli/out_file.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "compress/layer_choice.h"
#include "model/arch/registry.h"

namespace bantam {
namespace {

constexpr std::string_view kZerosNote = "zeros are stored and multiplied like other numbers, and cost only accuracy";

struct Arguments : CompressArguments {
  std::string layers;
  std::string ffn;
  std::string heads;
  std::string method;
  std::string sparsity;
  bool refit = true;
};

// "25%" or "25".
Result<double> ReadPercent(std::string_view text, std::string_view option) {
  size_t percent = 0;
  const std::string_view digits = text.ends_with('%') ? text.substr(0, text.size() - 1) : text;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), percent);
  if (error == std::errc() && end == digits.data() + digits.size() && percent >= 1 && percent <= 99)
    return static_cast<double>(percent) / 100;
  return Error(Code::kInvalidArgument, fmt::format("{} {}: expected a percentage from 1 to 99 that goes", option, text));
}

// How many of the layers go: a number, or a percentage.
Result<size_t> ReadLayerCount(const std::string& text, size_t layers) {
  double wanted = 0;
  if (text.ends_with('%')) {
    BANTAM_ASSIGN(const double part, ReadPercent(text, "--layers"));
    wanted = std::round(part * static_cast<double>(layers));
  } else {
    size_t count = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error == std::errc() && end == text.data() + text.size()) wanted = static_cast<double>(std::min(count, kLayersMax + size_t{1}));
  }
  if (wanted >= 1 && wanted < static_cast<double>(layers)) return static_cast<size_t>(wanted);
  return Error(Code::kInvalidArgument,
               fmt::format("--layers {}: expected 1 to {} of the {} layers, or a percentage of them", text, layers - 1, layers));
}

Result<PruneOptions> ReadOptions(const Arguments& arguments) {
  const size_t given = (arguments.layers.empty() ? 0 : 1) + (arguments.ffn.empty() ? 0 : 1) + (arguments.heads.empty() ? 0 : 1) +
                       (arguments.method.empty() ? 0 : 1);
  if (given != 1) {
    return Error(Code::kInvalidArgument, "expected one of --layers, --ffn, --heads and --method; prune again for another");
  }
  PruneOptions options;
  options.refit = arguments.refit;
  if (!arguments.ffn.empty()) {
    options.what = PruneWhat::kFeedForward;
    BANTAM_ASSIGN(options.part, ReadPercent(arguments.ffn, "--ffn"));
  } else if (!arguments.heads.empty()) {
    options.what = PruneWhat::kHeads;
    BANTAM_ASSIGN(options.part, ReadPercent(arguments.heads, "--heads"));
  } else if (!arguments.method.empty()) {
    options.what = PruneWhat::kWeights;
    BANTAM_ASSIGN(options.method, SparseMethodFromName(arguments.method).With("--method"));
    if (arguments.sparsity.empty()) return Error(Code::kInvalidArgument, "--method: expected --sparsity too, such as 50% or 2:4");
    BANTAM_ASSIGN(options.sparsity, ParseSparsity(arguments.sparsity).With("--sparsity"));
  }
  if (!arguments.sparsity.empty() && arguments.method.empty()) {
    return Error(Code::kInvalidArgument, "--sparsity: of --method only");
  }
  const bool measures = options.what != PruneWhat::kWeights || options.method != SparseMethod::kMagnitude;
  if (measures && arguments.calibrate.empty()) {
    return Error(Code::kInvalidArgument, "--calibrate: expected a text like those that the model will read: what goes is chosen by it");
  }
  return options;
}

// What cannot be done is known before anything is measured. Which layers go is not: any do for that.
Status CheckBeforeMeasuring(ModelFile& file, const Arguments& arguments, PruneOptions options) {
  if (options.what == PruneWhat::kLayers) {
    BANTAM_ASSIGN(const Config config, ReadConfig(file));
    BANTAM_ASSIGN(const size_t count, ReadLayerCount(arguments.layers, config.layers.size()));
    for (size_t i = 0; i < count; ++i) options.layers.push_back(config.layers.size() - 1 - i);
  }
  return CheckPrunable(file, options);
}

Status ChooseWhatGoes(const Arguments& arguments, CompressReader& reader, PruneOptions* options, Json* described) {
  (*described)["prune"] = {{"layers", arguments.layers}, {"ffn", arguments.ffn},           {"heads", arguments.heads},
                           {"method", arguments.method}, {"sparsity", arguments.sparsity}, {"refit", arguments.refit}};
  if (options->what != PruneWhat::kLayers) return Ok();
  WindowModel& model = *reader.model;
  BANTAM_ASSIGN(const size_t count, ReadLayerCount(arguments.layers, model.loaded.model->config.layers.size()));
  BANTAM_ASSIGN(const LayerChoice choice,
                ChooseLayers(*model.loaded.model, *model.runner, reader.windows, count, *model.loaded.pool, reader.progress));
  options->layers = choice.dropped;
  (*described)["prune"]["dropped"] = choice.dropped;
  (*described)["prune"]["kl_divergence"] = choice.divergence;
  (*described)["prune"]["kl_divergence_alone"] = choice.alone;
  return Ok();
}

std::string MadeText(const Arguments& arguments, const PruneReport& pruned, const QuantizeReport& report) {
  std::string text = fmt::format("{}: {} {} instead of {}, weights of {} instead of {}\n", Printable(arguments.out), pruned.to, pruned.what,
                                 pruned.from, FormatBytes(report.bytes), FormatBytes(report.source_bytes));
  if (!pruned.dropped.empty())
    text += fmt::format("  without layer{} {}\n", pruned.dropped.size() == 1 ? "" : "s", fmt::join(pruned.dropped, ", "));
  if (report.resumed_bytes > 0) text += fmt::format("  {} were there from an earlier call\n", FormatBytes(report.resumed_bytes));
  return text;
}

Result<std::string> Prune(FileSystem& files, const Arguments& arguments) {
  BANTAM_ASSIGN(PruneOptions options, ReadOptions(arguments));
  WatchedFiles watched(files);
  BANTAM_ASSIGN(CompressPlaces places, OpenCompressPlaces(files, watched, arguments, /*inputs=*/{}));
  const auto disk = MakeDisk();
  BANTAM_TRY(CheckRoomFor(*disk, places, TensorBytes(places.file)));
  BANTAM_TRY(CheckBeforeMeasuring(places.file, arguments, options));
  CompressReader reader;
  BANTAM_TRY(LoadSource(files, places, arguments, &reader));
  BANTAM_TRY(ReserveWork(PruneWork(places.file, options), &reader));
  BANTAM_TRY(MeasureSource(files, arguments, &reader));
  BANTAM_ASSIGN(Json described, DescribeInputs(watched, places.file, arguments, reader.progress));
  std::unique_ptr<ThreadPool> own_pool;
  if (!reader.model) {
    BANTAM_ASSIGN(own_pool, MakePool(files, arguments.run.threads));
  }
  ThreadPool& pool = reader.model ? *reader.model->loaded.pool : *own_pool;
  BANTAM_TRY(ChooseWhatGoes(arguments, reader, &options, &described));
  options.importance = reader.importance ? &*reader.importance : nullptr;
  options.calibrator = reader.calibration ? &*reader.calibration : nullptr;
  BANTAM_ASSIGN(options.kernels, ChooseKernels("auto"));
  options.pool = &pool;
  options.gram_bytes_max = ReserveGrams(&reader, options.gram_bytes_max);
  BANTAM_ASSIGN(PrunedModel pruned, PruneModel(places.file, options));
  BANTAM_ASSIGN(const QuantizeReport report, WriteMade({files, *disk, places, watched},
                                                       {pruned.file, pruned.formats, pruned.selection, described}, pool, reader.progress));
  Json json = {{"version", 1},
               {"path", arguments.out},
               {"pruned", pruned.report.what},
               {"from", pruned.report.from},
               {"to", pruned.report.to},
               {"weights_bytes", report.bytes},
               {"source_weights_bytes", report.source_bytes},
               {"resumed_bytes", report.resumed_bytes},
               {"inputs", described}};
  BANTAM_ASSIGN(const std::string cost, FinishCompression(files, places, arguments, &reader, pool, &json));
  if (arguments.json) return DumpJson(json, /*indent=*/2) + "\n";
  return MadeText(arguments, pruned.report, report) + cost + SpeedText(json, options.what == PruneWhat::kWeights ? kZerosNote : "");
}

}  // namespace

void AddPruneVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("prune", "a model of fewer layers, narrower feed-forwards or fewer heads, and what that cost");
  AddCompressOptions(*verb, arguments.get(), "a text like those that the model will read: what goes is what does least on it");
  verb->add_option("--layers", arguments->layers, "whole layers that go, so many or a percentage: those that change what is said least");
  verb->add_option("--ffn", arguments->ffn, "percentage of the feed-forwards' width that goes (what is left is a multiple of 32 or 256)");
  verb->add_option("--heads", arguments->heads, "percentage of the attention heads that go; those that share keys and values stay groups");
  verb->add_flag("!--no-refit", arguments->refit, "of --ffn and --heads: what stays does not make good for what goes");
  verb->add_option("--method", arguments->method, "single weights become zero: magnitude, wanda or sparsegpt; no faster, for experiments");
  verb->add_option("--sparsity", arguments->sparsity, "how many of them: 50%, or 2:4, two of every four neighbours");
  verb->footer("Example: bantam prune model.gguf smaller.gguf --ffn 25% --calibrate text.txt --text other.txt");
  verb->callback([=] { *action = [=](FileSystem& files) { return RunCompression([&] { return Prune(files, *arguments); }); }; });
}

}  // namespace bantam
