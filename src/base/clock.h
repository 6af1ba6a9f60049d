// Time behind a seam, so that tests need no sleeping.
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

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

// ISO 8601 in UTC, of seconds since 1970: 2026-11-20T09:30:00Z, with milliseconds 2026-11-20T09:30:00.250Z.
std::string UtcText(std::time_t seconds, std::optional<int64_t> milliseconds = {});

// ISO 8601: 2026-11-20, 2026-11-20T09:30 or 2026-11-20T09:30:00, as local time. Errors: InvalidArgument.
Result<std::tm> ParseLocalTime(std::string_view text);

}  // namespace bantam
