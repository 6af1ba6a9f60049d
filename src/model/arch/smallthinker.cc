// SmallThinker: the router reads what the layer was given; layers with a window turn queries and keys, each fourth does neither.
#include "model/arch/transformer.h"

namespace bantam {

Result<Config> ReadSmallThinkerConfig(ModelFile& file, const FamilyMetadata& metadata) {
  BANTAM_ASSIGN(Config config, ReadTransformer(file, metadata, {}));
  BANTAM_ASSIGN(const uint32_t window, metadata.Read("attention.sliding_window", {0, kContextLengthMax}, 0));
  BANTAM_TRY(ReadWindows(metadata, {.pattern = 4, .full_first = true}, &config));
  for (size_t i = 0; window != 0 && i < config.layers.size(); i += 4) config.layers[i].rope = kNone;
  // Whatever number stands there.
  constexpr size_t kWindow = 4096;
  for (LayerPlan& layer : config.layers) {
    if (layer.window != 0) layer.window = kWindow;
  }
  BANTAM_TRY(ReadWindowRope(metadata, &config));
  BANTAM_TRY(ReadExperts(metadata, {}, &config));
  BANTAM_ASSIGN(config.gating, ReadGating(metadata));
  config.activation = Activation::kRelu;
  config.early_router = true;
  return config;
}

}  // namespace bantam
