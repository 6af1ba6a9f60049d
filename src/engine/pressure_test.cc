#include "engine/pressure.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr int64_t kSecond = 1'000'000'000;

MemoryPressure Left(uint64_t mib, double some = 0, double full = 0) {
  return {.left_bytes = mib * kMiB, .limit_bytes = 1024 * kMiB, .some = some, .full = full};
}

TEST(PressureGauge, LevelsOfOneLook) {
  EXPECT_EQ(PressureGauge::LevelOf({}, 1), Pressure::kCalm) << "nothing is known";
  EXPECT_EQ(PressureGauge::LevelOf(Left(500), 1), Pressure::kCalm);
  EXPECT_EQ(PressureGauge::LevelOf(Left(30), 1), Pressure::kHigh);
  EXPECT_EQ(PressureGauge::LevelOf(Left(5), 1), Pressure::kCritical);
  EXPECT_EQ(PressureGauge::LevelOf(Left(500, 0.3), 1), Pressure::kHigh);
  EXPECT_EQ(PressureGauge::LevelOf(Left(500, 0.3, 0.2), 1), Pressure::kCritical);
  EXPECT_EQ(PressureGauge::LevelOf({.left_bytes = 300 * kMiB, .limit_bytes = 65536 * kMiB}, 1), Pressure::kCalm);
  EXPECT_EQ(PressureGauge::LevelOf({.left_bytes = 200 * kMiB, .limit_bytes = 65536 * kMiB}, 1), Pressure::kHigh);
}

TEST(PressureGauge, RisesAtOnceAndFallsStepByStep) {
  PressureGauge gauge;
  EXPECT_EQ(gauge.Update(0, Left(500)), Pressure::kCalm);
  EXPECT_EQ(gauge.Update(1, Left(5)), Pressure::kCritical);
  EXPECT_EQ(gauge.Update(2 * kSecond, Left(15)), Pressure::kCritical) << "just above the limit is not calm";
  EXPECT_EQ(gauge.Update(3 * kSecond, Left(500)), Pressure::kCritical);
  EXPECT_EQ(gauge.Update(12 * kSecond, Left(500)), Pressure::kCritical);
  EXPECT_EQ(gauge.Update(13 * kSecond, Left(500)), Pressure::kHigh);
  EXPECT_EQ(gauge.Update(14 * kSecond, Left(500)), Pressure::kHigh);
  EXPECT_EQ(gauge.Update(20 * kSecond, Left(60)), Pressure::kHigh) << "the calm is over";
  EXPECT_EQ(gauge.Update(21 * kSecond, Left(500)), Pressure::kHigh);
  EXPECT_EQ(gauge.Update(31 * kSecond, Left(500)), Pressure::kCalm);
}

// A value that swings about a limit changes the level once, not each time.
TEST(PressureGauge, DoesNotFlutter) {
  PressureGauge gauge;
  int changes = 0;
  Pressure last = Pressure::kCalm;
  for (int second = 0; second < 600; ++second) {
    const Pressure now = gauge.Update(second * kSecond, Left(second % 2 == 0 ? 38 : 44));
    changes += now != last ? 1 : 0;
    last = now;
  }
  EXPECT_EQ(changes, 1);
}

}  // namespace
}  // namespace bantam
