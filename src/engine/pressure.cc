#include "engine/pressure.h"

#include <algorithm>

namespace bantam {
namespace {

// Of the limit, but no more than these: a machine of 64 GiB is not short of memory with 2 GiB left.
constexpr double kHighShare = 0.04;
constexpr double kHighBytesMax = 256.0 * (1 << 20);
constexpr double kCriticalShare = 0.01;
constexpr double kCriticalBytesMax = 32.0 * (1 << 20);
// Of time in which tasks waited for memory.
constexpr double kHighSome = 0.15;
constexpr double kCriticalFull = 0.15;

}  // namespace

std::string_view PressureName(Pressure pressure) {
  constexpr std::string_view kNames[] = {"calm", "high", "critical"};
  return kNames[static_cast<size_t>(pressure)];
}

Pressure PressureGauge::LevelOf(const MemoryPressure& memory, double margin) {
  const double left = static_cast<double>(memory.left_bytes);
  const double limit = static_cast<double>(memory.limit_bytes);
  if (left < margin * std::min(kCriticalShare * limit, kCriticalBytesMax) || memory.full * margin > kCriticalFull)
    return Pressure::kCritical;
  if (left < margin * std::min(kHighShare * limit, kHighBytesMax) || memory.some * margin > kHighSome) return Pressure::kHigh;
  return Pressure::kCalm;
}

Pressure PressureGauge::Update(int64_t now_ns, const MemoryPressure& memory) {
  const Pressure now = LevelOf(memory, /*margin=*/1);
  if (now > level_) {
    level_ = now;
    calm_since_ns_ = -1;
    return level_;
  }
  if (level_ == Pressure::kCalm || LevelOf(memory, /*margin=*/2) >= level_) {
    calm_since_ns_ = -1;
    return level_;
  }
  if (calm_since_ns_ < 0) calm_since_ns_ = now_ns;
  if (now_ns - calm_since_ns_ < kCalmNs) return level_;
  level_ = static_cast<Pressure>(static_cast<int>(level_) - 1);
  calm_since_ns_ = -1;
  return level_;
}

}  // namespace bantam
