#include "kernels/avx512/avx512_bf16.h"

#include <immintrin.h>

namespace bantam::kernels {
namespace {

// Two columns of 16 rows, one behind the other, to pairs of a row's neighbouring columns.
inline __m512bh Pairs(__m512i two_columns, __m512i order) {
  return reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(order, two_columns));
}

inline __m512bh BroadcastPair(const void* column, size_t pair) {
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<const int32_t*>(column)[pair]));
}

// Even and odd pairs are summed apart, so that a single column does not wait for the latency of each product; the order is the same for
// any number of columns.
template <int kN>
void Bf16Product(const Panel& panel, const void* const* columns, float* out) {
  constexpr size_t kPairBytes = 4 * kRows;
  alignas(64) uint16_t lanes[2 * kRows];
  for (size_t r = 0; r < kRows; ++r) {
    lanes[2 * r] = static_cast<uint16_t>(r);
    lanes[2 * r + 1] = static_cast<uint16_t>(kRows + r);
  }
  const __m512i order = _mm512_load_si512(lanes);
  __m512 even[kN];
  __m512 odd[kN];
  for (int c = 0; c < kN; ++c) even[c] = odd[c] = _mm512_setzero_ps();
  const uint8_t* at = panel.data;
  const size_t pairs = panel.columns / 2;
  size_t pair = 0;
  for (; pair + 2 <= pairs; pair += 2, at += 2 * kPairBytes) {
    if (const size_t ahead = panel.prefetch.Of(kN); ahead != 0) {
      for (size_t line = 0; line < 2; ++line) __builtin_prefetch(at + ahead + line * kPairBytes);
    }
    const __m512bh first = Pairs(_mm512_loadu_si512(at), order);
    const __m512bh second = Pairs(_mm512_loadu_si512(at + kPairBytes), order);
#pragma GCC unroll 8
    for (int c = 0; c < kN; ++c) {
      even[c] = _mm512_dpbf16_ps(even[c], first, BroadcastPair(columns[c], pair));
      odd[c] = _mm512_dpbf16_ps(odd[c], second, BroadcastPair(columns[c], pair + 1));
    }
  }
  const auto add = [&](__m512bh weights, __m512* sums) {
    for (int c = 0; c < kN; ++c) sums[c] = _mm512_dpbf16_ps(sums[c], weights, BroadcastPair(columns[c], pair));
  };
  if (pair < pairs) {
    add(Pairs(_mm512_loadu_si512(at), order), even);
    at += kPairBytes;
    ++pair;
  }
  if (panel.columns % 2 == 1) {
    const __m256i last = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    add(Pairs(_mm512_zextsi256_si512(last), order), odd);
  }
  for (int c = 0; c < kN; ++c) _mm512_storeu_ps(out + kRows * static_cast<size_t>(c), _mm512_add_ps(even[c], odd[c]));
}

void AnyBf16Product(const Panel& panel, const void* const* columns, size_t n, float* out) {
  constexpr void (*kProducts[kColumnsMax])(const Panel&, const void* const*, float*) = {
      Bf16Product<1>, Bf16Product<2>, Bf16Product<3>, Bf16Product<4>, Bf16Product<5>, Bf16Product<6>, Bf16Product<7>, Bf16Product<8>};
  kProducts[n - 1](panel, columns, out);
}

void ToBf16(const float* x, size_t n, uint16_t* out) {
  constexpr size_t kLanes = 16;
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i))));
  }
  if (i == n) return;
  const auto wanted = static_cast<__mmask16>((1u << (n - i)) - 1);
  const auto written = static_cast<__mmask16>((1u << (n - i + n % 2)) - 1);
  const __m256bh rest = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(wanted, x + i));
  _mm256_mask_storeu_epi16(out + i, written, reinterpret_cast<__m256i>(rest));
}

}  // namespace

const Bf16Kernels kAvx512Bf16 = {AnyBf16Product, ToBf16};

}  // namespace bantam::kernels
