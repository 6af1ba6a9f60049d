// How many dimensions each matrix of a model keeps when it becomes a product of two.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"

namespace bantam {

// A matrix [rows][columns], and what the whitened spectrum says of it: losses[k] for the rank k, relative to all of it, from losses[0] = 1
// down to losses[rank_max] = 0.
struct RankedMatrix {
  size_t rows = 0;
  size_t columns = 0;
  std::vector<double> losses;

  size_t weights() const { return rows * columns; }
  size_t weights(size_t rank) const { return rank * (rows + columns); }
};
// Squares of singular values, the largest first, as losses.
std::vector<double> LossesOf(std::span<const double> spectrum);

// Ranks are multiples of this: blocks of formats divide such rows, and kernels like them.
size_t RankUnit(size_t rows, size_t columns);

// The ranks with the least sum of losses by which all matrices together have at most `keep` (above 0, below 1) of their weights; 0: the
// matrix stays as it is, for its factors would not be smaller, or not small enough for what they lose. InvalidArgument where the smallest
// ranks are more.
Result<std::vector<size_t>> ChooseRanks(const std::vector<RankedMatrix>& matrices, double keep);

// The smallest rank with at most this loss; 0 where that has as many weights as the matrix.
size_t RankOfLoss(const RankedMatrix& matrix, double loss_max);

}  // namespace bantam
