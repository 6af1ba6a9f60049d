#include "base/clock.h"

#include <fmt/format.h>

#include <chrono>
#include <string>

namespace bantam {

int64_t MonotonicClock::NowNs() const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::tm LocalTime() {
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  ::localtime_r(&now, &local);
  return local;
}

std::string UtcText(std::time_t seconds, std::optional<int64_t> milliseconds) {
  std::tm parts = {};
  ::gmtime_r(&seconds, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}Z", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
                     parts.tm_min, parts.tm_sec, milliseconds ? fmt::format(".{:03}", *milliseconds) : "");
}

Result<std::tm> ParseLocalTime(std::string_view text) {
  const std::string terminated(text);
  for (const char* format : {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"}) {
    std::tm time = {};
    const char* end = ::strptime(terminated.c_str(), format, &time);
    if (end == nullptr || *end != '\0') continue;
    // timegm turns a day that the month does not have into one of the next, and fills in the day of the week and of the year.
    const int day = time.tm_mday;
    ::timegm(&time);
    if (time.tm_mday == day) return time;
  }
  return Error(Code::kInvalidArgument, fmt::format("{}: expected a time such as 2026-11-20T09:30:00", text));
}

}  // namespace bantam
