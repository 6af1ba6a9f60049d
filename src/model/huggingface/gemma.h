// Gemma 3n and 4, whose config.json says more than the common rules take.
#pragma once

#include <span>

#include "model/huggingface/describe.h"
#include "model/huggingface/families.h"

namespace bantam {

std::span<const NameRule> Gemma3nNames();
Status DescribeGemma3n(const HfConfig& config, Description* description);

std::span<const NameRule> Gemma4Names();
Status DescribeGemma4(const HfConfig& config, Description* description);

// Which layers have a window, by their kinds.
Status DescribeWindowsByKind(const HfConfig& config, Description* description);

}  // namespace bantam
