// ARMv8.2 with the 8-bit dot product.
#include "kernels/neon/neon.h"
#include "kernels/neon/neon_impl.h"

namespace bantam::kernels {
namespace {

struct DotProduct : RunForTiles<DotProduct> {
  static int32x4_t Run(int32x4_t sums, const int8x16_t w[4], int8x16_t q) {
    sums = vdotq_laneq_s32(sums, w[0], q, 0);
    sums = vdotq_laneq_s32(sums, w[1], q, 1);
    sums = vdotq_laneq_s32(sums, w[2], q, 2);
    return vdotq_laneq_s32(sums, w[3], q, 3);
  }
};

}  // namespace

const KernelSet kNeonDot = MakeSet<DotProduct>("neon-dot");

}  // namespace bantam::kernels
