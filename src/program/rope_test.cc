#include "program/rope.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace bantam {
namespace {

RopeSpec Spec(RopeScaling scaling, double factor) {
  RopeSpec spec;
  spec.rotated_dimensions = 128;
  spec.base = 10000;
  spec.scaling = scaling;
  spec.factor = factor;
  spec.original_context = 4096;
  return spec;
}

double Plain(size_t i) { return std::pow(10000.0, -static_cast<double>(i) / 64); }

TEST(Rope, NamesRoundTrip) {
  for (const RopeScaling scaling : {RopeScaling::kNone, RopeScaling::kLinear, RopeScaling::kNtk, RopeScaling::kDynamicNtk,
                                    RopeScaling::kYarn, RopeScaling::kLongRope, RopeScaling::kLlama3}) {
    EXPECT_EQ(RopeScalingFromName(RopeScalingName(scaling)), scaling);
  }
  EXPECT_FALSE(RopeScalingFromName("su"));
}

TEST(Rope, PlainAndLinear) {
  const RopeAngles plain = ResolveRope(Spec(RopeScaling::kNone, 7), 100000);
  const RopeAngles linear = ResolveRope(Spec(RopeScaling::kLinear, 4), 100000);
  ASSERT_EQ(plain.inverse_frequency.size(), 64u);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_DOUBLE_EQ(plain.inverse_frequency[i], Plain(i));
    EXPECT_DOUBLE_EQ(linear.inverse_frequency[i], Plain(i) / 4);
  }
  EXPECT_EQ(plain.magnitude, 1);
}

// The fastest pair turns as before, the slowest `factor` times slower: what the change of base is made for.
TEST(Rope, Ntk) {
  const RopeAngles ntk = ResolveRope(Spec(RopeScaling::kNtk, 4), 100);
  EXPECT_DOUBLE_EQ(ntk.inverse_frequency[0], 1);
  EXPECT_NEAR(ntk.inverse_frequency[63], Plain(63) / 4, 1e-12);
  EXPECT_GT(ntk.inverse_frequency[32], Plain(32) / 4);
}

TEST(Rope, DynamicNtkFollowsTheContext) {
  const RopeSpec spec = Spec(RopeScaling::kDynamicNtk, 2);
  for (const size_t context : {100, 4096}) {
    EXPECT_DOUBLE_EQ(ResolveRope(spec, context).inverse_frequency[63], Plain(63)) << "within the trained context nothing changes";
  }
  // 2 * 16384 / 4096 - (2 - 1) = 7.
  EXPECT_NEAR(ResolveRope(spec, 16384).inverse_frequency[63], Plain(63) / 7, 1e-12);
}

// The ends of the ramp by hand: pair i turns 4096 f_i / 2 pi times. Pairs up to 20 turn more than 32 times and are kept; pairs
// from 46 turn less than once and are interpolated.
TEST(Rope, YarnKeepsFastPairsAndInterpolatesSlowOnes) {
  const RopeSpec spec = Spec(RopeScaling::kYarn, 8);
  const RopeAngles yarn = ResolveRope(spec, 32768);
  EXPECT_GT(4096 * Plain(20) / (2 * M_PI), 32);
  EXPECT_LT(4096 * Plain(46) / (2 * M_PI), 1);
  for (size_t i = 0; i <= 20; ++i) EXPECT_NEAR(yarn.inverse_frequency[i], Plain(i), 1e-12) << i;
  for (size_t i = 46; i < 64; ++i) EXPECT_NEAR(yarn.inverse_frequency[i], Plain(i) / 8, 1e-12) << i;
  // Between them a straight ramp from pair 20 to pair 46.
  EXPECT_NEAR(yarn.inverse_frequency[33], Plain(33) * (0.5 + 0.5 / 8), 1e-12);
  EXPECT_NEAR(yarn.magnitude, 1 + 0.1 * std::log(8.0), 1e-12);
}

// gpt-oss: the ramp begins and ends between pairs. Worked out from the paper's equations with base 150,000, 64 dimensions, 4,096 tokens,
// factor 32: pairs 8.0928 and 17.398.
TEST(Rope, YarnBetweenPairs) {
  RopeSpec spec = Spec(RopeScaling::kYarn, 32);
  spec.rotated_dimensions = 64;
  spec.base = 150'000;
  const auto frequency = [&](size_t i) { return std::pow(150'000.0, -static_cast<double>(i) / 32); };
  const double low = 64 * std::log(4096 / (32 * 2 * M_PI)) / (2 * std::log(150'000.0));
  const double high = 64 * std::log(4096 / (2 * M_PI)) / (2 * std::log(150'000.0));
  const RopeAngles rounded = ResolveRope(spec, 4096);
  spec.truncate = false;
  const RopeAngles exact = ResolveRope(spec, 4096);
  for (size_t i = 0; i < 32; ++i) {
    const auto between = [&](double from, double to) {
      const double kept = 1 - std::clamp((static_cast<double>(i) - from) / (to - from), 0.0, 1.0);
      return frequency(i) * (kept + (1 - kept) / 32);
    };
    EXPECT_NEAR(exact.inverse_frequency[i] / between(low, high), 1, 1e-12) << i;
    EXPECT_NEAR(rounded.inverse_frequency[i] / between(8, 18), 1, 1e-12) << i;
  }
}

TEST(Rope, YarnWithoutExtrapolationOnlyInterpolates) {
  RopeSpec spec = Spec(RopeScaling::kYarn, 8);
  spec.extrapolation = 0;
  const RopeAngles yarn = ResolveRope(spec, 32768);
  for (size_t i = 0; i < 64; ++i) EXPECT_DOUBLE_EQ(yarn.inverse_frequency[i], Plain(i) / 8);
  EXPECT_EQ(yarn.magnitude, 1);
}

TEST(Rope, LongRopeChoosesByContext) {
  RopeSpec spec = Spec(RopeScaling::kLongRope, 1);
  spec.divisors.assign(64, 2.0f);
  spec.long_divisors.assign(64, 5.0f);
  spec.attention_factor = 1.19;
  EXPECT_DOUBLE_EQ(ResolveRope(spec, 4096).inverse_frequency[3], Plain(3) / 2);
  EXPECT_DOUBLE_EQ(ResolveRope(spec, 4097).inverse_frequency[3], Plain(3) / 5);
  EXPECT_DOUBLE_EQ(ResolveRope(spec, 4097).magnitude, 1.19);
}

// Llama 3.1's published rule (factor 8, low 1, high 4, 8192 positions) as parameters and as the table of divisors that GGUF files carry.
TEST(Rope, Llama3) {
  RopeSpec spec = Spec(RopeScaling::kLlama3, 8);
  spec.base = 500000;
  spec.original_context = 8192;
  RopeSpec table = spec;
  table.scaling = RopeScaling::kNone;
  std::vector<double> expected;
  for (size_t i = 0; i < 64; ++i) {
    const double frequency = std::pow(500000.0, -static_cast<double>(i) / 64);
    const double wavelength = 2 * M_PI / frequency;
    double scaled = frequency;
    if (wavelength > 8192.0 / 1) {
      scaled = frequency / 8;
    } else if (wavelength > 8192.0 / 4) {
      const double smooth = (8192 / wavelength - 1) / (4 - 1);
      scaled = (1 - smooth) * frequency / 8 + smooth * frequency;
    }
    expected.push_back(scaled);
    table.divisors.push_back(static_cast<float>(frequency / scaled));
  }
  const RopeAngles by_rule = ResolveRope(spec, 100);
  const RopeAngles by_table = ResolveRope(table, 100);
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_NEAR(by_rule.inverse_frequency[i] / expected[i], 1, 1e-12) << i;
    EXPECT_NEAR(by_table.inverse_frequency[i] / expected[i], 1, 1e-6) << i;
  }
}

}  // namespace
}  // namespace bantam
