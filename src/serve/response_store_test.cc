#include "serve/response_store.h"

#include <gtest/gtest.h>

#include <string>

namespace bantam {
namespace {

class SetClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns; }
  int64_t now_ns = 0;
};

TEST(ResponseStore, EachOwnerHasItsOwn) {
  SetClock clock;
  ResponseStore store({}, clock);
  store.Put("kiosk", "resp_1", {"mine", "[1]"});
  ASSERT_TRUE(store.Get("kiosk", "resp_1"));
  EXPECT_EQ(store.Get("kiosk", "resp_1")->response, "mine");
  EXPECT_EQ(store.Get("kiosk", "resp_1")->items, "[1]");
  EXPECT_FALSE(store.Get("", "resp_1"));
  EXPECT_FALSE(store.Get("other", "resp_1"));
  EXPECT_FALSE(store.Remove("other", "resp_1"));
  EXPECT_TRUE(store.Remove("kiosk", "resp_1"));
  EXPECT_FALSE(store.Remove("kiosk", "resp_1"));
  EXPECT_EQ(store.load().bytes, 0u);
}

TEST(ResponseStore, TheOldestMakesRoom) {
  SetClock clock;
  ResponseStore store({.responses_max = 3}, clock);
  for (int i = 0; i < 5; ++i) store.Put("a", std::to_string(i), {"r", "[]"});
  EXPECT_EQ(store.load().responses, 3u);
  EXPECT_FALSE(store.Get("a", "1"));
  EXPECT_TRUE(store.Get("a", "2"));
  // Once more is newer.
  store.Put("a", "2", {"again", "[]"});
  store.Put("a", "5", {"r", "[]"});
  EXPECT_EQ(store.Get("a", "2")->response, "again");
  EXPECT_FALSE(store.Get("a", "3"));
}

TEST(ResponseStore, BytesAreLimited) {
  SetClock clock;
  ResponseStore store({.bytes_max = 10'000}, clock);
  store.Put("a", "large", {std::string(20'000, 'x'), "[]"});
  EXPECT_FALSE(store.Get("a", "large"));
  for (int i = 0; i < 100; ++i) {
    store.Put("a", std::to_string(i), {std::string(1000 + 10 * i, 'x'), "[]"});
    EXPECT_LE(store.load().bytes, 10'000u);
    EXPECT_TRUE(store.Get("a", std::to_string(i)));
  }
  EXPECT_GE(store.load().responses, 3u);
  ResponseStore none({.responses_max = 0}, clock);
  EXPECT_FALSE(none.keeps());
  none.Put("a", "1", {"r", "[]"});
  EXPECT_FALSE(none.Get("a", "1"));
}

// Who keeps much makes room for it among what is his own.
TEST(ResponseStore, OneOwnerLeavesOthersTheirs) {
  SetClock clock;
  ResponseStore store({.bytes_max = 10'000}, clock);
  store.Put("b", "first", {std::string(1000, 'x'), "[]"});
  for (int i = 0; i < 20; ++i) store.Put("a", std::to_string(i), {std::string(2000, 'x'), "[]"});
  EXPECT_TRUE(store.Get("b", "first"));
  EXPECT_TRUE(store.Get("a", "19"));
  EXPECT_LE(store.load().bytes, 10'000u);
  // What one may have in any case is had of the others.
  store.Put("c", "1", {std::string(1000, 'x'), "[]"});
  EXPECT_TRUE(store.Get("c", "1"));
}

TEST(ResponseStore, WhatIsOldGoes) {
  SetClock clock;
  ResponseStore store({.age_max_ns = 100}, clock);
  store.Put("a", "1", {"r", "[]"});
  clock.now_ns = 60;
  store.Put("a", "2", {"r", "[]"});
  clock.now_ns = 100;
  EXPECT_TRUE(store.Get("a", "1"));
  clock.now_ns = 101;
  EXPECT_FALSE(store.Get("a", "1"));
  EXPECT_TRUE(store.Get("a", "2"));
  clock.now_ns = 1000;
  EXPECT_EQ(store.load().responses, 0u);
  EXPECT_EQ(store.load().bytes, 0u);
}

}  // namespace
}  // namespace bantam
