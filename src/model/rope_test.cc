#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace bantam {
namespace {

TEST(Rope, PlainAndLinear) {
  RopeScaling scaling = {.base = 10000, .rotated_dimensions = 8, .linear_factor = 1, .divisors = {}};
  const auto plain = InverseFrequencies(scaling);
  ASSERT_EQ(plain.size(), 4u);
  EXPECT_DOUBLE_EQ(plain[0], 1);
  EXPECT_DOUBLE_EQ(plain[1], 0.1);
  EXPECT_DOUBLE_EQ(plain[3], 0.001);
  scaling.linear_factor = 4;
  EXPECT_DOUBLE_EQ(InverseFrequencies(scaling)[1], 0.025);
}

// Llama 3.1's published rule (factor 8, low 1, high 4, 8192 positions) as a table of divisors, as GGUF files carry it.
TEST(Rope, Llama3TableGivesThePublishedFrequencies) {
  constexpr double kBase = 500000;
  constexpr size_t kDimensions = 128;
  std::vector<float> divisors;
  std::vector<double> expected;
  for (size_t i = 0; i < kDimensions / 2; ++i) {
    const double frequency = std::pow(kBase, -2.0 * static_cast<double>(i) / kDimensions);
    const double wavelength = 2 * M_PI / frequency;
    double scaled = frequency;
    if (wavelength > 8192.0 / 1) {
      scaled = frequency / 8;
    } else if (wavelength > 8192.0 / 4) {
      const double smooth = (8192 / wavelength - 1) / (4 - 1);
      scaled = (1 - smooth) * frequency / 8 + smooth * frequency;
    }
    expected.push_back(scaled);
    divisors.push_back(static_cast<float>(frequency / scaled));
  }
  const auto got = InverseFrequencies({.base = kBase, .rotated_dimensions = kDimensions, .linear_factor = 1, .divisors = divisors});
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i] / expected[i], 1, 1e-6) << i;
  EXPECT_NEAR(got.back() * 8 / std::pow(kBase, -126.0 / 128), 1, 1e-6) << "the slowest is slowed by the whole factor";
}

}  // namespace
}  // namespace bantam
