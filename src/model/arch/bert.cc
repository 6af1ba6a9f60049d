// BERT and its kin, which read a whole text at once: LayerNorm behind attention and feed-forward, of the sum with what they were given.
// BERT itself (MiniLM, BGE, GTE, XLM-RoBERTa) has learned positions; Nomic's turn queries and keys, and one has experts in every so many-th
// layer.
#include "model/arch/transformer.h"

namespace bantam {
namespace {

Result<Config> ReadBert(ModelFile& file, const FamilyMetadata& metadata, FeedForward feed_forward, bool rope) {
  BANTAM_ASSIGN(
      Config config,
      ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = feed_forward, .rope = rope, .later_tokens = true}));
  config.embedding_norm = true;
  config.type_table = file.directory.Find("token_types.weight") != nullptr;
  config.norms_before = false;
  config.norms_of_sum = true;
  config.attention_norm_behind = "attn_output_norm";
  config.feed_forward_norm_behind = "layer_output_norm";
  config.output_norm.clear();
  return config;
}

}  // namespace

Result<Config> ReadBertConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadBert(file, metadata, FeedForward::kPlain, /*rope=*/false));
  config.position_table = true;
  BANTAM_ASSIGN(config.activation, ReadActivation(metadata, "hidden_activation", Activation::kErfGelu));
  return config;
}

Result<Config> ReadNomicBertConfig(ModelFile& file, const FamilyMetadata& metadata) {
  return ReadBert(file, metadata, FeedForward::kGated, /*rope=*/true);
}

Result<Config> ReadNomicBertMoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadBert(file, metadata, FeedForward::kPlain, /*rope=*/true));
  config.activation = Activation::kErfGelu;
  BANTAM_ASSIGN(const uint32_t every, metadata.Read("moe_every_n_layers", {0, kLayersMax}, 0));
  if (every == 0) return config;
  BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kLayer, .normalize = false}, &config));
  BANTAM_ASSIGN(config.expert_scale, ReadFactor(metadata, "expert_weights_scale", 1));
  config.gated_experts = false;
  for (size_t i = 0; i < config.layers.size(); ++i) {
    if (i % every != 1) config.layers[i].feed_forward = FeedForward::kPlain;
  }
  return config;
}

}  // namespace bantam
