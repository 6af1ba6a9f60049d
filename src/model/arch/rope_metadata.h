// The rotary embedding as GGUF metadata describes it, for every family that has one.
#pragma once

#include "model/arch/registry.h"
#include "program/rope.h"

namespace bantam {

struct RopeDefaults {
  size_t head_dim = 0;     // rotated dimensions when the file does not say
  size_t context_max = 0;  // the original context when the file does not say
};

// Reads <family>.rope.* and the tensors rope_freqs.weight, rope_factors_short.weight and rope_factors_long.weight. Errors: Corrupt,
// Unsupported (a kind of scaling that this build does not know).
Result<RopeSpec> ReadRope(ModelFile& file, const FamilyMetadata& metadata, const RopeDefaults& defaults);

}  // namespace bantam
