#include "compress/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "base/check.h"

namespace bantam {
namespace {

constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

struct Colour {
  uint8_t red, green, blue;
};
constexpr Colour kInk = {40, 40, 40};
constexpr Colour kGrid = {222, 222, 222};
constexpr Colour kPaper = {255, 255, 255};
// Told apart by those who do not see red or green, too (Okabe and Ito, 2008).
constexpr Colour kSeries[] = {{0, 114, 178},  {230, 159, 0},   {0, 158, 115},  {213, 94, 0},
                              {86, 180, 233}, {204, 121, 167}, {150, 140, 20}, {110, 110, 110}};

// Letters of 5 x 9 points, a digit of base 32 for each row.
constexpr size_t kGlyphColumns = 5;
constexpr size_t kGlyphRows = 9;
struct Glyph {
  char letter;
  char rows[kGlyphRows + 1];
};
// clang-format off
constexpr Glyph kGlyphs[] = {
    {'!', "444440400"}, {'#', "aavavaa00"}, {'%', "pp248jj00"}, {'&', "cik8lid00"}, {'\'', "444000000"}, {'(', "248884200"},
    {')', "842224800"}, {'*', "04lel4000"}, {'+', "044v44000"}, {',', "00000cc48"}, {'-', "000v00000"}, {'.', "00000cc00"},
    {'/', "11248gg00"}, {'0', "ehjlphe00"}, {'1', "4c4444e00"}, {'2', "eh1248v00"}, {'3', "v2421he00"}, {'4', "26aiv2200"},
    {'5', "vgu11he00"}, {'6', "68guhhe00"}, {'7', "v12488800"}, {'8', "ehhehhe00"}, {'9', "ehhf12c00"}, {':', "0cc0cc000"},
    {';', "0cc0cc480"}, {'<', "248g84200"}, {'=', "00v0v0000"}, {'>', "842124800"}, {'?', "eh1240400"}, {'A', "ehhvhhh00"},
    {'B', "uhhuhhu00"}, {'C', "ehggghe00"}, {'D', "sihhhis00"}, {'E', "vgguggv00"}, {'F', "vgguggg00"}, {'G', "ehgnhhf00"},
    {'H', "hhhvhhh00"}, {'I', "e44444e00"}, {'J', "72222ic00"}, {'K', "hikokih00"}, {'L', "ggggggv00"}, {'M', "hrllhhh00"},
    {'N', "hhpljhh00"}, {'O', "ehhhhhe00"}, {'P', "uhhuggg00"}, {'Q', "ehhhlid00"}, {'R', "uhhukih00"}, {'S', "fgge11u00"},
    {'T', "v44444400"}, {'U', "hhhhhhe00"}, {'V', "hhhhha400"}, {'W', "hhhllla00"}, {'X', "hha4ahh00"}, {'Y', "hhha44400"},
    {'Z', "v1248gv00"}, {'[', "e88888e00"}, {']', "e22222e00"}, {'_', "000000v00"}, {'a', "00e1fhf00"}, {'b', "ggmphhu00"},
    {'c', "00egghe00"}, {'d', "11djhhf00"}, {'e', "00ehvge00"}, {'f', "698s88800"}, {'g', "00fhhhf1e"}, {'h', "ggmphhh00"},
    {'i', "40c444e00"}, {'j', "2062222ic"}, {'k', "ggikoki00"}, {'l', "c44444e00"}, {'m', "00qllll00"}, {'n', "00mphhh00"},
    {'o', "00ehhhe00"}, {'p', "00uhhhugg"}, {'q', "00fhhhf11"}, {'r', "00mpggg00"}, {'s', "00ege1u00"}, {'t', "88s889600"},
    {'u', "00hhhjd00"}, {'v', "00hhha400"}, {'w', "00hhlla00"}, {'x', "00ha4ah00"}, {'y', "00hhhhf1e"}, {'z', "00v248v00"},
    {'|', "444444400"},
};
// clang-format on

constexpr size_t kScale = 2;  // pixels of a point of a letter
constexpr size_t kLetter = (kGlyphColumns + 1) * kScale;
constexpr size_t kLine = (kGlyphRows + 2) * kScale;

unsigned RowBits(char digit) { return static_cast<unsigned>(digit <= '9' ? digit - '0' : digit - 'a' + 10); }

class Canvas {
 public:
  Canvas(size_t width, size_t height) : picture_{width, height, std::vector<uint8_t>(width * height * 3, kPaper.red)} {}

  void Fill(size_t x, size_t y, size_t width, size_t height, Colour colour) {
    for (size_t row = y; row < std::min(y + height, picture_.height); ++row) {
      for (size_t column = x; column < std::min(x + width, picture_.width); ++column) {
        uint8_t* pixel = &picture_.pixels[(row * picture_.width + column) * 3];
        pixel[0] = colour.red;
        pixel[1] = colour.green;
        pixel[2] = colour.blue;
      }
    }
  }

  // From the upper left corner of its first letter on.
  void Write(size_t x, size_t y, std::string_view text) {
    for (const char letter : text) {
      const auto glyph = std::find_if(std::begin(kGlyphs), std::end(kGlyphs), [&](const Glyph& one) { return one.letter == letter; });
      for (size_t row = 0; row < kGlyphRows && letter != ' '; ++row) {
        // A box for what has no picture.
        const unsigned bits = glyph != std::end(kGlyphs) ? RowBits(glyph->rows[row]) : row < 7 ? 31u : 0u;
        for (size_t column = 0; column < kGlyphColumns; ++column) {
          if ((bits >> (kGlyphColumns - 1 - column) & 1) != 0) Fill(x + column * kScale, y + row * kScale, kScale, kScale, kInk);
        }
      }
      x += kLetter;
    }
  }
  static size_t WidthOf(std::string_view text) { return text.size() * kLetter; }

  Picture Take() { return std::move(picture_); }

 private:
  Picture picture_;
};

// Where things are, in pixels.
constexpr size_t kMargin = 16;
constexpr size_t kAxis = 8 * kLetter;  // labels of values
constexpr size_t kPlotHeight = 240;
constexpr size_t kPlotWidthMin = 900;
constexpr size_t kTicks = 5;

struct Layout {
  size_t bar = 0;    // width
  size_t group = 0;  // with the gap behind it
  size_t groups = 0;
  size_t plot_width = 0;
  size_t legend_lines = 1;
  std::string title;

  size_t height() const { return kLine * (3 + legend_lines) + kPlotHeight + 2 * kMargin; }
};

Layout LayOut(const BarChart& chart) {
  Layout layout;
  const size_t series = std::max<size_t>(1, chart.series.size());
  layout.groups = std::min(chart.groups.size(), std::max<size_t>(1, kChartBarsMax / series));
  const size_t wanted = kPlotWidthMin / std::max<size_t>(1, layout.groups * (series + 1));
  layout.bar = std::clamp<size_t>(wanted, 2, 24);
  layout.group = layout.bar * (series + 1);
  layout.plot_width = std::max(kPlotWidthMin, layout.group * layout.groups);
  layout.title = chart.title;
  if (layout.groups < chart.groups.size()) layout.title += fmt::format(" (the first {} of {})", layout.groups, chart.groups.size());
  size_t x = 0;
  for (const BarChart::Series& one : chart.series) {
    const size_t width = Canvas::WidthOf(one.name) + 3 * kLetter;
    if (x > 0 && x + width > layout.plot_width) {
      ++layout.legend_lines;
      x = 0;
    }
    x += width;
  }
  return layout;
}

// A step of 1, 2 or 5 times a power of ten, of which about kTicks reach the largest value.
double TickStep(double largest) {
  if (!(largest > 0) || !std::isfinite(largest)) return 1;
  const double rough = largest / static_cast<double>(kTicks);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

class ChartPainter {
 public:
  ChartPainter(const BarChart& chart, const Layout& layout, size_t top, Canvas& canvas)
      : chart_(chart), layout_(layout), canvas_(canvas), left_(kMargin + kAxis), top_(top + 2 * kLine) {
    double largest = 0;
    for (const BarChart::Series& series : chart.series) {
      for (const double value : series.values) largest = std::isfinite(value) ? std::max(largest, value) : largest;
    }
    step_ = TickStep(largest);
    full_ = step_ * std::max(1.0, std::ceil(largest / step_ - 1e-9));
  }

  void Paint() {
    canvas_.Write(left_, top_ - 2 * kLine + kMargin / 2, layout_.title);
    for (size_t tick = 0; static_cast<double>(tick) * step_ <= full_ * (1 + 1e-9); ++tick) PaintTick(static_cast<double>(tick) * step_);
    for (size_t group = 0; group < layout_.groups; ++group) PaintGroup(group);
    canvas_.Fill(left_, top_, 2, kPlotHeight, kInk);
    canvas_.Fill(left_, top_ + kPlotHeight, layout_.plot_width, 2, kInk);
    PaintLegend();
  }

 private:
  size_t HeightOf(double value) const {
    return static_cast<size_t>(std::lround(std::clamp(value / full_, 0.0, 1.0) * static_cast<double>(kPlotHeight)));
  }
  void PaintTick(double value) {
    const std::string label = fmt::format("{:.4g}%", 100 * value);
    const size_t y = top_ + kPlotHeight - HeightOf(value);
    if (value > 0) canvas_.Fill(left_, y, layout_.plot_width, 1, kGrid);
    const size_t width = std::min(Canvas::WidthOf(label), kAxis);
    canvas_.Write(left_ - width - kScale, y - 3 * kScale, label);
  }
  void PaintGroup(size_t group) {
    const size_t x = left_ + 2 + group * layout_.group;
    for (size_t s = 0; s < chart_.series.size(); ++s) {
      const double value = group < chart_.series[s].values.size() ? chart_.series[s].values[group] : kNothing;
      if (!std::isfinite(value)) continue;
      // What is not nothing is seen.
      const size_t height = std::max<size_t>(HeightOf(value), value > 0 ? 1 : 0);
      canvas_.Fill(x + s * layout_.bar, top_ + kPlotHeight - height, layout_.bar, height, kSeries[s % std::size(kSeries)]);
    }
    // As many labels as have room.
    size_t longest = 1;
    for (size_t g = 0; g < layout_.groups; ++g) longest = std::max(longest, chart_.groups[g].size());
    const size_t every = (longest * kLetter + kLetter + layout_.group - 1) / layout_.group;
    if (group % every == 0) canvas_.Write(x, top_ + kPlotHeight + kScale * 3, chart_.groups[group]);
  }
  void PaintLegend() {
    size_t x = 0;
    size_t y = top_ + kPlotHeight + kLine + kScale * 3;
    for (size_t s = 0; s < chart_.series.size(); ++s) {
      const size_t width = Canvas::WidthOf(chart_.series[s].name) + 3 * kLetter;
      if (x > 0 && x + width > layout_.plot_width) {
        x = 0;
        y += kLine;
      }
      canvas_.Fill(left_ + x, y, kLetter, 7 * kScale, kSeries[s % std::size(kSeries)]);
      canvas_.Write(left_ + x + 3 * kLetter / 2, y, chart_.series[s].name);
      x += width;
    }
  }

  const BarChart& chart_;
  const Layout& layout_;
  Canvas& canvas_;
  const size_t left_, top_;  // of the plot
  double step_ = 1;
  double full_ = 1;  // the value at the top
};

// "blk.12.attn_q.weight" as 12 and "attn_q".
std::optional<std::pair<std::string_view, std::string_view>> LayerAndPart(std::string_view name) {
  if (!name.starts_with("blk.")) return std::nullopt;
  const size_t dot = name.find('.', 4);
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(dot + 1);
  return std::pair(name.substr(4, dot - 4), rest.substr(0, rest.rfind(".weight")));
}

size_t PlaceOf(std::vector<std::string>* names, std::string_view name) {
  const auto at = std::find(names->begin(), names->end(), name);
  const auto place = static_cast<size_t>(at - names->begin());
  if (at == names->end()) names->emplace_back(name);
  return place;
}

}  // namespace

BarChart ChartOfTensors(std::string title, std::span<const std::pair<std::string, double>> values) {
  BarChart chart;
  chart.title = std::move(title);
  std::vector<std::string> parts;
  struct Bar {
    size_t group, series;
    double value;
  };
  std::vector<Bar> bars;
  // Layers first, in the order of their numbers as files have them; then what is in none.
  for (const bool layers : {true, false}) {
    for (const auto& [name, value] : values) {
      const auto of = LayerAndPart(name);
      if (of.has_value() != layers) continue;
      const std::string_view group = of ? of->first : std::string_view(name).substr(0, name.rfind(".weight"));
      bars.push_back({PlaceOf(&chart.groups, group), PlaceOf(&parts, of ? of->second : "in no layer"), value});
    }
  }
  for (std::string& part : parts) chart.series.push_back({std::move(part), std::vector<double>(chart.groups.size(), kNothing)});
  for (const Bar& bar : bars) chart.series[bar.series].values[bar.group] = bar.value;
  return chart;
}

Picture DrawCharts(std::span<const BarChart> charts) {
  std::vector<Layout> layouts;
  size_t width = 0, height = 0;
  for (const BarChart& chart : charts) {
    layouts.push_back(LayOut(chart));
    width = std::max({width, layouts.back().plot_width, Canvas::WidthOf(layouts.back().title)});
    height += layouts.back().height();
  }
  Canvas canvas(width + kAxis + 2 * kMargin, std::max<size_t>(1, height));
  size_t top = 0;
  for (size_t i = 0; i < charts.size(); ++i) {
    ChartPainter(charts[i], layouts[i], top, canvas).Paint();
    top += layouts[i].height();
  }
  return canvas.Take();
}

}  // namespace bantam
