// ModernBERT reads a whole text at once: norms in front, gated feed-forward, no biases; of three layers one sees everything, and the others
// as many tokens on either side, with a rotary base of their own.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadModernBertConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .later_tokens = true}));
  config.embedding_norm = true;
  config.gate_and_up_in_one = true;
  config.head_activation = HeadActivation::kOwn;
  BANTAM_ASSIGN(config.activation, ReadActivation(metadata, "hidden_activation", Activation::kErfGelu));
  // The embeddings' norm stands in its place.
  config.layers[0].attention_norm = file.directory.Find("blk.0.attn_norm.weight") != nullptr;
  BANTAM_TRY(ReadWindows(metadata, {.pattern = 3, .full_first = true}, &config));
  BANTAM_TRY(ReadWindowRope(metadata, &config));
  config.classifier_pooling = Pooling::kMean;
  return config;
}

}  // namespace bantam
