#include "base/threads.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <optional>
#include <vector>

#include "base/system_limits.h"

namespace bantam {
namespace {

TEST(Share, PartsAreContiguousAndEven) {
  for (const size_t count : {0u, 1u, 7u, 64u, 1000003u}) {
    for (const int threads : {1, 2, 3, 8}) {
      size_t at = 0;
      for (int thread = 0; thread < threads; ++thread) {
        const auto [begin, end] = Share(count, thread, threads);
        EXPECT_EQ(begin, at);
        EXPECT_LE(end - begin, count / static_cast<size_t>(threads) + 1);
        at = end;
      }
      EXPECT_EQ(at, count);
    }
  }
}

TEST(ThreadPool, EveryThreadRunsOncePerRun) {
  for (const int threads : {1, 2, 5}) {
    const auto threads_owner = ThreadPool::Make(threads).value();
    ThreadPool& pool = *threads_owner;
    std::vector<int> runs(static_cast<size_t>(threads));
    for (int i = 0; i < 200; ++i) pool.Run([&](int thread) { ++runs[static_cast<size_t>(thread)]; });
    EXPECT_EQ(runs, std::vector<int>(static_cast<size_t>(threads), 200));
  }
}

// Each phase reads what all threads wrote in the one before: a barrier that lets one through too early shows.
TEST(ThreadPool, NobodyPassesABarrierEarly) {
  constexpr int kThreads = 4;
  constexpr int kPhases = 500;
  const auto threads_owner = ThreadPool::Make(kThreads).value();
  ThreadPool& pool = *threads_owner;
  std::vector<int> values(kThreads);
  std::atomic<int> wrong = 0;
  pool.Run([&](int thread) {
    for (int phase = 1; phase <= kPhases; ++phase) {
      values[static_cast<size_t>(thread)] = phase;
      pool.Barrier(thread);
      if (std::accumulate(values.begin(), values.end(), 0) != phase * kThreads) ++wrong;
      pool.Barrier(thread);
    }
  });
  EXPECT_EQ(wrong, 0);
}

// More threads than processors: waiters must sleep, not spin for ever.
TEST(ThreadPool, ManyThreadsOnFewProcessors) {
  const auto threads_owner = ThreadPool::Make(32).value();
  ThreadPool& pool = *threads_owner;
  std::atomic<int> total = 0;
  for (int i = 0; i < 20; ++i) {
    pool.Run([&](int thread) {
      pool.Barrier(thread);
      ++total;
    });
  }
  EXPECT_EQ(total, 640);
}

// Threads that were put on one processor and wait there for each other part; what they may use afterwards is what they might before.
TEST(ThreadPool, PartingChangesNoAffinity) {
  const std::vector<int> processors = AffinityProcessors();
  if (processors.size() < 2) GTEST_SKIP() << "this process may use one processor, so there is nowhere to part to";
  const auto pool = ThreadPool::Make(2).value();
  cpu_set_t all;
  ASSERT_EQ(::sched_getaffinity(0, sizeof(all), &all), 0);
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(static_cast<size_t>(processors.front()), &first);
  std::atomic<int> changed = 0;
  for (int i = 0; i < 20; ++i) {
    pool->Run([&](int thread) {
      // Behind it both have begun, and nobody else moves them while they do.
      pool->Barrier(thread);
      cpu_set_t now;
      if (::sched_getaffinity(0, sizeof(now), &now) != 0 || !CPU_EQUAL(&now, &all)) ++changed;
      ::sched_setaffinity(0, sizeof(first), &first);
      ::sched_setaffinity(0, sizeof(all), &all);
      pool->Barrier(thread);
      // One works while the other waits for longer than it would on a processor of its own; in every third run until it sleeps.
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(i % 3 == 0 ? 2000 : 400);
      while (thread == i % 2 && std::chrono::steady_clock::now() < until) {
      }
    });
  }
  EXPECT_EQ(changed, 0);
}

TEST(PieceQueue, OwnShareFirstThenOthers) {
  PieceQueue queue(2);
  EXPECT_EQ(queue.Take(1, 5, 1), 2u);  // of 2, 3, 4
  EXPECT_EQ(queue.Take(1, 5, 0), 0u);
  EXPECT_EQ(queue.Take(1, 5, 0), 1u);
  EXPECT_EQ(queue.Take(1, 5, 0), 4u) << "left of the other's, from its end";
  EXPECT_EQ(queue.Take(1, 5, 0), 3u);
  EXPECT_EQ(queue.Take(1, 5, 1), std::nullopt);
  EXPECT_EQ(queue.Take(2, 1, 0), 0u) << "a share may be empty";
  EXPECT_EQ(queue.Take(1, 5, 1), std::nullopt) << "a thread that comes late finds nothing, though the next round has begun";
  EXPECT_EQ(queue.Take(2, 1, 1), std::nullopt);
  EXPECT_EQ(queue.Take(3, 0, 0), std::nullopt);
}

TEST(PieceQueue, RoundsBeginAnew) {
  PieceQueue queue(1);
  uint64_t round = 1;
  for (; round < uint64_t{1} << 27; round += (uint64_t{1} << 22) + 12345) {
    EXPECT_EQ(queue.Take(round, 2, 0), 0u) << round;
    EXPECT_EQ(queue.Take(round, 2, 0), 1u) << round;
    EXPECT_EQ(queue.Take(round, 2, 0), std::nullopt) << round;
  }
}

// Rounds without barriers between: every piece of every round once.
TEST(PieceQueue, EveryPieceOnce) {
  constexpr int kThreads = 4;
  constexpr size_t kRounds = 2000;
  const auto pool = ThreadPool::Make(kThreads).value();
  PieceQueue queue(kThreads);
  std::vector<std::atomic<int>> taken(kRounds * 8);
  pool->Run([&](int thread) {
    for (size_t round = 0; round < kRounds; ++round) {
      while (const auto piece = queue.Take(round + 1, round % 8, thread)) ++taken[round * 8 + *piece];
    }
  });
  for (size_t i = 0; i < taken.size(); ++i) ASSERT_EQ(taken[i], i % 8 < i / 8 % 8 ? 1 : 0) << i;
}

}  // namespace
}  // namespace bantam
