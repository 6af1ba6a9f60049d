// A column of activations in the form that a set's product of a kind takes, and the very values that the product is given.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"

namespace bantam {

class InputColumn {
 public:
  // x [columns], of InputForm::kBlocks a multiple of 32.
  InputColumn(const KernelSet& set, PanelKind kind, std::span<const float> x);

  const void* data() const;
  InputForm form() const { return form_; }
  const std::vector<kernels::ActivationBlock>& blocks() const { return blocks_; }
  // [columns]: x as the form holds it.
  const std::vector<float>& values() const { return values_; }
  // The largest magnitude that the product may have summed column k with: integers are summed over a block before they are scaled.
  float Magnitude(size_t k) const;

 private:
  InputForm form_;
  std::vector<kernels::ActivationBlock> blocks_;
  std::vector<uint16_t> bf16_;
  std::vector<float> values_;
};

}  // namespace bantam
