// The families this build knows. Adding one: arch/<family>.cc, its declaration below, a row in registry.cc.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/model_file.h"
#include "model/config.h"

namespace bantam {

// Finds the family named by general.architecture and lets it read the metadata. Unsupported names the known families.
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
  Result<double> ReadNumber(std::string_view key, double fallback) const;
  Result<std::string_view> ReadText(std::string_view key, std::string_view fallback) const;

 private:
  std::string Key(std::string_view key) const;
  const Metadata& metadata_;
  std::string prefix_;
};

// arch/llama.cc
Result<Config> ReadLlamaConfig(ModelFile& file, const FamilyMetadata& metadata);

}  // namespace bantam
