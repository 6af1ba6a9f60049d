#include "base/rng.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

// xoshiro256** from the state that SplitMix64 makes of seed 0: the widely published first outputs.
TEST(Rng, MatchesThePublishedSequence) {
  Rng rng(0);
  EXPECT_EQ(rng.Next(), 0x99ec5f36cb75f2b4ULL);
  EXPECT_EQ(rng.Next(), 0xbf6e1f784956452aULL);
  EXPECT_EQ(rng.Next(), 0x1a5f849d4933e6e0ULL);
}

TEST(Rng, UniformCoversTheUnitInterval) {
  Rng rng(7);
  double total = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = rng.Uniform();
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    total += x;
  }
  EXPECT_NEAR(total / 100000, 0.5, 0.005);  // five standard errors
}

}  // namespace
}  // namespace bantam
