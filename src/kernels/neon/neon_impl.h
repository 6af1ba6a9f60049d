// 64-bit ARM: a panel's 16 rows as four quarters of 4, one register of 4 columns x 4 rows of bytes each. All of it is a template over how
// bytes are multiplied (`Dot`), and lives in an anonymous namespace: each set's file includes it with its own instructions.
//
// `Dot` has Run(sums, w, q), which adds the products of 4 rows with 16 columns, register g of four holding columns 4 g to 4 g + 3 of each
// row; and for tiles Arrange(w), which puts a quarter's eight registers of a block as MultiplySide<n>(w, q, dots) takes them: n of them,
// and n of the next quarter, with kSide columns of activations.
#pragma once

#include <arm_neon.h>

#include "kernels/activation_impl.h"
#include "kernels/attention_impl.h"
#include "kernels/kernel_types.h"
#include "kernels/recurrence_impl.h"
#include "kernels/tiles_impl.h"

namespace bantam::kernels {
namespace {

inline float32x4_t LoadHalf4(const uint8_t* at) {
  uint16x4_t bits;
  __builtin_memcpy(&bits, at, 8);
  return vcvt_f32_f16(vreinterpret_f16_u16(bits));
}
inline float32x4_t LoadBf16x4(const uint8_t* at) {
  uint16x4_t bits;
  __builtin_memcpy(&bits, at, 8);
  return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}
inline float32x4_t LoadBytes4Signed(const uint8_t* at) {
  uint32_t four;
  __builtin_memcpy(&four, at, 4);
  const int8x8_t bytes = vreinterpret_s8_u32(vdup_n_u32(four));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
inline float32x4_t LoadBytes4Unsigned(const uint8_t* at) {
  uint32_t four;
  __builtin_memcpy(&four, at, 4);
  const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
  return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
}
inline float32x4_t LoadFloat4(const uint8_t* at) { return vreinterpretq_f32_u8(vld1q_u8(at)); }

// How each kind expands 32 columns x 4 rows (a quarter) into eight registers of signed bytes, its zero subtracted.
inline void ExpandNibbles(const uint8_t* quarter, uint8x16_t w[8]) {
  for (size_t v = 0; v < 4; ++v) {
    const uint8x16_t both = vld1q_u8(quarter + 64 * v);
    w[2 * v] = vandq_u8(both, vdupq_n_u8(15));
    w[2 * v + 1] = vshrq_n_u8(both, 4);
  }
}
inline void ExpandPairs(const uint8_t* quarter, uint8x16_t w[8]) {
  const uint8x16_t mask = vdupq_n_u8(3);
  for (size_t v = 0; v < 2; ++v) {
    const uint8x16_t four = vld1q_u8(quarter + 64 * v);
    w[4 * v] = vandq_u8(four, mask);
    w[4 * v + 1] = vandq_u8(vshrq_n_u8(four, 2), mask);
    w[4 * v + 2] = vandq_u8(vshrq_n_u8(four, 4), mask);
    w[4 * v + 3] = vshrq_n_u8(four, 6);
  }
}
// ORs `bit` into the bytes of a quarter (16 bits of each 64-bit mask) whose bit is set.
inline void AddBitPlane(const uint8_t* plane, size_t quarter, uint8_t bit, uint8x16_t w[8]) {
  static const uint8_t kSelect[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t select = vld1q_u8(kSelect);
  for (size_t g = 0; g < 8; ++g) {
    const uint8_t* mask = plane + 8 * g + 2 * quarter;
    const uint8x16_t set = vtstq_u8(vcombine_u8(vdup_n_u8(mask[0]), vdup_n_u8(mask[1])), select);
    w[g] = vorrq_u8(w[g], vandq_u8(set, vdupq_n_u8(bit)));
  }
}
template <int kZero>
inline void Subtract(const uint8x16_t in[8], int8x16_t w[8]) {
  for (int g = 0; g < 8; ++g) w[g] = vsubq_s8(vreinterpretq_s8_u8(in[g]), vdupq_n_s8(kZero));
}

struct Expand8 {
  static void Run(const uint8_t* planes, size_t quarter, int8x16_t, int8x16_t w[8]) {
    for (size_t g = 0; g < 8; ++g) w[g] = vreinterpretq_s8_u8(vld1q_u8(planes + 64 * g + 16 * quarter));
  }
};
template <int kZero>
struct Expand4 {
  static void Run(const uint8_t* planes, size_t quarter, int8x16_t, int8x16_t w[8]) {
    uint8x16_t codes[8];
    ExpandNibbles(planes + 16 * quarter, codes);
    Subtract<kZero>(codes, w);
  }
};
struct ExpandLut4 {
  static void Run(const uint8_t* planes, size_t quarter, int8x16_t table, int8x16_t w[8]) {
    uint8x16_t codes[8];
    ExpandNibbles(planes + 16 * quarter, codes);
    for (int g = 0; g < 8; ++g) w[g] = vqtbl1q_s8(table, codes[g]);
  }
};
template <int kZero>
struct Expand5 {
  static void Run(const uint8_t* planes, size_t quarter, int8x16_t, int8x16_t w[8]) {
    uint8x16_t codes[8];
    ExpandNibbles(planes + 16 * quarter, codes);
    AddBitPlane(planes + 256, quarter, 16, codes);
    Subtract<kZero>(codes, w);
  }
};
struct Expand6 {
  static void Run(const uint8_t* planes, size_t quarter, int8x16_t, int8x16_t w[8]) {
    uint8x16_t codes[8];
    uint8x16_t high[8];
    ExpandNibbles(planes + 16 * quarter, codes);
    ExpandPairs(planes + 256 + 16 * quarter, high);
    for (int g = 0; g < 8; ++g) codes[g] = vorrq_u8(codes[g], vshlq_n_u8(high[g], 4));
    Subtract<32>(codes, w);
  }
};
template <int kZero>
struct Expand2 {
  static void Run(const uint8_t* planes, size_t quarter, int8x16_t, int8x16_t w[8]) {
    uint8x16_t codes[8];
    ExpandPairs(planes + 16 * quarter, codes);
    Subtract<kZero>(codes, w);
  }
};
template <int kZero>
struct Expand3 {
  static void Run(const uint8_t* planes, size_t quarter, int8x16_t, int8x16_t w[8]) {
    uint8x16_t codes[8];
    ExpandPairs(planes + 16 * quarter, codes);
    AddBitPlane(planes + 128, quarter, 4, codes);
    Subtract<kZero>(codes, w);
  }
};

inline int8x16_t LoadTable(const Panel& panel) { return panel.table == nullptr ? vdupq_n_s8(0) : vld1q_s8(panel.table); }

template <int kN>
inline void Store(const float32x4_t sums[4][kN], float* out) {
  for (size_t c = 0; c < kN; ++c) {
    for (size_t quarter = 0; quarter < 4; ++quarter) vst1q_f32(out + kRows * c + 4 * quarter, sums[quarter][c]);
  }
}
template <int kN>
inline void Clear(float32x4_t sums[4][kN]) {
  for (int quarter = 0; quarter < 4; ++quarter) {
    for (int c = 0; c < kN; ++c) sums[quarter][c] = vdupq_n_f32(0);
  }
}

// Decoding waits for nothing but weights.
template <size_t kBytes, int kN>
inline void PrefetchAhead(const Panel& panel, const uint8_t* group) {
  const size_t ahead = panel.prefetch.Of(kN);
  if (ahead == 0) return;
  for (size_t byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(group + ahead + byte);
}

// A product and its minimum times the sum of the activations.
template <bool kMin>
inline float32x4_t Scaled(float32x4_t sums, int32x4_t dot, const ActivationBlock& x, int sum, float32x4_t scale, float32x4_t minimum) {
  sums = vfmaq_f32(sums, vcvtq_f32_s32(dot), vmulq_n_f32(scale, x.scale));
  return kMin ? vfmsq_n_f32(sums, minimum, x.scale * static_cast<float>(sum)) : sums;
}

// Groups of 32 columns with 16 f16 scales in front, and 16 minima behind them when the kind has those.
template <typename Dot, typename Expand, bool kMin, size_t kPlaneBytes, int kN>
void BlockProduct(const Panel& panel, const void* const* columns, float* out) {
  constexpr size_t kData = kMin ? 64 : 32;
  const int32x4_t zero = vdupq_n_s32(0);
  const int8x16_t table = LoadTable(panel);
  float32x4_t sums[4][kN];
  Clear<kN>(sums);
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += kData + kPlaneBytes) {
    PrefetchAhead<kData + kPlaneBytes, kN>(panel, group);
    for (size_t quarter = 0; quarter < 4; ++quarter) {
      int8x16_t w[8];
      Expand::Run(group + kData, quarter, table, w);
      const float32x4_t scale = LoadHalf4(group + 8 * quarter);
      const float32x4_t minimum = kMin ? LoadHalf4(group + 32 + 8 * quarter) : vdupq_n_f32(0);
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b];
        const int32x4_t dot = vaddq_s32(Dot::Run(zero, w, vld1q_s8(x.q)), Dot::Run(zero, w + 4, vld1q_s8(x.q + 16)));
        sums[quarter][c] = Scaled<kMin>(sums[quarter][c], dot, x, x.sum16[0] + x.sum16[1], scale, minimum);
      }
    }
  }
  Store<kN>(sums, out);
}

// fp4: groups of 32 columns with bf16 scales of the first and of the second 16.
template <typename Dot, int kN>
void Fp4Product(const Panel& panel, const void* const* columns, float* out) {
  const int32x4_t zero = vdupq_n_s32(0);
  const int8x16_t table = LoadTable(panel);
  const float32x4_t none = vdupq_n_f32(0);
  float32x4_t sums[4][kN];
  Clear<kN>(sums);
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += 64 + 256) {
    PrefetchAhead<64 + 256, kN>(panel, group);
    for (size_t quarter = 0; quarter < 4; ++quarter) {
      int8x16_t w[8];
      ExpandLut4::Run(group + 64, quarter, table, w);
      const float32x4_t first = LoadBf16x4(group + 8 * quarter);
      const float32x4_t second = LoadBf16x4(group + 32 + 8 * quarter);
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b];
        float32x4_t& sum = sums[quarter][c];
        sum = Scaled<false>(sum, Dot::Run(zero, w, vld1q_s8(x.q)), x, 0, first, none);
        sum = Scaled<false>(sum, Dot::Run(zero, w + 4, vld1q_s8(x.q + 16)), x, 0, second, none);
      }
    }
  }
  Store<kN>(sums, out);
}

template <typename Dot, typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes, int kN>
void SuperProduct(const Panel& panel, const void* const* columns, float* out) {
  using Layout = Super<kSub, kMin>;
  constexpr size_t kPer32 = 32 / kSub;
  const int32x4_t zero = vdupq_n_s32(0);
  const int8x16_t table = LoadTable(panel);
  float32x4_t sums[4][kN];
  Clear<kN>(sums);
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; b += 8, group += Layout::kData + 8 * kPlaneBytes) {
    PrefetchAhead<Layout::kData, kN>(panel, group);
    for (size_t part = 0; part < 32; ++part) {
      const size_t i = part / 4;
      const size_t quarter = part % 4;
      if (quarter == 0) PrefetchAhead<kPlaneBytes, kN>(panel, group + Layout::kData + i * kPlaneBytes);
      const float32x4_t d = vmulq_n_f32(LoadHalf4(group + 8 * quarter), panel.multiplier);
      const float32x4_t dmin = kMin ? LoadHalf4(group + 32 + 8 * quarter) : vdupq_n_f32(0);
      int8x16_t w[8];
      Expand::Run(group + Layout::kData + i * kPlaneBytes, quarter, table, w);
      float32x4_t scale[kPer32];
      float32x4_t minimum[kPer32];
      for (size_t s = 0; s < kPer32; ++s) {
        const size_t at = (i * kPer32 + s) * 16 + 4 * quarter;
        scale[s] = vmulq_f32(d, LoadBytes4Signed(group + Layout::kScales + at));
        minimum[s] = kMin ? vmulq_f32(dmin, LoadBytes4Unsigned(group + Layout::kMins + at)) : dmin;
      }
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b + i];
        float32x4_t& sum = sums[quarter][c];
        const int32x4_t low = Dot::Run(zero, w, vld1q_s8(x.q));
        const int32x4_t high = Dot::Run(zero, w + 4, vld1q_s8(x.q + 16));
        if constexpr (kPer32 == 1) {
          sum = Scaled<kMin>(sum, vaddq_s32(low, high), x, x.sum16[0] + x.sum16[1], scale[0], minimum[0]);
        } else {
          sum = Scaled<kMin>(sum, low, x, x.sum16[0], scale[0], minimum[0]);
          sum = Scaled<kMin>(sum, high, x, x.sum16[1], scale[kPer32 - 1], minimum[kPer32 - 1]);
        }
      }
    }
  }
  Store<kN>(sums, out);
}

// Columns of a tile that are multiplied side by side.
constexpr size_t kSide = 4;

// A register of an unpacked block, g registers behind `w`.
inline int8x16_t LoadUnpacked(const uint8_t* w, size_t g) { return vreinterpretq_s8_u8(vld1q_u8(w + 64 * g)); }

// Tiles for sets whose Run is as good as it gets: registers stay as they are.
template <typename Dot>
struct RunForTiles {
  static void Arrange(int8x16_t*) {}
  template <size_t kN>
  static void MultiplySide(const uint8_t* w, const int8_t* const* q, int32x4_t (*dots)[kSide]) {
    for (size_t g = 0; g < kN; g += 4) {
      for (size_t h = 0; h < 2; ++h) {
        int8x16_t four[4];
        for (size_t i = 0; i < 4; ++i) four[i] = LoadUnpacked(w + 16 * h, g + i);
        for (size_t c = 0; c < kSide; ++c) dots[h][c] = Dot::Run(g == 0 ? vdupq_n_s32(0) : dots[h][c], four, vld1q_s8(q[c] + 4 * g));
      }
    }
  }
};

struct Scales4 {
  static constexpr size_t kLanes = 4;
  static float32x4_t Half(const uint8_t* at) { return LoadHalf4(at); }
  static float32x4_t Bf16(const uint8_t* at) { return LoadBf16x4(at); }
  static float32x4_t Signed(const uint8_t* at) { return LoadBytes4Signed(at); }
  static float32x4_t Unsigned(const uint8_t* at) { return LoadBytes4Unsigned(at); }
  static float32x4_t Set(float x) { return vdupq_n_f32(x); }
  static float32x4_t Multiply(float32x4_t a, float32x4_t b) { return vmulq_f32(a, b); }
  static void Store(float* at, float32x4_t x) { vst1q_f32(at, x); }
};

template <typename Dot, typename Expand>
struct Planes {
  static void Unpack(const uint8_t* planes, const Panel& panel, UnpackedBlock* out) {
    for (size_t quarter = 0; quarter < 4; ++quarter) {
      int8x16_t w[8];
      Expand::Run(planes, quarter, LoadTable(panel), w);
      Dot::Arrange(w);
      for (size_t g = 0; g < 8; ++g) vst1q_u8(out->w[g] + 16 * quarter, vreinterpretq_u8_s8(w[g]));
    }
  }
};

// Four columns from c on with two quarters of a panel's rows: sums stay in registers for a whole chunk, and activations serve both.
template <typename Dot, int kScales, bool kMin>
inline void MultiplyHalf(const TileProduct& product, const TileSums<kScales>* x, size_t panel, size_t half, size_t c) {
  constexpr size_t kRegisters = 8 / kScales;  // per scale
  const auto* block = reinterpret_cast<const UnpackedBlock*>(product.weights + panel * kChunkBytesMax);
  float* out = product.sums + panel * product.sums_stride + c * kRows + 8 * half;
  float32x4_t sums[2][kSide];
  for (size_t i = 0; i < kSide; ++i) {
    for (size_t h = 0; h < 2; ++h) sums[h][i] = vld1q_f32(out + i * kRows + 4 * h);
  }
  for (size_t b = 0; b < product.blocks; ++b, ++block) {
    const ActivationTile& tile = product.tiles[b];
#pragma GCC unroll 2
    for (size_t s = 0; s < kScales; ++s) {
      int32x4_t dots[2][kSide];
      const int8_t* q[kSide];
      for (size_t i = 0; i < kSide; ++i) q[i] = tile.q[c + i] + 4 * s * kRegisters;
      Dot::template MultiplySide<kRegisters>(block->w[s * kRegisters] + 32 * half, q, dots);
      for (size_t h = 0; h < 2; ++h) {
        const size_t rows = 8 * half + 4 * h;
        const float32x4_t scale = vld1q_f32(block->scale[s] + rows);
        for (size_t i = 0; i < kSide; ++i) {
          sums[h][i] = vfmaq_f32(sums[h][i], vcvtq_f32_s32(dots[h][i]), vmulq_n_f32(scale, tile.scale[c + i]));
          if (kMin) sums[h][i] = vfmsq_n_f32(sums[h][i], vld1q_f32(block->minimum[s] + rows), x[b].scaled[s][c + i]);
        }
      }
    }
  }
  for (size_t i = 0; i < kSide; ++i) {
    for (size_t h = 0; h < 2; ++h) vst1q_f32(out + i * kRows + 4 * h, sums[h][i]);
  }
}

template <typename Dot, int kScales, bool kMin>
void MultiplyCodes(const TileProduct& product) {
  TileSums<kScales> x[kChunkBlocksOfCodes];
  for (size_t b = 0; kMin && b < product.blocks; ++b) x[b].Fill(product.tiles[b], /*zero=*/0);
  for (size_t p = 0; p < product.panels; ++p) {
    for (size_t half = 0; half < 2; ++half) {
      for (size_t c = 0; c < kTileColumns; c += kSide) MultiplyHalf<Dot, kScales, kMin>(product, x, p, half, c);
    }
  }
}

template <typename Dot, typename Expand, bool kMin, size_t kPlaneBytes>
constexpr TileKernels BlockTiles() {
  return {kChunkBlocksOfCodes, UnpackBlocks<Scales4, Planes<Dot, Expand>, kMin, kPlaneBytes>, MultiplyCodes<Dot, 1, kMin>};
}
template <typename Dot, typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes>
constexpr TileKernels SuperTiles() {
  return {kChunkBlocksOfCodes, UnpackSuper<Scales4, Planes<Dot, Expand>, kSub, kMin, kPlaneBytes>, MultiplyCodes<Dot, 32 / kSub, kMin>};
}

struct LoadF32 {
  static float32x4_t Run(const uint8_t* panel, size_t k, size_t quarter) { return LoadFloat4(panel + 64 * k + 16 * quarter); }
};
struct LoadF16 {
  static float32x4_t Run(const uint8_t* panel, size_t k, size_t quarter) { return LoadHalf4(panel + 32 * k + 8 * quarter); }
};
struct LoadBF16 {
  static float32x4_t Run(const uint8_t* panel, size_t k, size_t quarter) { return LoadBf16x4(panel + 32 * k + 8 * quarter); }
};

template <typename Load, int kN>
void FloatProduct(const Panel& panel, const void* const* columns, float* out) {
  float32x4_t sums[4][kN];
  Clear<kN>(sums);
  for (size_t k = 0; k < panel.columns; ++k) {
    float32x4_t w[4];
    for (size_t quarter = 0; quarter < 4; ++quarter) w[quarter] = Load::Run(panel.data, k, quarter);
    for (int c = 0; c < kN; ++c) {
      const float x = static_cast<const float*>(columns[c])[k];
      for (int quarter = 0; quarter < 4; ++quarter) sums[quarter][c] = vfmaq_n_f32(sums[quarter][c], w[quarter], x);
    }
  }
  Store<kN>(sums, out);
}

template <int kN>
struct Count {
  static constexpr int kValue = kN;
};

// Splits n columns into calls of at most four: 16 sums of 4 rows, and as many registers for the rest.
template <typename Run>
inline void WithCounts(const void* const* columns, size_t n, float* out, Run run) {
  for (; n >= 4; n -= 4, columns += 4, out += 4 * kRows) run(Count<4>(), columns, out);
  if (n == 3) run(Count<3>(), columns, out);
  if (n == 2) run(Count<2>(), columns, out);
  if (n == 1) run(Count<1>(), columns, out);
}

template <typename Load>
void AnyFloatProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out,
             [&](auto count, const void* const* some, float* to) { FloatProduct<Load, decltype(count)::kValue>(panel, some, to); });
}
template <typename Dot, typename Expand, bool kMin, size_t kPlaneBytes>
void AnyBlockProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    BlockProduct<Dot, Expand, kMin, kPlaneBytes, decltype(count)::kValue>(panel, some, to);
  });
}
template <typename Dot>
void AnyFp4Product(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out,
             [&](auto count, const void* const* some, float* to) { Fp4Product<Dot, decltype(count)::kValue>(panel, some, to); });
}
template <typename Dot, typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes>
void AnySuperProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    SuperProduct<Dot, Expand, kSub, kMin, kPlaneBytes, decltype(count)::kValue>(panel, some, to);
  });
}

void Quantize(const float* x, size_t n, ActivationBlock* out) {
  for (size_t b = 0; b < n / 32; ++b, x += 32, ++out) {
    float32x4_t v[8];
    float32x4_t largest_lanes = vdupq_n_f32(0);
    for (size_t i = 0; i < 8; ++i) {
      v[i] = vld1q_f32(x + 4 * i);
      // A NaN counts as nothing. (The instruction for that keeps the number beside a quiet NaN only.)
      const uint32x4_t is_number = vceqq_f32(v[i], v[i]);
      largest_lanes = vmaxq_f32(largest_lanes, vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(vabsq_f32(v[i])), is_number)));
    }
    const float largest = vmaxvq_f32(largest_lanes);
    const bool zeros = !(largest >= kQuantizedMin);
    const float inverse = zeros ? 0.0f : 127.0f / largest;
    out->scale = zeros ? 0.0f : largest / 127.0f;
    for (size_t half = 0; half < 2; ++half) {
      int32x4_t q[4];
      for (size_t i = 0; i < 4; ++i) q[i] = vcvtnq_s32_f32(vmulq_n_f32(v[4 * half + i], inverse));  // NaN gives 0
      const int16x8_t low = vcombine_s16(vqmovn_s32(q[0]), vqmovn_s32(q[1]));
      const int16x8_t high = vcombine_s16(vqmovn_s32(q[2]), vqmovn_s32(q[3]));
      vst1q_s8(out->q + 16 * half, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
      out->sum16[half] = static_cast<int16_t>(vaddvq_s16(vaddq_s16(low, high)));
    }
  }
}

void RmsNorm(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  float32x4_t lanes[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (size_t l = 0; l < 2; ++l) {
      const float32x4_t v = vld1q_f32(x + i + 4 * l);
      lanes[l] = vfmaq_f32(lanes[l], v, v);
    }
  }
  float squares = vaddvq_f32(vaddq_f32(lanes[0], lanes[1]));
  for (; i < n; ++i) squares += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + epsilon);
  for (i = 0; i + 4 <= n; i += 4) vst1q_f32(out + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(weight + i)));
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// exp(x) = 2^n exp(r); the polynomial is Cephes' expf. 2^n is built in two halves, so that results below the normal range
// and up to infinity come out right.
inline float32x4_t Exp(float32x4_t x) {
  x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-104.0f)), vdupq_n_f32(89.0f));
  const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504088896341f));
  float32x4_t r = vfmsq_n_f32(x, n, 0.693359375f);
  r = vfmaq_n_f32(r, n, 2.12194440e-4f);
  float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
  p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
  p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
  p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
  p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
  p = vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1.0f)), p, vmulq_f32(r, r));
  const int32x4_t exponent = vcvtnq_s32_f32(n);
  const int32x4_t first = vshrq_n_s32(exponent, 1);
  const int32x4_t second = vsubq_s32(exponent, first);
  const int32x4_t bias = vdupq_n_s32(127);
  p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(first, bias), 23)));
  return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(second, bias), 23)));
}

struct Vector4 {
  using F = float32x4_t;
  static constexpr size_t kLanes = 4;
  static constexpr size_t kQueries = 4;
  static constexpr size_t kScoreBlocks = 1;
  static constexpr size_t kValueVectors = 4;
  static F Zero() { return vdupq_n_f32(0); }
  static F Set(float x) { return vdupq_n_f32(x); }
  static F Load(const float* at) { return vld1q_f32(at); }
  static void Store(float* at, F x) { vst1q_f32(at, x); }
  static F Add(F a, F b) { return vaddq_f32(a, b); }
  static F Subtract(F a, F b) { return vsubq_f32(a, b); }
  static F Multiply(F a, F b) { return vmulq_f32(a, b); }
  static F Divide(F a, F b) { return vdivq_f32(a, b); }
  static F MultiplyAdd(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F Max(F a, F b) { return vmaxnmq_f32(a, b); }
  static F Exp(F x) { return kernels::Exp(x); }
  static float Largest(F x) { return vmaxnmvq_f32(x); }
  static float Total(F x) { return vaddvq_f32(x); }
  static void Prefetch(const uint8_t* at) { __builtin_prefetch(at); }
};

// Four elements of K or V.
struct F32Kv {
  static constexpr size_t Bytes(size_t n) { return 4 * n; }
  static constexpr bool kScaled = false;
  static float32x4_t Load(const uint8_t* data, size_t i) { return LoadFloat4(data + 4 * i); }
  static float Load1(const uint8_t* data, size_t i) {
    float value;
    __builtin_memcpy(&value, data + 4 * i, 4);
    return value;
  }
};
struct F16Kv {
  static constexpr size_t Bytes(size_t n) { return 2 * n; }
  static constexpr bool kScaled = false;
  static float32x4_t Load(const uint8_t* data, size_t i) { return LoadHalf4(data + 2 * i); }
  static float Load1(const uint8_t* data, size_t i) {
    uint16_t bits;
    __builtin_memcpy(&bits, data + 2 * i, 2);
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits))), 0);
  }
};
struct Int8Kv {
  static constexpr size_t Bytes(size_t n) { return n; }
  static constexpr bool kScaled = true;
  static float32x4_t Load(const uint8_t* data, size_t i) { return LoadBytes4Signed(data + i); }
  static float Load1(const uint8_t* data, size_t i) { return static_cast<float>(static_cast<int8_t>(data[i])); }
};
struct Int4Kv {
  static constexpr size_t Bytes(size_t n) { return (n + 1) / 2; }
  static constexpr bool kScaled = true;
  static float32x4_t Load(const uint8_t* data, size_t i) {
    uint16_t four;
    __builtin_memcpy(&four, data + i / 2, 2);
    const uint8x8_t packed = vreinterpret_u8_u16(vdup_n_u16(four));
    const uint8x8_t codes = vzip1_u8(vand_u8(packed, vdup_n_u8(15)), vshr_n_u8(packed, 4));
    const int8x8_t values = vqtbl1_s8(vld1q_s8(kInt4Values), codes);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(values))));
  }
  static float Load1(const uint8_t* data, size_t i) { return static_cast<float>(kInt4Values[data[i / 2] >> (i % 2 * 4) & 15]); }
};

uint64_t Read(const uint8_t* data, size_t bytes) {
  uint64x2_t sums[4] = {vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0)};
  size_t i = 0;
  for (; i + 64 <= bytes; i += 64) {
    for (size_t v = 0; v < 4; ++v) sums[v] = vaddq_u64(sums[v], vreinterpretq_u64_u8(vld1q_u8(data + i + 16 * v)));
  }
  const uint64x2_t all = vaddq_u64(vaddq_u64(sums[0], sums[1]), vaddq_u64(sums[2], sums[3]));
  uint64_t sum = vgetq_lane_u64(all, 0) + vgetq_lane_u64(all, 1);
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, data + i, 8);
    sum += word;
  }
  return sum;
}

// Independent chains, enough to hide the latency of two units.
constexpr int kPeakChains = 12;

template <typename Dot>
uint64_t RunInt8Peak(uint64_t rounds) {
  int8x16_t w[4];
  for (int i = 0; i < 4; ++i) w[i] = vdupq_n_s8(static_cast<int8_t>(3 + i));
  int32x4_t sums[kPeakChains];
  for (int32x4_t& sum : sums) sum = vdupq_n_s32(1);
  for (uint64_t round = 0; round < rounds; ++round) {
    // One factor is made of the sums, or the compiler would make each product once.
    for (int32x4_t& sum : sums) sum = Dot::Run(sum, w, vreinterpretq_s8_s32(sum));
  }
  uint64_t checksum = 0;
  for (const int32x4_t& sum : sums) checksum += static_cast<uint64_t>(static_cast<uint32_t>(vaddvq_s32(sum)));
  return checksum;
}

uint64_t RunFloatPeak(uint64_t rounds) {
  const float32x4_t a = vdupq_n_f32(0.5f);
  float32x4_t sums[kPeakChains];
  for (float32x4_t& sum : sums) sum = vdupq_n_f32(1.0f);
  for (uint64_t round = 0; round < rounds; ++round) {
    for (float32x4_t& sum : sums) sum = vfmaq_f32(sum, a, sum);
  }
  float total = 0;
  for (const float32x4_t& sum : sums) total += vaddvq_f32(sum);
  return total > 0 ? 1 : 0;
}

template <typename Dot>
constexpr KernelSet MakeSet(const char* name) {
  return {
      .name = name,
      .quantized = {false, false, false, true, true, true, true, true, true, true,
                    true,  true,  true,  true, true, true, true, true, true, true},
      .product = {AnyFloatProduct<LoadF32>,
                  AnyFloatProduct<LoadF16>,
                  AnyFloatProduct<LoadBF16>,
                  AnyBlockProduct<Dot, Expand8, false, 512>,
                  AnyBlockProduct<Dot, Expand4<8>, false, 256>,
                  AnySuperProduct<Dot, ExpandLut4, 32, false, 256>,
                  AnySuperProduct<Dot, Expand4<0>, 32, true, 256>,
                  AnySuperProduct<Dot, Expand5<0>, 32, true, 320>,
                  AnySuperProduct<Dot, Expand6, 16, false, 384>,
                  AnySuperProduct<Dot, Expand2<0>, 16, true, 128>,
                  AnyBlockProduct<Dot, Expand4<0>, true, 256>,
                  AnyBlockProduct<Dot, Expand5<16>, false, 320>,
                  AnyBlockProduct<Dot, Expand5<0>, true, 320>,
                  AnySuperProduct<Dot, Expand3<4>, 16, false, 192>,
                  AnyBlockProduct<Dot, Expand2<1>, false, 128>,
                  AnySuperProduct<Dot, ExpandLut4, 16, false, 256>,
                  AnyBlockProduct<Dot, ExpandLut4, false, 256>,
                  AnyFp4Product<Dot>,
                  AnyBlockProduct<Dot, Expand3<4>, false, 192>,
                  AnyBlockProduct<Dot, Expand3<0>, true, 192>},
      .tiles = {{},
                {},
                {},
                BlockTiles<Dot, Expand8, false, 512>(),
                BlockTiles<Dot, Expand4<8>, false, 256>(),
                SuperTiles<Dot, ExpandLut4, 32, false, 256>(),
                SuperTiles<Dot, Expand4<0>, 32, true, 256>(),
                SuperTiles<Dot, Expand5<0>, 32, true, 320>(),
                SuperTiles<Dot, Expand6, 16, false, 384>(),
                SuperTiles<Dot, Expand2<0>, 16, true, 128>(),
                BlockTiles<Dot, Expand4<0>, true, 256>(),
                BlockTiles<Dot, Expand5<16>, false, 320>(),
                BlockTiles<Dot, Expand5<0>, true, 320>(),
                SuperTiles<Dot, Expand3<4>, 16, false, 192>(),
                BlockTiles<Dot, Expand2<1>, false, 128>(),
                SuperTiles<Dot, ExpandLut4, 16, false, 256>(),
                BlockTiles<Dot, ExpandLut4, false, 256>(),
                {kChunkBlocksOfCodes, UnpackFp4<Scales4, Planes<Dot, ExpandLut4>>, MultiplyCodes<Dot, 2, false>},
                BlockTiles<Dot, Expand3<4>, false, 192>(),
                BlockTiles<Dot, Expand3<0>, true, 192>()},
      .quantize = Quantize,
      .rms_norm = RmsNorm,
      .activate = {Activate<Vector4, Activation::kSilu>, Activate<Vector4, Activation::kGelu>, Activate<Vector4, Activation::kRelu>,
                   Activate<Vector4, Activation::kReluSquared>, Activate<Vector4, Activation::kErfGelu>,
                   Activate<Vector4, Activation::kClampedSilu>},
      .attention = {Attend<Vector4, F32Kv, F32Kv>, Attend<Vector4, F16Kv, F16Kv>, Attend<Vector4, Int8Kv, Int8Kv>,
                    Attend<Vector4, Int8Kv, Int4Kv>},
      .convolve = Convolve<Vector4>,
      .scan = Scan<Vector4>,
      .delta = Delta<Vector4>,
      .read = Read,
      .int8_peak = {RunInt8Peak<Dot>, kPeakChains * 64},
      .float_peak = {RunFloatPeak, kPeakChains * 4},
  };
}

}  // namespace
}  // namespace bantam::kernels
