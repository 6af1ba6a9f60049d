#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "testing/paths.h"

namespace bantam {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

class FileTest : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

TEST_F(FileTest, WhatWasCommittedCanBeMappedAndRead) {
  const std::string path = folder_.Path("a");
  auto writer = files_->Create(path);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(Bytes("hello ")).ok());
  ASSERT_TRUE((*writer)->Append(Bytes("world")).ok());
  EXPECT_FALSE(files_->Exists(path)) << "nothing under the name before Commit";
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_EQ(*files_->ReadText(path, 100), "hello world");
  const auto mapping = files_->Map(path);
  ASSERT_TRUE(mapping.ok());
  EXPECT_EQ(AsText((*mapping)->bytes()), "hello world");
}

TEST_F(FileTest, WithoutCommitNothingStaysBehind) {
  {
    auto writer = files_->Create(folder_.Path("a"));
    ASSERT_TRUE((*writer)->Append(Bytes("half")).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_.Path("")));
}

TEST_F(FileTest, ListsAndRemovesRegularFiles) {
  std::ofstream(folder_.Path("b")) << "four";
  std::ofstream(folder_.Path("a"));
  std::filesystem::create_directory(folder_.Path("folder"));
  const auto listed = files_->List(folder_.Path(""));
  ASSERT_TRUE(listed.ok());
  ASSERT_EQ(listed->size(), 2u);
  EXPECT_EQ((*listed)[0].name, "a");
  EXPECT_EQ((*listed)[1].name, "b");
  EXPECT_EQ((*listed)[1].size_bytes, 4u);
  EXPECT_EQ(files_->List(folder_.Path("absent")).error().code(), Code::kNotFound);
  EXPECT_TRUE(files_->Remove(folder_.Path("b")).ok());
  EXPECT_FALSE(files_->Exists(folder_.Path("b")));
  EXPECT_EQ(files_->Remove(folder_.Path("b")).error().code(), Code::kNotFound);
}

TEST_F(FileTest, ReplacingKeepsPermissionsAndFollowsLinks) {
  std::ofstream(folder_.Path("private")) << "old";
  ASSERT_EQ(::chmod(folder_.Path("private").c_str(), 0600), 0);
  std::filesystem::create_symlink("private", folder_.Path("link"));
  auto writer = files_->Create(folder_.Path("link"));
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(Bytes("new")).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_TRUE(std::filesystem::is_symlink(folder_.Path("link")));
  EXPECT_EQ(*files_->ReadText(folder_.Path("private"), 100), "new");
  struct stat info {};
  ASSERT_EQ(::stat(folder_.Path("private").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
  EXPECT_EQ(files_->Create("").error().code(), Code::kInvalidArgument);
}

// A rename over /dev/null would replace it for the whole machine.
TEST_F(FileTest, WritesThroughWhatIsNotARegularFile) {
  auto writer = files_->Create("/dev/null");
  ASSERT_TRUE(writer.ok());
  EXPECT_TRUE((*writer)->Append(Bytes("x")).ok());
  EXPECT_TRUE((*writer)->Commit().ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(FileTest, ErrorsNameThePathAndTheRemedy) {
  const auto missing = files_->Map(folder_.Path("no"));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
  EXPECT_NE(missing.error().message().find(folder_.Path("no")), std::string::npos);
  EXPECT_EQ(files_->Map(folder_.Path("")).error().code(), Code::kUnsupported);
  std::ofstream(folder_.Path("empty"));
  EXPECT_EQ(files_->Map(folder_.Path("empty")).error().code(), Code::kCorrupt);
  EXPECT_EQ(files_->Create(folder_.Path("no/file")).error().code(), Code::kNotFound);
  std::ofstream(folder_.Path("long")) << "12345";
  EXPECT_EQ(files_->ReadText(folder_.Path("long"), 4).error().code(), Code::kExhausted);
}

// Opening a pipe that nobody writes to would wait for ever.
TEST_F(FileTest, APipeIsRefusedWithoutWaiting) {
  ASSERT_EQ(::mkfifo(folder_.Path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(files_->Map(folder_.Path("pipe")).error().code(), Code::kUnsupported);
}

TEST_F(FileTest, ReleasedPagesReadTheSameAgain) {
  const std::string path = folder_.Path("big");
  std::ofstream(path) << std::string(100000, 'x');
  const auto mapping = files_->Map(path);
  ASSERT_TRUE(mapping.ok());
  (*mapping)->Release(0, 100000);
  (*mapping)->Release(99999, 1);
  EXPECT_EQ(AsText((*mapping)->bytes()), std::string(100000, 'x'));
}

}  // namespace
}  // namespace bantam
