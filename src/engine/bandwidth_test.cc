#include "engine/bandwidth.h"

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

}  // namespace
}  // namespace bantam
