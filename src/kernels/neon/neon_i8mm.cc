// ARMv8.6 with the 8-bit matrix product: 2 rows by 2 columns over 8 at once, twice what the dot product does.
#include "kernels/neon/neon.h"
#include "kernels/neon/neon_impl.h"

namespace bantam::kernels {
namespace {

struct MatrixProduct {
  static int32x4_t Run(const int8x16_t w[4], int8x16_t q) {
    int32x4_t sums = vdotq_laneq_s32(vdupq_n_s32(0), w[0], q, 0);
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
  static void AddSide(const int8x16_t* w, const int8_t* const* q, int32x4_t* dots) {
    for (size_t c = 0; c < 4; c += 2) {
      int32x4_t upper = vdupq_n_s32(0);  // rows 0 and 1, each of columns c and c + 1
      int32x4_t lower = vdupq_n_s32(0);
      for (size_t g = 0; g < kN; g += 2) {
        const int8x16_t x = vcombine_s8(vld1_s8(q[c] + 4 * g), vld1_s8(q[c + 1] + 4 * g));
        upper = vmmlaq_s32(upper, w[g], x);
        lower = vmmlaq_s32(lower, w[g + 1], x);
      }
      dots[c] = vuzp1q_s32(upper, lower);
      dots[c + 1] = vuzp2q_s32(upper, lower);
    }
  }
};

}  // namespace

const KernelSet kNeonI8mm = MakeSet<MatrixProduct>("neon-i8mm");

}  // namespace bantam::kernels
