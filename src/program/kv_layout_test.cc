#include "program/kv_layout.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tensor/half.h"

namespace bantam {
namespace {

TEST(KvLayout, NamesRoundTrip) {
  for (const KvType type : kAllKvTypes) EXPECT_EQ(KvTypeFromName(KvTypeName(type)), type);
  EXPECT_EQ(KvTypeNames(), "f32, f16, q8, q8-q4, q8-rotate or q8-q4-rotate");
  EXPECT_FALSE(KvTypeFromName("f64"));
}

TEST(KvLayout, Sizes) {
  const std::vector<KvHeads> layers = {{2, 64}, {1, 32}};
  EXPECT_EQ(KvLayout(KvType::kF32, layers).block_bytes(KvPart::kFull), 2u * 16 * 4 * (2 * 64 + 32));
  EXPECT_EQ(KvLayout(KvType::kF16, layers).block_bytes(KvPart::kFull), 2u * 16 * 2 * (2 * 64 + 32));
  EXPECT_EQ(KvLayout(KvType::kInt8, layers).block_bytes(KvPart::kFull), 2u * 16 * (2 * 64 + 32) + 3 * 128);
  EXPECT_EQ(KvLayout(KvType::kInt8Int4, layers).block_bytes(KvPart::kFull), 16u * (2 * 96 + 48) + 3 * 128);
  EXPECT_EQ(KvLayout(KvType::kInt8Int4Rotated, {{1, 7}}).block_bytes(KvPart::kFull), 320u);  // 16 (7 + 4) + 128, in whole lines
  const KvLayout layout(KvType::kF16, layers);
  EXPECT_EQ(layout.HeadOffset(0, 1), 4096u);
  EXPECT_EQ(layout.HeadOffset(1, 0), 8192u);
  EXPECT_EQ(layout.block_bytes(KvPart::kWindowed), 0u);
  EXPECT_EQ(layout.ReadBytes(100), 100 * layout.block_bytes(KvPart::kFull) / 16);
}

// Layers with a window lie in blocks of their own, and no more than the window is read.
TEST(KvLayout, WindowedLayersAreApart) {
  const KvLayout layout(KvType::kF16, {{1, 64, 0}, {2, 32, 100}, {1, 32, 0}});
  EXPECT_EQ(layout.block_bytes(KvPart::kFull), 2u * 16 * 2 * (64 + 32));
  EXPECT_EQ(layout.block_bytes(KvPart::kWindowed), 2u * 16 * 2 * 2 * 32);
  EXPECT_EQ(layout.part(1), KvPart::kWindowed);
  EXPECT_EQ(layout.HeadOffset(1, 0), 0u);
  EXPECT_EQ(layout.HeadOffset(2, 0), 4096u);
  EXPECT_EQ(layout.ReadBytes(1000), 2u * 2 * (1000 * (64 + 32) + 100 * 2 * 32));
}

TEST(KvLayout, KeysLieByDimensionValuesByToken) {
  const KvLayout layout(KvType::kF16, {{1, 4}});
  std::vector<uint8_t> block(layout.block_bytes(KvPart::kFull));
  const float key[4] = {1, 2, 3, 4};
  const float value[4] = {5, 6, 7, 8};
  layout.Store(block.data(), 0, 0, /*slot=*/3, key, value);
  const auto at = [&](size_t index) {
    uint16_t half;
    std::memcpy(&half, block.data() + 2 * index, 2);
    return F16ToF32(half);
  };
  for (size_t d = 0; d < 4; ++d) {
    EXPECT_EQ(at(d * 16 + 3), key[d]);
    EXPECT_EQ(at(4 * 16 + 3 * 4 + d), value[d]);
  }
}

TEST(KvLayout, Int8KeepsAScalePerTokenAndSide) {
  const KvLayout layout(KvType::kInt8, {{1, 8}});
  std::vector<uint8_t> block(layout.block_bytes(KvPart::kFull));
  const float key[8] = {0.5f, -1, 0.25f, 0, 0, 0, 0, 1};
  const float zeros[8] = {};
  layout.Store(block.data(), 0, 0, /*slot=*/15, key, zeros);
  float scales[2];
  std::memcpy(&scales[0], block.data() + 2 * 16 * 8 + 4 * 15, 4);
  std::memcpy(&scales[1], block.data() + 2 * 16 * 8 + 64 + 4 * 15, 4);
  EXPECT_EQ(scales[0], 1.0f / 127);
  EXPECT_EQ(scales[1], 0.0f);
  EXPECT_EQ(static_cast<int8_t>(block[1 * 16 + 15]), -127);
  EXPECT_EQ(static_cast<int8_t>(block[0 * 16 + 15]), 64);  // 63.5 to even
}

TEST(KvLayout, FourBitsAreCodesWithTheScaleOfLeastSquares) {
  const KvLayout layout(KvType::kInt8Int4, {{1, 5}});
  std::vector<uint8_t> block(layout.block_bytes(KvPart::kFull), 0xff);
  const float key[5] = {1, 0, 0, 0, -1};
  const float value[5] = {12.7f, 0.1f, -1.3f, 0, 3.5f};  // times 10, with the sign turned: -127, -1, 13, 0, -35
  layout.Store(block.data(), 0, 0, /*slot=*/2, key, value);
  const uint8_t* values = block.data() + 16 * 5 + 2 * 3;
  // Of -127, 1 (nearer to 1 than to -10), 13, 1, -35.
  EXPECT_EQ(values[0], 0 | 8 << 4);
  EXPECT_EQ(values[1], 9 | 8 << 4);
  EXPECT_EQ(values[2], 5);
  float scale;
  std::memcpy(&scale, block.data() + 16 * 5 + 16 * 3 + 64 + 4 * 2, 4);
  EXPECT_NEAR(scale, -0.1, 1e-4);
  const float zeros[5] = {};
  layout.Store(block.data(), 0, 0, /*slot=*/2, key, zeros);
  std::memcpy(&scale, block.data() + 16 * 5 + 16 * 3 + 64 + 4 * 2, 4);
  EXPECT_EQ(scale, 0);
}

// Each step of what is fallen back to loses less, and ends at f16.
TEST(KvLayout, BetterTypesEndAtF16) {
  for (KvType type : kAllKvTypes) {
    size_t steps = 0;
    for (auto better = BetterKvType(type); better; better = BetterKvType(type)) {
      const auto bytes = [](KvType of) { return KvLayout(of, {{1, 64}}).block_bytes(KvPart::kFull); };
      EXPECT_TRUE(bytes(*better) > bytes(type) || (bytes(*better) == bytes(type) && IsRotated(*better) && !IsRotated(type)));
      type = *better;
      ASSERT_LT(++steps, kAllKvTypes.size());
    }
    EXPECT_TRUE(IsFloat(type));
  }
}

}  // namespace
}  // namespace bantam
