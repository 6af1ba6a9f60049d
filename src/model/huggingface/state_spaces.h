// State spaces of the second kind (Mamba 2), alone and beside attention (Granite 4).
#pragma once

#include <span>

#include "model/huggingface/describe.h"
#include "model/huggingface/families.h"

namespace bantam {

std::span<const NameRule> Mamba2Names();
Status DescribeMamba2(const HfConfig& config, Description* description);

std::span<const NameRule> GraniteHybridNames();
// Which layers attend, and what the others are.
Status DescribeGraniteLayers(const HfConfig& config, Description* description);

}  // namespace bantam
