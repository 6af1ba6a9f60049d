#include "tensor/group_pack.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "base/check.h"
#include "tensor/half.h"
#include "tensor/scale_search.h"

namespace bantam {
namespace {

constexpr size_t kSearchedMax = 256;

// Of the codes as scales see them: the last level, and the code that is zero where there is no minimum.
struct Steps {
  int high;
  int zero;
};
Steps StepsOf(DType dtype) {
  const PanelInfo& panel = Info(Info(dtype).panel);
  return {(1 << (panel.low_bits + panel.high_bits)) - 1, panel.zero};
}

float LargestMagnitude(const float* x, size_t n) {
  float largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

ScaleAndMin PlainScales(DType dtype, const float* x, size_t n) {
  const PanelInfo& panel = Info(Info(dtype).panel);
  const Steps steps = StepsOf(dtype);
  if (panel.has_table) return {LargestMagnitude(x, n) / static_cast<float>(TableOf(dtype).value[15]), 0};
  if (panel.kind == PanelKind::kQ8) return {LargestMagnitude(x, n) / 127, 0};
  if (!panel.has_min) return {2 * LargestMagnitude(x, n) / static_cast<float>(steps.high), 0};
  const float low = std::min(0.0f, *std::min_element(x, x + n));
  const float top = std::max(0.0f, *std::max_element(x, x + n));
  const float d = (top - low) / static_cast<float>(steps.high);
  return {d, d * RoundSmall(-low * InverseScale(d))};
}

ScaleAndMin SearchedScales(DType dtype, const float* x, const float* w, size_t n) {
  // Brought to at most 1, so that no sum of squares overflows; without any weight all count the same.
  std::array<float, kSearchedMax> weights;
  const float largest = *std::max_element(w, w + n);
  for (size_t i = 0; i < n; ++i) weights[i] = largest > 0 ? w[i] / largest : 1;
  const WeightedBlock block = {x, weights.data(), n};
  const PanelInfo& panel = Info(Info(dtype).panel);
  const Steps steps = StepsOf(dtype);
  if (panel.has_table) return {SearchScale(block, TableLevels(TableOf(dtype).value)), 0};
  if (panel.has_min) return SearchScaleAndMin(block, steps.high, /*positive_min=*/false);
  if (panel.kind == PanelKind::kQ8) return {SearchScale(block, UniformLevels{-127, 127}), 0};
  return {SearchScale(block, UniformLevels{-steps.zero, steps.high - steps.zero}), 0};
}

// Of a row's scales to its codes.
class Coder {
 public:
  Coder(DType dtype, ScaleAndMin scales) : panel_(Info(Info(dtype).panel)), steps_(StepsOf(dtype)), table_(TableOf(dtype).value) {
    d_ = F32ToF16(scales.d);
    minimum_ = F32ToF16(scales.m);
    inverse_ = InverseScale(F16ToF32(d_));
    offset_ = F16ToF32(minimum_);
  }

  void Encode(const DTypeInfo& info, const float* x, uint8_t* block) const {
    BlockCodes codes;
    codes.d = d_;
    codes.dmin = panel_.has_min ? minimum_ : uint16_t{0};
    for (size_t i = 0; i < info.block_elements; ++i) codes.code[i] = CodeOf((x[i] + offset_) * inverse_);
    info.encode(codes, /*group=*/0, block);
  }

 private:
  uint8_t CodeOf(float scaled) const {
    if (panel_.has_table) return static_cast<uint8_t>(table_.Nearest(scaled));
    if (panel_.kind == PanelKind::kQ8) return static_cast<uint8_t>(UniformLevels{-127, 127}.Nearest(scaled));
    return static_cast<uint8_t>(UniformLevels{-steps_.zero, steps_.high - steps_.zero}.Nearest(scaled) + steps_.zero);
  }

  const PanelInfo& panel_;
  const Steps steps_;
  const TableLevels table_;
  uint16_t d_, minimum_;
  float inverse_, offset_;
};

}  // namespace

bool SharesScales(DType dtype) {
  constexpr DType kShared[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kNF4, DType::kInt3, DType::kInt3M};
  return std::find(std::begin(kShared), std::end(kShared), dtype) != std::end(kShared);
}

void PackGroup(DType dtype, const float* x, const float* w, size_t n, uint8_t* blocks) {
  const DTypeInfo& info = Info(dtype);
  DCHECK(SharesScales(dtype) && n % info.block_elements == 0);
  const Coder coder(dtype, w == nullptr || n > kSearchedMax ? PlainScales(dtype, x, n) : SearchedScales(dtype, x, w, n));
  for (size_t i = 0; i < n; i += info.block_elements, blocks += info.block_bytes) coder.Encode(info, x + i, blocks);
}

Status PackGroups(DType dtype, size_t group, std::span<const float> values, std::span<const float> importance, uint8_t* blocks) {
  CHECK(SharesScales(dtype) && group % Info(dtype).block_elements == 0 && values.size() % group == 0);
  BANTAM_TRY(CheckPackable(dtype, values, importance));
  for (size_t i = 0; i < values.size(); i += group, blocks += RowBytes(dtype, group)) {
    PackGroup(dtype, values.data() + i, importance.empty() ? nullptr : importance.data() + i, group, blocks);
  }
  return Ok();
}

}  // namespace bantam
