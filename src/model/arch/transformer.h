// What the families of decoders have in common: shapes, norms, rotary embedding, windows and experts as GGUF metadata says them. A family
// starts from ReadTransformer and changes what is its own. Zeros are how some converters write "not set".
#pragma once

#include <cstdint>

#include "model/arch/registry.h"
#include "model/config.h"
#include "program/rope.h"

namespace bantam {

struct TransformerTraits {
  NormKind norm = NormKind::kRms;
  FeedForward feed_forward = FeedForward::kGated;
  bool rope = true;
  RopeLayout layout = RopeLayout::kHalves;
};

// Layers of one kind; heads and widths may differ from layer to layer where the file has a list of them.
Result<Config> ReadTransformer(ModelFile& file, const FamilyMetadata& metadata, const TransformerTraits& traits);

// Which layers see a window.
struct WindowDefaults {
  uint32_t window = 0;      // tokens, where the file does not say; 0: no windows then
  uint32_t pattern = 1;     // of so many layers one sees everything, where the file does not say
  bool full_first = false;  // the first of them instead of the last
};
Status ReadWindows(const FamilyMetadata& metadata, const WindowDefaults& defaults, Config* config);

// Gives layers with a window another rotary embedding, of the base in rope.freq_base_swa and unscaled.
Status ReadWindowRope(const FamilyMetadata& metadata, double base, Config* config);

struct ExpertDefaults {
  bool normalize = true;
  bool divide_width = false;  // without expert_feed_forward_length, experts divide the width of feed_forward_length
};
// Makes every layer one of experts but those in front (leading_dense_block_count).
Status ReadExperts(const FamilyMetadata& metadata, const ExpertDefaults& defaults, Config* config);

// A factor that 0 or nothing leaves at `fallback`.
Result<float> ReadFactor(const FamilyMetadata& metadata, std::string_view key, float fallback);

}  // namespace bantam
