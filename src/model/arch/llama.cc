// The llama family, and mistral3, whose scores may grow with the position: grouped-query attention with interleaved rotary embedding,
// RMSNorm, SwiGLU or a mixture of experts. Its files carry keys of features that it does not use; only those that are asked for are read.
#include <fmt/format.h>

#include "model/arch/transformer.h"

namespace bantam {
namespace {

constexpr double kTemperatureScaleMax = 100;

}  // namespace

Result<Config> ReadLlamaConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved}));
  config.feed_forward_scales = true;
  BANTAM_ASSIGN(const bool experts, HasExperts(metadata));
  if (experts) {
    BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kLayer}, &config));
  }
  return config;
}

Result<Config> ReadMistral3Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadLlamaConfig(file, metadata));
  BANTAM_ASSIGN(config.ropes[0].log_multiplier, metadata.ReadNumber("rope.scaling.yarn_log_multiplier", 0));
  BANTAM_ASSIGN(const double scale, metadata.ReadNumber("attention.temperature_scale", 0));
  if (!(scale >= 0 && scale <= kTemperatureScaleMax)) {
    return metadata.Problem("attention.temperature_scale", fmt::format("{}, expected 0 to {}", scale, kTemperatureScaleMax));
  }
  config.attention_temperature = {static_cast<float>(scale), config.ropes[0].original_context};
  return config;
}

}  // namespace bantam
