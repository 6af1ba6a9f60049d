// Gemma: scaled embeddings, GELU gates; Gemma 2 caps scores and logits, Gemma 3 normalises heads and turns those of windows by another
// base.
#include <cmath>

#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadGemmaConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.embedding_scale = std::sqrt(static_cast<float>(config.width));
  config.activation = Activation::kGelu;
  return config;
}

namespace {

// What Gemma 2 and 3 share: norms on both sides, and 27B models that scale by the width of a head as if heads divided the row.
Result<Config> ReadLaterGemma(ModelFile& file, const FamilyMetadata& metadata, size_t layers_of_27b) {
  BANTAM_ASSIGN(Config config, ReadGemmaConfig(file, metadata));
  config.norms_behind = true;
  if (config.layers.size() == layers_of_27b) {
    config.attention_scale = 1.0f / std::sqrt(static_cast<float>(config.width / config.layers[0].heads));
  }
  BANTAM_ASSIGN(config.logit_softcap, ReadLimit(metadata, "final_logit_softcapping", 0));
  return config;
}

}  // namespace

Result<Config> ReadGemma2Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadLaterGemma(file, metadata, /*layers_of_27b=*/46));
  BANTAM_ASSIGN(config.attention_softcap, ReadLimit(metadata, "attn_logit_softcapping", 50));
  BANTAM_ASSIGN(config.logit_softcap, ReadLimit(metadata, "final_logit_softcapping", 30));
  BANTAM_TRY(ReadWindows(metadata, {.window = 4096, .pattern = 2}, &config));
  BANTAM_TRY(ReadWindowRope(metadata, &config));
  return config;
}

Result<Config> ReadGemma3Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadLaterGemma(file, metadata, /*layers_of_27b=*/62));
  config.query_key_norm = QueryKeyNorm::kHeads;
  BANTAM_TRY(ReadWindows(metadata, {.pattern = 6}, &config));
  BANTAM_ASSIGN(const double base, metadata.ReadNumber("rope.freq_base_swa", 10000));
  BANTAM_TRY(AddWindowRope(base, &config));
  return config;
}

}  // namespace bantam
