#include "tensor/scale_search.h"

#include "base/check.h"

namespace bantam {
namespace {

// Steps of the ladder to either side, and their size as a part of the largest level: finer than half a level for up to 16 of them, and
// the least error of finer levels changes little from step to step.
constexpr int kSteps = 9;
constexpr float kStep = 0.0125f;

// A sum that is best when it is large.
struct Fit {
  float d = 0;
  float gain = 0;
};

template <typename Levels>
Fit FitCodes(const WeightedBlock& block, const Levels& levels, float inverse) {
  float xv = 0;
  float vv = 0;
  for (size_t i = 0; i < block.n; ++i) {
    const float value = levels.Value(levels.Nearest(block.x[i] * inverse));
    xv += block.w[i] * block.x[i] * value;
    vv += block.w[i] * value * value;
  }
  if (!(vv > 0)) return {};
  return {xv / vv, xv * xv / vv};
}

// Least squares for x = d * code - m with given codes; the gain is what it takes off the error of zeros.
struct LineFit {
  ScaleAndMin s;
  float error = INFINITY;
};

LineFit FitLine(const WeightedBlock& block, int high, float low, float inverse, bool positive_min) {
  float sw = 0, sx = 0, sc = 0, scc = 0, sxc = 0, sxx = 0;
  for (size_t i = 0; i < block.n; ++i) {
    const float w = block.w[i];
    const float x = block.x[i];
    const float code = RoundSmall(std::clamp((x - low) * inverse, 0.0f, static_cast<float>(high)));
    sw += w;
    sx += w * x;
    sc += w * code;
    scc += w * code * code;
    sxc += w * x * code;
    sxx += w * x * x;
  }
  LineFit fit;
  const float determinant = sw * scc - sc * sc;
  if (determinant > 0) {
    fit.s.d = (sw * sxc - sx * sc) / determinant;
    fit.s.m = (sc * sxc - scc * sx) / determinant;
  }
  if (!(determinant > 0) || (positive_min && fit.s.m < 0)) {
    fit.s.m = 0;
    fit.s.d = scc > 0 ? sxc / scc : 0;
  }
  const auto [d, m] = fit.s;
  fit.error = sxx + d * d * scc + m * m * sw - 2 * d * sxc + 2 * m * sx - 2 * d * m * sc;
  return fit;
}

}  // namespace

TableLevels::TableLevels(const std::array<int8_t, 16>& values) {
  for (size_t i = 0; i < 16; ++i) values_[i] = static_cast<float>(values[i]);
  for (size_t i = 0; i < 15; ++i) middles_[i] = (values_[i] + values_[i + 1]) / 2;
}

template <typename Levels>
float SearchScale(const WeightedBlock& block, const Levels& levels) {
  float extreme = 0;
  for (size_t i = 0; i < block.n; ++i) {
    if (std::fabs(block.x[i]) > std::fabs(extreme)) extreme = block.x[i];
  }
  if (std::fabs(extreme) < kScaleMin) return 0;
  Fit best;
  for (const float end : {levels.lowest(), levels.highest()}) {
    for (int step = -kSteps; step <= kSteps; ++step) {
      const Fit fit = FitCodes(block, levels, end * (1 + kStep * static_cast<float>(step)) / extreme);
      if (fit.gain > best.gain) best = fit;
    }
  }
  // Codes for the fitted scale may differ from those it was fitted to.
  for (int round = 0; round < 4 && std::fabs(best.d) >= kScaleMin; ++round) {
    const Fit fit = FitCodes(block, levels, 1 / best.d);
    if (!(fit.gain > best.gain)) break;
    best = fit;
  }
  return best.d;
}

template float SearchScale(const WeightedBlock& block, const UniformLevels& levels);
template float SearchScale(const WeightedBlock& block, const TableLevels& levels);

float SearchTernaryScale(const WeightedBlock& block) {
  DCHECK(block.n <= 256);
  std::array<uint16_t, 256> order;
  for (size_t i = 0; i < block.n; ++i) order[i] = static_cast<uint16_t>(i);
  std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(block.n),
            [&](uint16_t a, uint16_t b) { return std::fabs(block.x[a]) > std::fabs(block.x[b]); });
  // Whatever the weights, a value is nearer to +-d than to 0 when its magnitude is above d / 2: the chosen ones are the k largest.
  double xw = 0;
  double w = 0;
  double best_gain = 0;
  double best = 0;
  for (size_t k = 0; k < block.n; ++k) {
    const size_t i = order[k];
    xw += static_cast<double>(block.w[i]) * static_cast<double>(std::fabs(block.x[i]));
    w += static_cast<double>(block.w[i]);
    if (w > 0 && xw * xw / w > best_gain) {
      best_gain = xw * xw / w;
      best = xw / w;
    }
  }
  return static_cast<float>(best);
}

float ErrorWithMin(const WeightedBlock& block, int high, ScaleAndMin s) {
  const float inverse = InverseScale(s.d);
  float error = 0;
  for (size_t i = 0; i < block.n; ++i) {
    const float code = RoundSmall(std::clamp((block.x[i] + s.m) * inverse, 0.0f, static_cast<float>(high)));
    const float difference = block.x[i] - (s.d * code - s.m);
    error += block.w[i] * difference * difference;
  }
  return error;
}

ScaleAndMin SearchScaleAndMin(const WeightedBlock& block, int high, bool positive_min) {
  float low = positive_min ? 0 : block.x[0];
  float top = block.x[0];
  for (size_t i = 0; i < block.n; ++i) {
    low = std::min(low, block.x[i]);
    top = std::max(top, block.x[i]);
  }
  if (!(top - low >= kScaleMin)) return {0, -low};
  LineFit best = FitLine(block, high, low, static_cast<float>(high) / (top - low), positive_min);
  // A scale that makes the extremes clip, or leaves room beyond them.
  constexpr int kLineSteps = 10;
  for (int step = -kLineSteps; step <= kLineSteps; ++step) {
    const float codes = static_cast<float>(high) + 0.1f * static_cast<float>(step);
    const LineFit fit = FitLine(block, high, low, codes / (top - low), positive_min);
    if (fit.error < best.error) best = fit;
  }
  for (int round = 0; round < 4 && best.s.d >= kScaleMin; ++round) {
    const LineFit fit = FitLine(block, high, -best.s.m, 1 / best.s.d, positive_min);
    if (!(fit.error < best.error)) break;
    best = fit;
  }
  return best.s;
}

}  // namespace bantam
