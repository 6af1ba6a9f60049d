// InternLM 2.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadInternLm2Config(ModelFile& file, const FamilyMetadata& metadata) {
  return ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved});
}

}  // namespace bantam
