// Which layers see a window, in families whose GGUF files say so.
#pragma once

#include <cstdint>

#include "model/huggingface/families.h"

namespace bantam {

// By a list of their kinds, or each so many-th layer sees everything: `pattern`, where config.json does not say. Unsupported where layers
// have a window, and it has no width.
Status DescribeWindows(const HfConfig& config, uint32_t pattern, Description* description);

Status DescribeExaone4(const HfConfig& config, Description* description);

}  // namespace bantam
