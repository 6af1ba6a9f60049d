// MiniCPM, dense and with experts: factors for embeddings, residuals and logits, which old files leave to the shape.
#include <cmath>

#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadMiniCpmConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved}));
  BANTAM_ASSIGN(config.dense_tokens, metadata.Read("attention.published_dense_tokens", {0, kContextLengthMax}, 0));
  const float layers = static_cast<float>(config.layers.size());
  const float width = static_cast<float>(config.width);
  BANTAM_ASSIGN(config.embedding_scale, ReadFactor(metadata, "embedding_scale", 12));
  BANTAM_ASSIGN(config.residual_scale, ReadFactor(metadata, "residual_scale", 1.4f / std::sqrt(layers)));
  BANTAM_ASSIGN(const float logits, ReadFactor(metadata, "logit_scale", width / 256));
  config.logit_scale = 1 / logits;
  BANTAM_ASSIGN(const bool experts, HasExperts(metadata));
  if (experts) {
    BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kLayer}, &config));
  }
  return config;
}

}  // namespace bantam
