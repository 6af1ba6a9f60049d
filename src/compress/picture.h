// Pictures of reports: bar charts, drawn by ourselves, as PNG.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace bantam {

struct Picture {
  size_t width = 0;
  size_t height = 0;
  std::vector<uint8_t> pixels;  // [height][width][3]: red, green, blue
};

// Bars side by side in groups: layers, say, with a bar for each of their tensors.
struct BarChart {
  std::string title;
  std::vector<std::string> groups;
  struct Series {
    std::string name;
    std::vector<double> values;  // [groups]; those that are no numbers are left out
  };
  std::vector<Series> series;
};

// Values by name: "blk.N.PART..." are layer N's bar for PART, others groups of their own.
BarChart ChartOfTensors(std::string title, std::span<const std::pair<std::string, double>> values);

// One below the other. Values are at least 0 and drawn as percentages. At most kChartBarsMax bars each: further groups are left out, and
// the title says so.
inline constexpr size_t kChartBarsMax = 2000;
Picture DrawCharts(std::span<const BarChart> charts);

// As the bytes of a PNG file.
Result<std::string> EncodePng(const Picture& picture);

}  // namespace bantam
