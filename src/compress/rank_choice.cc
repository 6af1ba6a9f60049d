#include "compress/rank_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace bantam {
namespace {

// From one rank to a larger one, or to the whole matrix (0), which costs so much and gains so much.
struct Growth {
  size_t matrix;
  size_t rank;
  size_t weights;
  double gain;
};

struct Choice {
  size_t rank;
  double weights;
  double loss;
};

// The choices that any line of slope finds best (the lower convex hull), from the smallest rank on. Squares of singular values fall, so
// ranks are convex by themselves; the whole matrix at the end hides those from which the way to it is steeper than the next rank.
std::vector<Choice> Convex(const RankedMatrix& matrix) {
  std::vector<Choice> hull;
  const auto add = [&](const Choice& next) {
    const auto slope = [](const Choice& a, const Choice& b) { return (b.loss - a.loss) / (b.weights - a.weights); };
    while (hull.size() > 1 && slope(hull[hull.size() - 2], hull.back()) >= slope(hull.back(), next)) hull.pop_back();
    hull.push_back(next);
  };
  const size_t unit = RankUnit(matrix.rows, matrix.columns);
  for (size_t rank = unit; rank < matrix.losses.size() && matrix.weights(rank) < matrix.weights(); rank += unit) {
    add({rank, static_cast<double>(matrix.weights(rank)), matrix.losses[rank]});
  }
  add({0, static_cast<double>(matrix.weights()), 0.0});
  return hull;
}

// What is left when the next step of each hull is too large: rank by rank.
void SpendRest(const std::vector<RankedMatrix>& matrices, double rest, std::vector<size_t>* ranks) {
  for (;;) {
    size_t best = matrices.size();
    double best_gain = 0;
    for (size_t i = 0; i < matrices.size(); ++i) {
      const RankedMatrix& matrix = matrices[i];
      const size_t rank = (*ranks)[i];
      const size_t next = rank + RankUnit(matrix.rows, matrix.columns);
      if (rank == 0 || next >= matrix.losses.size() || matrix.weights(next) >= matrix.weights()) continue;
      const auto weights = static_cast<double>(matrix.weights(next) - matrix.weights(rank));
      const double gain = (matrix.losses[rank] - matrix.losses[next]) / weights;
      if (weights > rest || gain <= best_gain) continue;
      best = i;
      best_gain = gain;
    }
    if (best == matrices.size()) return;
    const RankedMatrix& matrix = matrices[best];
    const size_t next = (*ranks)[best] + RankUnit(matrix.rows, matrix.columns);
    rest -= static_cast<double>(matrix.weights(next) - matrix.weights((*ranks)[best]));
    (*ranks)[best] = next;
  }
}

}  // namespace

std::vector<double> LossesOf(std::span<const double> spectrum) {
  std::vector<double> losses(spectrum.size() + 1);
  for (size_t i = spectrum.size(); i-- > 0;) losses[i] = losses[i + 1] + spectrum[i];
  const double all = losses[0];
  for (double& loss : losses) loss = all > 0 ? loss / all : 0;
  return losses;
}

size_t RankUnit(size_t rows, size_t columns) {
  size_t unit = 1;
  for (const size_t finer : {4u, 32u, 256u}) {
    if (std::min(rows, columns) >= 8 * finer) unit = finer;
  }
  return unit;
}

Result<std::vector<size_t>> ChooseRanks(const std::vector<RankedMatrix>& matrices, double keep) {
  std::vector<size_t> ranks;
  std::vector<Growth> growths;
  double all = 0, used = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const std::vector<Choice> hull = Convex(matrices[i]);
    ranks.push_back(hull.front().rank);
    all += static_cast<double>(matrices[i].weights());
    used += hull.front().weights;
    for (size_t c = 1; c < hull.size(); ++c) {
      growths.push_back({i, hull[c].rank, static_cast<size_t>(hull[c].weights - hull[c - 1].weights), hull[c - 1].loss - hull[c].loss});
    }
  }
  const double limit = keep * all;
  if (used > limit) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{:.1f} % of the weights of matrices in layers cannot be reached: the smallest factors "
                             "have {:.1f} %; keep more",
                             100 * keep, 100 * used / all));
  }
  std::stable_sort(growths.begin(), growths.end(), [](const Growth& a, const Growth& b) {
    return a.gain * static_cast<double>(b.weights) > b.gain * static_cast<double>(a.weights);
  });
  std::vector<bool> done(matrices.size());
  for (const Growth& growth : growths) {
    if (done[growth.matrix]) continue;
    // What does not fit is passed over, with what would follow it.
    if (used + static_cast<double>(growth.weights) > limit) {
      done[growth.matrix] = true;
      continue;
    }
    used += static_cast<double>(growth.weights);
    ranks[growth.matrix] = growth.rank;
  }
  SpendRest(matrices, limit - used, &ranks);
  return ranks;
}

size_t RankOfLoss(const RankedMatrix& matrix, double loss_max) {
  const size_t unit = RankUnit(matrix.rows, matrix.columns);
  for (size_t rank = unit; rank < matrix.losses.size() && matrix.weights(rank) < matrix.weights(); rank += unit) {
    if (matrix.losses[rank] <= loss_max) return rank;
  }
  return 0;
}

}  // namespace bantam
