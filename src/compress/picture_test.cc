#include "compress/picture.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>

namespace bantam {
namespace {

// Pixels of each colour.
std::map<std::array<uint8_t, 3>, size_t> Colours(const Picture& picture) {
  std::map<std::array<uint8_t, 3>, size_t> colours;
  for (size_t i = 0; i < picture.pixels.size(); i += 3) ++colours[{picture.pixels[i], picture.pixels[i + 1], picture.pixels[i + 2]}];
  return colours;
}

TEST(Picture, TensorsAreGroupedByLayer) {
  const std::vector<std::pair<std::string, double>> values = {
      {"output.weight", 0.5}, {"blk.0.attn_q.weight", 0.1}, {"blk.0.ffn_up.weight", 0.2}, {"blk.10.attn_q.weight", 0.3}};
  const BarChart chart = ChartOfTensors("title", values);
  EXPECT_EQ(chart.groups, (std::vector<std::string>{"0", "10", "output"}));
  ASSERT_EQ(chart.series.size(), 3u);
  EXPECT_EQ(chart.series[0].name, "attn_q");
  EXPECT_EQ(chart.series[0].values[1], 0.3);
  EXPECT_TRUE(std::isnan(chart.series[1].values[1]));
  EXPECT_EQ(chart.series[2].values[2], 0.5);
}

// Bars are as long as their values, and those of one series have one colour.
TEST(Picture, BarsAreAsLongAsTheirValues) {
  BarChart chart = {"Errors", {"0", "1"}, {{"up", {0.5, 0.25}}, {"down", {0.125, NAN}}}};
  const std::array charts = {chart};
  const Picture picture = DrawCharts(charts);
  ASSERT_EQ(picture.pixels.size(), picture.width * picture.height * 3);
  const auto colours = Colours(picture);
  // The key has as much of each colour.
  const std::array<uint8_t, 3> first = {0, 114, 178}, second = {230, 159, 0};
  chart.series[0].values = {0.5, 0.5};
  chart.series[1].values = {0, 0};
  const auto other = Colours(DrawCharts(std::array{chart}));
  const double key = static_cast<double>(other.at(second));
  const double full = (static_cast<double>(other.at(first)) - key) / 2;
  EXPECT_NEAR(static_cast<double>(colours.at(first)) - key, 1.5 * full, 0.02 * full);
  EXPECT_NEAR(static_cast<double>(colours.at(second)) - key, 0.25 * full, 0.02 * full);
}

TEST(Picture, IsAPngWhateverThereIsToDraw) {
  const std::vector<std::vector<BarChart>> all = {
      {},
      {{"nothing", {}, {}}},
      {{"zeros", {"a"}, {{"s", {0}}}}, {"huge", {"a"}, {{"s", {1e300}}}}},
      {{"no numbers", {"a"}, {{"s", {NAN}}}}},
      {{"many", std::vector<std::string>(5000, "1"), std::vector<BarChart::Series>(9, {"s", std::vector<double>(5000, 1e-9)})}},
  };
  for (const auto& charts : all) {
    const Picture picture = DrawCharts(charts);
    EXPECT_LT(picture.width, 20000u);
    const std::string bytes = EncodePng(picture).value();
    ASSERT_GT(bytes.size(), 24u);
    EXPECT_EQ(bytes.substr(1, 3), "PNG");
    const auto number = [&](size_t at) {
      size_t value = 0;
      for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
      return value;
    };
    EXPECT_EQ(number(16), picture.width);
    EXPECT_EQ(number(20), picture.height);
  }
}

}  // namespace
}  // namespace bantam
