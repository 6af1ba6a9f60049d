#include "kernels/activation_tile.h"

#include <cstring>

namespace bantam {

void StoreColumn(const kernels::ActivationBlock& block, size_t column, kernels::ActivationTile* tile) {
  std::memcpy(tile->q[column], block.q, sizeof(block.q));
  tile->scale[column] = block.scale;
  for (size_t half = 0; half < 2; ++half) tile->sum16[half][column] = block.sum16[half];
}

}  // namespace bantam
