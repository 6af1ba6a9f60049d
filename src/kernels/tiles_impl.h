// What the sets' products of tiles share, in an anonymous namespace, included by the set's file: how 32 columns of a panel are unpacked,
// and what is taken of a tile besides its bytes.
//
// A set's `Scales` has: kLanes floats of a register (4, 8 or 16); Half, Bf16, Signed and Unsigned, which load so many f16, bf16, int8 and
// uint8; Set, Multiply, Store. Its `Planes` unpacks the codes of 32 columns: Unpack(planes, panel, out).
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

// Offsets within a group of 256 columns whose sub-scales cover kSub columns.
template <size_t kSub, bool kMin>
struct Super {
  static constexpr size_t kSubs = 256 / kSub;
  static constexpr size_t kScales = kMin ? 64 : 32;
  static constexpr size_t kMins = kScales + 16 * kSubs;
  static constexpr size_t kData = ((kMin ? kMins : kScales) + 16 * kSubs + 63) / 64 * 64;
};

// Groups of 32 columns: an f16 scale (and a minimum).
template <typename Scales, typename Planes, bool kMin, size_t kPlaneBytes>
void UnpackBlocks(const Panel& panel, size_t first, size_t n, uint8_t* out) {
  constexpr size_t kData = kMin ? 64 : 32;
  auto* block = reinterpret_cast<UnpackedBlock*>(out);
  for (size_t b = first; b < first + n; ++b, ++block) {
    const uint8_t* group = panel.data + b * (kData + kPlaneBytes);
    Planes::Unpack(group + kData, panel, block);
    for (size_t r = 0; r < kRows; r += Scales::kLanes) {
      Scales::Store(block->scale[0] + r, Scales::Half(group + 2 * r));
      if (kMin) Scales::Store(block->minimum[0] + r, Scales::Half(group + 32 + 2 * r));
    }
  }
}

// The same with two bf16 scales.
template <typename Scales, typename Planes>
void UnpackFp4(const Panel& panel, size_t first, size_t n, uint8_t* out) {
  auto* block = reinterpret_cast<UnpackedBlock*>(out);
  for (size_t b = first; b < first + n; ++b, ++block) {
    const uint8_t* group = panel.data + b * (64 + 256);
    Planes::Unpack(group + 64, panel, block);
    for (size_t s = 0; s < 2; ++s) {
      for (size_t r = 0; r < kRows; r += Scales::kLanes) Scales::Store(block->scale[s] + r, Scales::Bf16(group + 32 * s + 2 * r));
    }
  }
}

// Groups of 256 columns: f16 scales (and minima) times small integers per sub-block.
template <typename Scales, typename Planes, size_t kSub, bool kMin, size_t kPlaneBytes>
void UnpackSuper(const Panel& panel, size_t first, size_t n, uint8_t* out) {
  using Layout = Super<kSub, kMin>;
  constexpr size_t kPer32 = 32 / kSub;
  auto* block = reinterpret_cast<UnpackedBlock*>(out);
  for (size_t b = first; b < first + n; ++b, ++block) {
    const size_t i = b % 8;
    const uint8_t* group = panel.data + b / 8 * (Layout::kData + 8 * kPlaneBytes);
    Planes::Unpack(group + Layout::kData + i * kPlaneBytes, panel, block);
    for (size_t s = 0; s < kPer32; ++s) {
      for (size_t r = 0; r < kRows; r += Scales::kLanes) {
        const size_t at = (i * kPer32 + s) * kRows + r;
        const auto d = Scales::Multiply(Scales::Half(group + 2 * r), Scales::Set(panel.multiplier));
        Scales::Store(block->scale[s] + r, Scales::Multiply(d, Scales::Signed(group + Layout::kScales + at)));
        if (!kMin) continue;
        const auto dmin = Scales::Half(group + 32 + 2 * r);
        Scales::Store(block->minimum[s] + r, Scales::Multiply(dmin, Scales::Unsigned(group + Layout::kMins + at)));
      }
    }
  }
}

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
