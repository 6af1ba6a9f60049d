#include "tensor/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "base/rng.h"

namespace bantam {
namespace {

// The compiler's own 16-bit float is the independent implementation. (g++ 12 has _Float16 in C++ on x86 only.)
#if defined(__aarch64__)
using CompilerHalf = __fp16;
#else
using CompilerHalf = _Float16;
#endif
float Oracle(uint16_t bits) { return static_cast<float>(std::bit_cast<CompilerHalf>(bits)); }
uint16_t Oracle(float value) { return std::bit_cast<uint16_t>(static_cast<CompilerHalf>(value)); }

TEST(F16, EveryHalfConvertsExactlyAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = F16ToF32(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Oracle(half))) << bits;
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(value)))) << bits;
      continue;
    }
    ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(Oracle(half))) << bits;
    ASSERT_EQ(F32ToF16(value), half);
  }
}

TEST(F16, RoundsToNearestEven) {
  Rng rng(1);
  for (int i = 0; i < 2000000; ++i) {
    // Exponents around the range of halves, where subnormals, ties and overflow are.
    const uint32_t exponent = 100 + static_cast<uint32_t>(rng.Next() % 46);
    uint32_t mantissa = static_cast<uint32_t>(rng.Next() & 0x7fffff);
    if (i % 3 == 0) mantissa &= 0x7ff000;  // ties
    const float value = std::bit_cast<float>(static_cast<uint32_t>(rng.Next() & 0x80000000u) | (exponent << 23) | mantissa);
    ASSERT_EQ(F32ToF16(value), Oracle(value)) << value;
  }
  for (const float value : {0.0f, -0.0f, INFINITY, -INFINITY, 65504.0f, 65519.9f, 65520.0f, 1e30f, 1e-30f, 0x1p-25f}) {
    EXPECT_EQ(F32ToF16(value), Oracle(value)) << value;
  }
}

TEST(BF16, IsTheUpperHalf) {
  EXPECT_EQ(BF16ToF32(0x3f80), 1.0f);
  EXPECT_EQ(BF16ToF32(0xc2c8), -100.0f);
}

}  // namespace
}  // namespace bantam
