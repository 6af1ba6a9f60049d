// 256-bit sets with FMA and F16C: a panel's 16 rows as two halves of 8. All of it is a template over how bytes are multiplied (`Bytes`),
// and lives in an anonymous namespace: each set's file includes it with its own instructions.
//
// `Bytes` has: kZero<Expand>, what is subtracted from weights as it takes them; Prepare<Expand>, which makes those of what a kind expands
// to; Add<Expand>(w, n, q, dots), which adds the products of n registers of weights with 4 n activations of kSide columns.
#pragma once

#include <immintrin.h>

#include "kernels/activation_impl.h"
#include "kernels/attention_impl.h"
#include "kernels/recurrence_impl.h"
#include "kernels/tiles_impl.h"

namespace bantam::kernels {
namespace {

inline __m256i Load256(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
inline __m256 LoadHalf8(const uint8_t* at) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))); }
inline __m256 LoadBytes8Signed(const uint8_t* at) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
}
inline __m256 LoadBytes8Unsigned(const uint8_t* at) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
}
inline __m256i Broadcast4(const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, 4);
  return _mm256_set1_epi32(four);
}

// How each kind expands 32 columns x 8 rows into eight registers of bytes. kAdds: the maddubs results (two products of a
// weight and an activation of at most 127) that fit into 16 bits together.
struct Expand8 {
  static constexpr bool kSigned = true;
  static constexpr int kZero = 0;
  static constexpr int kAdds = 1;  // 128 * 127 * 2 = 32,512
  static void Run(const uint8_t* planes, size_t half, __m256i, __m256i w[8]) {
    for (int g = 0; g < 8; ++g) w[g] = Load256(planes + 32 * half + 64 * g);
  }
};
inline void ExpandNibbles(const uint8_t* planes, __m256i w[8]) {
  const __m256i mask = _mm256_set1_epi8(15);
  for (int v = 0; v < 4; ++v) {
    const __m256i both = Load256(planes + 64 * v);
    w[2 * v] = _mm256_and_si256(both, mask);
    w[2 * v + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
  }
}
template <int kSubtract>
struct Expand4 {
  static constexpr bool kSigned = false;
  static constexpr int kZero = kSubtract;
  static constexpr int kAdds = 8;  // 8 * 15 * 127 * 2 = 30,480
  static void Run(const uint8_t* planes, size_t half, __m256i, __m256i w[8]) { ExpandNibbles(planes + 32 * half, w); }
};
struct ExpandLut4 {
  static constexpr bool kSigned = true;
  static constexpr int kZero = 0;
  static constexpr int kAdds = 1;
  static void Run(const uint8_t* planes, size_t half, __m256i table, __m256i w[8]) {
    ExpandNibbles(planes + 32 * half, w);
    for (int g = 0; g < 8; ++g) w[g] = _mm256_shuffle_epi8(table, w[g]);
  }
};
// ORs `bit` into the bytes of a half (its 8 rows are 32 bits of each 64-bit mask) whose bit is set.
inline void AddBitPlane(const uint8_t* plane, size_t half, char bit, __m256i w[8]) {
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i select = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
  for (int g = 0; g < 8; ++g) {
    int32_t mask;
    __builtin_memcpy(&mask, plane + 4 * half + 8 * g, 4);
    const __m256i chosen = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(mask), spread), select);
    w[g] = _mm256_or_si256(w[g], _mm256_and_si256(_mm256_cmpeq_epi8(chosen, select), _mm256_set1_epi8(bit)));
  }
}
template <int kSubtract>
struct Expand5 {
  static constexpr bool kSigned = false;
  static constexpr int kZero = kSubtract;
  static constexpr int kAdds = 4;  // 4 * 31 * 127 * 2 = 31,496
  static void Run(const uint8_t* planes, size_t half, __m256i, __m256i w[8]) {
    ExpandNibbles(planes + 32 * half, w);
    AddBitPlane(planes + 256, half, 16, w);
  }
};
struct Expand6 {
  static constexpr bool kSigned = false;
  static constexpr int kZero = 32;
  static constexpr int kAdds = 2;  // 2 * 63 * 127 * 2 = 32,004
  static void Run(const uint8_t* planes, size_t half, __m256i, __m256i w[8]) {
    ExpandNibbles(planes + 32 * half, w);
    const __m256i mask = _mm256_set1_epi8(0x30);
    for (int v = 0; v < 2; ++v) {
      const __m256i high = Load256(planes + 256 + 32 * half + 64 * v);
      w[4 * v] = _mm256_or_si256(w[4 * v], _mm256_and_si256(_mm256_slli_epi16(high, 4), mask));
      w[4 * v + 1] = _mm256_or_si256(w[4 * v + 1], _mm256_and_si256(_mm256_slli_epi16(high, 2), mask));
      w[4 * v + 2] = _mm256_or_si256(w[4 * v + 2], _mm256_and_si256(high, mask));
      w[4 * v + 3] = _mm256_or_si256(w[4 * v + 3], _mm256_and_si256(_mm256_srli_epi16(high, 2), mask));
    }
  }
};
inline void ExpandPairs(const uint8_t* planes, __m256i w[8]) {
  const __m256i mask = _mm256_set1_epi8(3);
  for (int v = 0; v < 2; ++v) {
    const __m256i four = Load256(planes + 64 * v);
    w[4 * v] = _mm256_and_si256(four, mask);
    w[4 * v + 1] = _mm256_and_si256(_mm256_srli_epi16(four, 2), mask);
    w[4 * v + 2] = _mm256_and_si256(_mm256_srli_epi16(four, 4), mask);
    w[4 * v + 3] = _mm256_and_si256(_mm256_srli_epi16(four, 6), mask);
  }
}
template <int kSubtract>
struct Expand2 {
  static constexpr bool kSigned = false;
  static constexpr int kZero = kSubtract;
  static constexpr int kAdds = 8;  // 8 * 3 * 127 * 2 = 6,096
  static void Run(const uint8_t* planes, size_t half, __m256i, __m256i w[8]) { ExpandPairs(planes + 32 * half, w); }
};
template <int kSubtract>
struct Expand3 {
  static constexpr bool kSigned = false;
  static constexpr int kZero = kSubtract;
  static constexpr int kAdds = 8;  // 8 * 7 * 127 * 2 = 14,224
  static void Run(const uint8_t* planes, size_t half, __m256i, __m256i w[8]) {
    ExpandPairs(planes + 32 * half, w);
    AddBitPlane(planes + 128, half, 4, w);
  }
};

// The integer sums of registers [kBegin, kEnd) with one column, less zero times the column's sum.
template <typename Bytes, typename Expand, int kBegin, int kEnd>
inline __m256 Dot(const __m256i w[8], const ActivationBlock& x, int sum) {
  __m256i total[1] = {_mm256_set1_epi32(-Bytes::template kZero<Expand> * sum)};
  const int8_t* q[1] = {x.q + 4 * kBegin};
  Bytes::template Add<Expand, kEnd - kBegin, 1>(w + kBegin, q, total);
  return _mm256_cvtepi32_ps(total[0]);
}

template <int kN>
inline void Store(const __m256 sums[2][kN], float* out) {
  for (int c = 0; c < kN; ++c) {
    _mm256_storeu_ps(out + kRows * static_cast<size_t>(c), sums[0][c]);
    _mm256_storeu_ps(out + kRows * static_cast<size_t>(c) + 8, sums[1][c]);
  }
}

inline __m256i LoadTable(const Panel& panel) {
  if (panel.table == nullptr) return _mm256_setzero_si256();
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(panel.table)));
}

// Decoding waits for nothing but weights.
template <size_t kBytes, int kN>
inline void PrefetchAhead(const Panel& panel, const uint8_t* group) {
  const size_t ahead = panel.prefetch.Of(kN);
  if (ahead == 0) return;
  for (size_t byte = 0; byte < kBytes; byte += 64) _mm_prefetch(reinterpret_cast<const char*>(group + ahead + byte), _MM_HINT_T0);
}

// Part of one column: its product, and its minimum times the sum of the activations.
template <typename Bytes, typename Expand, bool kMin, int kBegin, int kEnd>
inline __m256 AddSub(__m256 sums, const __m256i w[8], const ActivationBlock& x, int sum, __m256 scale, __m256 minimum) {
  const __m256 dot = Dot<Bytes, Expand, kBegin, kEnd>(w, x, sum);
  sums = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x.scale)), sums);
  if (kMin) sums = _mm256_fnmadd_ps(minimum, _mm256_set1_ps(x.scale * static_cast<float>(sum)), sums);
  return sums;
}

// Groups of 32 columns with 16 f16 scales in front, and 16 minima behind them when the kind has those.
template <typename Bytes, typename Expand, bool kMin, size_t kPlaneBytes, int kN>
void BlockProduct(const Panel& panel, const void* const* columns, float* out) {
  constexpr size_t kData = kMin ? 64 : 32;
  const __m256i table = LoadTable(panel);
  __m256 sums[2][kN];
  for (int c = 0; c < kN; ++c) sums[0][c] = sums[1][c] = _mm256_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += kData + kPlaneBytes) {
    PrefetchAhead<kData + kPlaneBytes, kN>(panel, group);
    for (size_t half = 0; half < 2; ++half) {
      __m256i w[8];
      Expand::Run(group + kData, half, table, w);
      Bytes::template Prepare<Expand>(w);
      const __m256 scale = LoadHalf8(group + 16 * half);
      const __m256 minimum = kMin ? LoadHalf8(group + 32 + 16 * half) : _mm256_setzero_ps();
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b];
        sums[half][c] = AddSub<Bytes, Expand, kMin, 0, 8>(sums[half][c], w, x, x.sum16[0] + x.sum16[1], scale, minimum);
      }
    }
  }
  Store<kN>(sums, out);
}

inline __m256 LoadBf16x8(const uint8_t* at) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// fp4: groups of 32 columns with bf16 scales of the first and of the second 16.
template <typename Bytes, int kN>
void Fp4Product(const Panel& panel, const void* const* columns, float* out) {
  const __m256i table = LoadTable(panel);
  const __m256 none = _mm256_setzero_ps();
  __m256 sums[2][kN];
  for (int c = 0; c < kN; ++c) sums[0][c] = sums[1][c] = _mm256_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += 64 + 256) {
    PrefetchAhead<64 + 256, kN>(panel, group);
    for (size_t half = 0; half < 2; ++half) {
      __m256i w[8];
      ExpandLut4::Run(group + 64, half, table, w);
      Bytes::template Prepare<ExpandLut4>(w);
      const __m256 first = LoadBf16x8(group + 16 * half);
      const __m256 second = LoadBf16x8(group + 32 + 16 * half);
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b];
        sums[half][c] = AddSub<Bytes, ExpandLut4, false, 0, 4>(sums[half][c], w, x, x.sum16[0], first, none);
        sums[half][c] = AddSub<Bytes, ExpandLut4, false, 4, 8>(sums[half][c], w, x, x.sum16[1], second, none);
      }
    }
  }
  Store<kN>(sums, out);
}

template <typename Bytes, typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes, int kN>
void SuperProduct(const Panel& panel, const void* const* columns, float* out) {
  using Layout = Super<kSub, kMin>;
  constexpr size_t kPer32 = 32 / kSub;
  const __m256i table = LoadTable(panel);
  __m256 sums[2][kN];
  for (int c = 0; c < kN; ++c) sums[0][c] = sums[1][c] = _mm256_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; b += 8, group += Layout::kData + 8 * kPlaneBytes) {
    PrefetchAhead<Layout::kData, kN>(panel, group);
    for (size_t part = 0; part < 16; ++part) {
      const size_t i = part / 2;
      const size_t half = part % 2;
      if (half == 0) PrefetchAhead<kPlaneBytes, kN>(panel, group + Layout::kData + i * kPlaneBytes);
      const __m256 d = _mm256_mul_ps(LoadHalf8(group + 16 * half), _mm256_set1_ps(panel.multiplier));
      const __m256 dmin = kMin ? LoadHalf8(group + 32 + 16 * half) : _mm256_setzero_ps();
      __m256i w[8];
      Expand::Run(group + Layout::kData + i * kPlaneBytes, half, table, w);
      Bytes::template Prepare<Expand>(w);
      __m256 scale[kPer32];
      __m256 minimum[kPer32] = {};
      for (size_t s = 0; s < kPer32; ++s) {
        const size_t at = (i * kPer32 + s) * 16 + 8 * half;
        scale[s] = _mm256_mul_ps(d, LoadBytes8Signed(group + Layout::kScales + at));
        if (kMin) minimum[s] = _mm256_mul_ps(dmin, LoadBytes8Unsigned(group + Layout::kMins + at));
      }
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b + i];
        __m256& sum = sums[half][c];
        if constexpr (kPer32 == 1) {
          sum = AddSub<Bytes, Expand, kMin, 0, 8>(sum, w, x, x.sum16[0] + x.sum16[1], scale[0], minimum[0]);
        } else {
          sum = AddSub<Bytes, Expand, kMin, 0, 4>(sum, w, x, x.sum16[0], scale[0], minimum[0]);
          sum = AddSub<Bytes, Expand, kMin, 4, 8>(sum, w, x, x.sum16[1], scale[kPer32 - 1], minimum[kPer32 - 1]);
        }
      }
    }
  }
  Store<kN>(sums, out);
}

struct LoadF32 {
  static __m256 Run(const uint8_t* panel, size_t k, size_t half) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(panel + 64 * k + 32 * half));
  }
};
struct LoadF16 {
  static __m256 Run(const uint8_t* panel, size_t k, size_t half) { return LoadHalf8(panel + 32 * k + 16 * half); }
};
struct LoadBF16 {
  static __m256 Run(const uint8_t* panel, size_t k, size_t half) { return LoadBf16x8(panel + 32 * k + 16 * half); }
};

// Even and odd columns apart, as in the AVX-512 set.
template <typename Load, int kN>
void FloatProduct(const Panel& panel, const void* const* columns, float* out) {
  __m256 even[2][kN];
  __m256 odd[2][kN];
  for (int c = 0; c < kN; ++c) even[0][c] = even[1][c] = odd[0][c] = odd[1][c] = _mm256_setzero_ps();
  for (size_t k = 0; k < panel.columns; ++k) {
    auto& sums = k % 2 == 0 ? even : odd;
    const __m256 low = Load::Run(panel.data, k, 0);
    const __m256 high = Load::Run(panel.data, k, 1);
    for (int c = 0; c < kN; ++c) {
      const __m256 x = _mm256_broadcast_ss(static_cast<const float*>(columns[c]) + k);
      sums[0][c] = _mm256_fmadd_ps(low, x, sums[0][c]);
      sums[1][c] = _mm256_fmadd_ps(high, x, sums[1][c]);
    }
  }
  for (int c = 0; c < kN; ++c) {
    for (int half = 0; half < 2; ++half) even[half][c] = _mm256_add_ps(even[half][c], odd[half][c]);
  }
  Store<kN>(even, out);
}

template <int kN>
struct Count {
  static constexpr int kValue = kN;
};

// Splits n columns into calls of at most four: 16 registers hold no more.
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
template <typename Bytes, typename Expand, bool kMin, size_t kPlaneBytes>
void AnyBlockProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    BlockProduct<Bytes, Expand, kMin, kPlaneBytes, decltype(count)::kValue>(panel, some, to);
  });
}
template <typename Bytes>
void AnyFp4Product(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out,
             [&](auto count, const void* const* some, float* to) { Fp4Product<Bytes, decltype(count)::kValue>(panel, some, to); });
}
template <typename Bytes, typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes>
void AnySuperProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    SuperProduct<Bytes, Expand, kSub, kMin, kPlaneBytes, decltype(count)::kValue>(panel, some, to);
  });
}

struct Scales8 {
  static constexpr size_t kLanes = 8;
  static __m256 Half(const uint8_t* at) { return LoadHalf8(at); }
  static __m256 Bf16(const uint8_t* at) { return LoadBf16x8(at); }
  static __m256 Signed(const uint8_t* at) { return LoadBytes8Signed(at); }
  static __m256 Unsigned(const uint8_t* at) { return LoadBytes8Unsigned(at); }
  static __m256 Set(float x) { return _mm256_set1_ps(x); }
  static __m256 Multiply(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
  static void Store(float* at, __m256 x) { _mm256_store_ps(at, x); }
};

template <typename Bytes, typename Expand>
struct Planes {
  static void Unpack(const uint8_t* planes, const Panel& panel, UnpackedBlock* out) {
    for (size_t half = 0; half < 2; ++half) {
      __m256i w[8];
      Expand::Run(planes, half, LoadTable(panel), w);
      Bytes::template Prepare<Expand>(w);
      for (int g = 0; g < 8; ++g) _mm256_store_si256(reinterpret_cast<__m256i*>(out->w[g] + 32 * half), w[g]);
    }
  }
};

// Four columns from c on with half the rows of a panel: sums stay in registers for a whole chunk.
template <typename Bytes, typename Expand, int kScales, bool kMin>
inline void MultiplyHalf(const TileProduct& product, const TileSums<kScales>* x, size_t panel, size_t half, size_t c) {
  constexpr int kSide = 4;
  constexpr int kRegisters = 8 / kScales;  // per scale
  const auto* block = reinterpret_cast<const UnpackedBlock*>(product.weights + panel * kChunkBytesMax);
  float* out = product.sums + panel * product.sums_stride + c * kRows + 8 * half;
  __m256 sums[kSide];
  for (size_t i = 0; i < kSide; ++i) sums[i] = _mm256_loadu_ps(out + i * kRows);
  for (size_t b = 0; b < product.blocks; ++b, ++block) {
    const ActivationTile& tile = product.tiles[b];
#pragma GCC unroll 2
    for (int s = 0; s < kScales; ++s) {
      __m256i dots[kSide];
      const int8_t* q[kSide];
      for (size_t i = 0; i < kSide; ++i) {
        dots[i] = _mm256_set1_epi32(x[b].corrections[s][c + i]);
        q[i] = tile.q[c + i] + 4 * s * kRegisters;
      }
      __m256i w[kRegisters];
      for (int g = 0; g < kRegisters; ++g)
        w[g] = _mm256_load_si256(reinterpret_cast<const __m256i*>(block->w[s * kRegisters + g] + 32 * half));
      Bytes::template Add<Expand, kRegisters, kSide>(w, q, dots);
      const __m256 scale = _mm256_load_ps(block->scale[s] + 8 * half);
      for (size_t i = 0; i < kSide; ++i) {
        sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[i]), _mm256_mul_ps(scale, _mm256_set1_ps(tile.scale[c + i])), sums[i]);
        if (kMin) sums[i] = _mm256_fnmadd_ps(_mm256_load_ps(block->minimum[s] + 8 * half), _mm256_set1_ps(x[b].scaled[s][c + i]), sums[i]);
      }
    }
  }
  for (size_t i = 0; i < kSide; ++i) _mm256_storeu_ps(out + i * kRows, sums[i]);
}

template <typename Bytes, typename Expand, int kScales, bool kMin>
void MultiplyCodes(const TileProduct& product) {
  TileSums<kScales> x[kChunkBlocksOfCodes];
  for (size_t b = 0; b < product.blocks; ++b) x[b].Fill(product.tiles[b], Bytes::template kZero<Expand>);
  for (size_t p = 0; p < product.panels; ++p) {
    for (size_t half = 0; half < 2; ++half) {
      for (size_t c = 0; c < kTileColumns; c += 4) MultiplyHalf<Bytes, Expand, kScales, kMin>(product, x, p, half, c);
    }
  }
}

template <typename Bytes, typename Expand, bool kMin, size_t kPlaneBytes>
constexpr TileKernels BlockTiles() {
  return {kChunkBlocksOfCodes, UnpackBlocks<Scales8, Planes<Bytes, Expand>, kMin, kPlaneBytes>, MultiplyCodes<Bytes, Expand, 1, kMin>};
}
template <typename Bytes, typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes>
constexpr TileKernels SuperTiles() {
  return {kChunkBlocksOfCodes, UnpackSuper<Scales8, Planes<Bytes, Expand>, kSub, kMin, kPlaneBytes>,
          MultiplyCodes<Bytes, Expand, 32 / kSub, kMin>};
}

inline float SumLanes(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float MaxLanes(__m256 v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// NaN becomes 0: a conversion would make it the smallest integer.
inline __m256i ToInt(__m256 v) { return _mm256_cvtps_epi32(_mm256_and_ps(v, _mm256_cmp_ps(v, v, _CMP_ORD_Q))); }

void Quantize(const float* x, size_t n, ActivationBlock* out) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  for (size_t b = 0; b < n / 32; ++b, x += 32, ++out) {
    __m256 v[4];
    __m256 largest_lanes = _mm256_setzero_ps();
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_loadu_ps(x + 8 * i);
      // Of a NaN and a number the instruction gives its second operand: the maximum so far, which is never NaN.
      largest_lanes = _mm256_max_ps(_mm256_andnot_ps(sign, v[i]), largest_lanes);
    }
    const float largest = MaxLanes(largest_lanes);
    const bool zeros = !(largest >= kQuantizedMin);
    const __m256 inverse = _mm256_set1_ps(zeros ? 0.0f : 127.0f / largest);
    out->scale = zeros ? 0.0f : largest / 127.0f;
    alignas(32) int32_t q[32];
    for (int i = 0; i < 4; ++i) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(q + 8 * i), ToInt(_mm256_mul_ps(v[i], inverse)));
    }
    int32_t sums[2] = {0, 0};
    for (int i = 0; i < 32; ++i) {
      out->q[i] = static_cast<int8_t>(q[i]);
      sums[i / 16] += q[i];
    }
    out->sum16[0] = static_cast<int16_t>(sums[0]);
    out->sum16[1] = static_cast<int16_t>(sums[1]);
  }
}

void RmsNorm(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  __m256 lanes = _mm256_setzero_ps();
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    lanes = _mm256_fmadd_ps(v, v, lanes);
  }
  float squares = SumLanes(lanes);
  for (; i < n; ++i) squares += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + epsilon);
  for (i = 0; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(scale));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(v, _mm256_loadu_ps(weight + i)));
  }
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// exp(x) = 2^n exp(r); the polynomial is Cephes' expf. 2^n is built in two halves, so that results below the normal range
// and up to infinity come out right.
inline __m256 Exp(__m256 x) {
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-104.0f)), _mm256_set1_ps(89.0f));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
  const __m256i exponent = _mm256_cvtps_epi32(n);
  const __m256i first = _mm256_srai_epi32(exponent, 1);
  const __m256i second = _mm256_sub_epi32(exponent, first);
  const __m256i bias = _mm256_set1_epi32(127);
  p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(first, bias), 23)));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(second, bias), 23)));
}

struct Vector8 {
  using F = __m256;
  static constexpr size_t kLanes = 8;
  static constexpr size_t kQueries = 4;
  static constexpr size_t kScoreBlocks = 1;
  static constexpr size_t kValueVectors = 2;
  static F Zero() { return _mm256_setzero_ps(); }
  static F Set(float x) { return _mm256_set1_ps(x); }
  static F Load(const float* at) { return _mm256_loadu_ps(at); }
  static void Store(float* at, F x) { _mm256_storeu_ps(at, x); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Subtract(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Multiply(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Divide(F a, F b) { return _mm256_div_ps(a, b); }
  static F MultiplyAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Exp(F x) { return kernels::Exp(x); }
  static float Largest(F x) { return MaxLanes(x); }
  static float Total(F x) { return SumLanes(x); }
  static void Prefetch(const uint8_t* at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0); }
};

struct F32Kv {
  static constexpr size_t Bytes(size_t n) { return 4 * n; }
  static constexpr bool kScaled = false;
  static __m256 Load(const uint8_t* data, size_t i) { return _mm256_loadu_ps(reinterpret_cast<const float*>(data) + i); }
  static float Load1(const uint8_t* data, size_t i) {
    float value;
    __builtin_memcpy(&value, data + 4 * i, 4);
    return value;
  }
};
struct F16Kv {
  static constexpr size_t Bytes(size_t n) { return 2 * n; }
  static constexpr bool kScaled = false;
  static __m256 Load(const uint8_t* data, size_t i) { return LoadHalf8(data + 2 * i); }
  static float Load1(const uint8_t* data, size_t i) {
    uint16_t bits;
    __builtin_memcpy(&bits, data + 2 * i, 2);
    return _cvtsh_ss(bits);
  }
};
struct Int8Kv {
  static constexpr size_t Bytes(size_t n) { return n; }
  static constexpr bool kScaled = true;
  static __m256 Load(const uint8_t* data, size_t i) { return LoadBytes8Signed(data + i); }
  static float Load1(const uint8_t* data, size_t i) { return static_cast<float>(static_cast<int8_t>(data[i])); }
};
struct Int4Kv {
  static constexpr size_t Bytes(size_t n) { return (n + 1) / 2; }
  static constexpr bool kScaled = true;
  static __m256 Load(const uint8_t* data, size_t i) {
    int32_t eight;
    __builtin_memcpy(&eight, data + i / 2, 4);
    const __m128i packed = _mm_cvtsi32_si128(eight);
    const __m128i low = _mm_and_si128(packed, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(packed, 4), _mm_set1_epi8(15));
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kInt4Values));
    const __m128i values = _mm_shuffle_epi8(table, _mm_unpacklo_epi8(low, high));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values));
  }
  static float Load1(const uint8_t* data, size_t i) { return static_cast<float>(kInt4Values[data[i / 2] >> (i % 2 * 4) & 15]); }
};

uint64_t Read(const uint8_t* data, size_t bytes) {
  __m256i sums[4] = {};
  size_t i = 0;
  for (; i + 128 <= bytes; i += 128) {
    for (size_t v = 0; v < 4; ++v) sums[v] = _mm256_add_epi64(sums[v], Load256(data + i + 32 * v));
  }
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), all);
  uint64_t sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, data + i, 8);
    sum += word;
  }
  return sum;
}

// Independent chains, enough to hide the latency of two units.
constexpr int kPeakChains = 10;

uint64_t RunFloatPeak(uint64_t rounds) {
  const __m256 a = _mm256_set1_ps(0.5f);
  __m256 sums[kPeakChains];
  for (__m256& sum : sums) sum = _mm256_set1_ps(1.0f);
  for (uint64_t round = 0; round < rounds; ++round) {
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, a, a);
  }
  float total = 0;
  for (const __m256& sum : sums) total += SumLanes(sum);
  return static_cast<uint64_t>(total);
}

template <typename Bytes>
constexpr KernelSet MakeSet(const char* name) {
  return {
      .name = name,
      .quantized = {false, false, false, true, true, true, true, true, true, true,
                    true,  true,  true,  true, true, true, true, true, true, true},
      .product = {AnyFloatProduct<LoadF32>,
                  AnyFloatProduct<LoadF16>,
                  AnyFloatProduct<LoadBF16>,
                  AnyBlockProduct<Bytes, Expand8, false, 512>,
                  AnyBlockProduct<Bytes, Expand4<8>, false, 256>,
                  AnySuperProduct<Bytes, ExpandLut4, 32, false, 256>,
                  AnySuperProduct<Bytes, Expand4<0>, 32, true, 256>,
                  AnySuperProduct<Bytes, Expand5<0>, 32, true, 320>,
                  AnySuperProduct<Bytes, Expand6, 16, false, 384>,
                  AnySuperProduct<Bytes, Expand2<0>, 16, true, 128>,
                  AnyBlockProduct<Bytes, Expand4<0>, true, 256>,
                  AnyBlockProduct<Bytes, Expand5<16>, false, 320>,
                  AnyBlockProduct<Bytes, Expand5<0>, true, 320>,
                  AnySuperProduct<Bytes, Expand3<4>, 16, false, 192>,
                  AnyBlockProduct<Bytes, Expand2<1>, false, 128>,
                  AnySuperProduct<Bytes, ExpandLut4, 16, false, 256>,
                  AnyBlockProduct<Bytes, ExpandLut4, false, 256>,
                  AnyFp4Product<Bytes>,
                  AnyBlockProduct<Bytes, Expand3<4>, false, 192>,
                  AnyBlockProduct<Bytes, Expand3<0>, true, 192>},
      .tiles = {{},
                {},
                {},
                BlockTiles<Bytes, Expand8, false, 512>(),
                BlockTiles<Bytes, Expand4<8>, false, 256>(),
                SuperTiles<Bytes, ExpandLut4, 32, false, 256>(),
                SuperTiles<Bytes, Expand4<0>, 32, true, 256>(),
                SuperTiles<Bytes, Expand5<0>, 32, true, 320>(),
                SuperTiles<Bytes, Expand6, 16, false, 384>(),
                SuperTiles<Bytes, Expand2<0>, 16, true, 128>(),
                BlockTiles<Bytes, Expand4<0>, true, 256>(),
                BlockTiles<Bytes, Expand5<16>, false, 320>(),
                BlockTiles<Bytes, Expand5<0>, true, 320>(),
                SuperTiles<Bytes, Expand3<4>, 16, false, 192>(),
                BlockTiles<Bytes, Expand2<1>, false, 128>(),
                SuperTiles<Bytes, ExpandLut4, 16, false, 256>(),
                BlockTiles<Bytes, ExpandLut4, false, 256>(),
                {kChunkBlocksOfCodes, UnpackFp4<Scales8, Planes<Bytes, ExpandLut4>>, MultiplyCodes<Bytes, ExpandLut4, 2, false>},
                BlockTiles<Bytes, Expand3<4>, false, 192>(),
                BlockTiles<Bytes, Expand3<0>, true, 192>()},
      .quantize = Quantize,
      .rms_norm = RmsNorm,
      .activate = {Activate<Vector8, Activation::kSilu>, Activate<Vector8, Activation::kGelu>, Activate<Vector8, Activation::kRelu>,
                   Activate<Vector8, Activation::kReluSquared>, Activate<Vector8, Activation::kErfGelu>,
                   Activate<Vector8, Activation::kClampedSilu>},
      .attention = {Attend<Vector8, F32Kv, F32Kv>, Attend<Vector8, F16Kv, F16Kv>, Attend<Vector8, Int8Kv, Int8Kv>,
                    Attend<Vector8, Int8Kv, Int4Kv>},
      .convolve = Convolve<Vector8>,
      .scan = Scan<Vector8>,
      .delta = Delta<Vector8>,
      .read = Read,
      .int8_peak = {Bytes::RunPeak, Bytes::kPeakMultiplies},
      .float_peak = {RunFloatPeak, kPeakChains * 8},
  };
}

}  // namespace
}  // namespace bantam::kernels
