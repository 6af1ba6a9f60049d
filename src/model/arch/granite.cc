// Granite, dense and with experts: a Llama with factors for embeddings, scores, residuals and logits. Hybrid ones (Granite 4) have state
// spaces for attention in most layers.
#include "model/arch/transformer.h"

namespace bantam {
namespace {

Result<Config> ReadGranite(ModelFile& file, const FamilyMetadata& metadata, Mixer without_heads) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved, .without_heads = without_heads}));
  BANTAM_ASSIGN(config.embedding_scale, ReadFactor(metadata, "embedding_scale", 1));
  BANTAM_ASSIGN(config.residual_scale, ReadFactor(metadata, "residual_scale", 1));
  BANTAM_ASSIGN(config.attention_scale, ReadFactor(metadata, "attention.scale", config.attention_scale));
  BANTAM_ASSIGN(const float logits, ReadFactor(metadata, "logit_scale", 1));
  config.logit_scale = 1 / logits;
  BANTAM_ASSIGN(const bool experts, HasExperts(metadata));
  if (!experts) return config;
  BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kLayer}, &config));
  BANTAM_ASSIGN(config.shared_width, metadata.Read("expert_shared_feed_forward_length", {0, kWidthMax}, 0));
  return config;
}

// Models without positions say it so.
Status ReadWhetherTurned(const FamilyMetadata& metadata, Config* config) {
  BANTAM_ASSIGN(const bool turns, metadata.ReadBool("rope.scaling.finetuned", true));
  for (LayerPlan& layer : config->layers) {
    if (!turns) layer.rope = kNone;
  }
  return Ok();
}

}  // namespace

Result<Config> ReadGraniteMoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  return ReadGranite(file, metadata, Mixer::kAttention);
}

Result<Config> ReadGraniteConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadGraniteMoeConfig(file, metadata));
  BANTAM_TRY(ReadWhetherTurned(metadata, &config));
  return config;
}

Result<Config> ReadGraniteHybridConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadGranite(file, metadata, Mixer::kStateSpace));
  BANTAM_TRY(ReadWhetherTurned(metadata, &config));
  BANTAM_ASSIGN(config.state_space, ReadStateSpace(metadata, /*columns=*/false));
  return config;
}

}  // namespace bantam
