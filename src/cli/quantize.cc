// bantam quantize: a model with smaller weights, and what that cost (docs/compression.md).
#include "compress/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/json.h"
#include "base/watched_files.h"
#include "cli/compressing.h"
#include "cli/out_file.h"
#include "cli/scaling_step.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "compress/auto_recipe.h"
#include "compress/correction.h"

namespace bantam {
namespace {

constexpr size_t kRecipeBytesMax = size_t{1} << 20;
constexpr std::string_view kAuto = "auto";
constexpr std::string_view kSquares = "squares";
constexpr std::string_view kHalfQuadratic = "hqq";
// What a file of formats that were chosen one by one calls itself.
constexpr std::string_view kAutoType = "Q4_K_M";

struct Arguments : CompressArguments {
  std::string type;
  std::string recipe;
  std::string memory;
  size_t correct = 0;
  std::string search;
  bool pure = false;
  bool feedback = true;
  bool awq = false;
  bool smooth = false;
  ScalingOptions scaling = {};
};

Status CheckArguments(const Arguments& arguments) {
  if (arguments.recipe == kAuto && arguments.memory.empty()) {
    return Error(Code::kInvalidArgument, "--recipe auto: expected --memory SIZE too, which the model is to fit");
  }
  if (arguments.recipe != kAuto && !arguments.memory.empty()) {
    return Error(Code::kInvalidArgument, "--memory: only --recipe auto chooses formats by it");
  }
  if (arguments.recipe == kAuto && !arguments.type.empty()) {
    return Error(Code::kInvalidArgument, "--recipe auto chooses the format of each tensor; leave --type away");
  }
  if (arguments.type.empty() && arguments.recipe != kAuto) {
    return Error(Code::kInvalidArgument,
                 fmt::format("--type: expected one of {}; Q4_K_M is what most small devices want", fmt::join(Recipe::Names(), ", ")));
  }
  const bool scales = arguments.awq || arguments.smooth || arguments.scaling.static_activations;
  if (scales && arguments.calibrate.empty()) {
    return Error(Code::kInvalidArgument,
                 "--awq, --smooth, --static-activations: expected --calibrate TEXT too; what is large in activations decides");
  }
  if (arguments.awq && arguments.smooth) {
    return Error(Code::kInvalidArgument, "--awq scales for weights of few bits, --smooth for activations of eight; leave one away");
  }
  if (!(arguments.scaling.smooth_alpha > 0 && arguments.scaling.smooth_alpha < 1)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("--smooth-alpha {}: expected a number between 0 and 1", arguments.scaling.smooth_alpha));
  }
  if (!arguments.search.empty() && arguments.search != kSquares && arguments.search != kHalfQuadratic) {
    return Error(Code::kInvalidArgument, fmt::format("--search {}: expected {} or {}", arguments.search, kSquares, kHalfQuadratic));
  }
  if (arguments.correct > 0 && arguments.recipe == kAuto) {
    return Error(Code::kInvalidArgument, "--correct: of --type; --recipe auto spends the memory on larger formats");
  }
  if (!arguments.save_imatrix.empty() && arguments.calibrate.empty()) {
    return Error(Code::kInvalidArgument, "--save-imatrix: there is nothing to save without --calibrate TEXT");
  }
  return Ok();
}

Result<Recipe> MakeRecipe(FileSystem& files, const Arguments& arguments) {
  if (arguments.recipe == kAuto) return Recipe::Make(kAutoType);
  BANTAM_ASSIGN(Recipe recipe, Recipe::Make(arguments.type).With("--type"));
  if (arguments.pure) recipe.MakePure();
  if (arguments.recipe.empty()) return recipe;
  BANTAM_ASSIGN(const std::string text, files.ReadText(arguments.recipe, kRecipeBytesMax));
  BANTAM_TRY(recipe.Override(text).With(arguments.recipe));
  return recipe;
}

// Formats by which the model fits --memory, with a context that is of use.
Status ChooseByMemory(ModelFile& file, const Arguments& arguments, const KernelSet& kernels, const CompressReader& reader, ThreadPool& pool,
                      Recipe* recipe) {
  BANTAM_ASSIGN(const uint64_t limit, ParseBytes(arguments.memory, "--memory"));
  BANTAM_ASSIGN(const ModelOutline outline, OutlineModel(file, kernels));
  PlanOptions plan;
  plan.context = std::min(outline.program.context_max, kContextUseful);
  plan.threads = pool.size();
  const MemoryPlan now = PlanMemory(outline.program, plan, {.vocabulary = 0, .header = file.held_bytes()});
  BANTAM_ASSIGN(const auto lists, PredictLosses(file, reader.importance ? &*reader.importance : nullptr, pool, reader.progress));
  BANTAM_ASSIGN(const AutoChoice choice,
                ChooseTypes(lists, now.total_bytes() - now.weights_bytes + KeptBytes(file), limit).With(arguments.source));
  for (const TensorChoice& tensor : choice.tensors) recipe->Set(tensor.name, tensor.type);
  return Ok();
}

std::string TypesText(const QuantizeReport& report) {
  std::map<std::string_view, size_t> counts;
  for (const TensorReport& tensor : report.tensors) {
    if (tensor.to != tensor.from || Info(tensor.to).decode != nullptr) ++counts[Info(tensor.to).name];
  }
  std::vector<std::string> parts;
  for (const auto& [name, count] : counts) parts.push_back(fmt::format("{} {}", count, name));
  return fmt::format("{}", fmt::join(parts, ", "));
}

// Groups that are smaller than was wanted.
std::string GroupText(const ModelFile& file, const QuantizeReport& report, const Recipe& recipe) {
  const size_t wanted = recipe.type().group;
  std::map<std::pair<uint64_t, size_t>, size_t> counts;
  for (size_t i = 0; i < report.tensors.size(); ++i) {
    const TensorReport& tensor = report.tensors[i];
    if (tensor.to != recipe.type().type || wanted == kWholeRow || tensor.group == 0 || tensor.group == wanted) continue;
    ++counts[{file.directory.tensors()[i].columns(), tensor.group}];
  }
  std::string text;
  for (const auto& [key, count] : counts) {
    text += fmt::format("  rows of {} do not divide by groups of {}: groups of {} in {} tensor{}\n", key.first, wanted, key.second, count,
                        count == 1 ? "" : "s");
  }
  return text;
}

// Tensors whose rows do not divide by the blocks of what was wanted, by their width.
std::string FallbackText(const ModelFile& file, const QuantizeReport& report, const Recipe& recipe) {
  std::map<std::tuple<uint64_t, DType, DType>, std::vector<std::string>> by_width;
  for (size_t i = 0; i < report.tensors.size(); ++i) {
    const TensorReport& tensor = report.tensors[i];
    if (tensor.to != tensor.wanted) {
      by_width[{file.directory.tensors()[i].columns(), tensor.wanted, tensor.to}].push_back(tensor.name);
    }
  }
  std::string text;
  for (const auto& [key, names] : by_width) {
    const auto& [columns, wanted, to] = key;
    text += fmt::format("  rows of {} do not divide by blocks of {}: {} instead of {} for {}{}\n", columns, Info(wanted).block_elements,
                        Info(to).name, Info(wanted).name, Printable(names.front()),
                        names.size() == 1 ? "" : fmt::format(" and {} more", names.size() - 1));
  }
  return text + GroupText(file, report, recipe);
}

std::string CorrectionText(const Arguments& arguments, const QuantizeReport& report) {
  if (arguments.correct == 0) return "";
  size_t corrected = 0;
  uint64_t bytes = 0;
  for (const TensorReport& tensor : report.tensors) {
    corrected += tensor.correction_rank > 0 ? 1 : 0;
    bytes += tensor.correction_bytes;
  }
  return fmt::format("  {} matrices have products of rank {} beside them for what they lost ({}); only Bantam reads such files\n",
                     corrected, arguments.correct, FormatBytes(bytes));
}

Json TensorJson(const TensorReport& tensor) {
  Json json = {{"name", tensor.name}, {"from", Info(tensor.from).name}, {"to", Info(tensor.to).name}};
  if (tensor.to != tensor.wanted) json["wanted"] = Info(tensor.wanted).name;
  json["bytes"] = tensor.bytes;
  if (tensor.group != 0) json["group"] = tensor.group;
  if (tensor.error) json["error"] = *tensor.error;
  if (tensor.error) json["importance"] = tensor.weighted;
  if (tensor.error) json["feedback"] = tensor.feedback;
  if (tensor.correction_rank > 0) json["correction"] = {{"rank", tensor.correction_rank}, {"bytes", tensor.correction_bytes}};
  return json;
}

Json ReportJson(const Arguments& arguments, const CompressReader& reader, const QuantizeReport& report) {
  Json tensors = Json::array();
  for (const TensorReport& tensor : report.tensors) tensors.push_back(TensorJson(tensor));
  Json json = {{"version", 1},
               {"path", arguments.out},
               {"type", arguments.recipe == kAuto ? kAuto : Recipe::Make(arguments.type)->type().name},
               {"weights_bytes", report.bytes},
               {"source_weights_bytes", report.source_bytes},
               {"bits_per_weight", report.bits_per_weight()},
               {"resumed_bytes", report.resumed_bytes},
               {"tensors", tensors}};
  if (reader.importance) json["importance"] = {{"text", reader.importance->text}, {"windows", reader.importance->windows}};
  if (reader.calibration) json["calibration_tokens"] = reader.windows.tokens();
  return json;
}

// For the work on the matrix that takes most of it, before anything is measured.
Status ReserveMemory(const ModelFile& file, const Arguments& arguments, QuantizeOptions options, CompressReader* reader) {
  options.feedback = reader->calibration && arguments.feedback ? &*reader->calibration : nullptr;
  BANTAM_ASSIGN(const QuantizeReport planned, PlanQuantize(file, options));
  return ReserveWork(QuantizeWork(file, planned, /*made=*/arguments.awq || arguments.smooth || arguments.scaling.even_keys), reader);
}

void AddChart(const QuantizeReport& report, CompressReader* reader) {
  std::vector<std::pair<std::string, double>> errors;
  for (const TensorReport& tensor : report.tensors) {
    if (tensor.error) errors.emplace_back(tensor.name, *tensor.error);
  }
  if (!errors.empty()) reader->charts.push_back(ChartOfTensors("Weights: squared error of each matrix, by layer", errors));
}

Result<std::string> Quantize(FileSystem& files, const Arguments& arguments) {
  BANTAM_TRY(CheckArguments(arguments));
  BANTAM_ASSIGN(Recipe recipe, MakeRecipe(files, arguments));
  WatchedFiles watched(files);
  std::vector<std::string> inputs;
  if (!arguments.recipe.empty() && arguments.recipe != kAuto) inputs.push_back(arguments.recipe);
  BANTAM_ASSIGN(CompressPlaces places, OpenCompressPlaces(files, watched, arguments, inputs));
  QuantizeOptions options = {recipe};
  std::set<std::string, std::less<>> correctable;
  if (arguments.correct > 0) {
    BANTAM_ASSIGN(correctable, CorrectableMatrices(places.file));
    options.correct_rank = arguments.correct;
    options.correctable = &correctable;
  }
  // What cannot be done is known before anything is measured.
  options.own_formats = places.package;
  BANTAM_ASSIGN(const QuantizeReport planned, PlanQuantize(places.file, options));
  const auto disk = MakeDisk();
  // What --recipe auto chooses is not known yet.
  const bool compared = arguments.compare && (arguments.awq || arguments.smooth);
  if (arguments.recipe != kAuto) BANTAM_TRY(CheckRoomFor(*disk, places, planned.bytes, compared));
  CompressReader reader;
  BANTAM_TRY(LoadSource(files, places, arguments, &reader));
  BANTAM_TRY(ReserveMemory(places.file, arguments, options, &reader));
  BANTAM_TRY(MeasureSource(files, arguments, &reader));
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  BANTAM_ASSIGN(Json described, DescribeInputs(watched, places.file, arguments, reader.progress));
  if (!arguments.calibrate.empty()) described["calibration"]["feedback"] = arguments.feedback;
  if (!arguments.search.empty()) described["search"] = arguments.search;
  if (arguments.correct > 0) described["correction"] = {{"rank", arguments.correct}};
  std::unique_ptr<ThreadPool> own_pool;
  if (!reader.model) {
    BANTAM_ASSIGN(own_pool, MakePool(files, arguments.run.threads));
  }
  ThreadPool& pool = reader.model ? *reader.model->loaded.pool : *own_pool;
  if (arguments.recipe == kAuto) BANTAM_TRY(ChooseByMemory(places.file, arguments, *kernels, reader, pool, &recipe));
  options.importance = reader.importance ? &*reader.importance : nullptr;
  options.feedback = reader.calibration && arguments.feedback ? &*reader.calibration : nullptr;
  options.scales = arguments.search == kHalfQuadratic ? ScaleRule::kHalfQuadratic
                   : arguments.search == kSquares     ? ScaleRule::kSquares
                                                      : ScaleRule::kUsual;
  options.kernels = kernels;
  options.watched = &watched;
  if (options.feedback != nullptr || arguments.awq) options.gram_bytes_max = ReserveGrams(&reader, options.gram_bytes_max);
  options.identity = DumpJson(described, /*indent=*/-1);
  ScalingOptions scaling = arguments.scaling;
  scaling.static_activations = scaling.static_activations || arguments.smooth;
  scaling.scaling = arguments.awq ? Scaling::kAwq : arguments.smooth ? Scaling::kSmooth : Scaling::kAbsent;
  ScalingStep step;
  if (scaling.scaling != Scaling::kAbsent || scaling.static_activations || scaling.even_keys) {
    BANTAM_ASSIGN(step, QuantizeWithScaling({files, *disk, places, arguments, reader, pool}, options, scaling));
  } else {
    BANTAM_ASSIGN(step.report, QuantizeModel(files, *disk, places.file, places.made, options, pool, reader.progress));
  }
  const QuantizeReport& report = step.report;
  EndProgressLine();
  Json json = ReportJson(arguments, reader, report);
  if (!step.json.is_null()) json.update(step.json);
  json["inputs"] = described;
  if (!arguments.picture.empty()) AddChart(report, &reader);
  BANTAM_ASSIGN(const std::string cost, FinishCompression(files, places, arguments, &reader, pool, &json));
  if (arguments.json) return DumpJson(json, /*indent=*/2) + "\n";
  std::string text = fmt::format("{}: weights of {} instead of {}, {:.2f} bits each ({})\n", Printable(arguments.out),
                                 FormatBytes(report.bytes), FormatBytes(report.source_bytes), report.bits_per_weight(), TypesText(report));
  if (report.resumed_bytes > 0) text += fmt::format("  {} were there from an earlier call\n", FormatBytes(report.resumed_bytes));
  if (!report.own_vocabulary.empty()) text += fmt::format("  only Bantam reads its vocabulary: {}\n", report.own_vocabulary);
  return text + CorrectionText(arguments, report) + FallbackText(places.file, report, recipe) + step.text + cost;
}

}  // namespace

void AddQuantizeVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<Arguments>();
  arguments->draws_errors = true;
  CLI::App* verb = app.add_subcommand("quantize", "a model with smaller weights, as a GGUF file or a package, and what that cost");
  AddCompressOptions(*verb, arguments.get(),
                     "a text like those that the model will read: weights count by what they are multiplied with, and errors are fed back");
  verb->add_option("--type", arguments->type, fmt::format("weight format or mix: {}", fmt::join(Recipe::Names(), ", ")));
  verb->add_option("--recipe", arguments->recipe,
                   "a file of lines NAME TYPE for tensors that are to differ (* and ? stand for others), or auto: what fits --memory");
  verb->add_option("--memory", arguments->memory,
                   "for --recipe auto: what the model may take when it runs, such as 600M, with 1,024 tokens");
  verb->add_flag("--pure", arguments->pure, "the same format for all matrices, the output matrix too");
  verb->add_option("--imatrix", arguments->imatrix, "importance of columns from a file, as llama.cpp's imatrix tool writes them");
  verb->add_option("--save-imatrix", arguments->save_imatrix, "keep what --calibrate measured in such a file");
  verb->add_flag("--awq", arguments->awq,
                 "scale activations so that weights which matter most lose least (AWQ); undone where the divergence is larger for it");
  verb->add_flag(
      "--static-activations", arguments->scaling.static_activations,
      "measure one step for the 8-bit activations of each product, as microcontrollers and NPUs round them; they are in the report");
  verb->add_flag(
      "--smooth", arguments->smooth,
      "the same, behind scales that make activations easier to round (SmoothQuant); undone where the divergence is larger for it");
  verb->add_option("--smooth-alpha", arguments->scaling.smooth_alpha, "how much of the difficulty weights take")->capture_default_str();
  verb->add_flag("--even-keys", arguments->scaling.even_keys,
                 "divide what is large in keys, as biases make it, and multiply queries: the same model, whose keys bear few bits (--kv)");
  verb->add_option("--correct", arguments->correct,
                   "keep a product of this rank beside each matrix for what it lost, such as 32; 0: none. Only Bantam reads that")
      ->check(CLI::Range(size_t{0}, size_t{1024}));
  verb->add_option("--search", arguments->search,
                   "how scales are found without a text: squares (the least squared error, for formats with a plain rule, too), or hqq");
  verb->add_flag("!--no-feedback", arguments->feedback, "leave away error feedback: faster, and worse");
  verb->footer(
      "Examples: bantam quantize model.gguf model-q4.gguf --type Q4_K_M --calibrate text.txt\n"
      "          bantam quantize model/ model-q8.gguf --type Q8_0");
  verb->callback([=] { *action = [=](FileSystem& files) { return RunCompression([&] { return Quantize(files, *arguments); }); }; });
}

}  // namespace bantam
