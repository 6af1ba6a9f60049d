#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "formats/assembled_source.h"
#include "formats/safetensors.h"
#include "model/adapter/adapter_file.h"
#include "model/adapter/peft_config.h"
#include "model/huggingface/families.h"
#include "model/huggingface/tensors.h"

namespace bantam {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kEndA = ".lora_A.weight";
constexpr std::string_view kEndB = ".lora_B.weight";
constexpr size_t kTensorsMax = 1 << 16;

struct Pair {
  const SafetensorsTensor* a = nullptr;
  const SafetensorsTensor* b = nullptr;
};

Result<std::map<std::string, Pair>> PairTensors(const std::vector<SafetensorsTensor>& tensors) {
  if (tensors.size() > kTensorsMax) {
    return Error(Code::kExhausted, fmt::format("{} tensors, expected at most {}", tensors.size(), kTensorsMax));
  }
  std::map<std::string, Pair> pairs;
  for (const SafetensorsTensor& tensor : tensors) {
    std::string_view module = tensor.name;
    if (module.starts_with(kPrefix)) module.remove_prefix(kPrefix.size());
    const bool is_a = module.ends_with(kEndA);
    if (!is_a && !module.ends_with(kEndB)) {
      return Error(Code::kUnsupported,
                   fmt::format("tensor {}: expected names that end in {} and {}; embeddings, magnitudes (DoRA) and whole weights are not "
                               "supported",
                               tensor.name, kEndA, kEndB));
    }
    module.remove_suffix(kEndA.size());
    Pair& pair = pairs[std::string(module)];
    const SafetensorsTensor*& place = is_a ? pair.a : pair.b;
    if (place != nullptr) return Error(Code::kCorrupt, fmt::format("tensors {} and {} are of one module", place->name, tensor.name));
    place = &tensor;
  }
  return pairs;
}

// What the rules for names need to know, from the model that is there.
Result<HfLayout> LayoutOf(const Config& config, const HfFamily& family, const std::string& module) {
  HfLayout layout;
  layout.family = &family;
  layout.layers = static_cast<uint32_t>(config.layers.size());
  layout.shared_is_dense = config.experts == 0;
  const std::optional<uint32_t> layer = LayerOf(module + ".weight");
  if (layer && *layer >= config.layers.size()) {
    return Error(Code::kUnsupported,
                 fmt::format("module {}: the model has {} layers; the adapter is of another one", module, config.layers.size()));
  }
  const LayerPlan& plan = config.layers[layer.value_or(0)];
  layout.heads = {static_cast<uint32_t>(plan.heads), static_cast<uint32_t>(plan.kv_heads), static_cast<uint32_t>(plan.head_dim)};
  if (plan.mixer == Mixer::kDeltaRule) {
    const StateSpace& space = config.state_space;
    layout.value_heads = {static_cast<uint32_t>(space.groups), static_cast<uint32_t>(space.heads / space.groups),
                          static_cast<uint32_t>(space.state_size)};
  }
  return layout;
}

// Adds the pairs of a module; their offsets are to be filled in.
Status AddModule(const std::string& module, const Pair& pair, const PeftConfig& peft, const HfLayout& layout, AdapterFile* file,
                 std::vector<Assembly>* assemblies) {
  HfTensor a = {*pair.a, /*file=*/0};
  HfTensor b = {*pair.b, /*file=*/0};
  a.tensor.name = b.tensor.name = module + ".weight";
  BANTAM_ASSIGN(std::vector<LowRankTensors> mapped, MapLowRank(a, b, layout).With(fmt::format("tensor {}", pair.b->name)));
  const size_t rank = pair.a->shape[0];
  if (rank != peft.RankOf(module)) {
    return Error(Code::kCorrupt,
                 fmt::format("tensor {}: {} rows, and adapter_config.json says rank {}", pair.a->name, rank, peft.RankOf(module)));
  }
  const double divisor = peft.root_of_rank ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank);
  for (LowRankTensors& tensors : mapped) {
    AdapterPair made = {.weight = std::move(tensors.name),
                        .rank = rank,
                        .columns = tensors.a.columns,
                        .rows = tensors.b.rows,
                        .scale = static_cast<float>(peft.AlphaOf(module) / divisor),
                        .a = {pair.a->name, tensors.a.read_dtype()},
                        .b = {pair.b->name, tensors.b.read_dtype()}};
    file->pairs.push_back(std::move(made));
    assemblies->push_back(std::move(tensors.a));
    assemblies->push_back(std::move(tensors.b));
  }
  return Ok();
}

Result<const HfFamily*> FamilyOf(const Config& config) {
  const HfFamily* family = HfFamilyOf(config.architecture);
  if (family == nullptr || family->factors != nullptr) {
    return Error(Code::kUnsupported,
                 fmt::format("adapters by publishers' names are not supported for {} models; take one as GGUF", config.architecture));
  }
  return family;
}

}  // namespace

Result<AdapterFile> OpenPeft(FileSystem& files, const std::string& folder, const Config& config) {
  const std::string config_path = folder + "/adapter_config.json";
  const std::string path = folder + "/adapter_model.safetensors";
  BANTAM_ASSIGN(const std::string text, files.ReadText(config_path, kPeftConfigBytesMax));
  BANTAM_ASSIGN(const PeftConfig peft, ReadPeftConfig(text).With(config_path));
  BANTAM_ASSIGN(const HfFamily* family, FamilyOf(config).With(folder));
  if (!files.Exists(path) && files.Exists(folder + "/adapter_model.bin")) {
    return Error(Code::kUnsupported,
                 fmt::format("{}: adapter_model.bin is a program, which this build does not run; save the adapter as safetensors", folder));
  }
  std::vector<std::unique_ptr<FileMapping>> mappings;
  BANTAM_ASSIGN(auto mapping, files.Map(path));
  BANTAM_ASSIGN(const std::vector<SafetensorsTensor> tensors, ReadSafetensors(mapping->bytes()).With(path));
  BANTAM_ASSIGN(const auto pairs, PairTensors(tensors).With(path));
  mappings.push_back(std::move(mapping));
  AdapterFile file;
  file.format = "PEFT folder";
  std::vector<Assembly> assemblies;
  for (const auto& [module, pair] : pairs) {
    if (pair.a == nullptr || pair.b == nullptr) {
      return Error(Code::kCorrupt, fmt::format("{}: module {} has no {}", path, module, pair.a == nullptr ? "lora_A" : "lora_B"));
    }
    BANTAM_ASSIGN(const HfLayout layout, LayoutOf(config, *family, module).With(path));
    BANTAM_TRY(AddModule(module, pair, peft, layout, &file, &assemblies).With(path));
  }
  auto source = std::make_unique<AssembledSource>(std::move(mappings), std::move(assemblies));
  for (size_t i = 0; i < file.pairs.size(); ++i) {
    file.pairs[i].a.offset_bytes = source->offset_bytes(2 * i);
    file.pairs[i].b.offset_bytes = source->offset_bytes(2 * i + 1);
  }
  file.source = std::move(source);
  return file;
}

}  // namespace bantam
