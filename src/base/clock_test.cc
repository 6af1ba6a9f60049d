#include "base/clock.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

TEST(UtcText, IsIso8601) {
  EXPECT_EQ(UtcText(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(UtcText(1'000'000'000), "2001-09-09T01:46:40Z");
  EXPECT_EQ(UtcText(951'782'400, 7), "2000-02-29T00:00:00.007Z");
}

TEST(Clock, ParsesIsoTimes) {
  const auto time = ParseLocalTime("2024-02-29T09:30:05");
  ASSERT_TRUE(time.ok());
  EXPECT_EQ(time->tm_year, 124);
  EXPECT_EQ(time->tm_mon, 1);
  EXPECT_EQ(time->tm_mday, 29);
  EXPECT_EQ(time->tm_hour, 9);
  EXPECT_EQ(time->tm_min, 30);
  EXPECT_EQ(time->tm_sec, 5);
  EXPECT_EQ(time->tm_wday, 4) << "a Thursday";
  EXPECT_EQ(time->tm_yday, 59);
  EXPECT_TRUE(ParseLocalTime("2026-11-20").ok());
  EXPECT_TRUE(ParseLocalTime("2026-11-20T09:30").ok());
  for (const char* wrong : {"", "today", "2026-13-01", "2026-02-29", "2026-11-20 09:30", "2026-11-20T25:00", "2026-11-20T09:30:00 x"}) {
    EXPECT_FALSE(ParseLocalTime(wrong).ok()) << wrong;
  }
}

}  // namespace
}  // namespace bantam
