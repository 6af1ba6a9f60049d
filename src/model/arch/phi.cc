// Phi 2: attention and feed-forward side by side, biases everywhere. Phi 3 and 4: matrices in one tensor, LongRoPE. Phi 3.5 MoE: norms with
// biases, experts.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadPhi2Config(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = NormKind::kLayer, .feed_forward = FeedForward::kPlain}));
  config.activation = Activation::kGelu;
  config.parallel = true;
  return config;
}

Result<Config> ReadPhi3Config(ModelFile& file, const FamilyMetadata& metadata) {
  // Files name a window (attention.sliding_window) that the reference does not use; the models answer well without it.
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  config.gate_and_up_in_one = true;
  return config;
}

Result<Config> ReadPhiMoeConfig(ModelFile& file, const FamilyMetadata& metadata) {
  // Named by folders alone: GGUF files mean RMSNorm and a softmax, which is not what the publisher's code does.
  BANTAM_ASSIGN(const double jitter, metadata.ReadNumber("published_router_jitter", 0));
  const bool published = jitter > 0;
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {.norm = published ? NormKind::kLayer : NormKind::kRms}));
  BANTAM_TRY(ReadExperts(metadata, {.width = ExpertWidth::kLayer, .normalize = !published}, &config));
  if (published) config.gating = Gating::kSparseMixer;
  config.router_jitter = static_cast<float>(jitter);
  return config;
}

}  // namespace bantam
