#include "compress/error_feedback.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "tensor/half.h"
#include "tensor/scale_search.h"

namespace bantam {
namespace {

using kernels::kColumnsMax;

// What codes of a format stand for, in ascending order of the value: level * step - offset.
class Levels {
 public:
  explicit Levels(DType dtype) {
    const PanelInfo& panel = Info(Info(dtype).panel);
    uniform_ = !panel.has_table;
    if (uniform_) {
      const int high = (1 << (panel.low_bits + panel.high_bits)) - 1;
      // The int8 of Q8_0 uses -127 to 127.
      low_ = panel.kind == PanelKind::kQ8 ? -127 : -panel.zero;
      high_ = panel.kind == PanelKind::kQ8 ? 127 : high - panel.zero;
      zero_ = panel.kind == PanelKind::kQ8 ? 0 : panel.zero;
      return;
    }
    const PanelTable& table = TableOf(dtype);
    std::array<std::pair<float, uint8_t>, 16> sorted;
    for (size_t i = 0; i < 16; ++i) sorted[i] = {static_cast<float>(table.value[i]), static_cast<uint8_t>(i)};
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < 16; ++i) std::tie(values_[i], codes_[i]) = sorted[i];
    for (size_t i = 0; i < 15; ++i) middles_[i] = (values_[i] + values_[i + 1]) / 2;
  }

  struct Choice {
    float level;
    uint8_t code;
  };
  Choice Nearest(float scaled) const {
    if (uniform_) {
      const float level = RoundSmall(std::clamp(scaled, static_cast<float>(low_), static_cast<float>(high_)));
      return {level, static_cast<uint8_t>(static_cast<int>(level) + zero_)};
    }
    size_t place = 0;
    for (const float middle : middles_) place += scaled > middle ? 1 : 0;
    return {values_[place], codes_[place]};
  }

 private:
  bool uniform_ = true;
  int low_ = 0;
  int high_ = 0;
  int zero_ = 0;
  std::array<float, 16> values_{};
  std::array<float, 15> middles_{};
  std::array<uint8_t, 16> codes_{};
};

// The frozen scales of a row, spread over its columns, and the codes that are being chosen.
struct Row {
  std::vector<float> step;
  std::vector<float> offset;
  std::vector<uint8_t> code;
};

// As UnpackCodes has it.
void ReadScales(DType dtype, const uint8_t* blocks, size_t n, Row* row) {
  const DTypeInfo& info = Info(dtype);
  const PanelInfo& panel = Info(info.panel);
  const PanelTable& table = TableOf(dtype);
  row->step.resize(n);
  row->offset.assign(n, 0);
  row->code.resize(n);
  BlockCodes codes;
  for (size_t at = 0; at < n; at += panel.group_columns) {
    info.decode(blocks + at / info.block_elements * info.block_bytes, at % info.block_elements / panel.group_columns, &codes);
    const float d = panel.bf16_scale ? BF16ToF32(codes.d) : F16ToF32(codes.d);
    const float second = panel.bf16_scale ? BF16ToF32(codes.dmin) : F16ToF32(codes.dmin);
    for (size_t k = 0; k < panel.group_columns; ++k) {
      const size_t s = k / panel.sub_columns;
      float step = panel.bf16_scale && s == 1 ? second : d;
      if (panel.has_sub_scale) step = d * table.multiplier * static_cast<float>(codes.sub_scale[s]);
      row->step[at + k] = step;
      if (panel.has_min) row->offset[at + k] = panel.has_sub_scale ? second * static_cast<float>(codes.sub_min[s]) : second;
      row->code[at + k] = codes.code[k];
    }
  }
}

void WriteCodes(DType dtype, const Row& row, uint8_t* blocks) {
  const DTypeInfo& info = Info(dtype);
  const size_t group_columns = Info(info.panel).group_columns;
  BlockCodes codes;
  for (size_t at = 0; at < row.code.size(); at += group_columns) {
    uint8_t* block = blocks + at / info.block_elements * info.block_bytes;
    const size_t group = at % info.block_elements / group_columns;
    info.decode(block, group, &codes);
    std::copy_n(row.code.begin() + static_cast<std::ptrdiff_t>(at), group_columns, codes.code.begin());
    info.encode(codes, group, block);
  }
}

// Up to kColumnsMax rows at once, as many as a product takes.
class Chooser {
 public:
  Chooser(DType dtype, const GramFactor& factor, const KernelSet& kernels)
      : dtype_(dtype), factor_(factor), kernels_(kernels), levels_(dtype), errors_(kColumnsMax * factor.r.n()) {}

  void Choose(const float* values, size_t count, uint8_t* blocks) {
    const size_t n = factor_.r.n();
    const size_t row_bytes = RowBytes(dtype_, n);
    for (size_t c = 0; c < count; ++c) ReadScales(dtype_, blocks + c * row_bytes, n, &rows_[c]);
    alignas(64) float sums[kColumnsMax * kPanelRows];
    for (size_t p = 0; p < factor_.r.panels(); ++p) {
      const size_t first = p * kPanelRows;
      Earlier(p, count, sums);
      for (size_t c = 0; c < count; ++c) {
        ChooseInPanel(p, values + c * n, sums + c * kPanelRows, &rows_[c], errors_.data() + c * n + first);
      }
    }
    for (size_t c = 0; c < count; ++c) WriteCodes(dtype_, rows_[c], blocks + c * row_bytes);
  }

 private:
  // What the errors of earlier columns ask of those of a panel: [count][16].
  void Earlier(size_t p, size_t count, float* sums) const {
    std::fill_n(sums, count * kPanelRows, 0.0f);
    if (p == 0) return;
    const kernels::Panel panel = {reinterpret_cast<const uint8_t*>(factor_.r.Panel(p)), p * kPanelRows, nullptr, 1};
    const void* columns[kColumnsMax];
    for (size_t c = 0; c < count; ++c) columns[c] = errors_.data() + c * factor_.r.n();
    kernels_.product[static_cast<size_t>(PanelKind::kF32)](panel, columns, count, sums);
  }

  // The 16 columns of a panel, one after the other. errors [16], of these columns.
  void ChooseInPanel(size_t p, const float* values, const float* sums, Row* row, float* errors) const {
    const size_t first = p * kPanelRows;
    const size_t count = std::min(kPanelRows, factor_.r.n() - first);
    const float* diagonal = factor_.r.Panel(p) + first * kPanelRows;  // [16][16]
    for (size_t j = 0; j < count; ++j) {
      const size_t column = factor_.order[first + j];
      float asked = sums[j];
      for (size_t i = 0; i < j; ++i) asked += errors[i] * diagonal[i * kPanelRows + j];
      const float wanted = values[column] + asked / diagonal[j * kPanelRows + j];
      const float step = row->step[column];
      const float offset = row->offset[column];
      const Levels::Choice choice = levels_.Nearest((wanted + offset) * InverseScale(step));
      row->code[column] = choice.code;
      errors[j] = values[column] - (step * choice.level - offset);
    }
  }

  const DType dtype_;
  const GramFactor& factor_;
  const KernelSet& kernels_;
  const Levels levels_;
  std::array<Row, kColumnsMax> rows_;
  std::vector<float> errors_;  // [kColumnsMax][n], in the order of the factor
};

}  // namespace

bool TakesFeedback(DType dtype) {
  const DTypeInfo& info = Info(dtype);
  return info.pack != nullptr && info.encode != nullptr;
}

void ChooseCodes(const FeedbackRows& rows, const GramFactor& factor, const KernelSet& kernels) {
  CHECK(TakesFeedback(rows.dtype) && factor.r.n() % Info(rows.dtype).block_elements == 0);
  Chooser chooser(rows.dtype, factor, kernels);
  const size_t n = factor.r.n();
  for (size_t row = 0; row < rows.rows; row += kColumnsMax) {
    const size_t count = std::min(kColumnsMax, rows.rows - row);
    chooser.Choose(rows.values + row * n, count, rows.blocks + row * RowBytes(rows.dtype, n));
  }
}

}  // namespace bantam
