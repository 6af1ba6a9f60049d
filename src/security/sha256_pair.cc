#include "security/sha256_pair.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

namespace bantam {
namespace {

#if defined(__x86_64__)

// The two halves of a state as the instructions take them: rows A, B, E, F and C, D, G, H.
struct Halves {
  __m128i abef;
  __m128i cdgh;
};

__attribute__((target("sha,sse4.1"))) Halves Split(const Sha256State& state) {
  const __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state.data())), 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state.data() + 4)), 0x1b);
  return {_mm_alignr_epi8(abcd, efgh, 8), _mm_blend_epi16(efgh, abcd, 0xf0)};
}

__attribute__((target("sha,sse4.1"))) void Join(const Halves& halves, Sha256State* state) {
  const __m128i feba = _mm_shuffle_epi32(halves.abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(halves.cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state->data()), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state->data() + 4), _mm_alignr_epi8(dchg, feba, 8));
}

__attribute__((target("sha,sse4.1"))) void CompressPair(std::array<Sha256State, 2>* states, const std::array<const uint8_t*, 2>& messages,
                                                        size_t count) {
  const __m128i bytes_of_words = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  Halves state[2] = {Split((*states)[0]), Split((*states)[1])};
  for (size_t block = 0; block < count; ++block) {
    const Halves before[2] = {state[0], state[1]};
    __m128i word[2][4];
#pragma GCC unroll 2
    for (size_t m = 0; m < 2; ++m) {
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        const auto* from = reinterpret_cast<const __m128i*>(messages[m] + block * kSha256BlockBytes + 16 * i);
        word[m][i] = _mm_shuffle_epi8(_mm_loadu_si128(from), bytes_of_words);
      }
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; ++i) {
      const __m128i round = _mm_load_si128(reinterpret_cast<const __m128i*>(kSha256Rounds.data() + 4 * i));
#pragma GCC unroll 2
      for (size_t m = 0; m < 2; ++m) {
        __m128i* w = word[m];
        if (i >= 4) {
          const __m128i sum =
              _mm_add_epi32(_mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]), _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4));
          w[i % 4] = _mm_sha256msg2_epu32(sum, w[(i + 3) % 4]);
        }
        const __m128i sum = _mm_add_epi32(w[i % 4], round);
        state[m].cdgh = _mm_sha256rnds2_epu32(state[m].cdgh, state[m].abef, sum);
        state[m].abef = _mm_sha256rnds2_epu32(state[m].abef, state[m].cdgh, _mm_shuffle_epi32(sum, 0x0e));
      }
    }
#pragma GCC unroll 2
    for (size_t m = 0; m < 2; ++m) {
      state[m] = {_mm_add_epi32(state[m].abef, before[m].abef), _mm_add_epi32(state[m].cdgh, before[m].cdgh)};
    }
  }
  for (size_t m = 0; m < 2; ++m) Join(state[m], &(*states)[m]);
}

bool HasInstructions() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kShaBit = 1u << 29;
  constexpr unsigned kSse41Bit = 1u << 19;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (b & kShaBit) == 0) return false;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & kSse41Bit) != 0;
}

#elif defined(__aarch64__)

__attribute__((target("+crypto"))) void CompressPair(std::array<Sha256State, 2>* states, const std::array<const uint8_t*, 2>& messages,
                                                     size_t count) {
  uint32x4_t abcd[2];
  uint32x4_t efgh[2];
  for (size_t m = 0; m < 2; ++m) {
    abcd[m] = vld1q_u32((*states)[m].data());
    efgh[m] = vld1q_u32((*states)[m].data() + 4);
  }
  for (size_t block = 0; block < count; ++block) {
    const uint32x4_t before[2][2] = {{abcd[0], efgh[0]}, {abcd[1], efgh[1]}};
    uint32x4_t word[2][4];
#pragma GCC unroll 2
    for (size_t m = 0; m < 2; ++m) {
#pragma GCC unroll 4
      for (size_t i = 0; i < 4; ++i) {
        word[m][i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(messages[m] + block * kSha256BlockBytes + 16 * i)));
      }
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; ++i) {
      const uint32x4_t round = vld1q_u32(kSha256Rounds.data() + 4 * i);
#pragma GCC unroll 2
      for (size_t m = 0; m < 2; ++m) {
        uint32x4_t* w = word[m];
        if (i >= 4) w[i % 4] = vsha256su1q_u32(vsha256su0q_u32(w[i % 4], w[(i + 1) % 4]), w[(i + 2) % 4], w[(i + 3) % 4]);
        const uint32x4_t sum = vaddq_u32(w[i % 4], round);
        const uint32x4_t old = abcd[m];
        abcd[m] = vsha256hq_u32(old, efgh[m], sum);
        efgh[m] = vsha256h2q_u32(efgh[m], old, sum);
      }
    }
#pragma GCC unroll 2
    for (size_t m = 0; m < 2; ++m) {
      abcd[m] = vaddq_u32(abcd[m], before[m][0]);
      efgh[m] = vaddq_u32(efgh[m], before[m][1]);
    }
  }
  for (size_t m = 0; m < 2; ++m) {
    vst1q_u32((*states)[m].data(), abcd[m]);
    vst1q_u32((*states)[m].data() + 4, efgh[m]);
  }
}

bool HasInstructions() { return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0; }

#endif

}  // namespace

Sha256PairFunction FindSha256Pair() {
#if defined(__x86_64__) || defined(__aarch64__)
  static const bool found = HasInstructions();
  return found ? CompressPair : nullptr;
#else
  return nullptr;
#endif
}

}  // namespace bantam
