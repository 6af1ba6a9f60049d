#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "formats/gguf.h"
#include "model/adapter/adapter_file.h"

namespace bantam {
namespace {

// Says what it is of, and nothing that this build does not follow.
Status CheckMetadata(const Metadata& metadata, const Config& config) {
  const std::pair<const char*, std::string_view> expected[] = {
      {"general.type", "adapter"}, {"adapter.type", "lora"}, {"general.architecture", config.architecture}};
  for (const auto& [key, value] : expected) {
    BANTAM_ASSIGN(const auto found, metadata.Text(key));
    if (found == value) continue;
    return Error(Code::kUnsupported, fmt::format("{} is {}, expected {} (of an adapter for this model)", key,
                                                 found ? fmt::format("\"{}\"", *found) : "missing", value));
  }
  constexpr std::string_view kKnown[] = {"adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix"};
  for (const MetadataEntry& entry : metadata.entries()) {
    if (!entry.key.starts_with("adapter.") || std::find(std::begin(kKnown), std::end(kKnown), entry.key) != std::end(kKnown)) continue;
    return Error(Code::kUnsupported, fmt::format("{}: adapters with this key are not supported", entry.key));
  }
  return Ok();
}

struct Pair {
  const TensorInfo* a = nullptr;
  const TensorInfo* b = nullptr;
};

Result<std::map<std::string, Pair>> PairTensors(const TensorDirectory& directory) {
  std::map<std::string, Pair> pairs;
  for (const TensorInfo& tensor : directory.tensors()) {
    const bool is_a = tensor.name.ends_with(".lora_a");
    if (!is_a && !tensor.name.ends_with(".lora_b")) {
      return Error(Code::kUnsupported,
                   fmt::format("tensor {}: expected names that end in .lora_a and .lora_b; whole weights are not replaced", tensor.name));
    }
    if (tensor.matrices() != 1) {
      return Error(Code::kUnsupported, fmt::format("tensor {}: adapters of experts are not supported", tensor.name));
    }
    Pair& pair = pairs[std::string(tensor.name.substr(0, tensor.name.size() - std::string_view(".lora_a").size()))];
    (is_a ? pair.a : pair.b) = &tensor;
  }
  return pairs;
}

}  // namespace

Result<AdapterFile> OpenGgufAdapter(FileSystem& files, const std::string& path, const Config& config) {
  BANTAM_ASSIGN(ModelFile file, OpenGguf(files, path));
  BANTAM_TRY(CheckMetadata(file.metadata, config).With(path));
  Result<std::optional<double>> alpha = file.metadata.Number("adapter.lora.alpha");
  if (!alpha.ok()) return Error(alpha.error()).With(path);
  BANTAM_ASSIGN(const auto pairs, PairTensors(file.directory).With(path));
  AdapterFile adapter;
  adapter.format = file.format;
  for (const auto& [weight, pair] : pairs) {
    if (pair.a == nullptr || pair.b == nullptr) {
      return Error(Code::kCorrupt, fmt::format("{}: tensor {}.lora_{} is missing", path, weight, pair.a == nullptr ? "a" : "b"));
    }
    if (pair.a->rows() != pair.b->columns()) {
      return Error(Code::kCorrupt, fmt::format("{}: tensor {} has {} columns, and {} has {} rows; expected the same rank", path,
                                               pair.b->name, pair.b->columns(), pair.a->name, pair.a->rows()));
    }
    AdapterPair made = {.weight = weight, .rank = pair.a->rows(), .columns = pair.a->columns(), .rows = pair.b->rows(), .a = {}, .b = {}};
    made.a = {std::string(pair.a->name), pair.a->dtype, pair.a->offset_bytes};
    made.b = {std::string(pair.b->name), pair.b->dtype, pair.b->offset_bytes};
    // As llama.cpp has it.
    if (alpha->value_or(0) != 0) made.scale = static_cast<float>(**alpha / static_cast<double>(made.rank));
    adapter.pairs.push_back(std::move(made));
  }
  adapter.source = std::move(file.source);
  return adapter;
}

}  // namespace bantam
