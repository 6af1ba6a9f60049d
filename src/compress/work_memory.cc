#include "compress/work_memory.h"

#include <algorithm>

#include "compress/gram.h"

namespace bantam {
namespace {

// Panels that threads copy for products, of so many threads.
constexpr uint64_t kPanelsAtOnce = 16;

uint64_t PanelsBytes(const WorkShape& shape) {
  return kPanelsAtOnce * kPanelRows * sizeof(float) * std::max<uint64_t>(shape.rows, shape.columns);
}

uint64_t SquareBytes(size_t n, size_t element_bytes) { return uint64_t{n} * n * element_bytes; }

// DecomposeSymmetric with all vectors: what is left of the matrix, vectors of its three diagonals and those of the matrix, reflections of a
// block, and rotations that are gathered in a list that grows.
uint64_t DecomposingBytes(size_t n) {
  constexpr uint64_t kReflections = 64, kRotationsMax = 3 << 16, kRotationBytes = 24;
  const uint64_t rotations = std::min<uint64_t>(kRotationsMax, 4 * SquareBytes(n, 1)) * kRotationBytes;
  return 3 * SquareBytes(n, sizeof(double)) + (kReflections + 8) * n * sizeof(double) + rotations;
}

}  // namespace

uint64_t FactoringBytes(size_t columns) {
  return UpperPanels::Bytes(columns) + SquareBytes(columns, sizeof(float)) + (kPanelRows + 1) * columns * sizeof(float);
}

// What stays is taken for all, and what goes too: together they are the columns.
uint64_t RefittingBytes(const WorkShape& shape) {
  return 3 * shape.floats_bytes() + UpperPanels::Bytes(shape.columns) + FactoringBytes(shape.columns) + PanelsBytes(shape);
}

uint64_t SparseGptBytes(const WorkShape& shape) {
  constexpr uint64_t kBlockColumns = 128, kBlockBytes = 3 * sizeof(float) + 1;  // of what is asked, scores and their order, and marks
  return 3 * shape.floats_bytes() + FactoringBytes(shape.columns) + kBlockColumns * kBlockBytes * shape.rows + PanelsBytes(shape);
}

// Scores, their order, and marks.
uint64_t ZeroingBytes(const WorkShape& shape) { return 4 * shape.floats_bytes() + shape.floats_bytes() / sizeof(float); }

uint64_t LowRankBytes(const WorkShape& shape) {
  const size_t least = std::min(shape.rows, shape.columns);
  const uint64_t matrix = shape.floats_bytes();
  const uint64_t square = UpperPanels::Bytes(least) + SquareBytes(least, sizeof(double));
  const uint64_t factors = uint64_t{least} * (shape.rows + shape.columns) * sizeof(float);
  const uint64_t decomposing = 2 * matrix + DecomposingBytes(least);
  const uint64_t multiplying = 3 * matrix + SquareBytes(least, sizeof(double) + sizeof(float)) + factors;
  const uint64_t most = std::max({SquareBytes(shape.columns, sizeof(float)), 3 * matrix + square, decomposing, multiplying});
  return UpperPanels::Bytes(shape.columns) + matrix + most + PanelsBytes(shape);
}

uint64_t CorrectingBytes(const WorkShape& shape, size_t rank, bool factor) {
  constexpr uint64_t kFurther = 8;  // dimensions beside those that are wanted
  const uint64_t dimensions = rank + kFurther;
  const uint64_t sides = 4 * dimensions * (shape.rows + shape.columns) * sizeof(float);
  const uint64_t small = 4 * dimensions * dimensions * sizeof(double) + DecomposingBytes(static_cast<size_t>(dimensions));
  return 4 * shape.floats_bytes() + sides + small + PanelsBytes(shape) + (factor ? FactoringBytes(shape.columns) : 0);
}

}  // namespace bantam
