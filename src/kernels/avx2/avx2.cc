// AVX2: products of bytes go through 16 bits, so every kind says how many such sums fit before they must be widened.
#include "kernels/avx2/avx2.h"

#include "kernels/avx2/avx2_impl.h"

namespace bantam::kernels {
namespace {

struct Maddubs {
  template <typename Expand>
  static constexpr int kZero = Expand::kZero;
  template <typename Expand>
  static void Prepare(__m256i*) {}

  template <typename Expand, int kN, int kSide>
  static inline void Add(const __m256i* w, const int8_t* const* q, __m256i* dots) {
    constexpr int kTogether = Expand::kAdds < 4 ? Expand::kAdds : 4;  // eight are no faster (measured on Zen 4: - 15 %)
    const __m256i ones = _mm256_set1_epi16(1);
    for (int g = 0; g < kN; g += kTogether) {
      __m256i narrow[kSide];
      for (int i = 0; i < kTogether; ++i) {
        const __m256i weights = w[g + i];
        const __m256i magnitude = Expand::kSigned ? _mm256_abs_epi8(weights) : weights;
        for (int c = 0; c < kSide; ++c) {
          __m256i x = Broadcast4(q[c] + 4 * (g + i));
          if (Expand::kSigned) x = _mm256_sign_epi8(x, weights);
          const __m256i products = _mm256_maddubs_epi16(magnitude, x);
          narrow[c] = i == 0 ? products : _mm256_add_epi16(narrow[c], products);
        }
      }
      for (int c = 0; c < kSide; ++c) dots[c] = _mm256_add_epi32(dots[c], _mm256_madd_epi16(narrow[c], ones));
    }
  }

  // Each product changes one factor, or the compiler would make it once.
  static uint64_t RunPeak(uint64_t rounds) {
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
  static constexpr uint64_t kPeakMultiplies = kPeakChains * 32;
};

}  // namespace

const KernelSet kAvx2 = MakeSet<Maddubs>("avx2");

}  // namespace bantam::kernels
