// Tiles of activations: blocks of 16 columns side by side, as the widest products take them.
#pragma once

#include <cstddef>

#include "kernels/kernel_types.h"

namespace bantam {

// Puts one block of a column into the tile of its block.
void StoreColumn(const kernels::ActivationBlock& block, size_t column, kernels::ActivationTile* tile);

}  // namespace bantam
