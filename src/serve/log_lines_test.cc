#include "serve/log_lines.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace bantam {
namespace {

using ::testing::ElementsAre;

// A reader that takes nothing until it is told to.
struct Reader {
  std::mutex mutex;
  std::condition_variable changed;
  bool takes = false;
  bool began = false;
  std::vector<std::string> lines = {};

  void Take(std::string_view line) {
    std::unique_lock lock(mutex);
    began = true;
    changed.notify_all();
    changed.wait(lock, [&] { return takes; });
    lines.emplace_back(line);
    changed.notify_all();
  }
  void Open() {
    const std::lock_guard lock(mutex);
    takes = true;
    changed.notify_all();
  }
  void Await(const std::function<bool()>& done) {
    std::unique_lock lock(mutex);
    changed.wait(lock, done);
  }
};

TEST(LogLines, WhatThereIsNoRoomForIsCounted) {
  const auto reader = std::make_shared<Reader>();
  const auto lines = LogLines::Start([reader](std::string_view line) { reader->Take(line); }, /*bytes_max=*/8).value();
  lines->Add("first");
  reader->Await([&] { return reader->began; });
  // The first is on its way; of the others two fit.
  for (const char* line : {"1234", "5678", "9"}) lines->Add(line);
  EXPECT_EQ(lines->dropped(), 1u);
  reader->Open();
  reader->Await([&] { return reader->lines.size() == 3; });
  lines->Add("last");
  reader->Await([&] { return reader->lines.size() == 4; });
  EXPECT_THAT(reader->lines, ElementsAre("first", "1234", "5678", "last"));
  EXPECT_EQ(lines->dropped(), 1u);
}

TEST(LogLines, WhatWaitsIsWrittenAtTheEnd) {
  const auto reader = std::make_shared<Reader>();
  reader->Open();
  {
    const auto lines = LogLines::Start([reader](std::string_view line) { reader->Take(line); }, /*bytes_max=*/1000).value();
    for (const char* line : {"a", "b", "c"}) lines->Add(line);
  }
  EXPECT_THAT(reader->lines, ElementsAre("a", "b", "c"));
}

// A reader that hangs holds up nobody for ever.
TEST(LogLines, EndsBesideAReaderThatHangs) {
  const auto reader = std::make_shared<Reader>();
  {
    const auto lines = LogLines::Start([reader](std::string_view line) { reader->Take(line); }, /*bytes_max=*/1000).value();
    lines->Add("a");
    reader->Await([&] { return reader->began; });
  }
  reader->Open();
}

}  // namespace
}  // namespace bantam
