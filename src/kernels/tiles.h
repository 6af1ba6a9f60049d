// Tiles: 16 columns of activations side by side, multiplied with up to six panels at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kernel_types.h"

namespace bantam {

// Puts one block of a column into the tile of its block.
void StoreColumn(const kernels::ActivationBlock& block, size_t column, kernels::ActivationTile* tile);

// Room for the unpacked chunk of a panel.
struct alignas(64) UnpackedChunk {
  uint8_t bytes[kernels::kChunkBytesMax];
};

// Panels of one kind and size, at most kTilePanels. Those of the next call, if any, are likely to be next_bytes behind them.
struct TilePanels {
  std::span<const kernels::Panel> panels;
  size_t panel_bytes;
  size_t next_bytes;
};

// Products of the panels with `count` tiles, tiles [count][columns / 32]: sums[p] is [16 * count][16], sums_stride floats behind that of
// the panel before. `chunks` is [panels].
void MultiplyTiles(const kernels::TileKernels& kernels, const TilePanels& weights, std::span<const kernels::ActivationTile> tiles,
                   UnpackedChunk* chunks, float* sums, size_t sums_stride);

}  // namespace bantam
