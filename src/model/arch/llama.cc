// The llama family: grouped-query attention with interleaved rotary embedding, RMSNorm, SwiGLU or a mixture of experts.
// Its files carry keys of features that it does not use; only those that are asked for are read.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadLlamaConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.layout = RopeLayout::kInterleaved}));
  config.feed_forward_scales = true;
  BANTAM_ASSIGN(const double temperature_scale, metadata.ReadNumber("attention.temperature_scale", 0));
  if (temperature_scale != 0) {
    return Error(Code::kUnsupported, "position-dependent attention temperature (attention.temperature_scale) is not supported");
  }
  BANTAM_ASSIGN(const bool experts, HasExperts(metadata));
  if (experts) {
    BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kLayer}, &config));
  }
  return config;
}

}  // namespace bantam
