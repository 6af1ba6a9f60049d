#include "tensor/half_quadratic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace bantam {
namespace {

constexpr DType kFormats[] = {DType::kQ4_1, DType::kQ5_1, DType::kQ2_K, DType::kQ4_K, DType::kQ5_K};

std::vector<float> RandomRow(uint64_t seed) {
  Rng rng(seed);
  std::vector<float> row(512);
  for (float& value : row) {
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(rng.Next() % 10001) / 5000 - 1;
    value = sum;
  }
  return row;
}

double Error(const std::vector<float>& row, DType dtype, const std::vector<uint8_t>& blocks) {
  std::vector<float> back(row.size());
  Unpack(dtype, blocks.data(), row.size(), back.data());
  double error = 0;
  for (size_t i = 0; i < row.size(); ++i) error += std::pow(static_cast<double>(row[i]) - static_cast<double>(back[i]), 2);
  return error;
}

// Not much worse than the search for the least square, and on rows without a tail better than the plain rule.
TEST(HalfQuadratic, PacksWhatCanBeRead) {
  for (const DType dtype : kFormats) {
    ASSERT_TRUE(HasHalfQuadratic(dtype));
    double sums[3] = {};
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      const std::vector<float> row = RandomRow(seed);
      std::vector<uint8_t> blocks(RowBytes(dtype, row.size()));
      ASSERT_TRUE(PackRowHalfQuadratic(dtype, row, blocks.data()).ok());
      sums[0] += Error(row, dtype, blocks);
      ASSERT_TRUE(PackRow(dtype, row, std::vector<float>(row.size(), 1.0f), blocks.data()).ok());
      sums[1] += Error(row, dtype, blocks);
      ASSERT_TRUE(PackRow(dtype, row, {}, blocks.data()).ok());
      sums[2] += Error(row, dtype, blocks);
    }
    EXPECT_LT(sums[0], 1.6 * sums[1]) << Info(dtype).name;
    if (dtype == DType::kQ4_1 || dtype == DType::kQ5_1) {
      EXPECT_LT(sums[0], sums[2]) << Info(dtype).name;
    }
  }
  EXPECT_FALSE(HasHalfQuadratic(DType::kQ4_0));
  EXPECT_FALSE(HasHalfQuadratic(DType::kF16));
}

TEST(HalfQuadratic, TakesRowsThatAreHard) {
  for (const DType dtype : kFormats) {
    for (const float value : {0.0f, 3.0f, -3.0f, 1e-30f, 60000.0f, -60000.0f}) {
      std::vector<float> row(256, value);
      std::vector<uint8_t> blocks(RowBytes(dtype, row.size()));
      ASSERT_TRUE(PackRowHalfQuadratic(dtype, row, blocks.data()).ok());
      std::vector<float> back(row.size());
      Unpack(dtype, blocks.data(), row.size(), back.data());
      for (const float one : back) ASSERT_NEAR(one, value, 0.02f * std::fabs(value) + 1e-20f) << Info(dtype).name;
    }
    std::vector<float> row(256, 1.0f);
    row[7] = std::numeric_limits<float>::infinity();
    std::vector<uint8_t> blocks(RowBytes(dtype, row.size()));
    EXPECT_EQ(PackRowHalfQuadratic(dtype, row, blocks.data()).error().code(), Code::kCorrupt);
  }
}

}  // namespace
}  // namespace bantam
