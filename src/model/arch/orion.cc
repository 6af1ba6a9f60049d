// Orion: a Llama with LayerNorm.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadOrionConfig(ModelFile& file, const FamilyMetadata& metadata) {
  return ReadTransformer(file, metadata, {.norm = NormKind::kLayer});
}

}  // namespace bantam
