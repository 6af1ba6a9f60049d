#include "kernels/input_column.h"

#include <cmath>

#include "tensor/half.h"

namespace bantam {

InputColumn::InputColumn(const KernelSet& set, PanelKind kind, std::span<const float> x)
    : form_(InputOf(set, kind)), values_(x.begin(), x.end()) {
  switch (form_) {
    case InputForm::kFloats:
      return;
    case InputForm::kBlocks:
      blocks_.resize(x.size() / 32);
      set.quantize(x.data(), x.size(), blocks_.data());
      for (size_t k = 0; k < x.size(); ++k) values_[k] = blocks_[k / 32].scale * static_cast<float>(blocks_[k / 32].q[k % 32]);
      return;
    case InputForm::kBf16:
      bf16_.resize((x.size() + 1) / 2 * 2);
      set.to_bf16(x.data(), x.size(), bf16_.data());
      for (size_t k = 0; k < x.size(); ++k) values_[k] = BF16ToF32(bf16_[k]);
      return;
  }
}

const void* InputColumn::data() const {
  switch (form_) {
    case InputForm::kBlocks:
      return blocks_.data();
    case InputForm::kBf16:
      return bf16_.data();
    case InputForm::kFloats:
      break;
  }
  return values_.data();
}

float InputColumn::Magnitude(size_t k) const { return form_ == InputForm::kBlocks ? 127 * blocks_[k / 32].scale : std::fabs(values_[k]); }

}  // namespace bantam
