#include "model/arch/registry.h"

#include <fmt/format.h>

namespace bantam {
namespace {

struct Family {
  std::string_view architecture;
  Result<Config> (*read)(ModelFile& file, const FamilyMetadata& metadata);
};

constexpr Family kFamilies[] = {
    {"llama", ReadLlamaConfig},  // Llama 2 and 3, TinyLlama, SmolLM2, Mistral, Mixtral
    {"mistral3", ReadLlamaConfig},
};

}  // namespace

std::vector<std::string_view> KnownArchitectures() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.architecture);
  return names;
}

Result<Config> ReadConfig(ModelFile& file) {
  BANTAM_ASSIGN(const auto architecture, file.metadata.Text("general.architecture"));
  if (!architecture) {
    return Error(Code::kCorrupt, fmt::format("{}: metadata key general.architecture is missing; convert the model again", file.path));
  }
  for (const Family& family : kFamilies) {
    if (family.architecture != *architecture) continue;
    Result<Config> config = family.read(file, FamilyMetadata(file.metadata, family.architecture));
    if (config.ok()) config->architecture = family.architecture;
    return std::move(config).With(file.path);
  }
  return Error(Code::kUnsupported, fmt::format("{}: architecture {} is not supported; this build runs {}", file.path, *architecture,
                                               fmt::join(KnownArchitectures(), ", ")));
}

std::string FamilyMetadata::Key(std::string_view key) const { return fmt::format("{}.{}", prefix_, key); }

Result<uint32_t> FamilyMetadata::Require(std::string_view key, Range range) const {
  BANTAM_ASSIGN(const auto value, metadata_.U32(Key(key)));
  if (!value || *value < range.low || *value > range.high) {
    return Error(Code::kCorrupt, fmt::format("metadata key {}: {}, expected an integer from {} to {}; convert the model again", Key(key),
                                             value ? std::to_string(*value) : "missing", range.low, range.high));
  }
  return *value;
}

Result<uint32_t> FamilyMetadata::Read(std::string_view key, Range range, uint32_t fallback) const {
  if (metadata_.Find(Key(key)) == nullptr) return fallback;
  return Require(key, range);
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
