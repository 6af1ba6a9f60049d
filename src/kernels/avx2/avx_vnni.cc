// AVX-VNNI: the 8-bit dot product of processors without AVX-512 (Alder Lake-N and later, Zen 5). Weights are bytes without sign.
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/avx2_impl.h"

namespace bantam::kernels {
namespace {

// Spelled out, since the intrinsic's name says nothing of the encoding: a build for AVX-512 would take that.
inline __m256i DotBytes(__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }

struct Vnni {
  template <typename Expand>
  static constexpr int kZero = Expand::kSigned ? 128 : Expand::kZero;
  template <typename Expand>
  static void Prepare(__m256i* w) {
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
    for (int g = 0; Expand::kSigned && g < 8; ++g) w[g] = _mm256_xor_si256(w[g], flip);
  }

  template <typename Expand, int kN, int kSide>
  static inline void Add(const __m256i* w, const int8_t* const* q, __m256i* dots) {
#pragma GCC unroll 8
    for (int g = 0; g < kN; ++g) {
#pragma GCC unroll 4
      for (int c = 0; c < kSide; ++c) dots[c] = DotBytes(dots[c], w[g], Broadcast4(q[c] + 4 * g));
    }
  }

  static uint64_t RunPeak(uint64_t rounds) {
    const __m256i a = _mm256_set1_epi8(3);
    const __m256i b = _mm256_set1_epi8(5);
    __m256i sums[kPeakChains];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (uint64_t round = 0; round < rounds; ++round) {
      for (__m256i& sum : sums) sum = DotBytes(sum, a, b);
    }
    uint64_t checksum = 0;
    for (const __m256i& sum : sums) checksum += static_cast<uint64_t>(static_cast<uint32_t>(_mm256_extract_epi32(sum, 0)));
    return checksum;
  }
  static constexpr uint64_t kPeakMultiplies = kPeakChains * 32;
};

}  // namespace

const KernelSet kAvxVnni = MakeSet<Vnni>("avx-vnni");

}  // namespace bantam::kernels
