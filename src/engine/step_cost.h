// StepCost: how long a step of so many rows takes on this machine, from the steps that were.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace bantam {

// A step reads all weights once and multiplies them with each row: at first rows cost next to nothing, later each costs the same. So times
// are kept for classes of rows, each a moving average of nanoseconds and rows, and a line is drawn from one class to the next.
class StepCost {
 public:
  void Observe(size_t rows, int64_t ns);
  // Nanoseconds. Never falls with the rows; 0 while nothing was observed.
  int64_t Predict(size_t rows) const;
  // The most rows, at least `rows` and at most `rows_max`, of a step that takes at most `factor` times what one of `rows` takes.
  size_t RowsWithin(size_t rows, double factor, size_t rows_max) const;
  // Of reading prompts of many tokens in steps of `rows`; 0 while nothing was observed.
  double TokensPerSecond(size_t rows) const;
  bool known() const { return known_; }
  // How often steps of about so many rows were observed.
  size_t Seen(size_t rows) const { return classes_[ClassOf(rows)].seen; }

 private:
  static constexpr size_t kClasses = 20;  // 1, 2, 3 to 4, 5 to 8, ...
  static size_t ClassOf(size_t rows);
  struct Average {
    double rows = 0;
    double ns = 0;
    size_t seen = 0;
  };
  std::array<Average, kClasses> classes_;
  bool known_ = false;
};

}  // namespace bantam
