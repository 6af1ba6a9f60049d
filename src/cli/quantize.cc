// bantam quantize: a model with smaller weights, and what that cost (docs/compression.md).
#include "compress/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>

#include "base/bytes.h"
#include "base/json.h"
#include "base/watched_files.h"
#include "cli/comparison.h"
#include "cli/model_folder.h"
#include "cli/out_file.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "compress/auto_recipe.h"
#include "formats/package.h"
#include "model/open.h"
#include "model/pack.h"

namespace bantam {
namespace {

constexpr size_t kRecipeBytesMax = size_t{1} << 20;
constexpr std::string_view kAuto = "auto";
// What a file of formats that were chosen one by one calls itself.
constexpr std::string_view kAutoType = "Q4_K_M";

struct Arguments {
  std::string source;
  std::string out;
  std::string type;
  std::string recipe;
  std::string calibrate;
  std::string imatrix;
  std::string save_imatrix;
  std::string text;
  std::string report;
  std::string memory;
  size_t calibrate_tokens = 16384;
  size_t windows = 16;
  bool pure = false;
  bool feedback = true;
  bool compare = true;
  bool force = false;
  bool json = false;
  RunOptions run;
};

// What is in memory besides the file that is read: the model that is calibrated on and compared with, if either is wanted.
struct Reader {
  std::optional<WindowModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
  CalibrationWindows windows;
  std::optional<Calibrator> calibration;
  std::optional<Importance> importance;
  WindowText text;  // that what was made is compared on
  Progress progress = MakeProgressLine();
};

std::string FileName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// A package has the vocabulary twice: as it is used, and, unless it was left away, as GGUF has it.
Result<ModelFile> OpenSource(FileSystem& files, const std::string& path) {
  if (!IsPackage(files, path)) return OpenModel(files, path);
  BANTAM_ASSIGN(ModelFile file, OpenPackage(files, path, {.source_vocabulary = true}));
  if (file.tokenizer.empty() || file.metadata.Find("tokenizer.ggml.tokens") != nullptr ||
      file.metadata.Find("tokenizer.huggingface.json") != nullptr || file.metadata.Find("tokenizer.sentencepiece.model") != nullptr) {
    return file;
  }
  return Error(Code::kNotFound,
               fmt::format("{}: made without the source's vocabulary, which a GGUF file needs; quantize its source", path));
}

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

// What is written takes the place of nothing but files, and of none that is read.
Status CheckPlaces(FileSystem& files, const std::string& path, const ModelFile& file, const Arguments& arguments, const std::string& made) {
  std::vector<std::string> inputs = file.further_paths;
  inputs.push_back(path);
  if (const auto entries = files.List(path); entries.ok()) {
    for (const FileSystem::Entry& entry : *entries) inputs.push_back(fmt::format("{}/{}", path, entry.name));
  }
  for (const std::string& input : {arguments.calibrate, arguments.text, arguments.imatrix, arguments.recipe}) {
    if (!input.empty() && input != kAuto) inputs.push_back(input);
  }
  std::vector<std::string> outputs = {arguments.out, made + ".part", made + ".part.json"};
  if (made != arguments.out) outputs.push_back(made);
  for (const std::string& output : {arguments.report, arguments.save_imatrix}) {
    if (!output.empty()) outputs.push_back(output);
  }
  const auto place = [](const std::string& output) {
    std::error_code unknown;
    const auto whole = std::filesystem::weakly_canonical(output, unknown);
    return unknown ? std::filesystem::path(output) : whole;
  };
  for (const std::string& output : outputs) {
    BANTAM_TRY(CheckNewFile(output, inputs));
    if (std::count_if(outputs.begin(), outputs.end(), [&](const std::string& other) { return place(other) == place(output); }) > 1) {
      return Error(Code::kInvalidArgument, fmt::format("{}: named for two results; give each a name of its own", output));
    }
  }
  return Ok();
}

// Of a result, but for what an earlier call has left of it.
Status CheckRoomFor(Disk& disk, const std::string& made, uint64_t bytes) {
  std::error_code none;
  const uintmax_t there = std::filesystem::file_size(made + ".part", none);
  const uint64_t kept = none ? 0 : std::min<uint64_t>(bytes, there);
  return CheckRoom(disk, FolderOf(made), bytes - kept, kRoomRemedy).With(made);
}

// Loads the model where a text is to be read, and measures it.
Status MeasureModel(FileSystem& files, const std::string& path, const Arguments& arguments, Reader* reader) {
  if (!arguments.imatrix.empty()) {
    BANTAM_ASSIGN(reader->importance, ReadImportance(files, arguments.imatrix));
  }
  const bool compares = arguments.compare && !(arguments.calibrate.empty() && arguments.text.empty());
  if (arguments.calibrate.empty() && !compares) return Ok();
  BANTAM_ASSIGN(reader->model, LoadWindowModel(files, path, arguments.run, &reader->tokenizer));
  if (compares) {
    const std::string& named = arguments.text.empty() ? arguments.calibrate : arguments.text;
    BANTAM_ASSIGN(reader->text, ReadWindowText(files, *reader->tokenizer, named));
    // Known before hours of work.
    if (!arguments.text.empty() && reader->text.tokens.size() < reader->model->runner->window()) {
      return Error(Code::kInvalidArgument, fmt::format("{}: {} tokens, and a window has {}; name a longer text, or say --no-compare", named,
                                                       reader->text.tokens.size(), reader->model->runner->window()));
    }
  }
  if (arguments.calibrate.empty()) return Ok();
  BANTAM_ASSIGN(const WindowText text, ReadWindowText(files, *reader->tokenizer, arguments.calibrate));
  const WindowSizes sizes = {reader->model->runner->window(), arguments.calibrate_tokens, text.bos.value_or(UINT32_MAX)};
  BANTAM_ASSIGN(reader->windows, CutWindows(text.tokens, sizes).With(arguments.calibrate));
  const Loaded& loaded = reader->model->loaded;
  reader->calibration.emplace(*loaded.model, *reader->model->runner, reader->windows, *loaded.pool, reader->progress);
  if (!reader->importance) {
    BANTAM_ASSIGN(reader->importance, reader->calibration->MeasureImportance());
    reader->importance->text = FileName(arguments.calibrate);
  }
  if (!arguments.save_imatrix.empty()) BANTAM_TRY(WriteImportance(files, arguments.save_imatrix, *reader->importance));
  return Ok();
}

// Formats by which the model fits --memory, with a context that is of use.
Status ChooseByMemory(ModelFile& file, const Arguments& arguments, const KernelSet& kernels, const Reader& reader, ThreadPool& pool,
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

// Everything that the bytes of the result depend on, but the recipe.
Result<Json> DescribeInputs(FileSystem& files, const ModelFile& file, const Arguments& arguments, const Progress& progress) {
  Json sources = Json::array();
  BANTAM_ASSIGN(const auto digests, DigestSources(files, file, progress));
  for (const SourceFile& source : digests) sources.push_back({{"name", source.name}, {"sha256", HexOf(source.digest)}});
  Json inputs = {{"bantam", BANTAM_VERSION}, {"sources", sources}};
  const std::pair<const char*, const std::string&> others[] = {{"calibration", arguments.calibrate}, {"imatrix", arguments.imatrix}};
  for (const auto& [what, path] : others) {
    if (path.empty()) continue;
    BANTAM_ASSIGN(const auto mapping, files.Map(path));
    inputs[what] = {{"name", FileName(path)}, {"sha256", HexOf(Sha256Of(mapping->bytes()))}};
  }
  if (!arguments.calibrate.empty()) {
    inputs["calibration"]["tokens_max"] = arguments.calibrate_tokens;
    inputs["calibration"]["feedback"] = arguments.feedback;
  }
  return inputs;
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

// Tensors whose rows do not divide by the blocks of what was wanted, by their width.
std::string FallbackText(const ModelFile& file, const QuantizeReport& report) {
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
  return text;
}

Json TensorJson(const TensorReport& tensor) {
  Json json = {{"name", tensor.name}, {"from", Info(tensor.from).name}, {"to", Info(tensor.to).name}};
  if (tensor.to != tensor.wanted) json["wanted"] = Info(tensor.wanted).name;
  json["bytes"] = tensor.bytes;
  if (tensor.error) json["error"] = *tensor.error;
  if (tensor.error) json["importance"] = tensor.weighted;
  if (tensor.error) json["feedback"] = tensor.feedback;
  return json;
}

struct Outcome {
  QuantizeReport report;
  std::string fallbacks;
  Json json;
  std::string comparison;
};

Status CompareResult(FileSystem& files, const Arguments& arguments, const std::string& made, Reader* reader, Outcome* outcome) {
  if (!arguments.compare || !reader->model) return Ok();
  const std::string& path = arguments.text.empty() ? arguments.calibrate : arguments.text;
  BANTAM_ASSIGN(WindowModel candidate, LoadWindowModel(files, made, arguments.run, /*tokenizer=*/nullptr));
  BANTAM_ASSIGN(const MeasuredPair pair, MeasurePair(*reader->model, candidate, reader->text, arguments.windows).With(path));
  outcome->json["comparison"] = PairJson(*reader->model, candidate, pair);
  outcome->json["comparison"]["text"] = FileName(path);
  outcome->comparison = PairText(*reader->model, candidate, pair);
  if (arguments.text.empty()) outcome->comparison += "  measured on the text that it was calibrated on; --text FILE names another\n";
  return Ok();
}

Status WriteReport(FileSystem& files, const std::string& path, const Json& json) {
  const std::string text = DumpJson(json, /*indent=*/2) + "\n";
  BANTAM_ASSIGN(const auto writer, files.Create(path));
  BANTAM_TRY(writer->Append(AsBytes(text)));
  return writer->Commit();
}

Json ReportJson(const Arguments& arguments, const Reader& reader, const QuantizeReport& report) {
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

// A package of the file that was made, with the report and the digests of what it was made of.
Status PackResult(FileSystem& files, const ModelFile& source, const std::string& made, const Arguments& arguments, const Json& report,
                  ThreadPool& pool) {
  WatchedFiles watched(files);
  BANTAM_ASSIGN(ModelFile file, OpenModel(watched, made));
  PackOptions options;
  options.tool_version = BANTAM_VERSION;
  options.watched = &watched;
  options.report = DumpJson(report, /*indent=*/-1);
  BANTAM_ASSIGN(options.sources, DigestSources(files, source, MakeProgressLine()));
  BANTAM_ASSIGN(options.licence, FindLicence(files, source));
  BANTAM_TRY(PackModel(files, file, arguments.out, options, pool, MakeProgressLine()));
  return Ok();
}

Result<std::string> Quantize(FileSystem& files, const Arguments& arguments) {
  BANTAM_TRY(CheckArguments(arguments));
  BANTAM_ASSIGN(Recipe recipe, MakeRecipe(files, arguments));
  BANTAM_ASSIGN(const std::string path, FindModel(files, arguments.source));
  WatchedFiles watched(files);
  BANTAM_ASSIGN(ModelFile file, OpenSource(watched, path));
  BANTAM_TRY(CheckOut(files, path, file.further_paths, arguments.out, arguments.force));
  const bool package = arguments.out.ends_with(".bantam");
  const std::string made = package ? arguments.out + ".gguf" : arguments.out;
  if (package) BANTAM_TRY(CheckOut(files, path, file.further_paths, made, arguments.force));
  BANTAM_TRY(CheckPlaces(files, path, file, arguments, made));
  Reader reader;
  // What cannot be done is known before anything is measured.
  BANTAM_ASSIGN(const QuantizeReport planned, PlanQuantize(file, QuantizeOptions{recipe}));
  const auto disk = MakeDisk();
  // What --recipe auto chooses is not known yet.
  if (arguments.recipe != kAuto) BANTAM_TRY(CheckRoomFor(*disk, made, planned.bytes * (package ? 2 : 1)));
  BANTAM_TRY(MeasureModel(files, path, arguments, &reader));
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  BANTAM_ASSIGN(const Json inputs, DescribeInputs(watched, file, arguments, reader.progress));
  std::unique_ptr<ThreadPool> own_pool;
  if (!reader.model) {
    BANTAM_ASSIGN(own_pool, MakePool(files, arguments.run.threads));
  }
  ThreadPool& pool = reader.model ? *reader.model->loaded.pool : *own_pool;
  if (arguments.recipe == kAuto) BANTAM_TRY(ChooseByMemory(file, arguments, *kernels, reader, pool, &recipe));
  QuantizeOptions options = {recipe};
  options.importance = reader.importance ? &*reader.importance : nullptr;
  options.feedback = reader.calibration && arguments.feedback ? &*reader.calibration : nullptr;
  options.kernels = kernels;
  options.watched = &watched;
  if (reader.model) {
    // What the planner left, and half of it, for the factor of one lies beside them.
    const MemoryBudget& budget = *reader.model->loaded.budget;
    options.gram_bytes_max = std::min(options.gram_bytes_max, (budget.limit_bytes() - budget.used_bytes()) / 2);
  }
  options.identity = DumpJson(inputs, /*indent=*/-1);
  Outcome outcome;
  BANTAM_ASSIGN(outcome.report, QuantizeModel(files, *disk, file, made, options, pool, reader.progress));
  EndProgressLine();
  const QuantizeReport& report = outcome.report;
  outcome.json = ReportJson(arguments, reader, report);
  outcome.json["inputs"] = inputs;
  // The model is made, whatever can be said of it.
  if (const Status compared = CompareResult(files, arguments, made, &reader, &outcome); !compared.ok()) {
    outcome.comparison = fmt::format("  what it cost could not be measured: {}\n", Printable(compared.error().message()));
    outcome.json["comparison_error"] = compared.error().message();
  }
  if (package) {
    BANTAM_TRY(PackResult(files, file, made, arguments, outcome.json, pool));
    BANTAM_TRY(files.Remove(made));
  }
  if (!arguments.report.empty()) BANTAM_TRY(WriteReport(files, arguments.report, outcome.json));
  if (arguments.json) return DumpJson(outcome.json, /*indent=*/2) + "\n";
  std::string text = fmt::format("{}: weights of {} instead of {}, {:.2f} bits each ({})\n", Printable(arguments.out),
                                 FormatBytes(report.bytes), FormatBytes(report.source_bytes), report.bits_per_weight(), TypesText(report));
  if (report.resumed_bytes > 0) text += fmt::format("  {} were there from an earlier call\n", FormatBytes(report.resumed_bytes));
  if (!report.own_vocabulary.empty()) text += fmt::format("  only Bantam reads its vocabulary: {}\n", report.own_vocabulary);
  text += FallbackText(file, report) + outcome.comparison;
  if (arguments.compare && outcome.comparison.empty()) {
    text += "  what it cost was not measured; give --text FILE, or run bantam compare\n";
  }
  return text;
}

}  // namespace

void AddQuantizeVerb(CLI::App& app, Action* action) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("quantize", "a model with smaller weights, as a GGUF file or a package, and what that cost");
  verb->add_option("MODEL", arguments->source, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_option("OUT", arguments->out, "the GGUF file, or a package where its name ends in .bantam")->required();
  verb->add_option("--type", arguments->type, fmt::format("weight format or mix: {}", fmt::join(Recipe::Names(), ", ")));
  verb->add_option("--recipe", arguments->recipe,
                   "a file of lines NAME TYPE for tensors that are to differ (* and ? stand for others), or auto: what fits --memory");
  verb->add_option("--memory", arguments->memory,
                   "for --recipe auto: what the model may take when it runs, such as 600M, with 1,024 tokens");
  verb->add_flag("--pure", arguments->pure, "the same format for all matrices, the output matrix too");
  verb->add_option("--calibrate", arguments->calibrate,
                   "a text like those that the model will read: weights count by what they are multiplied with, and errors are fed back");
  verb->add_option("--calibrate-tokens", arguments->calibrate_tokens, "tokens of it to read, spread over the text; 0: all")
      ->check(WholeNumber())
      ->capture_default_str();
  verb->add_option("--imatrix", arguments->imatrix, "importance of columns from a file, as llama.cpp's imatrix tool writes them");
  verb->add_option("--save-imatrix", arguments->save_imatrix, "keep what --calibrate measured in such a file");
  verb->add_flag("!--no-feedback", arguments->feedback, "leave away error feedback: faster, and worse");
  verb->add_option("--text", arguments->text, "a text to measure the loss on (default: that of --calibrate)");
  verb->add_option("--windows", arguments->windows, "windows of it to measure; 0: all")->check(WholeNumber())->capture_default_str();
  verb->add_flag("!--no-compare", arguments->compare, "do not measure the loss");
  verb->add_option("--report", arguments->report, "a file for everything that is known of the result, as JSON");
  verb->add_option("-t,--threads", arguments->run.threads, "threads (default, and 0: the usable physical cores)")->check(WholeNumber());
  verb->add_flag("-f,--force", arguments->force, "replace OUT where it is there already");
  verb->add_flag("--json", arguments->json, "print the report as JSON");
  verb->footer(
      "Examples: bantam quantize model.gguf model-q4.gguf --type Q4_K_M --calibrate text.txt\n"
      "          bantam quantize model/ model-q8.gguf --type Q8_0");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      DeferInterrupts();
      const Result<std::string> text = Quantize(files, *arguments);
      EndProgressLine();
      if (!text.ok()) return Fail(text.error());
      const int code = PrintResult(*text);
      return code == 0 && Interrupted() ? ExitStatus(Code::kCancelled) : code;
    };
  });
}

}  // namespace bantam
