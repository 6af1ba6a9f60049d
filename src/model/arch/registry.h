// The families this build knows. Adding one: arch/<family>.cc, its declaration below, a row in registry.cc; docs/families.md.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"
#include "model/config.h"

namespace bantam {

// Finds the family named by general.architecture and lets it read the metadata. Unsupported names the closest that are known.
Result<Config> ReadConfig(ModelFile& file);

std::vector<std::string_view> KnownArchitectures();

// Typed, bounded access to "<architecture>.<key>".
class FamilyMetadata {
 public:
  FamilyMetadata(const Metadata& metadata, std::string_view architecture) : metadata_(metadata), prefix_(architecture) {}

  // An integer in [low, high]; Corrupt when it is absent (without a fallback) or outside.
  struct Range {
    uint32_t low;
    uint32_t high;
  };
  Result<uint32_t> Require(std::string_view key, Range range) const;
  Result<uint32_t> Read(std::string_view key, Range range, uint32_t fallback) const;
  // A number for each of `count` layers, of a list that has as many, or one for each block; empty when the key is absent or one number.
  Result<std::vector<uint32_t>> List(std::string_view key, Range range, uint32_t count) const;
  // One number for all layers, or a list; `fallback` when the key is absent, which is Corrupt where that is empty.
  Result<std::vector<uint32_t>> PerLayer(std::string_view key, Range range, uint32_t count, std::vector<uint32_t> fallback) const;
  // A list of at most kLayersMax numbers; `fallback` when the key is absent.
  Result<std::vector<double>> Numbers(std::string_view key, std::vector<double> fallback) const;
  Result<bool> RequireBool(std::string_view key) const;
  Result<bool> ReadBool(std::string_view key, bool fallback) const;
  Result<double> ReadNumber(std::string_view key, double fallback) const;
  Result<std::string_view> ReadText(std::string_view key, std::string_view fallback) const;
  // Corrupt, as Metadata::Problem has it.
  Error Problem(std::string_view key, std::string_view problem) const;

 private:
  std::string Key(std::string_view key) const;
  const Metadata& metadata_;
  std::string prefix_;
};

// The activation that `key` names as published models do, or `fallback`: "gelu" is the error function's form.
Result<Activation> ReadActivation(const FamilyMetadata& metadata, std::string_view key, Activation fallback);

// One per family, in arch/<family>.cc.
Result<Config> ReadArceeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadBaichuanConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadBertConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadBitNetConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadBloomConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadCodeShellConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadCohere2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadDeepSeekConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadErnieConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadErnieMoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadExaone4Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadFalconConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadFalconH1Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGemmaConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGemma2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGemma3Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGemmaEmbeddingConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGemma3nConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGemma4Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGptOssConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGpt2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGptNeoxConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGraniteConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGraniteHybridConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadGraniteMoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadHunyuanDenseConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadInternLm2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadLfm2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadLfm2MoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadLlamaConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadMambaConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadMamba2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadMiniCpmConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadMistral3Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadModernBertConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadMptConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadNemotronConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadNomicBertConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadNomicBertMoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadOlmoConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadOlmo2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadOrionConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadPhi2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadPhi3Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadPhiMoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadQwen2Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadQwen2MoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadQwen3Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadQwen3MoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadQwen35Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadQwen35MoeConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadSmallThinkerConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadSmolLm3Config(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadStableLmConfig(ModelFile& file, const FamilyMetadata& metadata);
Result<Config> ReadStarCoder2Config(ModelFile& file, const FamilyMetadata& metadata);

}  // namespace bantam
