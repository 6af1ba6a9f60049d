// Memory pressure from outside: what the machine or the control group says, as levels that do not flutter.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/system_limits.h"

namespace bantam {

enum class Pressure : uint8_t {
  kCalm,
  kHigh,      // prefixes go, and their memory back to the system
  kCritical,  // and nothing new is taken
};
std::string_view PressureName(Pressure pressure);  // "calm", "high", "critical"

// Rises at once, and falls by one level when it was calm for a while: what is dropped costs time to compute again.
class PressureGauge {
 public:
  static constexpr int64_t kCalmNs = 10'000'000'000;

  Pressure Update(int64_t now_ns, const MemoryPressure& memory);
  Pressure level() const { return level_; }

  // Of one look alone. `margin` widens all limits: to fall, a level has to be left clearly.
  static Pressure LevelOf(const MemoryPressure& memory, double margin);

 private:
  Pressure level_ = Pressure::kCalm;
  int64_t calm_since_ns_ = -1;
};

}  // namespace bantam
