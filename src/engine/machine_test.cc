#include "engine/machine.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/ref/ref.h"

namespace bantam {
namespace {

// Every look is one microsecond later than the last.
class SteppingClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_ += 1000; }

 private:
  mutable int64_t now_ns_ = 0;
};

TEST(Bandwidth, IsBytesPerTimeOfAPass) {
  const auto threads_owner = ThreadPool::Make(2).value();
  ThreadPool& pool = *threads_owner;
  const std::vector<std::byte> memory(size_t{1} << 20);
  // 1 MiB is read 64 times in a pass that takes one microsecond on this clock.
  EXPECT_DOUBLE_EQ(MeasureReadBandwidth(memory, kernels::kReference, pool, SteppingClock()), 64.0 * (1 << 20) * 1e6);
  EXPECT_EQ(MeasureReadBandwidth({}, kernels::kReference, pool, SteppingClock()), 0);
}

TEST(Peak, IsMultipliesPerTimeOfAPass) {
  const auto pool = ThreadPool::Make(2).value();
  const SteppingClock clock;  // every pass lasts a microsecond: rounds grow to their limit
  const kernels::Peak peak = {[](uint64_t rounds) { return rounds; }, 100};
  EXPECT_DOUBLE_EQ(MeasurePeak(peak, *pool, clock), 0x1p40 * 100 * 2 * 1e6);
}

// Each set's loops: more rounds, another result; so nothing was left out.
TEST(Peak, LoopsDependOnTheirRounds) {
  for (const KernelSet* set : RunnableKernels()) {
    EXPECT_NE(set->int8_peak.run(1), set->int8_peak.run(2)) << set->name;
    EXPECT_GT(set->float_peak.multiplies_per_round, 0u);
    (void)set->float_peak.run(10);
  }
}

}  // namespace
}  // namespace bantam
