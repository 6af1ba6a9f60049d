// Scales that make keys easier to keep in few bits (ADR 0032): where some dimensions of keys are far larger than others, as biases make
// them, keys are divided and queries multiplied. Scores stay what they are.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "compress/scaled_source.h"
#include "formats/model_file.h"
#include "program/program.h"

namespace bantam {

// Of each pair of dimensions that positions turn (or each that they do not) the power of two that keys are divided and queries multiplied
// by: that with the least product of the sums of squares of both, about a middle of 0. `keys` and `queries`: sums of squares of each pair;
// 0: not known, and left alone.
std::vector<int> EvenExponents(std::span<const double> keys, std::span<const double> queries);

struct EvenedKeys {
  ModelScales scales;    // of rows only
  size_t layers = 0;     // whose keys are scaled
  size_t looked_at = 0;  // layers whose keys and queries may be
  double error = 1;  // predicted: the squared error of scores with rotated keys in few bits, over that without scales; the mean of heads
};
// Read off the weights: what products give where they read a norm, taken for uncorrelated there. Left alone: layers whose keys others
// attend to as well, keys and queries with norms or clamps of their own, and weights that are used twice. Errors: those of the source;
// Corrupt for weights that are no numbers.
Result<EvenedKeys> EvenKeys(ModelFile& file, const Program& program);

}  // namespace bantam
