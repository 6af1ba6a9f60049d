#include "base/watched_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "testing/paths.h"

namespace bantam {
namespace {

namespace fs = std::filesystem;

void WriteFile(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

// Times are set, for a write may come within the clock's tick.
void Date(const std::string& path, int hours) { fs::last_write_time(path, fs::file_time_type(std::chrono::hours(hours))); }

TEST(WatchedFiles, TellsWhetherAFileIsTheOneThatWasRead) {
  testing::TemporaryFolder folder;
  const std::string path = folder.Path("a");
  const std::function<void()> changes[] = {[] {},
                                           [&] {
                                             WriteFile(path, "zwei");  // of the same length
                                             Date(path, 2);
                                           },
                                           [&] { WriteFile(path, "eins, zwei"); },
                                           [&] {
                                             WriteFile(folder.Path("b"), "eins");
                                             Date(folder.Path("b"), 1);
                                             fs::rename(folder.Path("b"), path);
                                           },
                                           [&] { fs::remove(path); }};
  const auto system = MakeFileSystem();
  for (size_t i = 0; i < std::size(changes); ++i) {
    for (const bool mapped : {false, true}) {
      WriteFile(path, "eins");
      Date(path, 1);
      WatchedFiles files(*system);
      EXPECT_FALSE(files.ReadText(folder.Path("absent"), 10).ok());
      ASSERT_TRUE(mapped ? files.Map(path).ok() : files.ReadText(path, 10).ok());
      changes[i]();
      EXPECT_EQ(files.CheckUnchanged().ok(), i == 0) << i;
      EXPECT_EQ(files.ReadText(path, 10).ok(), i == 0) << i;
      if (i == 0) continue;
      EXPECT_EQ(files.CheckUnchanged().error().code(), Code::kUnavailable);
    }
  }
}

}  // namespace
}  // namespace bantam
