#include "tensor/arena.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

TEST(Arena, CutsAlignedZeroedPieces) {
  MemoryBudget budget(1 << 20);
  auto arena = Arena::Make(budget, 100 + 64, "test");
  ASSERT_TRUE(arena.ok());
  const auto first = arena->Take(100);
  const auto second = arena->Take(10);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(second.data()) % kArenaAlignment, 0u);
  EXPECT_EQ(second.data() - first.data(), 128);
  for (const std::byte byte : first) EXPECT_EQ(byte, std::byte{0});
  EXPECT_EQ(budget.used_bytes(), 192u);
  EXPECT_EQ(arena->used_bytes(), 192u);
}

TEST(Arena, RefusesWhatTheBudgetCannotHold) {
  MemoryBudget budget(1000);
  const auto arena = Arena::Make(budget, 1001, "weights");
  ASSERT_FALSE(arena.ok());
  EXPECT_EQ(arena.error().code(), Code::kExhausted);
  EXPECT_NE(arena.error().message().find("weights"), std::string::npos);
  MemoryBudget endless(UINT64_MAX);
  EXPECT_EQ(Arena::Make(endless, uint64_t{1} << 60, "weights").error().code(), Code::kExhausted) << "the system refuses";
}

TEST(Arena, GivesItsMemoryBack) {
  MemoryBudget budget(1000);
  { const auto arena = Arena::Make(budget, 640, "test"); }
  EXPECT_EQ(budget.used_bytes(), 0u);
}

TEST(ArenaDeathTest, RunningOutIsOurDefect) {
  MemoryBudget budget(1000);
  auto arena = Arena::Make(budget, 64, "test");
  EXPECT_DEATH(arena->Take(65), "CHECK failed");
}

}  // namespace
}  // namespace bantam
