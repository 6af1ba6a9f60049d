// EXAONE 4: norms of heads, norms behind attention and feed-forward and none before; the 32B model has windows, whose layers alone turn
// queries and keys.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadExaone4Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.predictors = true}));
  constexpr size_t kLayersOf32B = 64;
  config.query_key_norm = QueryKeyNorm::kHeads;
  config.norms_before = false;
  config.norms_behind = true;
  if (config.layers.size() != kLayersOf32B) return config;
  BANTAM_TRY(ReadWindows(metadata, {.window = 4096, .required = true, .pattern = 4}, &config));
  TurnWindowsOnly(&config);
  return config;
}

}  // namespace bantam
