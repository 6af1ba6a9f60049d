// ARMv8.6 with the 8-bit matrix product: 2 rows by 2 columns over 8 at once, twice what the dot product does.
#include "kernels/neon/neon.h"
#include "kernels/neon/neon_impl.h"

namespace bantam::kernels {
namespace {

struct MatrixProduct {
  static int32x4_t Run(int32x4_t sums, const int8x16_t w[4], int8x16_t q) {
    sums = vdotq_laneq_s32(sums, w[0], q, 0);
    sums = vdotq_laneq_s32(sums, w[1], q, 1);
    sums = vdotq_laneq_s32(sums, w[2], q, 2);
    return vdotq_laneq_s32(sums, w[3], q, 3);
  }

  // Registers 2 i and 2 i + 1 hold columns 8 i to 8 i + 7 of rows 0 and 1, and of rows 2 and 3.
  static void Arrange(int8x16_t* w) {
    for (size_t g = 0; g < 8; g += 2) {
      const int32x4_t low = vreinterpretq_s32_s8(w[g]);
      const int32x4_t high = vreinterpretq_s32_s8(w[g + 1]);
      w[g] = vreinterpretq_s8_s32(vzip1q_s32(low, high));
      w[g + 1] = vreinterpretq_s8_s32(vzip2q_s32(low, high));
    }
  }

  template <size_t kN>
  static void MultiplySide(const uint8_t* w, const int8_t* const* q, int32x4_t (*dots)[kSide]) {
    int32x4_t upper[2][2];  // [quarter][pair of columns]: its rows 0 and 1, each of both columns
    int32x4_t lower[2][2];
    for (size_t h = 0; h < 2; ++h) {
      for (size_t pair = 0; pair < 2; ++pair) upper[h][pair] = lower[h][pair] = vdupq_n_s32(0);
    }
    for (size_t g = 0; g < kN; g += 2) {
      for (size_t pair = 0; pair < 2; ++pair) {
        const int8x16_t x = vcombine_s8(vld1_s8(q[2 * pair] + 4 * g), vld1_s8(q[2 * pair + 1] + 4 * g));
        for (size_t h = 0; h < 2; ++h) {
          upper[h][pair] = vmmlaq_s32(upper[h][pair], LoadUnpacked(w + 16 * h, g), x);
          lower[h][pair] = vmmlaq_s32(lower[h][pair], LoadUnpacked(w + 16 * h, g + 1), x);
        }
      }
    }
    for (size_t h = 0; h < 2; ++h) {
      for (size_t pair = 0; pair < 2; ++pair) {
        dots[h][2 * pair] = vuzp1q_s32(upper[h][pair], lower[h][pair]);
        dots[h][2 * pair + 1] = vuzp2q_s32(upper[h][pair], lower[h][pair]);
      }
    }
  }
};

}  // namespace

const KernelSet kNeonI8mm = MakeSet<MatrixProduct>("neon-i8mm");

}  // namespace bantam::kernels
