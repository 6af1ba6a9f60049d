// AVX2 with FMA and F16C: a panel's 16 rows as two halves of 8. Products of bytes go through 16 bits (maddubs), so every
// kind says how many such sums fit before they must be widened.
#include "kernels/avx2/avx2.h"

#include <immintrin.h>

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
struct Expand3 {
  static constexpr bool kSigned = false;
  static constexpr int kZero = 4;
  static constexpr int kAdds = 8;  // 8 * 7 * 127 * 2 = 14,224
  static void Run(const uint8_t* planes, size_t half, __m256i, __m256i w[8]) {
    ExpandPairs(planes + 32 * half, w);
    AddBitPlane(planes + 128, half, 4, w);
  }
};

// The integer sums of registers [kBegin, kEnd) with one column, less zero times the column's sum.
template <typename Expand, int kBegin, int kEnd>
inline __m256 Dot(const __m256i w[8], const ActivationBlock& x, int sum) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i total = _mm256_set1_epi32(-Expand::kZero * sum);
  for (int g = kBegin; g < kEnd; g += Expand::kAdds) {
    __m256i narrow = _mm256_setzero_si256();
    for (int i = g; i < g + Expand::kAdds && i < kEnd; ++i) {
      const __m256i q = Broadcast4(x.q + 4 * i);
      const __m256i products =
          Expand::kSigned ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), _mm256_sign_epi8(q, w[i])) : _mm256_maddubs_epi16(w[i], q);
      narrow = i == g ? products : _mm256_add_epi16(narrow, products);
    }
    total = _mm256_add_epi32(total, _mm256_madd_epi16(narrow, ones));
  }
  return _mm256_cvtepi32_ps(total);
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

// Part of one column: its product, and its minimum times the sum of the activations.
template <typename Expand, bool kMin, int kBegin, int kEnd>
inline __m256 AddSub(__m256 sums, const __m256i w[8], const ActivationBlock& x, int sum, __m256 scale, __m256 minimum) {
  const __m256 dot = Dot<Expand, kBegin, kEnd>(w, x, sum);
  sums = _mm256_fmadd_ps(dot, _mm256_mul_ps(scale, _mm256_set1_ps(x.scale)), sums);
  if (kMin) sums = _mm256_fnmadd_ps(minimum, _mm256_set1_ps(x.scale * static_cast<float>(sum)), sums);
  return sums;
}

// Groups of 32 columns with 16 f16 scales in front, and 16 minima behind them when the kind has those.
template <typename Expand, bool kMin, size_t kPlaneBytes, int kN>
void BlockProduct(const Panel& panel, const void* const* columns, float* out) {
  constexpr size_t kData = kMin ? 64 : 32;
  const __m256i table = LoadTable(panel);
  __m256 sums[2][kN];
  for (int c = 0; c < kN; ++c) sums[0][c] = sums[1][c] = _mm256_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += kData + kPlaneBytes) {
    for (size_t half = 0; half < 2; ++half) {
      __m256i w[8];
      Expand::Run(group + kData, half, table, w);
      const __m256 scale = LoadHalf8(group + 16 * half);
      const __m256 minimum = kMin ? LoadHalf8(group + 32 + 16 * half) : _mm256_setzero_ps();
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b];
        sums[half][c] = AddSub<Expand, kMin, 0, 8>(sums[half][c], w, x, x.sum16[0] + x.sum16[1], scale, minimum);
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
template <int kN>
void Fp4Product(const Panel& panel, const void* const* columns, float* out) {
  const __m256i table = LoadTable(panel);
  const __m256 none = _mm256_setzero_ps();
  __m256 sums[2][kN];
  for (int c = 0; c < kN; ++c) sums[0][c] = sums[1][c] = _mm256_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; ++b, group += 64 + 256) {
    for (size_t half = 0; half < 2; ++half) {
      __m256i w[8];
      ExpandLut4::Run(group + 64, half, table, w);
      const __m256 first = LoadBf16x8(group + 16 * half);
      const __m256 second = LoadBf16x8(group + 32 + 16 * half);
      for (int c = 0; c < kN; ++c) {
        const ActivationBlock& x = static_cast<const ActivationBlock*>(columns[c])[b];
        sums[half][c] = AddSub<ExpandLut4, false, 0, 4>(sums[half][c], w, x, x.sum16[0], first, none);
        sums[half][c] = AddSub<ExpandLut4, false, 4, 8>(sums[half][c], w, x, x.sum16[1], second, none);
      }
    }
  }
  Store<kN>(sums, out);
}

template <size_t kSub, bool kMin>
struct Super {
  static constexpr size_t kSubs = 256 / kSub;
  static constexpr size_t kScales = kMin ? 64 : 32;
  static constexpr size_t kMins = kScales + 16 * kSubs;
  static constexpr size_t kData = ((kMin ? kMins : kScales) + 16 * kSubs + 63) / 64 * 64;
};

template <typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes, int kN>
void SuperProduct(const Panel& panel, const void* const* columns, float* out) {
  using Layout = Super<kSub, kMin>;
  constexpr size_t kPer32 = 32 / kSub;
  const __m256i table = LoadTable(panel);
  __m256 sums[2][kN];
  for (int c = 0; c < kN; ++c) sums[0][c] = sums[1][c] = _mm256_setzero_ps();
  const uint8_t* group = panel.data;
  for (size_t b = 0; b < panel.columns / 32; b += 8, group += Layout::kData + 8 * kPlaneBytes) {
    for (size_t part = 0; part < 16; ++part) {
      const size_t i = part / 2;
      const size_t half = part % 2;
      const __m256 d = _mm256_mul_ps(LoadHalf8(group + 16 * half), _mm256_set1_ps(panel.multiplier));
      const __m256 dmin = kMin ? LoadHalf8(group + 32 + 16 * half) : _mm256_setzero_ps();
      __m256i w[8];
      Expand::Run(group + Layout::kData + i * kPlaneBytes, half, table, w);
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
          sum = AddSub<Expand, kMin, 0, 8>(sum, w, x, x.sum16[0] + x.sum16[1], scale[0], minimum[0]);
        } else {
          sum = AddSub<Expand, kMin, 0, 4>(sum, w, x, x.sum16[0], scale[0], minimum[0]);
          sum = AddSub<Expand, kMin, 4, 8>(sum, w, x, x.sum16[1], scale[kPer32 - 1], minimum[kPer32 - 1]);
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
template <typename Expand, bool kMin, size_t kPlaneBytes>
void AnyBlockProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    BlockProduct<Expand, kMin, kPlaneBytes, decltype(count)::kValue>(panel, some, to);
  });
}
void AnyFp4Product(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out,
             [&](auto count, const void* const* some, float* to) { Fp4Product<decltype(count)::kValue>(panel, some, to); });
}
template <typename Expand, size_t kSub, bool kMin, size_t kPlaneBytes>
void AnySuperProduct(const Panel& panel, const void* const* columns, size_t n, float* out) {
  WithCounts(columns, n, out, [&](auto count, const void* const* some, float* to) {
    SuperProduct<Expand, kSub, kMin, kPlaneBytes, decltype(count)::kValue>(panel, some, to);
  });
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

inline __m256 Silu(__m256 g) { return _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), Exp(_mm256_sub_ps(_mm256_setzero_ps(), g)))); }

void SwiGlu(const float* gate, const float* up, size_t n, float* out) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_mul_ps(Silu(_mm256_loadu_ps(gate + i)), _mm256_loadu_ps(up + i)));
  }
  for (; i < n; ++i) out[i] = _mm256_cvtss_f32(Silu(_mm256_set1_ps(gate[i]))) * up[i];
}

struct F32Kv {
  static constexpr size_t kBytes = 4;
  static constexpr bool kScaled = false;
  static __m256 Load8(const uint8_t* data, size_t i) { return _mm256_loadu_ps(reinterpret_cast<const float*>(data) + i); }
  static float Load1(const uint8_t* data, size_t i) {
    float value;
    __builtin_memcpy(&value, data + 4 * i, 4);
    return value;
  }
};
struct F16Kv {
  static constexpr size_t kBytes = 2;
  static constexpr bool kScaled = false;
  static __m256 Load8(const uint8_t* data, size_t i) { return LoadHalf8(data + 2 * i); }
  static float Load1(const uint8_t* data, size_t i) {
    uint16_t bits;
    __builtin_memcpy(&bits, data + 2 * i, 2);
    return _cvtsh_ss(bits);
  }
};
struct Int8Kv {
  static constexpr size_t kBytes = 1;
  static constexpr bool kScaled = true;
  static __m256 Load8(const uint8_t* data, size_t i) { return LoadBytes8Signed(data + i); }
  static float Load1(const uint8_t* data, size_t i) { return static_cast<float>(static_cast<int8_t>(data[i])); }
};

// The tokens of a block that the query sees.
struct Visible {
  size_t begin;
  size_t end;
};

// The softmax weights of one block for one head, and how much of the earlier sums to keep.
template <typename Kv>
inline float WeighBlock(const Attention& a, const float* query, const uint8_t* keys, const uint8_t* scales, Visible tokens, float* largest,
                        float* total, float weights[kKvTokens]) {
  __m256 low = _mm256_setzero_ps();
  __m256 high = _mm256_setzero_ps();
  for (size_t d = 0; d < a.head_dim; ++d) {
    const __m256 q = _mm256_broadcast_ss(query + d);
    low = _mm256_fmadd_ps(Kv::Load8(keys, d * kKvTokens), q, low);
    high = _mm256_fmadd_ps(Kv::Load8(keys, d * kKvTokens + 8), q, high);
  }
  __m256 score[2] = {_mm256_mul_ps(low, _mm256_set1_ps(a.scale)), _mm256_mul_ps(high, _mm256_set1_ps(a.scale))};
  const __m256 lanes = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
  __m256 visible[2];
  for (int i = 0; i < 2; ++i) {
    if (Kv::kScaled) score[i] = _mm256_mul_ps(score[i], F32Kv::Load8(scales, static_cast<size_t>(8 * i)));
    const __m256 token = _mm256_add_ps(lanes, _mm256_set1_ps(static_cast<float>(8 * i)));
    visible[i] = _mm256_and_ps(_mm256_cmp_ps(token, _mm256_set1_ps(static_cast<float>(tokens.end)), _CMP_LT_OQ),
                               _mm256_cmp_ps(token, _mm256_set1_ps(static_cast<float>(tokens.begin)), _CMP_GE_OQ));
    score[i] = _mm256_blendv_ps(_mm256_set1_ps(-__builtin_huge_valf()), score[i], visible[i]);
  }
  const float block_largest = MaxLanes(_mm256_max_ps(score[0], score[1]));
  const float raised = *largest > block_largest ? *largest : block_largest;
  const float keep = _mm256_cvtss_f32(Exp(_mm256_set1_ps(*largest - raised)));
  __m256 weight[2];
  for (int i = 0; i < 2; ++i) weight[i] = _mm256_and_ps(Exp(_mm256_sub_ps(score[i], _mm256_set1_ps(raised))), visible[i]);
  *total = *total * keep + SumLanes(_mm256_add_ps(weight[0], weight[1]));
  *largest = raised;
  for (int i = 0; i < 2; ++i) {
    if (Kv::kScaled) weight[i] = _mm256_mul_ps(weight[i], F32Kv::Load8(scales, static_cast<size_t>(16 + 8 * i)));
    _mm256_storeu_ps(weights + 8 * i, weight[i]);
  }
  return keep;
}

template <typename Kv>
void Attend(const Attention& a) {
  for (size_t row = 0; row < a.tokens * a.group; ++row) {
    const size_t at = row / a.group * a.row_stride + row % a.group * a.head_dim;
    const size_t end = a.n_context + row / a.group;
    const size_t first = a.window == 0 || end < a.window ? 0 : end - a.window;
    float* sums = a.out + at;
    for (size_t d = 0; d < a.head_dim; ++d) sums[d] = 0;
    float largest = -__builtin_huge_valf();
    float total = 0;
    for (size_t begin = first / kKvTokens * kKvTokens; begin < end; begin += kKvTokens) {
      const uint8_t* keys = a.kv_base + a.blocks[begin / kKvTokens] * a.block_bytes + a.head_offset;
      const uint8_t* values = keys + kKvTokens * a.head_dim * Kv::kBytes;
      const uint8_t* scales = values + kKvTokens * a.head_dim * Kv::kBytes;
      const Visible tokens = {first > begin ? first - begin : 0, end - begin < kKvTokens ? end - begin : kKvTokens};
      float weights[kKvTokens];
      const float keep = WeighBlock<Kv>(a, a.query + at, keys, scales, tokens, &largest, &total, weights);
      size_t d = 0;
      for (; d + 8 <= a.head_dim; d += 8) {
        __m256 sum = _mm256_mul_ps(_mm256_loadu_ps(sums + d), _mm256_set1_ps(keep));
        for (size_t t = tokens.begin; t < tokens.end; ++t) {
          sum = _mm256_fmadd_ps(Kv::Load8(values, t * a.head_dim + d), _mm256_set1_ps(weights[t]), sum);
        }
        _mm256_storeu_ps(sums + d, sum);
      }
      for (; d < a.head_dim; ++d) {
        float sum = sums[d] * keep;
        for (size_t t = tokens.begin; t < tokens.end; ++t) sum += Kv::Load1(values, t * a.head_dim + d) * weights[t];
        sums[d] = sum;
      }
    }
    for (size_t d = 0; d < a.head_dim; ++d) sums[d] /= total;
  }
}

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

// Each product changes one factor, or the compiler would make it once.
uint64_t RunInt8Peak(uint64_t rounds) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i a = _mm256_set1_epi8(3);
  __m256i sums[kPeakChains];
  for (__m256i& sum : sums) sum = _mm256_set1_epi32(1);
  for (uint64_t round = 0; round < rounds; ++round) {
    for (__m256i& sum : sums) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, sum), ones));
  }
  uint64_t checksum = 0;
  for (const __m256i& sum : sums) checksum += static_cast<uint64_t>(static_cast<uint32_t>(_mm256_extract_epi32(sum, 0)));
  return checksum;
}

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

}  // namespace

const KernelSet kAvx2 = {
    .name = "avx2",
    .quantized = {false, false, false, true, true, true, true, true, true, true, true, true, true, true, true, true, true, true},
    .product = {AnyFloatProduct<LoadF32>, AnyFloatProduct<LoadF16>, AnyFloatProduct<LoadBF16>, AnyBlockProduct<Expand8, false, 512>,
                AnyBlockProduct<Expand4<8>, false, 256>, AnySuperProduct<ExpandLut4, 32, false, 256>,
                AnySuperProduct<Expand4<0>, 32, true, 256>, AnySuperProduct<Expand5<0>, 32, true, 320>,
                AnySuperProduct<Expand6, 16, false, 384>, AnySuperProduct<Expand2<0>, 16, true, 128>,
                AnyBlockProduct<Expand4<0>, true, 256>, AnyBlockProduct<Expand5<16>, false, 320>, AnyBlockProduct<Expand5<0>, true, 320>,
                AnySuperProduct<Expand3, 16, false, 192>, AnyBlockProduct<Expand2<1>, false, 128>,
                AnySuperProduct<ExpandLut4, 16, false, 256>, AnyBlockProduct<ExpandLut4, false, 256>, AnyFp4Product},
    .tiles = {},
    .quantize = Quantize,
    .rms_norm = RmsNorm,
    .swiglu = SwiGlu,
    .attention = {Attend<F32Kv>, Attend<F16Kv>, Attend<Int8Kv>},
    .read = Read,
    .int8_peak = {RunInt8Peak, kPeakChains * 32},
    .float_peak = {RunFloatPeak, kPeakChains * 8},
};

}  // namespace bantam::kernels
