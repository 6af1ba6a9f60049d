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
  bool experts_only = false;                // files may leave feed_forward_length out
  bool predictors = false;                  // files may have blocks behind the last layer that predict further tokens
  bool later_tokens = false;                // are seen too
  Mixer without_heads = Mixer::kAttention;  // of layers that have 0 kv heads; attention: none may
};

// Layers of one kind; heads and widths may differ from layer to layer where the file has a list of them.
Result<Config> ReadTransformer(ModelFile& file, const FamilyMetadata& metadata, const TransformerTraits& traits);

// What norms add to a variance, from 0 to 1; Corrupt where the file does not say.
Result<float> ReadNormEpsilon(const FamilyMetadata& metadata, std::string_view key);

// The state space that <family>.ssm.* describes. `columns`: the first kind, a head per column.
Result<StateSpace> ReadStateSpace(const FamilyMetadata& metadata, bool columns);

// Which layers see a window.
struct WindowDefaults {
  uint32_t window = 0;      // tokens, where the file does not say
  bool required = false;    // without a window, in the file or above, the model would not be what it is: Corrupt
  uint32_t pattern = 1;     // of so many layers one sees everything, where the file does not say
  bool full_first = false;  // the first of them instead of the last
};
Status ReadWindows(const FamilyMetadata& metadata, const WindowDefaults& defaults, Config* config);

// Gives layers with a window a rotary embedding of their own, unscaled.
Status AddWindowRope(double base, Config* config);
// The same, scaled as the other, where the file names another base for them (rope.freq_base_swa).
Status ReadWindowRope(const FamilyMetadata& metadata, Config* config);
// Layers that see everything turn nothing.
void TurnWindowsOnly(Config* config);

// How wide an expert is.
enum class ExpertWidth : uint8_t {
  kOwn,      // expert_feed_forward_length
  kDivided,  // the same, or where the file does not say, feed_forward_length divided by the experts used
  kLayer,    // feed_forward_length
};
struct ExpertDefaults {
  ExpertWidth width = ExpertWidth::kOwn;
  bool normalize = true;
  bool dense_in_front = false;  // the file says how many layers have no experts
};
// Whether expert_count says so.
Result<bool> HasExperts(const FamilyMetadata& metadata);
// Makes every layer one of experts, but those in front.
Status ReadExperts(const FamilyMetadata& metadata, const ExpertDefaults& defaults, Config* config);

// expert_gating_func, which has to be there.
Result<Gating> ReadGating(const FamilyMetadata& metadata);

// A number that 0 or nothing leaves at `fallback`.
Result<float> ReadFactor(const FamilyMetadata& metadata, std::string_view key, float fallback);
// The same, and not negative: caps, bounds and biases.
Result<float> ReadLimit(const FamilyMetadata& metadata, std::string_view key, float fallback);

// What is made of a whole text: how tokens become one vector, of which length, and what a classifier reads. What the file does not say is
// left as the family has it; but where no token sees later ones, the last one stands for all.
Status ReadTextUse(const FamilyMetadata& metadata, Config* config);

}  // namespace bantam
