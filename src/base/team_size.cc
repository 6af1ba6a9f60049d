#include "base/team_size.h"

#include <algorithm>

namespace bantam {

int TeamSize::Next(int64_t now_ns) {
  if (size_ < most_ && now_ns >= retry_ns_) {
    size_ = std::min(most_, 2 * size_);
    window_ns_ = 0;
    waited_ns_ = 0;
  }
  return size_;
}

void TeamSize::Ended(int64_t begin_ns, int64_t end_ns, int64_t waited_ns) {
  if (size_ == 1) return;
  window_ns_ += end_ns - begin_ns;
  waited_ns_ += waited_ns;
  if (window_ns_ < kWindowNs) return;
  // Of n members each n-1 wait for the one that lost its processor, and n * time = n * work + waited + waited / (n - 1). Half as many would
  // take 2 * work, if they were left alone: less than this team took where waited > time * (n - 1) / 2.
  if (2 * waited_ns_ > window_ns_ * (size_ - 1)) {
    size_ = std::max(1, size_ / 2);
    retry_ns_ = end_ns + rest_windows_ * std::max(window_ns_, kWindowNs);
    rest_windows_ = std::min(2 * rest_windows_, kRestMax);
  } else {
    if (size_ == most_) rest_windows_ = kRestMin;
    retry_ns_ = end_ns + rest_windows_ * kWindowNs;
  }
  window_ns_ = 0;
  waited_ns_ = 0;
}

}  // namespace bantam
