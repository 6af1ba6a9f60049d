// Linear attention by a gated delta rule (Qwen 3.5).
#pragma once

#include <span>

#include "model/huggingface/families.h"
#include "model/huggingface/tensors.h"

namespace bantam {

std::span<const NameRule> Qwen35Names();
Status DescribeQwen35(const HfConfig& config, Description* description);

// None where config.json says nothing of linear attention.
Result<HfValueHeads> ReadValueHeads(const HfConfig& config);

}  // namespace bantam
