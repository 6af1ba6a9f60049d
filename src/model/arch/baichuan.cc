// Baichuan: 7B turns queries and keys, 13B has linear biases instead; only the number of layers tells them apart.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadBaichuanConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved}));
  constexpr size_t kLayersOf7B = 32;
  constexpr size_t kLayersOf13B = 40;
  for (LayerPlan& layer : config.layers) {
    if (config.layers.size() != kLayersOf7B) layer.rope = kNone;
  }
  if (config.layers.size() == kLayersOf13B) config.alibi_max_bias = 8;
  return config;
}

}  // namespace bantam
