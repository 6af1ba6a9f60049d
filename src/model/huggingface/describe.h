// From config.json to metadata as a GGUF file of the family has it.
#pragma once

#include <vector>

#include "base/result.h"
#include "formats/metadata_builder.h"
#include "model/huggingface/families.h"

namespace bantam {

// Nothing in models without attention.
struct HfHeads {
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
};
Result<HfHeads> ReadHeads(const HfConfig& config);

// Tables that GGUF files have as tensors: a divisor per pair of rotated dimensions.
struct RopeTables {
  std::vector<float> divisors;  // whatever the context
  std::vector<float> short_factors;
  std::vector<float> long_factors;
};

// Errors: Corrupt (a member is missing or of another kind), Unsupported (what this build does not run, by the name of the member).
Status Describe(const HfFamily& family, const HfConfig& config, MetadataBuilder* metadata, RopeTables* tables);

}  // namespace bantam
