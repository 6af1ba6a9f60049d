// TeamSize: how many threads of a pool are worth having on a machine that does something else too.
#pragma once

#include <cstdint>

namespace bantam {

// A team that meets at barriers goes on at the pace of whoever lost its processor last, while a thread alone loses nothing but its own
// time: beside one busy program, two threads on two processors decode at a tenth of what one does. So a team whose members mostly wait is
// halved, and the larger one is tried again after a while, which grows with every try that failed. A pure function of the times it is told.
class TeamSize {
 public:
  explicit TeamSize(int most) : most_(most), size_(most) {}

  // Of the run that begins now.
  int Next(int64_t now_ns);
  // A run of that team has ended: waited_ns is the sum of what its members waited for each other.
  void Ended(int64_t begin_ns, int64_t end_ns, int64_t waited_ns);

  // Runs are judged together until they have taken this long: shorter, and one slice that another program took would count as a busy
  // machine.
  static constexpr int64_t kWindowNs = 16'000'000;
  // In windows: the rest before the larger team is tried again. A failed try costs about a window, so 3 % at the most.
  static constexpr int64_t kRestMin = 4;
  static constexpr int64_t kRestMax = 32;

 private:
  const int most_;
  int size_;
  int64_t rest_windows_ = kRestMin;
  int64_t retry_ns_ = 0;
  int64_t window_ns_ = 0;  // so far
  int64_t waited_ns_ = 0;
};

}  // namespace bantam
