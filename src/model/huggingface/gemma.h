// Gemma from the second on, whose config.json says more than the common rules take.
#pragma once

#include <span>

#include "model/huggingface/describe.h"
#include "model/huggingface/families.h"

namespace bantam {

Status DescribeGemma2(const HfConfig& config, Description* description);
Status DescribeGemma3(const HfConfig& config, Description* description);

std::span<const NameRule> Gemma3nNames();
Status DescribeGemma3n(const HfConfig& config, Description* description);

std::span<const NameRule> Gemma4Names();
Status DescribeGemma4(const HfConfig& config, Description* description);

// Which layers have a window, by their kinds.
Status DescribeWindowsByKind(const HfConfig& config, Description* description);

}  // namespace bantam
