#include "base/team_size.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace bantam {
namespace {

constexpr int64_t kMs = 1'000'000;

// A machine on which a step is `work_ns` of one thread, and a team of more than `free` members takes `delay` times what it would alone.
struct Machine {
  int free;
  int64_t work_ns = 2 * kMs;
  int64_t delay = 20;
  int64_t now_ns = 0;
  int64_t StepNs(int team) const { return work_ns / team * (team > free ? delay : 1); }
  int RunOnce(TeamSize& size) {
    const int team = size.Next(now_ns);
    const int64_t took = StepNs(team);
    // One member at a time is away, all others wait.
    const int64_t waited = (took - work_ns / team) * (team - 1);
    size.Ended(now_ns, now_ns + took, waited);
    now_ns += took;
    return team;
  }
};

TEST(TeamSize, AQuietMachineGetsAll) {
  for (const int most : {1, 2, 4, 7}) {
    TeamSize size(most);
    Machine machine{.free = most};
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(machine.RunOnce(size), most);
  }
}

TEST(TeamSize, OnABusyMachineLittleIsLostAgainstTheBestTeam) {
  for (const int most : {2, 4, 8}) {
    for (int free = 1; free < most; free *= 2) {
      TeamSize size(most);
      Machine machine{.free = free};
      int64_t steps = 0;
      for (; machine.now_ns < 20'000 * kMs; ++steps) machine.RunOnce(size);
      const int64_t best = machine.now_ns / machine.StepNs(free);
      EXPECT_GT(steps, best * 9 / 10) << most << " threads, " << free << " processors";
    }
  }
}

TEST(TeamSize, ComesBackWhenTheMachineIsQuietAgain) {
  TeamSize size(4);
  Machine machine{.free = 1};
  while (machine.now_ns < 5'000 * kMs) machine.RunOnce(size);
  machine.free = 4;
  const int64_t quiet_since = machine.now_ns;
  while (machine.RunOnce(size) < 4) ASSERT_LT(machine.now_ns - quiet_since, 2'000 * kMs);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(machine.RunOnce(size), 4);
}

// One slice of 4 ms taken by another program once in a while does not make a machine busy.
TEST(TeamSize, OneLostSliceIsNothing) {
  TeamSize size(2);
  int64_t now = 0;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(size.Next(now), 2);
    const int64_t lost = i % 100 == 0 ? 4 * kMs : 0;
    size.Ended(now, now + kMs + lost, lost);
    now += kMs + lost;
  }
}

// Steps longer than a window: each is judged, and a try costs a step, so rests are of steps.
TEST(TeamSize, LongStepsAreNotTriedAllTheTime) {
  TeamSize size(2);
  Machine machine{.free = 1, .work_ns = 400 * kMs, .delay = 4};
  int pairs = 0;
  for (int i = 0; i < 300; ++i) pairs += machine.RunOnce(size) == 2;
  EXPECT_LE(pairs, 12);
  EXPECT_GE(pairs, 2);
}

}  // namespace
}  // namespace bantam
