// BitNet b1.58: a Llama with norms in front of the last products of attention and feed-forward; its matrices are ternary and scaled.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadBitNetConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.inner_norms = true;
  config.feed_forward_scales = true;
  config.ropes[0].divisors.clear();
  return config;
}

}  // namespace bantam
