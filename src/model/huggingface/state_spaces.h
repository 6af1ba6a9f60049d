// State spaces of the second kind (Mamba 2), alone, between layers of attention (Granite 4) and beside it (Falcon H1).
#pragma once

#include <span>
#include <vector>

#include "model/huggingface/describe.h"
#include "model/huggingface/families.h"

namespace bantam {

std::span<const NameRule> Mamba2Names();
Status DescribeMamba2(const HfConfig& config, Description* description);

std::span<const NameRule> GraniteHybridNames();
// Which layers attend, and what the others are.
Status DescribeGraniteLayers(const HfConfig& config, Description* description);

std::span<const NameRule> FalconH1Names();
Status DescribeFalconH1(const HfConfig& config, Description* description);
// The multipliers of its parametrisation.
Status FalconH1Factors(const HfConfig& config, std::vector<TensorFactors>* factors);

}  // namespace bantam
