// Where a model's activations can be scaled without a change of what it computes: what makes them is divided by the scales, and what reads
// them multiplied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/model_file.h"
#include "program/program.h"

namespace bantam {

struct ScalePoint {
  size_t scales = 0;                    // how many there are
  std::vector<std::string> divided;     // vectors, and matrices by rows: one for each scale
  std::vector<std::string> multiplied;  // matrices, by columns
  // The scale of each column; empty: one after the other. Heads that share values share scales.
  std::vector<uint32_t> scale_of;

  size_t ScaleOf(size_t column) const { return scale_of.empty() ? column : scale_of[column]; }
};

// Found in the plain form of a program: a norm that nothing but products read; the second factor of a gated feed-forward, and what reads
// it; values of attention, and what reads its output. Not the last norm, whose output is what a text's vectors are made of. Of tensors that
// other operations use too, or only parts of, nothing is scaled.
std::vector<ScalePoint> FindScalePoints(const Program& program, const TensorDirectory& tensors);

}  // namespace bantam
