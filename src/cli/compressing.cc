#include "cli/compressing.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "base/bytes.h"
#include "cli/model_folder.h"
#include "cli/out_file.h"
#include "cli/terminal.h"
#include "formats/package.h"
#include "model/open.h"
#include "model/pack.h"

namespace bantam {
namespace {

// A model that is hardly faster is only worse.
constexpr double kFasterMin = 1.03;

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

// What is written takes the place of nothing but files, and of none that is read.
Status CheckPlaces(FileSystem& files, const CompressPlaces& places, const CompressArguments& arguments, std::vector<std::string> inputs) {
  const ModelFile& file = places.file;
  inputs.insert(inputs.end(), file.further_paths.begin(), file.further_paths.end());
  inputs.push_back(places.path);
  if (const auto entries = files.List(places.path); entries.ok()) {
    for (const FileSystem::Entry& entry : *entries) inputs.push_back(fmt::format("{}/{}", places.path, entry.name));
  }
  for (const std::string& input : {arguments.calibrate, arguments.text, arguments.imatrix}) {
    if (!input.empty()) inputs.push_back(input);
  }
  std::vector<std::string> outputs = {arguments.out, places.made + ".part", places.made + ".part.json"};
  if (places.package) outputs.push_back(places.made);
  for (const std::string& output : {arguments.report, arguments.save_imatrix, arguments.picture}) {
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

Result<std::string> CompareResult(FileSystem& files, const CompressArguments& arguments, const std::string& made, CompressReader* reader,
                                  Json* json) {
  if (!arguments.compare || !reader->model) return std::string();
  const std::string& path = arguments.text.empty() ? arguments.calibrate : arguments.text;
  BANTAM_ASSIGN(WindowModel candidate, LoadWindowModel(files, made, arguments.run, /*tokenizer=*/nullptr));
  BANTAM_ASSIGN(const MeasuredPair pair, MeasurePair(*reader->model, candidate, reader->text, arguments.windows).With(path));
  (*json)["comparison"] = PairJson(*reader->model, candidate, pair);
  (*json)["comparison"]["text"] = FileName(path);
  if (!arguments.picture.empty() && !Interrupted()) {
    BANTAM_ASSIGN(const auto errors, LayerErrorsOf(*reader->model, candidate, reader->text));
    (*json)["comparison"]["activation_errors"] = LayerErrorsJson(errors);
    if (!errors.empty()) reader->charts.push_back(ChartOfLayerErrors(errors));
  }
  std::string text = PairText(*reader->model, candidate, pair);
  if (arguments.text.empty()) text += "  measured on the text that it was calibrated on; --text FILE names another\n";
  return text;
}

Status WriteReport(FileSystem& files, const std::string& path, const Json& json) {
  const std::string text = DumpJson(json, /*indent=*/2) + "\n";
  BANTAM_ASSIGN(const auto writer, files.Create(path));
  BANTAM_TRY(writer->Append(AsBytes(text)));
  return writer->Commit();
}

// A package of the file that was made, with the report and the digests of what it was made of.
Status PackResult(FileSystem& files, const ModelFile& source, const std::string& made, const CompressArguments& arguments,
                  const Json& report, ThreadPool& pool) {
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

Result<Recipe> KeepFormats(const TensorDirectory& directory, const std::vector<DType>& formats) {
  BANTAM_ASSIGN(Recipe recipe, Recipe::Make("F16"));
  for (size_t i = 0; i < formats.size(); ++i) {
    const TensorInfo& tensor = directory.tensors()[i];
    const bool written = formats[i] == tensor.dtype || Info(formats[i]).pack != nullptr;
    recipe.Set(std::string(tensor.name), written ? formats[i] : DType::kQ8_0);
  }
  return recipe;
}

}  // namespace

std::string FileName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

Result<CompressPlaces> OpenCompressPlaces(FileSystem& files, WatchedFiles& watched, const CompressArguments& arguments,
                                          const std::vector<std::string>& inputs) {
  CompressPlaces places;
  BANTAM_ASSIGN(places.path, FindModel(files, arguments.source));
  BANTAM_ASSIGN(places.file, OpenSource(watched, places.path));
  BANTAM_TRY(CheckOut(files, places.path, places.file.further_paths, arguments.out, arguments.force));
  places.package = arguments.out.ends_with(".bantam");
  places.made = places.package ? arguments.out + ".gguf" : arguments.out;
  if (places.package) BANTAM_TRY(CheckOut(files, places.path, places.file.further_paths, places.made, arguments.force));
  BANTAM_TRY(CheckPlaces(files, places, arguments, inputs));
  return places;
}

Status CheckRoomFor(Disk& disk, const CompressPlaces& places, uint64_t bytes, bool compared) {
  const std::string& made = places.made;
  std::error_code none;
  const uintmax_t there = std::filesystem::file_size(made + ".part", none);
  const ResultSize size = {bytes, places.package, compared, none ? 0 : there};
  return CheckRoom(disk, FolderOf(made), RoomOf(size), compared ? kBothRemedy : kRoomRemedy).With(made);
}

Status LoadSource(FileSystem& files, const CompressPlaces& places, const CompressArguments& arguments, CompressReader* reader) {
  reader->progress = MakeProgressLine();
  if (arguments.run.context != 0 && arguments.run.context < kWindowMin) {
    return Error(Code::kInvalidArgument, fmt::format("--context {}: expected at least {}", arguments.run.context, kWindowMin));
  }
  if (!arguments.imatrix.empty()) {
    BANTAM_ASSIGN(reader->importance, ReadImportance(files, arguments.imatrix));
  }
  const bool compares = arguments.compare && !(arguments.calibrate.empty() && arguments.text.empty());
  if (!arguments.picture.empty() && !compares && !arguments.draws_errors) {
    return Error(Code::kInvalidArgument, "--picture: nothing to draw without a comparison; give --text FILE");
  }
  if (arguments.calibrate.empty() && !compares) {
    const SystemLimits limits = ReadSystemLimits(files, /*root=*/"", AffinityProcessors());
    BANTAM_ASSIGN(const uint64_t limit, MemoryLimitOf(limits, arguments.run.memory));
    reader->budget = std::make_shared<MemoryBudget>(limit);
    return Ok();
  }
  BANTAM_ASSIGN(reader->model, LoadWindowModel(files, places.path, arguments.run, &reader->tokenizer));
  reader->budget = reader->model->loaded.budget;
  // What the planner keeps for the process itself is not for matrices.
  BANTAM_ASSIGN(auto of_process, reader->budget->Reserve(kProcessReserveBytes, "the process"));
  reader->work.push_back(std::move(of_process));
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
  return Ok();
}

Status ReserveWork(const WorkMemory& work, CompressReader* reader) {
  if (work.bytes == 0) return Ok();
  const uint64_t left = reader->budget->limit_bytes() - reader->budget->used_bytes();
  auto reserved = reader->budget->Reserve(work.bytes, work.matrix);
  if (!reserved.ok()) {
    return Error(
        Code::kExhausted,
        fmt::format("tensor {}: work on it takes {}, and of {} of memory {} are left beside the model; allow more "
                    "(--work-memory), free some, or do it on a larger machine",
                    Printable(work.matrix), FormatBytes(work.bytes), FormatBytes(reader->budget->limit_bytes()), FormatBytes(left)));
  }
  reader->work.push_back(std::move(reserved).value());
  return Ok();
}

Status MeasureSource(FileSystem& files, const CompressArguments& arguments, CompressReader* reader) {
  if (!reader->calibration) return Ok();
  if (!reader->importance && arguments.importance) {
    BANTAM_ASSIGN(reader->importance, reader->calibration->MeasureImportance());
    reader->importance->text = FileName(arguments.calibrate);
  }
  if (!arguments.save_imatrix.empty()) BANTAM_TRY(WriteImportance(files, arguments.save_imatrix, *reader->importance));
  return Ok();
}

uint64_t ReserveGrams(CompressReader* reader, uint64_t most) {
  const uint64_t bytes = std::min(most, reader->budget->limit_bytes() - reader->budget->used_bytes());
  auto reserved = reader->budget->Reserve(bytes, "Gram matrices");
  if (!reserved.ok()) return 0;
  reader->work.push_back(std::move(reserved).value());
  return bytes;
}

Result<Json> DescribeInputs(FileSystem& files, const ModelFile& file, const CompressArguments& arguments, const Progress& progress) {
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
    inputs["calibration"]["context"] = arguments.run.context;
  }
  return inputs;
}

Result<std::string> FinishCompression(FileSystem& files, const CompressPlaces& places, const CompressArguments& arguments,
                                      CompressReader* reader, ThreadPool& pool, Json* json) {
  std::string text;
  // The model is made, whatever can be said of it.
  if (const auto compared = CompareResult(files, arguments, places.made, reader, json); compared.ok()) {
    text = *compared;
  } else {
    text = fmt::format("  what it cost could not be measured: {}\n", Printable(compared.error().message()));
    (*json)["comparison_error"] = compared.error().message();
  }
  if (places.package) {
    BANTAM_TRY(PackResult(files, places.file, places.made, arguments, *json, pool));
    BANTAM_TRY(files.Remove(places.made));
  }
  if (!arguments.picture.empty() && reader->charts.empty()) {
    text += "  no picture: nothing that can be drawn was measured (the models have different layers)\n";
  } else if (!arguments.picture.empty()) {
    BANTAM_TRY(WritePicture(files, arguments.picture, reader->charts));
  }
  if (!arguments.report.empty()) BANTAM_TRY(WriteReport(files, arguments.report, *json));
  if (arguments.compare && text.empty()) text = "  what it cost was not measured; give --text FILE, or run bantam compare\n";
  return text;
}

uint64_t TensorBytes(const ModelFile& file) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : file.directory.tensors()) bytes += tensor.size_bytes;
  return bytes;
}

Result<QuantizeReport> WriteMade(const MadePlaces& to, const MadeModel& made, ThreadPool& pool, const Progress& progress) {
  BANTAM_ASSIGN(const Recipe recipe, KeepFormats(made.file.directory, made.formats));
  QuantizeOptions writing = {recipe};
  writing.watched = &to.watched;
  writing.keep_file_type = true;
  Json identity = made.described;
  identity["selection"] = HexOf(made.selection);
  writing.identity = DumpJson(identity, /*indent=*/-1);
  BANTAM_ASSIGN(QuantizeReport report, QuantizeModel(to.files, to.disk, made.file, to.places.made, writing, pool, progress));
  EndProgressLine();
  report.source_bytes = TensorBytes(to.places.file);
  return report;
}

std::string SpeedText(const Json& json, std::string_view never_pays) {
  const Json& comparison = JsonMember(json, "comparison");
  const Json& before = JsonMember(JsonMember(comparison, "base"), "tokens_per_s");
  const Json& after = JsonMember(JsonMember(comparison, "candidate"), "tokens_per_s");
  if (!before.is_number() || !after.is_number() || before.get<double>() <= 0 || after.get<double>() <= 0) return "";
  const double faster = after.get<double>() / before.get<double>();
  std::string text = fmt::format("  ms/token: {:.3f} before, {:.3f} after\n", 1000 / before.get<double>(), 1000 / after.get<double>());
  if (!never_pays.empty()) {
    text += fmt::format("  it does not pay on this CPU: {}\n", never_pays);
  } else if (faster < kFasterMin) {
    text += "  it does not pay on this CPU: the model is no faster for it\n";
  }
  return text;
}

int RunCompression(const std::function<Result<std::string>()>& verb) {
  DeferInterrupts();
  const Result<std::string> text = verb();
  EndProgressLine();
  if (!text.ok()) return Fail(text.error());
  const int code = PrintResult(*text);
  return code == 0 && Interrupted() ? ExitStatus(Code::kCancelled) : code;
}

void AddCompressOptions(CLI::App& verb, CompressArguments* arguments, const std::string& calibrate) {
  verb.add_option("MODEL", arguments->source, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb.add_option("OUT", arguments->out, "the GGUF file, or a package where its name ends in .bantam")->required();
  verb.add_option("--calibrate", arguments->calibrate, calibrate);
  verb.add_option("--calibrate-tokens", arguments->calibrate_tokens, "tokens of it to read, spread over the text; 0: all")
      ->check(WholeNumber())
      ->capture_default_str();
  verb.add_option("--context", arguments->run.context,
                  fmt::format("tokens of a window of both texts (default, and 0: {}, or what the model was trained on)", kWindowTokens))
      ->check(WholeNumber());
  verb.add_option("--text", arguments->text, "a text to measure the loss on (default: that of --calibrate)");
  verb.add_option("--windows", arguments->windows, "windows of it to measure; 0: all")->check(WholeNumber())->capture_default_str();
  verb.add_flag("!--no-compare", arguments->compare, "do not measure the loss");
  verb.add_option("--report", arguments->report, "a file for everything that is known of the result, as JSON");
  verb.add_option("--picture", arguments->picture, "a PNG file for a picture of the errors, layer by layer");
  verb.add_option("-t,--threads", arguments->run.threads, "threads (default, and 0: the usable physical cores)")->check(WholeNumber());
  verb.add_option("--work-memory", arguments->run.memory, "what the work may take of the memory, such as 2G; auto: what is available")
      ->capture_default_str();
  verb.add_flag("-f,--force", arguments->force, "replace OUT where it is there already");
  verb.add_flag("--json", arguments->json, "print the report as JSON");
}

}  // namespace bantam
