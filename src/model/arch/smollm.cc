// SmolLM 3: a Llama of which each fourth layer turns nothing.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadSmolLm3Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved}));
  for (size_t i = 3; i < config.layers.size(); i += 4) config.layers[i].rope = kNone;
  return config;
}

}  // namespace bantam
