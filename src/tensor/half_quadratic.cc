#include "tensor/half_quadratic.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "tensor/block_codes.h"
#include "tensor/half.h"

namespace bantam {
namespace {

// What the authors chose.
constexpr int kRounds = 20;
constexpr float kPower = 0.7f;
constexpr float kFirstBeta = 10;
constexpr float kBetaGrowth = 1.01f;

float Rounded(float value) { return F16ToF32(F32ToF16(value)); }

// The value that is nearest in the sense of both a power and the square: a generalised soft threshold.
float Shrink(float error, float beta) {
  const float size = std::fabs(error);
  if (size == 0) return 0;
  const float left = size - std::pow(size, kPower - 1) / beta;
  return left > 0 ? std::copysign(left, error) : 0;
}

// The range that the formats' plain rule takes.
ScaleAndMin RangeOf(std::span<const float> x, int high, bool positive_min) {
  auto [low, top] = std::pair(x[0], x[0]);
  for (const float value : x) {
    low = std::min(low, value);
    top = std::max(top, value);
  }
  if (positive_min) low = std::min(low, 0.0f);
  return {(top - low) / static_cast<float>(high), -low};
}

float Code(float value, float inverse, float zero, int high) {
  return RoundSmall(std::clamp(value * inverse + zero, 0.0f, static_cast<float>(high)));
}

// From m on, with the scale as it is.
float SearchMin(std::span<const float> x, int high, ScaleAndMin s) {
  const float inverse = InverseScale(s.d);
  if (inverse == 0) return s.m;
  const auto n = static_cast<float>(x.size());
  float zero = s.m * inverse;
  float beta = kFirstBeta;
  float best_error = INFINITY;
  float best = zero;
  for (int round = 0; round < kRounds; ++round) {
    float sum = 0;
    float error = 0;
    for (const float value : x) {
      const float code = Code(value, inverse, zero, high);
      const float left = value - (code - zero) * s.d;
      error += std::fabs(left);
      sum += code - (value - Shrink(left, beta)) * inverse;
    }
    if (!(error < best_error)) break;
    best_error = error;
    best = zero;
    zero = sum / n;
    beta *= kBetaGrowth;
  }
  return best * s.d;
}

// Groups of a super-block: their integers of the shared scales, and codes.
BlockCodes SuperBlock(std::span<const float> x, const PanelInfo& panel, int scale_high) {
  const int high = (1 << (panel.low_bits + panel.high_bits)) - 1;
  const size_t sub = panel.sub_columns;
  std::array<ScaleAndMin, 16> ideal;
  ScaleAndMin largest;
  for (size_t s = 0; s < x.size() / sub; ++s) {
    ideal[s] = SearchHalfQuadratic(x.subspan(s * sub, sub), high, /*positive_min=*/true);
    largest = {std::max(largest.d, ideal[s].d), std::max(largest.m, ideal[s].m)};
  }
  const auto integers = static_cast<float>(scale_high);
  const ScaleAndMin shared = {Rounded(largest.d / integers), Rounded(largest.m / integers)};
  BlockCodes codes;
  codes.d = F32ToF16(shared.d);
  codes.dmin = F32ToF16(shared.m);
  for (size_t s = 0; s < x.size() / sub; ++s) {
    const std::span<const float> group = x.subspan(s * sub, sub);
    const float scale = RoundSmall(std::clamp(ideal[s].d * InverseScale(shared.d), 0.0f, integers));
    // Once more, for the scale that is stored.
    const float wanted = SearchMin(group, high, {shared.d * scale, ideal[s].m});
    const float minimum = RoundSmall(std::clamp(wanted * InverseScale(shared.m), 0.0f, integers));
    codes.sub_scale[s] = static_cast<int8_t>(scale);
    codes.sub_min[s] = static_cast<uint8_t>(minimum);
    const float inverse = InverseScale(shared.d * scale);
    for (size_t i = 0; i < sub; ++i) {
      codes.code[s * sub + i] = static_cast<uint8_t>(Code(group[i], inverse, shared.m * minimum * inverse, high));
    }
  }
  return codes;
}

BlockCodes PlainBlock(std::span<const float> x, int high) {
  ScaleAndMin s = RangeOf(x, high, /*positive_min=*/false);
  s.d = Rounded(s.d);
  s.m = Rounded(SearchMin(x, high, s));
  BlockCodes codes;
  codes.d = F32ToF16(s.d);
  codes.dmin = F32ToF16(s.m);
  const float inverse = InverseScale(s.d);
  for (size_t i = 0; i < x.size(); ++i) codes.code[i] = static_cast<uint8_t>(Code(x[i], inverse, s.m * inverse, high));
  return codes;
}

}  // namespace

ScaleAndMin SearchHalfQuadratic(std::span<const float> x, int high, bool positive_min) {
  ScaleAndMin s = RangeOf(x, high, positive_min);
  s.m = SearchMin(x, high, s);
  if (positive_min) s.m = std::max(s.m, 0.0f);
  return s;
}

bool HasHalfQuadratic(DType dtype) {
  const DTypeInfo& info = Info(dtype);
  return info.pack != nullptr && info.encode != nullptr && Info(info.panel).has_min;
}

Status PackRowHalfQuadratic(DType dtype, std::span<const float> values, uint8_t* blocks) {
  CHECK(HasHalfQuadratic(dtype));
  // What cannot be packed is refused in the same words.
  BANTAM_TRY(PackRow(dtype, values, /*importance=*/{}, blocks));
  const DTypeInfo& info = Info(dtype);
  const PanelInfo& panel = Info(info.panel);
  for (size_t at = 0; at < values.size(); at += info.block_elements, blocks += info.block_bytes) {
    const std::span<const float> block = values.subspan(at, info.block_elements);
    const BlockCodes codes = panel.has_sub_scale ? SuperBlock(block, panel, dtype == DType::kQ2_K ? 15 : 63)
                                                 : PlainBlock(block, (1 << (panel.low_bits + panel.high_bits)) - 1);
    info.encode(codes, /*group=*/0, blocks);
  }
  return Ok();
}

}  // namespace bantam
