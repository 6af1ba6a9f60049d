// ARMv8.0: bytes are multiplied to 16 bits.
#include "kernels/neon/neon.h"

#include "kernels/neon/neon_impl.h"

namespace bantam::kernels {
namespace {

struct Widening : RunForTiles<Widening> {
  // Two products of at most 128 * 127 fit into 16 bits.
  static int32x4_t Run(int32x4_t sums, const int8x16_t w[4], int8x16_t q) {
    const int32x4_t words = vreinterpretq_s32_s8(q);
    const int8x16_t x[4] = {vreinterpretq_s8_s32(vdupq_laneq_s32(words, 0)), vreinterpretq_s8_s32(vdupq_laneq_s32(words, 1)),
                            vreinterpretq_s8_s32(vdupq_laneq_s32(words, 2)), vreinterpretq_s8_s32(vdupq_laneq_s32(words, 3))};
    int32x4_t low = vdupq_n_s32(0);   // pairs of rows 0 and 1
    int32x4_t high = vdupq_n_s32(0);  // pairs of rows 2 and 3
    for (int g = 0; g < 4; g += 2) {
      int16x8_t narrow = vmull_s8(vget_low_s8(w[g]), vget_low_s8(x[g]));
      low = vpadalq_s16(low, vmlal_s8(narrow, vget_low_s8(w[g + 1]), vget_low_s8(x[g + 1])));
      narrow = vmull_high_s8(w[g], x[g]);
      high = vpadalq_s16(high, vmlal_high_s8(narrow, w[g + 1], x[g + 1]));
    }
    return vaddq_s32(sums, vpaddq_s32(low, high));
  }
};

}  // namespace

const KernelSet kNeon = MakeSet<Widening>("neon");

}  // namespace bantam::kernels
