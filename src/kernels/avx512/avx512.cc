// AVX-512 with VNNI: one register holds four columns of 16 rows, so that one broadcast of four activations feeds all rows
// and no sum ever crosses lanes. Up to 8 columns by pointers take weights as they lie, expanded in registers; tiles take them unpacked.
#include "kernels/avx512/avx512.h"

#include <immintrin.h>

#include "kernels/activation_impl.h"
#include "kernels/attention_impl.h"
#include "kernels/recurrence_impl.h"
#include "kernels/tiles_impl.h"

namespace bantam::kernels {
namespace {

inline void Prefetch(const uint8_t* at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0); }
inline __m512i Load512(const uint8_t* at) { return _mm512_loadu_si512(at); }
inline __m512 LoadHalf16(const uint8_t* at) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))); }
inline __m512 LoadBytes16Signed(const uint8_t* at) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}
inline __m512 LoadBytes16Unsigned(const uint8_t* at) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}
// Four neighbouring activations in every lane.
inline __m512i Broadcast4(const int8_t* q) {
  int32_t four;
  __builtin_memcpy(&four, q, 4);
  return _mm512_set1_epi32(four);
}

// How each kind expands 32 columns x 16 rows into eight registers of unsigned bytes, and what is subtracted from them.
struct Expand8 {
  static constexpr int kZero = 128;
  static void Run(const uint8_t* planes, __m512i, __m512i w[8]) {
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
    for (int g = 0; g < 8; ++g) w[g] = _mm512_xor_si512(Load512(planes + 64 * g), flip);
  }
};
inline void ExpandNibbles(const uint8_t* planes, __m512i w[8]) {
  const __m512i mask = _mm512_set1_epi8(15);
  for (int v = 0; v < 4; ++v) {
    const __m512i both = Load512(planes + 64 * v);
    w[2 * v] = _mm512_and_si512(both, mask);
    w[2 * v + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
  }
}
template <int kSubtract>
struct Expand4 {
  static constexpr int kZero = kSubtract;
  static void Run(const uint8_t* planes, __m512i, __m512i w[8]) { ExpandNibbles(planes, w); }
};
struct ExpandLut4 {
  static constexpr int kZero = 128;
  // `table` holds value + 128 in every 128-bit lane; the shuffle ignores nothing above bit 3 because nibbles are masked.
  static void Run(const uint8_t* planes, __m512i table, __m512i w[8]) {
    ExpandNibbles(planes, w);
    for (int g = 0; g < 8; ++g) w[g] = _mm512_shuffle_epi8(table, w[g]);
  }
};
// ORs `bit` into the bytes whose bit is set in the plane of 64-bit masks.
inline void AddBitPlane(const uint8_t* plane, char bit, __m512i w[8]) {
  for (int g = 0; g < 8; ++g) {
    uint64_t high;
    __builtin_memcpy(&high, plane + 8 * g, 8);
    w[g] = _mm512_or_si512(w[g], _mm512_maskz_mov_epi8(_cvtu64_mask64(high), _mm512_set1_epi8(bit)));
  }
}
template <int kSubtract>
struct Expand5 {
  static constexpr int kZero = kSubtract;
  static void Run(const uint8_t* planes, __m512i, __m512i w[8]) {
    ExpandNibbles(planes, w);
    AddBitPlane(planes + 256, 16, w);
  }
};
struct Expand6 {
  static constexpr int kZero = 32;
  static void Run(const uint8_t* planes, __m512i, __m512i w[8]) {
    ExpandNibbles(planes, w);
    const __m512i mask = _mm512_set1_epi8(0x30);
    for (int v = 0; v < 2; ++v) {
      const __m512i high = Load512(planes + 256 + 64 * v);
      w[4 * v] = _mm512_or_si512(w[4 * v], _mm512_and_si512(_mm512_slli_epi16(high, 4), mask));
      w[4 * v + 1] = _mm512_or_si512(w[4 * v + 1], _mm512_and_si512(_mm512_slli_epi16(high, 2), mask));
      w[4 * v + 2] = _mm512_or_si512(w[4 * v + 2], _mm512_and_si512(high, mask));
      w[4 * v + 3] = _mm512_or_si512(w[4 * v + 3], _mm512_and_si512(_mm512_srli_epi16(high, 2), mask));
    }
  }
};
inline void ExpandPairs(const uint8_t* planes, __m512i w[8]) {
  const __m512i mask = _mm512_set1_epi8(3);
  for (int v = 0; v < 2; ++v) {
    const __m512i four = Load512(planes + 64 * v);
    w[4 * v] = _mm512_and_si512(four, mask);
    w[4 * v + 1] = _mm512_and_si512(_mm512_srli_epi16(four, 2), mask);
    w[4 * v + 2] = _mm512_and_si512(_mm512_srli_epi16(four, 4), mask);
    w[4 * v + 3] = _mm512_and_si512(_mm512_srli_epi16(four, 6), mask);
  }
}
template <int kSubtract>
struct Expand2 {
  static constexpr int kZero = kSubtract;
  static void Run(const uint8_t* planes, __m512i, __m512i w[8]) { ExpandPairs(planes, w); }
};
template <int kSubtract>
struct Expand3 {
  static constexpr int kZero = kSubtract;
  static void Run(const uint8_t* planes, __m512i, __m512i w[8]) {
    ExpandPairs(planes, w);
    AddBitPlane(planes + 128, 4, w);
  }
};

// Up to eight columns of activations. Open(b) goes to a block of 32; half 0 and 1 are its first and its last 16.
template <int kZero>
class Columns {
 public:
  explicit Columns(const void* const* columns) : columns_(columns) {}
  void Open(size_t b) { block_ = b; }
  const int8_t* Q(int c) const { return At(c).q; }
  __m512 Scale(int c) const { return _mm512_set1_ps(At(c).scale); }
  // -zero times the sum of the activations.
  __m512i Correction(int c) const { return _mm512_set1_epi32(-kZero * Sum(c)); }
  __m512i Correction(int c, int half) const { return _mm512_set1_epi32(-kZero * At(c).sum16[half]); }
  __m512 ScaledSum(int c) const { return _mm512_set1_ps(At(c).scale * static_cast<float>(Sum(c))); }
  __m512 ScaledSum(int c, int half) const { return _mm512_set1_ps(At(c).scale * static_cast<float>(At(c).sum16[half])); }

 private:
  const ActivationBlock& At(int c) const { return static_cast<const ActivationBlock*>(columns_[c])[block_]; }
  int Sum(int c) const { return At(c).sum16[0] + At(c).sum16[1]; }
  const void* const* columns_;
  size_t block_ = 0;
};

// How many columns go through the registers side by side: a chain of eight dependent products takes longer than the scheduler looks ahead.
constexpr int SideBySide(int n) { return n % 8 == 0 ? 8 : n % 4 == 0 ? 4 : n % 3 == 0 ? 3 : n % 2 == 0 ? 2 : 1; }

// The integer sums of registers [kBegin, kEnd) with kI columns from c on, on top of what stands in `sums`.
template <int kBegin, int kEnd, int kI, int kZero>
inline void AddDots(const __m512i w[8], const Columns<kZero>& x, int c, __m512i* sums) {
#pragma GCC unroll 8
  for (int g = kBegin; g < kEnd; ++g) {
#pragma GCC unroll 8
    for (int i = 0; i < kI; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], w[g], Broadcast4(x.Q(c + i) + 4 * g));
  }
}
template <int kI, int kZero>
inline void Dots(const __m512i w[8], const Columns<kZero>& x, int c, __m512* out) {
  __m512i sums[kI];
  for (int i = 0; i < kI; ++i) sums[i] = x.Correction(c + i);
  AddDots<0, 8, kI>(w, x, c, sums);
  for (int i = 0; i < kI; ++i) out[i] = _mm512_cvtepi32_ps(sums[i]);
}
// Of the first or the last 16 columns of a block.
template <int kHalf, int kI, int kZero>
inline void HalfDots(const __m512i w[8], const Columns<kZero>& x, int c, __m512* out) {
  __m512i sums[kI];
  for (int i = 0; i < kI; ++i) sums[i] = x.Correction(c + i, kHalf);
  AddDots<4 * kHalf, 4 * kHalf + 4, kI>(w, x, c, sums);
  for (int i = 0; i < kI; ++i) out[i] = _mm512_cvtepi32_ps(sums[i]);
}

// Table values as unsigned bytes (value + 128) in every 128-bit lane.
inline __m512i LoadTable(const Panel& panel) {
  if (panel.table == nullptr) return _mm512_setzero_si512();
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(panel.table));
  return _mm512_broadcast_i32x4(_mm_xor_si128(values, _mm_set1_epi8(static_cast<char>(0x80))));
}

// Decoding waits for nothing but weights, which come in streams that are too short for some processors' own prefetchers: one panel of a
// large matrix has some kilobytes.
template <size_t kBytes, int kN>
inline void PrefetchAhead(const Panel& panel, const uint8_t* group) {
  const size_t ahead = panel.prefetch.Of(kN);
  if (ahead == 0) return;
  for (size_t byte = 0; byte < kBytes; byte += 64) Prefetch(group + ahead + byte);
}

// Groups of 32 columns with 16 f16 scales in front, and 16 minima behind them when the kind has those.
template <typename Expand, bool kMin, size_t kPlaneBytes, int kN>
inline void BlockProduct(const Panel& panel, Columns<Expand::kZero> x, float* out) {
  constexpr size_t kData = kMin ? 64 : 32;
  const __m512i table = LoadTable(panel);
  __m512 sums[kN];
  for (int c = 0; c < kN; ++c) sums[c] = _mm512_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += kData + kPlaneBytes) {
    __m512i w[8];
    PrefetchAhead<kData + kPlaneBytes, kN>(panel, group);
    Expand::Run(group + kData, table, w);
    const __m512 scale = LoadHalf16(group);
    const __m512 minimum = kMin ? LoadHalf16(group + 32) : _mm512_setzero_ps();
    x.Open(b);
    constexpr int kI = SideBySide(kN);
#pragma GCC unroll 16
    for (int c = 0; c < kN; c += kI) {
      __m512 dots[kI];
      Dots<kI>(w, x, c, dots);
#pragma GCC unroll 8
      for (int i = 0; i < kI; ++i) {
        sums[c + i] = _mm512_fmadd_ps(dots[i], _mm512_mul_ps(scale, x.Scale(c + i)), sums[c + i]);
        if (kMin) sums[c + i] = _mm512_fnmadd_ps(minimum, x.ScaledSum(c + i), sums[c + i]);
      }
    }
  }
  for (int c = 0; c < kN; ++c) _mm512_storeu_ps(out + kRows * static_cast<size_t>(c), sums[c]);
}

inline __m512 LoadBf16x16(const uint8_t* at) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// fp4: groups of 32 columns with bf16 scales of the first and of the second 16.
template <int kN>
inline void Fp4Product(const Panel& panel, Columns<ExpandLut4::kZero> x, float* out) {
  const __m512i table = LoadTable(panel);
  __m512 sums[kN];
  for (int c = 0; c < kN; ++c) sums[c] = _mm512_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += 64 + 256) {
    __m512i w[8];
    PrefetchAhead<64 + 256, kN>(panel, group);
    ExpandLut4::Run(group + 64, table, w);
    const __m512 first = LoadBf16x16(group);
    const __m512 second = LoadBf16x16(group + 32);
    x.Open(b);
    constexpr int kI = SideBySide(kN);
#pragma GCC unroll 16
    for (int c = 0; c < kN; c += kI) {
      __m512 low[kI];
      __m512 high[kI];
      HalfDots<0, kI>(w, x, c, low);
      HalfDots<1, kI>(w, x, c, high);
#pragma GCC unroll 8
      for (int i = 0; i < kI; ++i) {
        const __m512 x_scale = x.Scale(c + i);
        sums[c + i] = _mm512_fmadd_ps(low[i], _mm512_mul_ps(first, x_scale), sums[c + i]);
        sums[c + i] = _mm512_fmadd_ps(high[i], _mm512_mul_ps(second, x_scale), sums[c + i]);
      }
    }
  }
  for (int c = 0; c < kN; ++c) _mm512_storeu_ps(out + kRows * static_cast<size_t>(c), sums[c]);
}

// The other kinds: groups of 256 columns, f16 scales (and minima) times small integers per sub-block.
template <typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes, int kN>
inline void SuperProduct(const Panel& panel, Columns<Expand::kZero> x, float* out) {
  using Layout = Super<kSub, kMin>;
  constexpr size_t kPer32 = 32 / kSub;  // sub-blocks of 32 columns: 1 or 2
  const __m512i table = LoadTable(panel);
  __m512 sums[kN];
  for (int c = 0; c < kN; ++c) sums[c] = _mm512_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; b += 8, group += Layout::kData + 8 * kPlaneBytes) {
    PrefetchAhead<Layout::kData, kN>(panel, group);
    const __m512 d = _mm512_mul_ps(LoadHalf16(group), _mm512_set1_ps(panel.multiplier));
    const __m512 dmin = kMin ? LoadHalf16(group + 32) : _mm512_setzero_ps();
    for (size_t i = 0; i < 8; ++i) {
      __m512i w[8];
      PrefetchAhead<kPlaneBytes, kN>(panel, group + Layout::kData + i * kPlaneBytes);
      Expand::Run(group + Layout::kData + i * kPlaneBytes, table, w);
      __m512 scale[kPer32];
      __m512 minimum[kPer32];
      for (size_t s = 0; s < kPer32; ++s) {
        scale[s] = _mm512_mul_ps(d, LoadBytes16Signed(group + Layout::kScales + (i * kPer32 + s) * 16));
        if (kMin) minimum[s] = _mm512_mul_ps(dmin, LoadBytes16Unsigned(group + Layout::kMins + (i * kPer32 + s) * 16));
      }
      x.Open(b + i);
      constexpr int kI = SideBySide(kN);
#pragma GCC unroll 16
      for (int c = 0; c < kN; c += kI) {
        if constexpr (kPer32 == 1) {
          __m512 dots[kI];
          Dots<kI>(w, x, c, dots);
#pragma GCC unroll 8
          for (int k = 0; k < kI; ++k) {
            sums[c + k] = _mm512_fmadd_ps(dots[k], _mm512_mul_ps(scale[0], x.Scale(c + k)), sums[c + k]);
            if (kMin) sums[c + k] = _mm512_fnmadd_ps(minimum[0], x.ScaledSum(c + k), sums[c + k]);
          }
        } else {
          __m512 low[kI];
          __m512 high[kI];
          HalfDots<0, kI>(w, x, c, low);
          HalfDots<1, kI>(w, x, c, high);
#pragma GCC unroll 8
          for (int k = 0; k < kI; ++k) {
            const __m512 x_scale = x.Scale(c + k);
            sums[c + k] = _mm512_fmadd_ps(low[k], _mm512_mul_ps(scale[0], x_scale), sums[c + k]);
            sums[c + k] = _mm512_fmadd_ps(high[k], _mm512_mul_ps(scale[kPer32 - 1], x_scale), sums[c + k]);
            if (kMin) {
              sums[c + k] = _mm512_fnmadd_ps(minimum[0], x.ScaledSum(c + k, 0), sums[c + k]);
              sums[c + k] = _mm512_fnmadd_ps(minimum[kPer32 - 1], x.ScaledSum(c + k, 1), sums[c + k]);
            }
          }
        }
      }
    }
  }
  for (int c = 0; c < kN; ++c) _mm512_storeu_ps(out + kRows * static_cast<size_t>(c), sums[c]);
}

struct LoadF32 {
  static constexpr size_t kBytes = 64;  // of a column
  static __m512 Run(const uint8_t* panel, size_t k) { return _mm512_loadu_ps(panel + 64 * k); }
};
struct LoadF16 {
  static constexpr size_t kBytes = 32;
  static __m512 Run(const uint8_t* panel, size_t k) { return LoadHalf16(panel + 32 * k); }
};
struct LoadBF16 {
  static constexpr size_t kBytes = 32;
  static __m512 Run(const uint8_t* panel, size_t k) { return LoadBf16x16(panel + 32 * k); }
};

// Even and odd columns are summed apart (two chains hide the latency of the addition) whatever the number of columns, so
// that a token's result does not depend on what else is in the batch.
template <typename Load, int kN>
void FloatProduct(const Panel& panel, const void* const* columns, float* out) {
  __m512 even[kN];
  __m512 odd[kN];
  for (int c = 0; c < kN; ++c) even[c] = odd[c] = _mm512_setzero_ps();
  size_t k = 0;
  for (; k + 2 <= panel.columns; k += 2) {
    PrefetchAhead<2 * Load::kBytes, kN>(panel, panel.data + k * Load::kBytes);
    const __m512 w0 = Load::Run(panel.data, k);
    const __m512 w1 = Load::Run(panel.data, k + 1);
    for (int c = 0; c < kN; ++c) {
      const float* x = static_cast<const float*>(columns[c]);
      even[c] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[k]), even[c]);
      odd[c] = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[k + 1]), odd[c]);
    }
  }
  if (k < panel.columns) {
    const __m512 w0 = Load::Run(panel.data, k);
    for (int c = 0; c < kN; ++c) {
      even[c] = _mm512_fmadd_ps(w0, _mm512_set1_ps(static_cast<const float*>(columns[c])[k]), even[c]);
    }
  }
  for (int c = 0; c < kN; ++c) _mm512_storeu_ps(out + kRows * static_cast<size_t>(c), _mm512_add_ps(even[c], odd[c]));
}

template <int kN>
struct Count {
  static constexpr int kValue = kN;
};

// Splits n columns into calls of at most eight: run(Count, columns, out).
template <typename Run>
inline void WithCounts(const void* const* columns, size_t n, float* out, Run run) {
  for (; n >= 8; n -= 8, columns += 8, out += 8 * kRows) run(Count<8>(), columns, out);
  switch (n) {
    case 1:
      return run(Count<1>(), columns, out);
    case 2:
      return run(Count<2>(), columns, out);
    case 3:
      return run(Count<3>(), columns, out);
    case 4:
      return run(Count<4>(), columns, out);
    case 5:
      return run(Count<5>(), columns, out);
    case 6:
      return run(Count<6>(), columns, out);
    case 7:
      return run(Count<7>(), columns, out);
    default:
      return;
  }
}

template <typename Load>
void AnyFloatProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out,
             [&](auto count, const void* const* some, float* to) { FloatProduct<Load, decltype(count)::kValue>(panel, some, to); });
}
template <typename Expand, bool kMin, size_t kPlaneBytes>
void AnyBlockProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    BlockProduct<Expand, kMin, kPlaneBytes, decltype(count)::kValue>(panel, Columns<Expand::kZero>(some), to);
  });
}
void AnyFp4Product(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    Fp4Product<decltype(count)::kValue>(panel, Columns<ExpandLut4::kZero>(some), to);
  });
}
template <typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes>
void AnySuperProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    SuperProduct<Expand, kSub, kMin, kPlaneBytes, decltype(count)::kValue>(panel, Columns<Expand::kZero>(some), to);
  });
}

struct Scales16 {
  static constexpr size_t kLanes = 16;
  static __m512 Half(const uint8_t* at) { return LoadHalf16(at); }
  static __m512 Bf16(const uint8_t* at) { return LoadBf16x16(at); }
  static __m512 Signed(const uint8_t* at) { return LoadBytes16Signed(at); }
  static __m512 Unsigned(const uint8_t* at) { return LoadBytes16Unsigned(at); }
  static __m512 Set(float x) { return _mm512_set1_ps(x); }
  static __m512 Multiply(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
  static void Store(float* at, __m512 x) { _mm512_store_ps(at, x); }
};

template <typename Expand>
struct Planes {
  static void Unpack(const uint8_t* planes, const Panel& panel, UnpackedBlock* out) {
    __m512i w[8];
    Expand::Run(planes, LoadTable(panel), w);
    for (int g = 0; g < 8; ++g) _mm512_store_si512(out->w[g], w[g]);
  }
};

// Four columns from c on with a block of kP panels.
template <int kP, int kScales, bool kMin, int kSide>
inline void MultiplyBlock(const UnpackedBlock* const* weights, const ActivationTile& tile, const TileSums<kScales>& x, int c,
                          __m512 (*sums)[kSide]) {
  constexpr int kRegisters = 8 / kScales;  // per scale
#pragma GCC unroll 2
  for (int s = 0; s < kScales; ++s) {
    __m512i dots[kP][kSide];
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) {
      const __m512i correction = _mm512_set1_epi32(x.corrections[s][c + i]);
      for (int p = 0; p < kP; ++p) dots[p][i] = correction;
    }
#pragma GCC unroll 8
    for (int g = s * kRegisters; g < (s + 1) * kRegisters; ++g) {
      __m512i w[kP];
      for (int p = 0; p < kP; ++p) w[p] = _mm512_load_si512(weights[p]->w[g]);
#pragma GCC unroll 8
      for (int i = 0; i < kSide; ++i) {
        const __m512i four = Broadcast4(tile.q[c + i] + 4 * g);
        for (int p = 0; p < kP; ++p) dots[p][i] = _mm512_dpbusd_epi32(dots[p][i], w[p], four);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) {
      const __m512 x_scale = _mm512_set1_ps(tile.scale[c + i]);
#pragma GCC unroll 8
      for (int p = 0; p < kP; ++p) {
        const __m512 scale = _mm512_mul_ps(_mm512_load_ps(weights[p]->scale[s]), x_scale);
        sums[p][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[p][i]), scale, sums[p][i]);
      }
    }
  }
  for (int s = 0; kMin && s < kScales; ++s) {
#pragma GCC unroll 8
    for (int i = 0; i < kSide; ++i) {
      const __m512 scaled = _mm512_set1_ps(x.scaled[s][c + i]);
      for (int p = 0; p < kP; ++p) sums[p][i] = _mm512_fnmadd_ps(_mm512_load_ps(weights[p]->minimum[s]), scaled, sums[p][i]);
    }
  }
}

// kP by kSide sums stay in registers for a whole chunk. Stores between would cost more than they take: they share the low bits of their
// addresses with loads that follow (measured on Zen 4: - 30 % in half of all processes).
template <int kP, int kScales, bool kMin>
inline void MultiplyPanels(const TileProduct& product, const TileSums<kScales>* x, size_t first_panel) {
  constexpr int kSide = 4;
  const UnpackedBlock* weights[kP];
  float* out[kP];
  for (int c = 0; c < static_cast<int>(kTileColumns); c += kSide) {
    __m512 sums[kP][kSide];
    for (size_t p = 0; p < kP; ++p) {
      weights[p] = reinterpret_cast<const UnpackedBlock*>(product.weights + (first_panel + p) * kChunkBytesMax);
      out[p] = product.sums + (first_panel + p) * product.sums_stride + static_cast<size_t>(c) * kRows;
      for (size_t i = 0; i < kSide; ++i) sums[p][i] = _mm512_loadu_ps(out[p] + i * kRows);
    }
    for (size_t b = 0; b < product.blocks; ++b) {
      MultiplyBlock<kP, kScales, kMin, kSide>(weights, product.tiles[b], x[b], c, sums);
      for (int p = 0; p < kP; ++p) ++weights[p];
    }
    for (size_t p = 0; p < kP; ++p) {
      for (size_t i = 0; i < kSide; ++i) _mm512_storeu_ps(out[p] + i * kRows, sums[p][i]);
    }
  }
}

template <int kScales, bool kMin, int kZero>
void MultiplyCodes(const TileProduct& product) {
  TileSums<kScales> x[kChunkBlocksOfCodes];
  for (size_t b = 0; b < product.blocks; ++b) x[b].Fill(product.tiles[b], kZero);
  size_t p = 0;
  for (; p + 3 <= product.panels; p += 3) MultiplyPanels<3, kScales, kMin>(product, x, p);
  for (; p + 2 <= product.panels; p += 2) MultiplyPanels<2, kScales, kMin>(product, x, p);
  if (p < product.panels) MultiplyPanels<1, kScales, kMin>(product, x, p);
}

template <typename Expand, bool kMin, size_t kPlaneBytes>
constexpr TileKernels BlockTiles() {
  return {kChunkBlocksOfCodes, UnpackBlocks<Scales16, Planes<Expand>, kMin, kPlaneBytes>, MultiplyCodes<1, kMin, Expand::kZero>};
}
template <typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes>
constexpr TileKernels SuperTiles() {
  return {kChunkBlocksOfCodes, UnpackSuper<Scales16, Planes<Expand>, kSub, kMin, kPlaneBytes>,
          MultiplyCodes<32 / kSub, kMin, Expand::kZero>};
}

// NaN becomes 0: a conversion would make it the smallest integer.
inline __m512i ToInt(__m512 v) { return _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(v, v, _CMP_ORD_Q), v); }

void Quantize(const float* x, size_t n, ActivationBlock* out) {
  for (size_t b = 0; b < n / 32; ++b, x += 32, ++out) {
    const __m512 low = _mm512_loadu_ps(x);
    const __m512 high = _mm512_loadu_ps(x + 16);
    // Of a NaN and a number the instruction gives its second operand: here never the NaN.
    const __m512 largest_low = _mm512_max_ps(_mm512_abs_ps(low), _mm512_setzero_ps());
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(high), largest_low));
    const bool zeros = !(largest >= kQuantizedMin);
    const __m512 inverse = _mm512_set1_ps(zeros ? 0.0f : 127.0f / largest);
    const __m512i q_low = ToInt(_mm512_mul_ps(low, inverse));
    const __m512i q_high = ToInt(_mm512_mul_ps(high, inverse));
    out->scale = zeros ? 0.0f : largest / 127.0f;
    out->sum16[0] = static_cast<int16_t>(_mm512_reduce_add_epi32(q_low));
    out->sum16[1] = static_cast<int16_t>(_mm512_reduce_add_epi32(q_high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out->q), _mm512_cvtsepi32_epi8(q_low));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out->q + 16), _mm512_cvtsepi32_epi8(q_high));
  }
}

inline __mmask16 Tail(size_t left) { return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1u); }

void RmsNorm(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  __m512 squares = _mm512_setzero_ps();
  for (size_t i = 0; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(Tail(n - i), x + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const float mean = _mm512_reduce_add_ps(squares) / static_cast<float>(n);
  const __m512 scale = _mm512_set1_ps(1.0f / __builtin_sqrtf(mean + epsilon));
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = Tail(n - i);
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
    _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
  }
}

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2; the polynomial is Cephes' expf (relative error below 2e-7).
inline __m512 Exp(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-104.0f)), _mm512_set1_ps(89.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

struct Vector16 {
  using F = __m512;
  static constexpr size_t kLanes = 16;
  static constexpr size_t kQueries = 4;
  static constexpr size_t kScoreBlocks = 4;
  static constexpr size_t kValueVectors = 4;
  static F Zero() { return _mm512_setzero_ps(); }
  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* at) { return _mm512_loadu_ps(at); }
  static void Store(float* at, F x) { _mm512_storeu_ps(at, x); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Subtract(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Multiply(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Divide(F a, F b) { return _mm512_div_ps(a, b); }
  static F MultiplyAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Exp(F x) { return kernels::Exp(x); }
  static float Largest(F x) { return _mm512_reduce_max_ps(x); }
  static float Total(F x) { return _mm512_reduce_add_ps(x); }
  static void Prefetch(const uint8_t* at) { kernels::Prefetch(at); }
};

struct F32Kv {
  static constexpr size_t Bytes(size_t n) { return 4 * n; }
  static constexpr bool kScaled = false;
  static __m512 Load(const uint8_t* data, size_t i) { return _mm512_loadu_ps(data + 4 * i); }
  static float Load1(const uint8_t* data, size_t i) {
    float value;
    __builtin_memcpy(&value, data + 4 * i, 4);
    return value;
  }
};
struct F16Kv {
  static constexpr size_t Bytes(size_t n) { return 2 * n; }
  static constexpr bool kScaled = false;
  static __m512 Load(const uint8_t* data, size_t i) { return LoadHalf16(data + 2 * i); }
  static float Load1(const uint8_t* data, size_t i) {
    uint16_t bits;
    __builtin_memcpy(&bits, data + 2 * i, 2);
    return _cvtsh_ss(bits);
  }
};
struct Int8Kv {
  static constexpr size_t Bytes(size_t n) { return n; }
  static constexpr bool kScaled = true;
  static __m512 Load(const uint8_t* data, size_t i) { return LoadBytes16Signed(data + i); }
  static float Load1(const uint8_t* data, size_t i) { return static_cast<float>(static_cast<int8_t>(data[i])); }
};
struct Int4Kv {
  static constexpr size_t Bytes(size_t n) { return (n + 1) / 2; }
  static constexpr bool kScaled = true;
  static __m512 Load(const uint8_t* data, size_t i) {
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(data + i / 2));
    const __m128i low = _mm_and_si128(packed, _mm_set1_epi8(15));
    const __m128i high = _mm_and_si128(_mm_srli_epi16(packed, 4), _mm_set1_epi8(15));
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kInt4Values));
    const __m128i values = _mm_shuffle_epi8(table, _mm_unpacklo_epi8(low, high));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(values));
  }
  static float Load1(const uint8_t* data, size_t i) { return static_cast<float>(kInt4Values[data[i / 2] >> (i % 2 * 4) & 15]); }
};

uint64_t Read(const uint8_t* data, size_t bytes) {
  __m512i sums[4] = {};
  size_t i = 0;
  for (; i + 256 <= bytes; i += 256) {
    for (size_t v = 0; v < 4; ++v) sums[v] = _mm512_add_epi64(sums[v], Load512(data + i + 64 * v));
  }
  const __m512i all = _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
  uint64_t sum = static_cast<uint64_t>(_mm512_reduce_add_epi64(all));
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, data + i, 8);
    sum += word;
  }
  return sum;
}

// Independent chains, enough to hide the latency of two units.
constexpr int kPeakChains = 12;

uint64_t RunInt8Peak(uint64_t rounds) {
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(5);
  __m512i sums[kPeakChains];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (uint64_t round = 0; round < rounds; ++round) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
  }
  uint64_t checksum = 0;
  for (const __m512i& sum : sums) checksum += static_cast<uint64_t>(static_cast<uint32_t>(_mm512_reduce_add_epi32(sum)));
  return checksum;
}

uint64_t RunFloatPeak(uint64_t rounds) {
  const __m512 a = _mm512_set1_ps(0.5f);
  __m512 sums[kPeakChains];
  for (__m512& sum : sums) sum = _mm512_set1_ps(1.0f);
  for (uint64_t round = 0; round < rounds; ++round) {
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, a, a);
  }
  float total = 0;
  for (const __m512& sum : sums) total += _mm512_reduce_add_ps(sum);
  return static_cast<uint64_t>(total);
}

}  // namespace

const KernelSet kAvx512 = {
    .name = "avx512",
    .quantized = {false, false, false, true, true, true, true, true, true, true,
                  true,  true,  true,  true, true, true, true, true, true, true},
    .product = {AnyFloatProduct<LoadF32>,
                AnyFloatProduct<LoadF16>,
                AnyFloatProduct<LoadBF16>,
                AnyBlockProduct<Expand8, false, 512>,
                AnyBlockProduct<Expand4<8>, false, 256>,
                AnySuperProduct<ExpandLut4, 32, false, 256>,
                AnySuperProduct<Expand4<0>, 32, true, 256>,
                AnySuperProduct<Expand5<0>, 32, true, 320>,
                AnySuperProduct<Expand6, 16, false, 384>,
                AnySuperProduct<Expand2<0>, 16, true, 128>,
                AnyBlockProduct<Expand4<0>, true, 256>,
                AnyBlockProduct<Expand5<16>, false, 320>,
                AnyBlockProduct<Expand5<0>, true, 320>,
                AnySuperProduct<Expand3<4>, 16, false, 192>,
                AnyBlockProduct<Expand2<1>, false, 128>,
                AnySuperProduct<ExpandLut4, 16, false, 256>,
                AnyBlockProduct<ExpandLut4, false, 256>,
                AnyFp4Product,
                AnyBlockProduct<Expand3<4>, false, 192>,
                AnyBlockProduct<Expand3<0>, true, 192>},
    .tiles = {{},
              {},
              {},
              BlockTiles<Expand8, false, 512>(),
              BlockTiles<Expand4<8>, false, 256>(),
              SuperTiles<ExpandLut4, 32, false, 256>(),
              SuperTiles<Expand4<0>, 32, true, 256>(),
              SuperTiles<Expand5<0>, 32, true, 320>(),
              SuperTiles<Expand6, 16, false, 384>(),
              SuperTiles<Expand2<0>, 16, true, 128>(),
              BlockTiles<Expand4<0>, true, 256>(),
              BlockTiles<Expand5<16>, false, 320>(),
              BlockTiles<Expand5<0>, true, 320>(),
              SuperTiles<Expand3<4>, 16, false, 192>(),
              BlockTiles<Expand2<1>, false, 128>(),
              SuperTiles<ExpandLut4, 16, false, 256>(),
              BlockTiles<ExpandLut4, false, 256>(),
              {kChunkBlocksOfCodes, UnpackFp4<Scales16, Planes<ExpandLut4>>, MultiplyCodes<2, false, ExpandLut4::kZero>},
              BlockTiles<Expand3<4>, false, 192>(),
              BlockTiles<Expand3<0>, true, 192>()},
    .quantize = Quantize,
    .rms_norm = RmsNorm,
    .activate = {Activate<Vector16, Activation::kSilu>, Activate<Vector16, Activation::kGelu>, Activate<Vector16, Activation::kRelu>,
                 Activate<Vector16, Activation::kReluSquared>, Activate<Vector16, Activation::kErfGelu>,
                 Activate<Vector16, Activation::kClampedSilu>},
    .attention = {Attend<Vector16, F32Kv, F32Kv>, Attend<Vector16, F16Kv, F16Kv>, Attend<Vector16, Int8Kv, Int8Kv>,
                  Attend<Vector16, Int8Kv, Int4Kv>},
    .convolve = Convolve<Vector16>,
    .scan = Scan<Vector16>,
    .delta = Delta<Vector16>,
    .read = Read,
    .int8_peak = {RunInt8Peak, kPeakChains * 64},
    .float_peak = {RunFloatPeak, kPeakChains * 16},
};

}  // namespace bantam::kernels
