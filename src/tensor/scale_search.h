// Weighted searches for the scale of a block: which scale, and which codes, leave the least sum of w (x - value)^2.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace bantam {

// Values to pack, and the weight of each one's squared error (at least 0).
struct WeightedBlock {
  const float* x;
  const float* w;
  size_t n;  // at most 256
};

// Nearest (even) integer of a magnitude below 2^22: the addition leaves no bits behind the point. A call of nearbyint costs half the
// search.
inline float RoundSmall(float value) {
  constexpr float kShift = 0x1.8p23f;
  return (value + kShift) - kShift;
}

// Codes low..high that stand for themselves.
struct UniformLevels {
  int low;
  int high;

  int Nearest(float value) const {
    return static_cast<int>(RoundSmall(std::clamp(value, static_cast<float>(low), static_cast<float>(high))));
  }
  float Value(int code) const { return static_cast<float>(code); }
  float lowest() const { return static_cast<float>(low); }
  float highest() const { return static_cast<float>(high); }
};

// Codes 0..15 that stand for ascending values of a table.
class TableLevels {
 public:
  explicit TableLevels(const std::array<int8_t, 16>& values);

  int Nearest(float value) const {
    int code = 0;
    for (const float middle : middles_) code += value > middle ? 1 : 0;
    return code;
  }
  float Value(int code) const { return values_[static_cast<size_t>(code)]; }
  float lowest() const { return values_.front(); }
  float highest() const { return values_.back(); }

 private:
  std::array<float, 16> values_;
  std::array<float, 15> middles_;
};

// Scales below this count as 0: their inverse, or a product with it, would not be finite. No f16 is as small.
inline constexpr float kScaleMin = 1e-30f;
inline float InverseScale(float d) { return std::fabs(d) < kScaleMin ? 0 : 1 / d; }

// The weighted squared error of d * level, with the nearest level for each value.
template <typename Levels>
float ErrorWithScale(const WeightedBlock& block, const Levels& levels, float d) {
  const float inverse = InverseScale(d);
  float error = 0;
  for (size_t i = 0; i < block.n; ++i) {
    const float difference = block.x[i] - d * levels.Value(levels.Nearest(block.x[i] * inverse));
    error += block.w[i] * difference * difference;
  }
  return error;
}

// The best scale d for values d * level. For given codes the best one is sum(w x v) / sum(w v v), and it takes
// sum(w x v)^2 / sum(w v v) off the error: codes come from a ladder of scales around those that put the largest value at
// either end of the levels.
template <typename Levels>
float SearchScale(const WeightedBlock& block, const Levels& levels);

extern template float SearchScale(const WeightedBlock& block, const UniformLevels& levels);
extern template float SearchScale(const WeightedBlock& block, const TableLevels& levels);

// The exact best scale for the values -d, 0, d.
float SearchTernaryScale(const WeightedBlock& block);

// Values d * code - m for codes 0..high.
struct ScaleAndMin {
  float d = 0;
  float m = 0;
};
float ErrorWithMin(const WeightedBlock& block, int high, ScaleAndMin s);
// The best pair. `positive_min` demands m >= 0.
ScaleAndMin SearchScaleAndMin(const WeightedBlock& block, int high, bool positive_min);

}  // namespace bantam
