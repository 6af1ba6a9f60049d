// Time behind a seam, so that tests need no sleeping.
#pragma once

#include <cstdint>
#include <ctime>

namespace bantam {

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds from an arbitrary start; never goes backwards.
  virtual int64_t NowNs() const = 0;
};

class MonotonicClock final : public Clock {
 public:
  int64_t NowNs() const override;
};

// The wall clock in local time.
std::tm LocalTime();

}  // namespace bantam
