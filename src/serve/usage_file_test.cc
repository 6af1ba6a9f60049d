#include "serve/usage_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "testing/faulty_files.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kHour = 3600 * kSecond;

class SetClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns; }
  int64_t now_ns = 0;
};

const ApiKey kKiosk = {.name = "kiosk", .limits = {.tokens_per_day = 100}};

class UsageFileTest : public ::testing::Test {
 protected:
  UsageFile Make(FileSystem& files, KeyUses& uses) {
    return UsageFile({.files = files,
                      .path = path_,
                      .uses = uses,
                      .clock = clock_,
                      .time_s = [this] { return time_s_; },
                      .notice = [this](const std::string& what) { notices_.push_back(what); }});
  }
  void Use(KeyUses& uses, uint64_t tokens) const {
    EXPECT_FALSE(uses.Enter(kKiosk, clock_.now_ns));
    uses.Leave(kKiosk, tokens, clock_.now_ns);
  }
  bool May(KeyUses& uses) const {
    const bool may = !uses.Enter(kKiosk, clock_.now_ns);
    if (may) uses.Leave(kKiosk, 0, clock_.now_ns);
    return may;
  }
  std::string Text() {
    const auto text = files_->ReadText(path_, kKeyDaysBytesMax);
    return text.ok() ? *text : "";
  }

  testing::TemporaryFolder folder_;
  const std::string path_ = folder_.Path("usage.json");
  const std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  SetClock clock_;
  int64_t time_s_ = 1'800'000'000;
  std::vector<std::string> notices_;
};

// A day that was begun goes on in the next run, whose clock begins somewhere else, and is a whole one.
TEST_F(UsageFileTest, ADayGoesOn) {
  clock_.now_ns = 30 * kHour;
  KeyUses first;
  Use(first, 60);
  Use(first, 40);
  EXPECT_FALSE(May(first));
  clock_.now_ns += 2 * kHour;
  Make(*files_, first).Write();
  // 8 hours of the day had passed, an hour passes between the runs: 15 are left.
  clock_.now_ns = 5 * kSecond;
  time_s_ += 3600;
  KeyUses second;
  Make(*files_, second).Read();
  EXPECT_FALSE(May(second));
  clock_.now_ns += 15 * kHour - kSecond;
  EXPECT_FALSE(May(second));
  clock_.now_ns += 2 * kSecond;
  EXPECT_TRUE(May(second));
  // The next one is no shorter.
  Use(second, 100);
  clock_.now_ns += 24 * kHour - 2 * kSecond;
  EXPECT_FALSE(May(second));
  clock_.now_ns += 2 * kSecond;
  EXPECT_TRUE(May(second));
  EXPECT_TRUE(notices_.empty());
}

// Between two runs only the wall clock says how long it was. One that stands earlier, as where a machine without a battery starts, says
// nothing; one that stands a day later ends the day.
TEST_F(UsageFileTest, AWallClockThatJumpsBetweenTwoRuns) {
  KeyUses first;
  Use(first, 100);
  Make(*files_, first).Write();
  for (const auto& [time_s, may] : {std::pair<int64_t, bool>{0, false},
                                    {-5, false},
                                    {1'799'000'000, false},
                                    {1'800'000'000, false},
                                    {1'800'086'399, false},
                                    {1'800'086'400, true},
                                    {int64_t{1} << 60, true}}) {
    time_s_ = time_s;
    KeyUses second;
    Make(*files_, second).Read();
    EXPECT_EQ(May(second), may) << time_s;
  }
  EXPECT_TRUE(notices_.empty());
}

TEST_F(UsageFileTest, WhatIsDamagedIsSaidAndLeft) {
  const std::pair<std::string, const char*> kCases[] = {
      {"", "line 1"},
      {"{}", "time: null"},
      {"[]", "time: null"},
      {R"({"time":-1,"keys":[]})", "time: -1"},
      {R"({"time":1})", "\"keys\", a list"},
      {R"({"time":1,"keys":[1]})", "key 1: expected an object"},
      {R"({"time":1,"keys":[{"name":"a","tokens":1}]})", "key 1: seconds: null"},
      {R"({"time":1,"keys":[{"name":7,"tokens":1,"seconds":1}]})", "key 1: name: 7"},
      {R"({"time":1,"keys":[{"name":"a","tokens":1e300,"seconds":1}]})", "key 1: tokens: "},
      {R"({"time":1,"keys":[{"name":"a","tokens":1,"seconds":86401}]})", "key 1: seconds: 86401"},
      {R"({"time":1,"keys":[{"name":"a","tokens":1,"seconds":1},{"name":"a","tokens":1,"seconds":1}]})", "key 2: another one"},
      {R"({"time":1,"time":2,"keys":[]})", "time"},
      {std::string(kKeyDaysBytesMax + 1, ' '), "longer than the limit"},
  };
  for (const auto& [text, says] : kCases) {
    std::ofstream(path_) << text;
    notices_.clear();
    KeyUses uses;
    UsageFile file = Make(*files_, uses);
    file.Read();
    Use(uses, 5);
    file.Write();
    std::ifstream now(path_);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(now), {}), text) << "it may be another file, named by mistake";
    ASSERT_EQ(notices_.size(), 1u) << text.substr(0, 100);
    EXPECT_THAT(notices_[0], StartsWith(path_ + ": "));
    EXPECT_THAT(notices_[0], HasSubstr(says));
    EXPECT_THAT(notices_[0], HasSubstr("; keys begin their day anew"));
  }
}

// Not for each request, and not where nobody asked.
TEST_F(UsageFileTest, IsWrittenNowAndThen) {
  KeyUses uses;
  UsageFile file = Make(*files_, uses);
  file.Read();
  file.WriteInTime();
  EXPECT_FALSE(files_->Exists(path_));
  Use(uses, 1);
  file.WriteInTime();
  const std::string first = Text();
  EXPECT_THAT(first, HasSubstr("\"tokens\": 1"));
  Use(uses, 1);
  file.WriteInTime();
  EXPECT_EQ(Text(), first);
  clock_.now_ns += UsageFile::kEveryNs;
  file.WriteInTime();
  EXPECT_THAT(Text(), HasSubstr("\"tokens\": 2"));
  Use(uses, 1);
  file.Write();
  EXPECT_THAT(Text(), HasSubstr("\"tokens\": 3"));
  // Nothing changed: whatever stands there stays.
  std::ofstream(path_) << "other";
  clock_.now_ns += UsageFile::kEveryNs;
  file.WriteInTime();
  file.Write();
  EXPECT_EQ(Text(), "other");
}

// Whichever step of the disk fails: what was there stays whole, it is said once, and tried again.
TEST_F(UsageFileTest, DisksThatFail) {
  for (int n = 1;; ++n) {
    testing::Fuse fuse;
    testing::FaultyFiles faulty(fuse);
    notices_.clear();
    KeyUses uses;
    UsageFile file = Make(faulty, uses);
    Use(uses, 1);
    file.Write();
    const std::string before = Text();
    Use(uses, 1);
    fuse.Set(n);
    file.Write();
    if (!fuse.TakeBlown()) break;
    fuse.Set(n);
    file.Write();
    EXPECT_EQ(Text(), before) << n;
    EXPECT_THAT(notices_, ElementsAre(HasSubstr("what keys used is not kept: "))) << n;
    file.Write();
    EXPECT_THAT(Text(), HasSubstr("\"tokens\": 2")) << n;
    Use(uses, 1);
    fuse.Set(n);
    file.Write();
    EXPECT_EQ(notices_.size(), 2u) << "another time it is said again";
    ASSERT_LT(n, 20);
  }
  EXPECT_EQ(files_->List(folder_.Path(".")).value().size(), 1u) << "nothing half is left";
}

// Keys without end are not kept without end.
TEST(KeyDays, OfTooManyThoseThatUsedMost) {
  KeyUses uses;
  for (size_t i = 0; i < kKeysMax + 50; ++i) {
    const ApiKey key = {.name = std::to_string(i)};
    EXPECT_FALSE(uses.Enter(key, 0));
    uses.Leave(key, i, 0);
  }
  const std::string text = WriteKeyDays(uses.Days(0), 1);
  EXPECT_LT(text.size(), kKeyDaysBytesMax);
  const auto days = ReadKeyDays(text, 1);
  ASSERT_TRUE(days.ok()) << days.error().message();
  ASSERT_EQ(days->size(), kKeysMax);
  for (const KeyDay& one : *days) EXPECT_GE(one.day.tokens, 50u);
  // A day that is over is nobody's.
  EXPECT_TRUE(uses.Days(KeyUse::kDayNs).empty());
}

}  // namespace
}  // namespace bantam
