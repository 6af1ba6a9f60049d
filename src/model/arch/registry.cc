#include "model/arch/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <variant>

#include "base/closest.h"
#include "model/arch/layer_options.h"
#include "model/arch/transformer.h"

namespace bantam {
namespace {

struct Family {
  std::string_view architecture;
  Result<Config> (*read)(ModelFile& file, const FamilyMetadata& metadata);
};

constexpr Family kFamilies[] = {
    {"arcee", ReadArceeConfig},
    {"baichuan", ReadBaichuanConfig},
    {"bert", ReadBertConfig},  // MiniLM, BGE, GTE, XLM-RoBERTa
    {"bitnet", ReadBitNetConfig},
    {"bloom", ReadBloomConfig},
    {"codeshell", ReadCodeShellConfig},
    {"cohere2", ReadCohere2Config},
    {"deepseek", ReadDeepSeekConfig},
    {"ernie4_5", ReadErnieConfig},
    {"ernie4_5-moe", ReadErnieMoeConfig},
    {"exaone4", ReadExaone4Config},
    {"falcon", ReadFalconConfig},
    {"falcon-h1", ReadFalconH1Config},
    {"gemma", ReadGemmaConfig},
    {"gemma-embedding", ReadGemmaEmbeddingConfig},
    {"gemma2", ReadGemma2Config},
    {"gemma3", ReadGemma3Config},
    {"gemma3n", ReadGemma3nConfig},
    {"gemma4", ReadGemma4Config},
    {"gpt-oss", ReadGptOssConfig},
    {"gpt2", ReadGpt2Config},
    {"gptneox", ReadGptNeoxConfig},
    {"granite", ReadGraniteConfig},
    {"granitehybrid", ReadGraniteHybridConfig},
    {"granitemoe", ReadGraniteMoeConfig},
    {"hunyuan-dense", ReadHunyuanDenseConfig},
    {"internlm2", ReadInternLm2Config},
    {"lfm2", ReadLfm2Config},
    {"lfm2moe", ReadLfm2MoeConfig},
    {"llama", ReadLlamaConfig},  // Llama 2 and 3, TinyLlama, SmolLM2, Mistral, Mixtral
    {"mamba", ReadMambaConfig},
    {"mamba2", ReadMamba2Config},
    {"minicpm", ReadMiniCpmConfig},
    {"mistral3", ReadMistral3Config},  // Ministral 3
    {"modern-bert", ReadModernBertConfig},
    {"mpt", ReadMptConfig},
    {"nemotron", ReadNemotronConfig},
    {"nomic-bert", ReadNomicBertConfig},
    {"nomic-bert-moe", ReadNomicBertMoeConfig},
    {"olmo", ReadOlmoConfig},
    {"olmo2", ReadOlmo2Config},
    {"orion", ReadOrionConfig},
    {"phi2", ReadPhi2Config},
    {"phi3", ReadPhi3Config},
    {"phimoe", ReadPhiMoeConfig},
    {"qwen2", ReadQwen2Config},
    {"qwen2moe", ReadQwen2MoeConfig},
    {"qwen3", ReadQwen3Config},
    {"qwen35", ReadQwen35Config},
    {"qwen35moe", ReadQwen35MoeConfig},
    {"qwen3moe", ReadQwen3MoeConfig},
    {"smallthinker", ReadSmallThinkerConfig},
    {"smollm3", ReadSmolLm3Config},
    {"stablelm", ReadStableLmConfig},
    {"starcoder2", ReadStarCoder2Config},
};

// Of families where no layer of this model turns, or none has a window.
void DropUnusedRopes(Config* config) {
  std::vector<RopeSpec> used;
  for (RopeId id = 0; id < config->ropes.size(); ++id) {
    const auto place = static_cast<RopeId>(used.size());
    bool any = false;
    for (LayerPlan& layer : config->layers) {
      if (layer.rope != id) continue;
      layer.rope = place;
      any = true;
    }
    if (any) used.push_back(std::move(config->ropes[id]));
  }
  config->ropes = std::move(used);
}

// What a file says of layers with a window alone. Few families follow it; in the others it has to be what is run.
Status CheckWindowKeys(const FamilyMetadata& metadata, const Config& config) {
  const auto check = [](std::string_view key, double said, double run) -> Status {
    if (said == run) return Ok();
    return Error(Code::kUnsupported, fmt::format("{} {} of layers with a window: this family is run with {}", key, said, run));
  };
  for (const LayerPlan& layer : config.layers) {
    if (layer.window == 0 || layer.heads == 0) continue;
    for (const char* key : {"attention.key_length_swa", "attention.value_length_swa"}) {
      BANTAM_ASSIGN(const double width, metadata.ReadNumber(key, static_cast<double>(layer.head_dim)));
      BANTAM_TRY(check(key, width, static_cast<double>(layer.head_dim)));
    }
    if (layer.rope == kNone) continue;
    const RopeSpec& rope = config.ropes[layer.rope];
    BANTAM_ASSIGN(const double turned, metadata.ReadNumber("rope.dimension_count_swa", static_cast<double>(rope.rotated_dimensions)));
    BANTAM_TRY(check("rope.dimension_count_swa", turned, static_cast<double>(rope.rotated_dimensions)));
    BANTAM_ASSIGN(const double base, metadata.ReadNumber("rope.freq_base_swa", rope.base));
    BANTAM_TRY(check("rope.freq_base_swa", base, rope.base));
  }
  return Ok();
}

Result<Config> ReadFamily(ModelFile& file, const Family& family) {
  const FamilyMetadata metadata(file.metadata, family.architecture);
  BANTAM_ASSIGN(Config config, family.read(file, metadata));
  config.architecture = family.architecture;
  DropUnusedRopes(&config);
  BANTAM_TRY(CheckWindowKeys(metadata, config));
  BANTAM_ASSIGN(config.activation, ReadActivation(metadata, "published_activation", config.activation));
  BANTAM_TRY(ReadLayerOptions(metadata, &config));
  BANTAM_TRY(ReadTextUse(metadata, &config));
  for (LayerPlan& layer : config.layers) {
    if (!config.later_tokens) break;
    if (layer.mixer != Mixer::kAttention) {
      return Error(Code::kUnsupported, "attention to later tokens (attention.causal false) beside recurrent layers, which see none");
    }
    // So many on each side, and the token itself.
    if (layer.window != 0) layer.window = layer.window / 2 * 2 + 1;
  }
  return config;
}

}  // namespace

std::vector<std::string_view> KnownArchitectures() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.architecture);
  return names;
}

Result<Activation> ReadActivation(const FamilyMetadata& metadata, std::string_view key, Activation fallback) {
  BANTAM_ASSIGN(const std::string_view name, metadata.ReadText(key, ""));
  if (name.empty()) return fallback;
  if (name == "gelu") return Activation::kErfGelu;
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") return Activation::kGelu;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kReluSquared;
  return Error(Code::kUnsupported, fmt::format("activation {} is not supported; gelu, silu, relu and relu2 are", name));
}

Result<Config> ReadConfig(ModelFile& file) {
  BANTAM_ASSIGN(const auto architecture, file.metadata.Text("general.architecture"));
  if (!architecture) {
    return Error(Code::kCorrupt, fmt::format("{}: metadata key general.architecture is missing; convert the model again", file.path));
  }
  for (const Family& family : kFamilies) {
    if (family.architecture != *architecture) continue;
    Result<Config> config = ReadFamily(file, family);
    return std::move(config).With(file.path);
  }
  const std::vector<std::string_view> known = KnownArchitectures();
  return Error(Code::kUnsupported,
               fmt::format("{}: architecture {} is not supported; of the {} that are, the closest are {} (docs/families.md has all)",
                           file.path, *architecture, known.size(), fmt::join(Closest(*architecture, known, /*count=*/3), ", ")));
}

std::string FamilyMetadata::Key(std::string_view key) const { return fmt::format("{}.{}", prefix_, key); }

Error FamilyMetadata::Problem(std::string_view key, std::string_view problem) const { return metadata_.Problem(Key(key), problem); }

Result<uint32_t> FamilyMetadata::Require(std::string_view key, Range range) const {
  BANTAM_ASSIGN(const auto value, metadata_.U32(Key(key)));
  if (!value || *value < range.low || *value > range.high) {
    return Problem(key,
                   fmt::format("{}, expected an integer from {} to {}", value ? std::to_string(*value) : "missing", range.low, range.high));
  }
  return *value;
}

Result<uint32_t> FamilyMetadata::Read(std::string_view key, Range range, uint32_t fallback) const {
  if (metadata_.Find(Key(key)) == nullptr) return fallback;
  return Require(key, range);
}

Result<std::vector<uint32_t>> FamilyMetadata::List(std::string_view key, Range range, uint32_t count) const {
  const MetadataValue* value = metadata_.Find(Key(key));
  if (value == nullptr || !std::holds_alternative<MetadataArray>(*value)) return std::vector<uint32_t>();
  BANTAM_ASSIGN(auto read, metadata_.Numbers(Key(key), kLayersMax));
  const std::vector<double> numbers = std::move(read).value_or(std::vector<double>());
  // Files may also count blocks behind the last layer that predict further tokens.
  BANTAM_ASSIGN(const auto blocks, metadata_.U32(Key("block_count")));
  const bool counted = numbers.size() == count || numbers.size() == blocks;
  std::vector<uint32_t> list;
  for (size_t i = 0; counted && i < count; ++i) {
    const double number = numbers[i];
    const bool fits = number >= range.low && number <= range.high && number == std::floor(number);
    if (fits) list.push_back(static_cast<uint32_t>(number));
  }
  if (list.size() == count) return list;
  return Problem(key, fmt::format("a list of {} numbers, expected integers from {} to {} for {} layers", numbers.size(), range.low,
                                  range.high, count));
}

Result<std::vector<uint32_t>> FamilyMetadata::PerLayer(std::string_view key, Range range, uint32_t count,
                                                       std::vector<uint32_t> fallback) const {
  if (metadata_.Find(Key(key)) == nullptr && !fallback.empty()) return fallback;
  BANTAM_ASSIGN(std::vector<uint32_t> list, List(key, range, count));
  if (!list.empty()) return list;
  BANTAM_ASSIGN(const uint32_t value, Require(key, range));
  return std::vector<uint32_t>(count, value);
}

Result<std::vector<double>> FamilyMetadata::Numbers(std::string_view key, std::vector<double> fallback) const {
  BANTAM_ASSIGN(auto numbers, metadata_.Numbers(Key(key), kLayersMax));
  return std::move(numbers).value_or(std::move(fallback));
}

Result<bool> FamilyMetadata::RequireBool(std::string_view key) const {
  BANTAM_ASSIGN(const auto value, metadata_.Bool(Key(key)));
  if (!value) return Problem(key, "missing, expected true or false");
  return *value;
}

Result<bool> FamilyMetadata::ReadBool(std::string_view key, bool fallback) const {
  BANTAM_ASSIGN(const auto value, metadata_.Bool(Key(key)));
  return value.value_or(fallback);
}

Result<double> FamilyMetadata::ReadNumber(std::string_view key, double fallback) const {
  BANTAM_ASSIGN(const auto value, metadata_.Number(Key(key)));
  return value.value_or(fallback);
}

Result<std::string_view> FamilyMetadata::ReadText(std::string_view key, std::string_view fallback) const {
  BANTAM_ASSIGN(const auto value, metadata_.Text(Key(key)));
  return value.value_or(fallback);
}

}  // namespace bantam
