// Gemma: scaled embeddings, GELU gates; Gemma 2 caps scores and logits, Gemma 3 normalises heads and turns those of windows by another
// base. Gemma 3n and 4 have embeddings for each layer, and layers that attend to keys and values of others; 3n has four residual streams.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/arch/transformer.h"

namespace bantam {
namespace {

constexpr size_t kLaurelRank = 64;  // where a file lacks the tensor that says it, which is an error later

}  // namespace

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

// Gemma 3 whose tokens see later ones, whether the file says so or not.
Result<Config> ReadGemmaEmbeddingConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadGemma3Config(file, metadata));
  config.later_tokens = true;
  return config;
}

namespace {

// Heads' values are normalised, scores are not scaled, and the last `shared` layers attend to what the last layers in front of them keep:
// those that see everything to the last, those with a window to the last but one.
Status AttendToOthers(uint32_t shared, Config* config) {
  const auto layers = static_cast<uint32_t>(config->layers.size());
  config->query_key_norm = QueryKeyNorm::kHeads;
  config->value_norms = true;
  config->attention_scale = 1;
  if (shared == 0) return Ok();
  if (shared + 2 > layers) {
    return Error(Code::kCorrupt, fmt::format("{} of {} layers share keys and values (attention.shared_kv_layers), expected at most {}",
                                             shared, layers, layers - std::min(layers, 2u)));
  }
  for (uint32_t i = layers - shared; i < layers; ++i) {
    LayerPlan& layer = config->layers[i];
    layer.kv_of = layers - shared - (layer.window == 0 ? 1 : 2);
  }
  return Ok();
}

}  // namespace

Result<Config> ReadGemma3nConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadLaterGemma(file, metadata, /*layers_of_27b=*/0));
  const auto layers = static_cast<uint32_t>(config.layers.size());
  BANTAM_ASSIGN(config.logit_softcap, ReadLimit(metadata, "final_logit_softcapping", 30));
  BANTAM_ASSIGN(config.streams.count, metadata.Read("altup.num_inputs", {2, 16}, 4));
  BANTAM_ASSIGN(config.streams.active, metadata.Read("altup.active_idx", {0, static_cast<uint32_t>(config.streams.count) - 1}, 0));
  BANTAM_ASSIGN(config.per_layer_width, metadata.Read("embedding_length_per_layer_input", {1, kWidthMax}, 256));
  // What is published keeps keys and values of 20 layers, and cuts the gates of 10; files need not say so.
  constexpr uint32_t kWithKv = 20;
  constexpr uint32_t kSparse = 10;
  constexpr double kDeviations = 1.6448533535003662;  // 95 % of a normal distribution lie below
  constexpr double kDeviationsMax = 100;              // files write minus infinity for gates that are not cut
  BANTAM_ASSIGN(const uint32_t shared, metadata.Read("attention.shared_kv_layers", {0, layers}, layers > kWithKv ? layers - kWithKv : 0));
  std::vector<double> usual(std::min(kSparse, layers), kDeviations);
  BANTAM_ASSIGN(const auto sparse, metadata.Numbers("activation_sparsity_scale", std::move(usual)));
  for (size_t i = 0; i < layers && i < sparse.size(); ++i) {
    if (std::fabs(sparse[i]) < kDeviationsMax) config.layers[i].sparse_gate = static_cast<float>(sparse[i]);
  }
  const TensorInfo* laurel = file.directory.Find("blk.0.laurel_l.weight");
  config.laurel_rank = laurel == nullptr ? kLaurelRank : std::min<uint64_t>(laurel->rows(), kWidthMax);
  BANTAM_TRY(ReadWindows(metadata, {.required = true, .pattern = 5}, &config));
  BANTAM_ASSIGN(const double base, metadata.ReadNumber("rope.freq_base_swa", 10000));
  BANTAM_TRY(AddWindowRope(base, &config));
  BANTAM_TRY(AttendToOthers(shared, &config));
  return config;
}

Result<Config> ReadGemma4Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadLaterGemma(file, metadata, /*layers_of_27b=*/0));
  BANTAM_ASSIGN(const bool experts, HasExperts(metadata));
  if (experts) return Error(Code::kUnsupported, "Gemma 4 with experts (expert_count) is not supported");
  const auto layers = static_cast<uint32_t>(config.layers.size());
  const auto head_dim = static_cast<uint32_t>(config.layers[0].head_dim);
  BANTAM_ASSIGN(config.per_layer_width, metadata.Read("embedding_length_per_layer_input", {0, kWidthMax}, 0));
  BANTAM_ASSIGN(const uint32_t shared, metadata.Read("attention.shared_kv_layers", {0, layers}, 0));
  BANTAM_TRY(ReadWindows(metadata, {.required = true, .pattern = 6}, &config));
  BANTAM_ASSIGN(const double base, metadata.ReadNumber("rope.freq_base_swa", 10000));
  BANTAM_TRY(AddWindowRope(base, &config));
  BANTAM_ASSIGN(const uint32_t window_dim, metadata.Read("attention.key_length_swa", {1, kHeadDimMax}, head_dim));
  BANTAM_ASSIGN(const uint32_t value_dim, metadata.Read("attention.value_length_swa", {1, kHeadDimMax}, window_dim));
  BANTAM_ASSIGN(const uint32_t turned, metadata.Read("rope.dimension_count_swa", {2, window_dim}, window_dim));
  if (value_dim != window_dim || turned % 2 != 0) {
    return Error(Code::kCorrupt,
                 fmt::format("layers with a window: keys of {} elements, {} of them turned, and values of {}; expected keys "
                             "and values of one size, and an even number; convert the model again",
                             window_dim, turned, value_dim));
  }
  for (LayerPlan& layer : config.layers) {
    if (layer.window != 0) layer.head_dim = window_dim;
  }
  config.ropes[1].rotated_dimensions = turned;
  config.keys_as_values = true;
  config.layer_scales = true;
  BANTAM_TRY(AttendToOthers(shared, &config));
  return config;
}

}  // namespace bantam
