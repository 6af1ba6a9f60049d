#include "tensor/panel.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace bantam {
namespace {

// docs/formats/panels.md gives these sizes; a package packed by one build must be read by the next.
TEST(Panel, SizesAsSpecified) {
  EXPECT_EQ(PanelBytes(PanelKind::kF32, 3), 192u);
  EXPECT_EQ(PanelBytes(PanelKind::kF16, 3), 96u);
  EXPECT_EQ(PanelBytes(PanelKind::kBF16, 3), 96u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ8, 64), 2 * 544u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ4, 64), 2 * 288u);
  EXPECT_EQ(PanelBytes(PanelKind::kLut4, 256), 2240u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ4S, 256), 2368u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ5S, 256), 2880u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ6S, 256), 3392u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ2S, 256), 1600u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ4M, 64), 2 * 320u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ5, 64), 2 * 352u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ5M, 64), 2 * 384u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ3S, 256), 1856u);
  EXPECT_EQ(PanelBytes(PanelKind::kQ2, 64), 2 * 160u);
  EXPECT_EQ(PanelBytes(PanelKind::kLut4H, 256), 2368u);
  EXPECT_EQ(PanelBytes(PanelKind::kLut4B, 64), 2 * 288u);
  EXPECT_EQ(PanelBytes(PanelKind::kFp4, 64), 2 * 320u);
  EXPECT_EQ(MatrixBytes(PanelKind::kF32, 17, 5), 2 * 5 * 64u) << "17 rows take two panels";
}

// The byte and bit of single codes, as docs/formats/panels.md places them.
TEST(Panel, PlacesOfCodes) {
  const auto place = [](PanelKind kind, size_t row, size_t k, uint8_t code) {
    std::array<uint8_t, 4096> group{};
    BlockCodes codes;
    codes.code[k] = code;
    WriteGroupRow(kind, codes, row, group.data());
    std::set<std::pair<size_t, int>> set;  // byte, value
    for (size_t i = 0; i < group.size(); ++i) {
      if (group[i] != 0) set.insert({i, group[i]});
    }
    return set;
  };
  using Set = std::set<std::pair<size_t, int>>;
  // q8: 32 bytes of scales, then vectors of 64 bytes: column k is in vector k / 4, byte 4 * row + k % 4.
  EXPECT_EQ(place(PanelKind::kQ8, 3, 9, 0x7f), (Set{{32 + 2 * 64 + 4 * 3 + 1, 0x7f}}));
  // q4: vector k / 8; the low nibble for k % 8 < 4.
  EXPECT_EQ(place(PanelKind::kQ4, 15, 3, 0xf), (Set{{32 + 15 * 4 + 3, 0x0f}}));
  EXPECT_EQ(place(PanelKind::kQ4, 15, 15, 0xf), (Set{{32 + 64 + 15 * 4 + 3, 0xf0}}));
  // q5s: 320 bytes of header; the fifth bit of column k in byte 8 * (k / 4) + (4 * row + k % 4) / 8 behind the nibbles.
  EXPECT_EQ(place(PanelKind::kQ5S, 2, 5, 0x10), (Set{{320 + 256 + 8 * 1 + (4 * 2 + 1) / 8, 1 << ((4 * 2 + 1) % 8)}}));
  // q6s: 320 bytes of header, 384 per 32 columns; the upper two bits in vector k / 16, shift 2 * (k / 4 % 4).
  EXPECT_EQ(place(PanelKind::kQ6S, 1, 32 + 21, 0x30), (Set{{320 + 384 + 256 + 64 + 4 * 1 + 1, 3 << 2}}));
  // q2s: 576 bytes of header, 128 per 32 columns.
  EXPECT_EQ(place(PanelKind::kQ2S, 4, 255, 3), (Set{{576 + 7 * 128 + 64 + 4 * 4 + 3, 3 << 6}}));
}

TEST(Panel, RowsDoNotTouchEachOther) {
  std::array<uint8_t, 2880> group{};
  BlockCodes ones;
  ones.d = 0x3c00;
  ones.code.fill(31);
  ones.sub_scale.fill(1);
  for (size_t row = 0; row < kPanelRows; row += 2) WriteGroupRow(PanelKind::kQ5S, ones, row, group.data());
  std::array<float, 256> values{};
  for (size_t row = 0; row < kPanelRows; ++row) {
    UnpackPanelRow(PanelKind::kQ5S, PanelTable(), group.data(), row, 256, values.data());
    for (const float value : values) ASSERT_EQ(value, row % 2 == 0 ? 31.0f : 0.0f);
  }
}

}  // namespace
}  // namespace bantam
