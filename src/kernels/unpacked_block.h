// 32 columns of a panel as the sets' products of tiles take them, and what those take of the tile besides its bytes.
#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {
namespace {

struct alignas(64) UnpackedBlock {
  uint8_t w[8][64];    // bytes: w[g] is columns 4 g to 4 g + 3 of 16 rows, where the set arranges them no other way
  float scale[2][16];  // of the block, or of its halves
  float minimum[2][16];
};
static_assert(sizeof(UnpackedBlock) == 768);
constexpr size_t kChunkBlocksOfCodes = 8;
static_assert(kChunkBlocksOfCodes * sizeof(UnpackedBlock) <= kChunkBytesMax);

// [part][column], a part being a block or, with two scales, its half.
template <int kScales>
struct TileSums {
  void Fill(const ActivationTile& tile, int zero) {
    for (size_t c = 0; c < kTileColumns; ++c) {
      const int32_t halves[2] = {tile.sum16[0][c], tile.sum16[1][c]};
      for (int s = 0; s < kScales; ++s) {
        const int32_t sum = kScales == 1 ? halves[0] + halves[1] : halves[s];
        corrections[s][c] = -zero * sum;
        scaled[s][c] = tile.scale[c] * static_cast<float>(sum);
      }
    }
  }
  alignas(64) int32_t corrections[kScales][kTileColumns];  // -zero times the sum of the activations
  alignas(64) float scaled[kScales][kTileColumns];         // their sum times their scale
};

}  // namespace
}  // namespace bantam::kernels
