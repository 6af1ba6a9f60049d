// Mamba and Mamba 2: state spaces and nothing else. FalconMamba is the first with norms of what makes steps and states.
#include <fmt/format.h>

#include "model/arch/transformer.h"

namespace bantam {
namespace {

Result<Config> ReadStateSpaces(const FamilyMetadata& metadata, bool columns) {
  Config config;
  BANTAM_ASSIGN(const uint32_t layers, metadata.Require("block_count", {1, kLayersMax}));
  BANTAM_ASSIGN(config.width, metadata.Require("embedding_length", {1, kWidthMax}));
  BANTAM_ASSIGN(config.context_max, metadata.Require("context_length", {1, kContextLengthMax}));
  BANTAM_ASSIGN(config.norm_epsilon, ReadNormEpsilon(metadata, "attention.layer_norm_rms_epsilon"));
  BANTAM_ASSIGN(config.state_space, ReadStateSpace(metadata, columns));
  // Named by folders alone: GGUF files of FalconMamba mean the other norms'.
  constexpr const char* kOwn = "ssm.published_norm_epsilon";
  BANTAM_ASSIGN(const double own, metadata.ReadNumber(kOwn, config.norm_epsilon));
  if (!(own >= 0 && own <= 1)) return metadata.Problem(kOwn, fmt::format("{}, expected a number from 0 to 1", own));
  config.state_space.norm_epsilon = static_cast<float>(own);
  LayerPlan layer;
  layer.mixer = Mixer::kStateSpace;
  layer.feed_forward = FeedForward::kAbsent;
  layer.rope = kNone;
  config.layers.assign(layers, layer);
  return config;
}

}  // namespace

Result<Config> ReadMambaConfig(ModelFile&, const FamilyMetadata& metadata) { return ReadStateSpaces(metadata, /*columns=*/true); }
Result<Config> ReadMamba2Config(ModelFile&, const FamilyMetadata& metadata) { return ReadStateSpaces(metadata, /*columns=*/false); }

}  // namespace bantam
