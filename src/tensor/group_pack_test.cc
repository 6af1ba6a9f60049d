#include "tensor/group_pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "tensor/half.h"

namespace bantam {
namespace {

std::vector<float> RandomRow(size_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> row(n);
  for (float& value : row) value = static_cast<float>(rng.Uniform() - 0.4);
  return row;
}

double SquaredError(const std::vector<float>& row, DType dtype, const std::vector<uint8_t>& blocks, const std::vector<float>& weights) {
  std::vector<float> back(row.size());
  Unpack(dtype, blocks.data(), back.size(), back.data());
  double error = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double difference = static_cast<double>(row[i]) - static_cast<double>(back[i]);
    error += (weights.empty() ? 1 : static_cast<double>(weights[i])) * difference * difference;
  }
  return error;
}

constexpr DType kShared[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kNF4, DType::kInt3, DType::kInt3M};

// All blocks of a group have the bits of its scale, and groups are packed one by one.
TEST(GroupPack, GroupsShareTheirScales) {
  const std::vector<float> row = RandomRow(256, 1);
  const std::vector<float> weights = RandomRow(256, 2);
  std::vector<float> importance;
  for (const float w : weights) importance.push_back(w * w);
  for (const DType dtype : kShared) {
    ASSERT_TRUE(SharesScales(dtype));
    const DTypeInfo& info = Info(dtype);
    const size_t scale_bytes = Info(info.panel).has_min ? 4 : 2;
    for (const size_t group : {32u, 64u, 128u, 256u}) {
      for (const bool weighted : {false, true}) {
        std::vector<uint8_t> blocks(RowBytes(dtype, row.size()));
        const std::span<const float> by = weighted ? std::span<const float>(importance) : std::span<const float>();
        ASSERT_TRUE(PackGroups(dtype, group, row, by, blocks.data()).ok());
        for (size_t b = 0; b < 256 / 32; ++b) {
          const uint8_t* first = blocks.data() + b * 32 / group * group / 32 * info.block_bytes;
          EXPECT_EQ(std::memcmp(blocks.data() + b * info.block_bytes, first, scale_bytes), 0) << info.name << " " << group << " " << b;
        }
        std::vector<uint8_t> last(RowBytes(dtype, group));
        PackGroup(dtype, row.data() + 256 - group, weighted ? importance.data() + 256 - group : nullptr, group, last.data());
        EXPECT_EQ(std::memcmp(last.data(), blocks.data() + blocks.size() - last.size(), last.size()), 0);
      }
    }
  }
  EXPECT_FALSE(SharesScales(DType::kQ4_K));
}

// Searched scales are never worse by what they search for, and smaller groups are better.
TEST(GroupPack, SearchesAndSmallerGroupsLoseLess) {
  const std::vector<float> row = RandomRow(1024, 3);
  std::vector<float> importance = RandomRow(1024, 4);
  for (float& w : importance) w = w * w;
  for (const DType dtype : kShared) {
    double larger = HUGE_VAL;
    for (const size_t group : {256u, 64u, 32u}) {
      std::vector<uint8_t> plain(RowBytes(dtype, row.size())), searched(plain);
      ASSERT_TRUE(PackGroups(dtype, group, row, {}, plain.data()).ok());
      ASSERT_TRUE(PackGroups(dtype, group, row, importance, searched.data()).ok());
      EXPECT_LE(SquaredError(row, dtype, searched, importance), SquaredError(row, dtype, plain, importance)) << Info(dtype).name << group;
      const double error = SquaredError(row, dtype, plain, {});
      EXPECT_LT(error, 1.02 * larger) << Info(dtype).name << " " << group;
      larger = error;
    }
  }
}

// As published quantisers round to nearest, in doubles.
TEST(GroupPack, PlainRules) {
  const std::vector<float> row = RandomRow(64, 5);
  const auto values_of = [&](DType dtype) {
    std::vector<uint8_t> blocks(RowBytes(dtype, 64));
    PackGroup(dtype, row.data(), nullptr, 64, blocks.data());
    std::vector<float> back(64);
    Unpack(dtype, blocks.data(), 64, back.data());
    return back;
  };
  // Near the middle of two codes the rounding of the scale decides.
  const auto between = [](double scaled) { return std::fabs(scaled - std::floor(scaled) - 0.5) < 0.02; };
  const double low = static_cast<double>(*std::min_element(row.begin(), row.end()));
  const double top = static_cast<double>(*std::max_element(row.begin(), row.end()));
  const double largest = std::max(-low, top);
  for (const auto& [dtype, bits] : {std::pair(DType::kQ4_0, 4), std::pair(DType::kInt3, 3)}) {
    const double step = 2 * largest / ((1 << bits) - 1);
    const std::vector<float> got = values_of(dtype);
    for (size_t i = 0; i < 64; ++i) {
      if (between(static_cast<double>(row[i]) / step)) continue;
      const double code =
          std::clamp(std::nearbyint(static_cast<double>(row[i]) / step), -std::ldexp(1, bits - 1), std::ldexp(1, bits - 1) - 1);
      EXPECT_NEAR(static_cast<double>(got[i]), code * step, 0.002 * largest) << Info(dtype).name << " " << i;
    }
  }
  for (const auto& [dtype, bits] : {std::pair(DType::kQ4_1, 4), std::pair(DType::kInt3M, 3)}) {
    const double step = (top - low) / ((1 << bits) - 1);
    const double zero = std::nearbyint(-low / step);
    const std::vector<float> got = values_of(dtype);
    for (size_t i = 0; i < 64; ++i) {
      if (between(static_cast<double>(row[i]) / step)) continue;
      const double code = std::clamp(std::nearbyint(static_cast<double>(row[i]) / step) + zero, 0.0, std::ldexp(1, bits) - 1);
      EXPECT_NEAR(static_cast<double>(got[i]), (code - zero) * step, 0.002 * largest) << Info(dtype).name << " " << i;
    }
  }
}

TEST(GroupPack, ThreeBitsInFourteenBytes) {
  uint8_t block[14] = {};
  const uint16_t d = F32ToF16(0.5f);
  std::memcpy(block, &d, 2);
  block[2 + 3] = 0b10'01'00'11;  // elements 3, 11, 19, 27: 3, 0, 1, 2
  block[10 + 2] = 1 << 3;        // and 4 for element 19
  float values[32];
  Unpack(DType::kInt3, block, 32, values);
  EXPECT_EQ(values[3], 0.5f * (3 - 4));
  EXPECT_EQ(values[11], 0.5f * (0 - 4));
  EXPECT_EQ(values[19], 0.5f * (5 - 4));
  EXPECT_EQ(values[27], 0.5f * (2 - 4));
  uint8_t with_minimum[16];
  std::memcpy(with_minimum, block, 2);
  const uint16_t minimum = F32ToF16(-1.5f);
  std::memcpy(with_minimum + 2, &minimum, 2);
  std::memcpy(with_minimum + 4, block + 2, 12);
  Unpack(DType::kInt3M, with_minimum, 32, values);
  EXPECT_EQ(values[19], 0.5f * 5 - 1.5f);
  EXPECT_EQ(values[0], -1.5f);
}

TEST(GroupPack, RefusesWhatIsNoNumber) {
  std::vector<float> row(64);
  row[40] = NAN;
  std::vector<uint8_t> blocks(RowBytes(DType::kInt3, 64));
  EXPECT_EQ(PackGroups(DType::kInt3, 64, row, {}, blocks.data()).error().code(), Code::kCorrupt);
}

}  // namespace
}  // namespace bantam
