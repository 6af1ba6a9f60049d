#include "engine/step_cost.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace bantam {
namespace {

// Weight of the newest step: some ten steps are remembered, and one that was disturbed does not count for much.
constexpr double kNewest = 0.1;
constexpr size_t kFirst = 3;
// A step that took longer than this many times what was expected was disturbed: it counts as if it had taken so long.
constexpr double kOutlier = 3;

}  // namespace

size_t StepCost::ClassOf(size_t rows) {
  CHECK(rows > 0);
  return std::min<size_t>(static_cast<size_t>(std::bit_width(rows - 1)), kClasses - 1);
}

void StepCost::Observe(size_t rows, int64_t ns) {
  Average& average = classes_[ClassOf(rows)];
  const double r = static_cast<double>(rows);
  double t = static_cast<double>(std::max<int64_t>(ns, 1));
  if (average.seen > 0) t = std::min(t, kOutlier * average.ns);
  // Of the first ones the fastest counts: the very first often waits for memory.
  const bool first = average.seen == 0 || (average.seen < kFirst && t < average.ns);
  const double newest = first ? 1 : kNewest;
  average.rows += newest * (r - average.rows);
  average.ns += newest * (t - average.ns);
  ++average.seen;
  known_ = true;
}

int64_t StepCost::Predict(size_t rows) const {
  const double r = static_cast<double>(rows);
  const Average* below = nullptr;
  const Average* above = nullptr;
  double floor = 0;  // a larger step never took less
  for (const Average& average : classes_) {
    if (average.seen == 0) continue;
    if (average.rows <= r) {
      below = &average;
      floor = std::max(floor, average.ns);
    } else if (above == nullptr) {
      above = &average;
    }
  }
  if (below == nullptr && above == nullptr) return 0;
  if (below == nullptr) return static_cast<int64_t>(above->ns);  // reading the weights is most of it
  if (above == nullptr) return static_cast<int64_t>(std::max(floor, below->ns * r / below->rows));
  const double along = (r - below->rows) / (above->rows - below->rows);
  return static_cast<int64_t>(std::max(floor, below->ns + along * (above->ns - below->ns)));
}

size_t StepCost::RowsWithin(size_t rows, double factor, size_t rows_max) const {
  const double limit = factor * static_cast<double>(Predict(rows));
  size_t least = rows;
  size_t most = std::max(rows, rows_max);
  while (least < most) {  // predictions never fall with the rows
    const size_t middle = least + (most - least + 1) / 2;
    if (static_cast<double>(Predict(middle)) <= limit) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  return least;
}

double StepCost::TokensPerSecond(size_t rows) const {
  const int64_t ns = Predict(rows);
  return ns == 0 ? 0 : static_cast<double>(rows) * 1e9 / static_cast<double>(ns);
}

}  // namespace bantam
