// bantam inspect: what a model file holds, and what running it takes.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/json.h"
#include "cli/load.h"
#include "cli/model_folder.h"
#include "cli/package_text.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "model/arch/registry.h"
#include "model/open.h"
#include "model/vocabulary.h"

namespace bantam {
namespace {

constexpr size_t kShownTextMax = 80;

struct Options {
  std::string model;
  bool tensors = false;
  bool json = false;
  RunOptions run;
};

std::string_view TypeName(ValueType type) {
  switch (type) {
    case ValueType::kU8:
      return "u8";
    case ValueType::kI8:
      return "i8";
    case ValueType::kU16:
      return "u16";
    case ValueType::kI16:
      return "i16";
    case ValueType::kU32:
      return "u32";
    case ValueType::kI32:
      return "i32";
    case ValueType::kF32:
      return "f32";
    case ValueType::kBool:
      return "bool";
    case ValueType::kString:
      return "string";
    case ValueType::kU64:
      return "u64";
    case ValueType::kI64:
      return "i64";
    case ValueType::kF64:
      return "f64";
  }
  return "?";
}

Json ToJson(const MetadataValue& value) {
  if (const auto* array = std::get_if<MetadataArray>(&value)) {
    return {{"array", TypeName(array->type)}, {"count", array->count}};
  }
  if (const auto* text = std::get_if<std::string_view>(&value)) return std::string(*text);
  if (const auto* b = std::get_if<bool>(&value)) return *b;
  if (const auto* i = std::get_if<int64_t>(&value)) return *i;
  if (const auto* u = std::get_if<uint64_t>(&value)) return *u;
  return std::get<double>(value);
}

std::string ToText(const MetadataValue& value) {
  if (const auto* array = std::get_if<MetadataArray>(&value)) return fmt::format("{} x {}", array->count, TypeName(array->type));
  if (const auto* text = std::get_if<std::string_view>(&value)) {
    std::string line = Printable(text->substr(0, kShownTextMax));
    for (size_t at = 0; (at = line.find('\n', at)) != std::string::npos; at += 2) line.replace(at, 1, "\\n");
    return text->size() > kShownTextMax ? fmt::format("{}... ({} bytes)", line, text->size()) : line;
  }
  if (const auto* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
  if (const auto* d = std::get_if<double>(&value)) return fmt::format("{:.9g}", *d);
  if (const auto* i = std::get_if<int64_t>(&value)) return fmt::format("{}", *i);
  return fmt::format("{}", std::get<uint64_t>(value));
}

std::string ShapeText(const TensorInfo& tensor) {
  std::string text = fmt::format("{}", tensor.dimensions[0]);
  for (uint32_t d = 1; d < tensor.n_dimensions; ++d) text += fmt::format(" x {}", tensor.dimensions[d]);
  return text;
}

struct FormatSum {
  size_t tensors = 0;
  uint64_t elements = 0;
  uint64_t bytes = 0;
};

std::map<std::string_view, FormatSum> SumFormats(const TensorDirectory& directory) {
  std::map<std::string_view, FormatSum> sums;
  for (const TensorInfo& tensor : directory.tensors()) {
    FormatSum& sum = sums[Info(tensor.dtype).name];
    ++sum.tensors;
    sum.elements += tensor.elements();
    sum.bytes += tensor.size_bytes;
  }
  return sums;
}

std::string FileText(const ModelFile& file, const Options& options) {
  std::string text = fmt::format("{}\n  {}, {} bytes ({})\n\nmetadata ({})\n", Printable(file.path), file.format, file.size_bytes,
                                 FormatBytes(file.size_bytes), file.metadata.entries().size());
  for (const MetadataEntry& entry : file.metadata.entries()) {
    text += fmt::format("  {:<42} {}\n", Printable(entry.key), ToText(entry.value));
  }
  text += fmt::format("\ntensors ({})\n", file.directory.tensors().size());
  for (const auto& [name, sum] : SumFormats(file.directory)) {
    text += fmt::format("  {:<8} {:>5} tensors {:>14} weights {:>14} bytes\n", name, sum.tensors, sum.elements, sum.bytes);
  }
  if (!options.tensors) return text;
  text += "\n";
  for (const TensorInfo& tensor : file.directory.tensors()) {
    text += fmt::format("  {:<32} {:<8} {:<22} at {}\n", Printable(tensor.name), Info(tensor.dtype).name, ShapeText(tensor),
                        tensor.offset_bytes);
  }
  return text;
}

Json FileJson(const ModelFile& file, const Options& options) {
  // Keys are known to differ: appending to the underlying list saves a search per key.
  Json metadata = Json::object();
  auto& pairs = static_cast<Json::object_t::Container&>(metadata.get_ref<Json::object_t&>());
  for (const MetadataEntry& entry : file.metadata.entries()) pairs.emplace_back(std::string(entry.key), ToJson(entry.value));
  Json formats = Json::object();
  for (const auto& [name, sum] : SumFormats(file.directory)) {
    formats[std::string(name)] = {{"tensors", sum.tensors}, {"weights", sum.elements}, {"bytes", sum.bytes}};
  }
  Json json = {{"path", file.path}, {"format", file.format}, {"bytes", file.size_bytes}, {"metadata", metadata}, {"formats", formats}};
  if (!options.tensors) return json;
  Json tensors = Json::array();
  for (const TensorInfo& tensor : file.directory.tensors()) {
    Json shape = Json::array();
    for (uint32_t d = 0; d < tensor.n_dimensions; ++d) shape.push_back(tensor.dimensions[d]);
    tensors.push_back({{"name", std::string(tensor.name)},
                       {"format", Info(tensor.dtype).name},
                       {"shape", shape},
                       {"offset", tensor.offset_bytes},
                       {"bytes", tensor.size_bytes}});
  }
  json["tensors"] = tensors;
  return json;
}

Json PlanJson(const MemoryPlan& plan, const ModelOutline& outline) {
  return {{"kernels", outline.kernels->name},
          {"context", plan.options.context},
          {"kv_type", KvTypeName(plan.options.kv_type)},
          {"weights", WeightFormName(plan.weight_form)},
          {"threads", plan.options.threads},
          {"weights_bytes", plan.weights_bytes},
          {"kv_bytes", plan.kv_bytes},
          {"state_bytes", plan.state_bytes},
          {"activations_bytes", plan.activations_bytes},
          {"vocabulary_bytes", plan.vocabulary_bytes},
          {"header_bytes", plan.header_bytes},
          {"program_bytes", plan.reserve_bytes},
          {"total_bytes", plan.total_bytes()},
          {"decode_read_bytes", DecodeReadBytes(outline.program)}};
}

// What only packages have.
Result<std::string> DescribePackage(FileSystem& files, const std::string& path, Json* json) {
  BANTAM_ASSIGN(const PackageTexts texts, ReadPackageTexts(files, path));
  *json = PackageJson(texts.manifest);
  (*json)["licence"] = texts.licence;
  for (const auto& [name, text] : {std::pair("hints", &texts.hints), std::pair("provenance", &texts.provenance)}) {
    if (text->empty()) continue;
    BANTAM_ASSIGN((*json)[name], ParseJson(*text).With(fmt::format("{}: section {}", path, name)));
  }
  std::string shown = fmt::format("\npackage\n{}", PackageText(texts.manifest));
  const Json& sources = JsonMember(JsonMember(JsonMember(*json, "provenance"), "source"), "files");
  for (const Json& source : sources.is_array() ? sources : Json::array()) {
    shown += fmt::format("  made of {} (sha256 {})\n", Printable(JsonText(source, "name").value_or("?")),
                         Printable(JsonText(source, "sha256").value_or("?")));
  }
  if (!texts.licence.empty()) {
    const size_t end = std::min(texts.licence.find('\n'), kShownTextMax);
    shown += fmt::format("  licence: {} ({} bytes)\n", Printable(texts.licence.substr(0, end)), texts.licence.size());
  }
  return shown;
}

// Of an encoder, one text as long as the context.
StepShape ShapeOf(ModelFile& file, const RunOptions& run) {
  StepShape shape;
  const Result<Config> config = ReadConfig(file);
  if (!config.ok() || !config->whole_texts) return shape;
  shape.step_tokens = run.context == 0 ? std::min(config->context_max, kContextDefault) : run.context;
  shape.texts = 1;
  return shape;
}

int Inspect(FileSystem& files, const Options& options) {
  const Result<std::string> path = FindModel(files, options.model);
  if (!path.ok()) return Fail(path.error());
  Result<ModelFile> file = OpenModel(files, *path);
  if (!file.ok()) return Fail(file.error());
  std::string text = options.json ? std::string() : FileText(*file, options);
  Json json = options.json ? FileJson(*file, options) : Json();
  if (IsPackage(files, *path)) {
    const Result<std::string> package = DescribePackage(files, *path, &json["package"]);
    if (!package.ok()) return Fail(package.error());
    text += *package;
  }

  const bool vocabulary_only = file->directory.tensors().empty();
  std::optional<Error> problem;
  std::string plan_text = "\nmemory plan\n  none: the file holds a vocabulary and no weights\n";
  json["plan"] = nullptr;
  if (!vocabulary_only) {
    // A tokenizer this build cannot run does not stop `logits`, so it does not stop the plan either.
    const Result<Tokenizer> tokenizer = ReadVocabulary(*file);
    const StepShape shape = ShapeOf(*file, options.run);
    const Result<Prepared> prepared =
        Prepare(files, std::move(file).value(), {tokenizer.ok() ? &*tokenizer : nullptr, /*text_bytes=*/0, options.run, shape});
    if (prepared.ok()) {
      plan_text = fmt::format("\nmemory plan (kernels {})\n{}", prepared->outline.kernels->name, Describe(prepared->plan));
      if (!prepared->outline.program.whole_texts)
        plan_text += fmt::format("  decoding reads {} bytes of weights per token\n", DecodeReadBytes(prepared->outline.program));
      json["plan"] = PlanJson(prepared->plan, prepared->outline);
    } else {
      problem = prepared.error();
      plan_text.clear();
      json["problem"] = problem->message();
    }
  }
  const int code = PrintResult(options.json ? DumpJson(json, /*indent=*/2) + "\n" : text + plan_text);
  return code == 0 && problem ? Fail(*problem) : code;
}

}  // namespace

void AddInspectVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("inspect", "metadata, tensors and memory plan of a model file");
  verb->add_option("MODEL", options->model, "a .gguf or .bantam file, a Hugging Face folder, or a name in the model folder")->required();
  verb->add_flag("--tensors", options->tensors, "list every tensor");
  verb->add_flag("--json", options->json, "print JSON");
  AddRunOptions(*verb, &options->run);
  verb->footer("Example: bantam inspect model.gguf --memory 512M");
  verb->callback([=] { *action = [=](FileSystem& files) { return Inspect(files, *options); }; });
}

}  // namespace bantam
