#include "base/memory_budget.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

TEST(MemoryBudget, ReservationsAddUpAndComeBack) {
  MemoryBudget budget(100);
  {
    auto first = budget.Reserve(60, "weights");
    ASSERT_TRUE(first.ok());
    const auto second = budget.Reserve(41, "kv");
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code(), Code::kExhausted);
    EXPECT_EQ(budget.used_bytes(), 60u) << "a refused reservation takes nothing";
    EXPECT_TRUE(budget.Reserve(40, "kv").ok());
    EXPECT_EQ(budget.used_bytes(), 60u) << "a dropped reservation comes back";
    MemoryBudget::Reservation moved = std::move(first).value();
    EXPECT_EQ(moved.bytes(), 60u);
  }
  EXPECT_EQ(budget.used_bytes(), 0u);
  EXPECT_FALSE(budget.Reserve(UINT64_MAX, "overflow").ok());
}

TEST(Bytes, AreParsed) {
  EXPECT_EQ(*ParseBytes("800000", "--memory"), 800000u);
  EXPECT_EQ(*ParseBytes("512M", "--memory"), uint64_t{512} << 20);
  EXPECT_EQ(*ParseBytes("1.5GiB", "--memory"), uint64_t{3} << 29);
  EXPECT_EQ(*ParseBytes("2k", "--memory"), 2048u);
  for (const char* bad : {"", "M", "-1", "1X", "1MM", "nan", "inf", "1e5", "99999999T", "1 G", "0x10"}) {
    const auto parsed = ParseBytes(bad, "--memory");
    EXPECT_FALSE(parsed.ok()) << bad;
    if (!parsed.ok()) {
      EXPECT_EQ(parsed.error().code(), Code::kInvalidArgument);
    }
  }
}

TEST(Bytes, AreFormatted) {
  EXPECT_EQ(FormatBytes(17), "17 bytes");
  EXPECT_EQ(FormatBytes(uint64_t{323} << 20), "323 MiB");
  EXPECT_EQ(FormatBytes(uint64_t{3} << 29), "1.50 GiB");
}

}  // namespace
}  // namespace bantam
