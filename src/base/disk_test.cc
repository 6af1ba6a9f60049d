#include "base/disk.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using testing::TemporaryFolder;

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Disk, PartsGrowAndShrink) {
  const TemporaryFolder folder;
  const auto disk = MakeDisk();
  {
    const auto part = disk->OpenPart(folder.Path("a"));
    ASSERT_TRUE(part.ok()) << part.error().message();
    EXPECT_EQ((*part)->size(), 0u);
    ASSERT_TRUE((*part)->Append(Bytes("hello world")).ok());
    ASSERT_TRUE((*part)->Truncate(5).ok());
    ASSERT_TRUE((*part)->Truncate(100).ok());
    ASSERT_TRUE((*part)->Append(Bytes("!")).ok());
    ASSERT_TRUE((*part)->Sync().ok());
  }
  const auto again = disk->OpenPart(folder.Path("a"));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ((*again)->size(), 6u);
  std::byte buffer[10];
  EXPECT_EQ((*again)->Read(2, buffer).value(), 4u);
  EXPECT_EQ(AsText(std::span(buffer).first(4)), "llo!");
  EXPECT_EQ((*again)->Read(6, buffer).value(), 0u);
}

TEST(Disk, PrivatePartsAreTheirOwnersAlone) {
  const TemporaryFolder folder;
  const auto disk = MakeDisk();
  std::ofstream(folder.Path("open")) << "what was there";
  std::filesystem::permissions(folder.Path("open"), std::filesystem::perms(0644));
  for (const char* name : {"new", "open"}) {
    ASSERT_TRUE(disk->OpenPrivatePart(folder.Path(name)).ok());
    EXPECT_EQ(std::filesystem::status(folder.Path(name)).permissions(), std::filesystem::perms(0600)) << name;
  }
}

TEST(Disk, OnlyRegularFilesAreParts) {
  const TemporaryFolder folder;
  const auto disk = MakeDisk();
  std::filesystem::create_directories(folder.Path("folder"));
  ASSERT_EQ(::mkfifo(folder.Path("pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink(folder.Path("target"), folder.Path("link"));
  for (const char* name : {"folder", "pipe", "link"}) EXPECT_FALSE(disk->OpenPart(folder.Path(name)).ok()) << name;
  EXPECT_FALSE(std::filesystem::exists(folder.Path("target")));
  EXPECT_EQ(disk->OpenForReading(folder.Path("absent")).error().code(), Code::kNotFound);
}

TEST(Disk, FoldersBelowTheRootAreNoLinks) {
  const TemporaryFolder folder;
  const auto disk = MakeDisk();
  ASSERT_TRUE(disk->MakeFolders(folder.Path("a/b"), "c/d").ok());
  ASSERT_TRUE(disk->MakeFolders(folder.Path("a/b"), "c/d").ok());
  EXPECT_TRUE(std::filesystem::is_directory(folder.Path("a/b/c/d")));
  std::filesystem::create_directories(folder.Path("outside"));
  std::filesystem::create_directory_symlink(folder.Path("outside"), folder.Path("a/b/link"));
  EXPECT_FALSE(disk->MakeFolders(folder.Path("a/b"), "link/x").ok());
  EXPECT_FALSE(disk->MakeFolders(folder.Path("a/b"), "link").ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder.Path("outside")));
  std::ofstream(folder.Path("file")) << "x";
  EXPECT_FALSE(disk->MakeFolders(folder.Path("file"), "").ok());
}

TEST(Disk, RemovesTreesButNotWhatLinksLeadTo) {
  const TemporaryFolder folder;
  const auto disk = MakeDisk();
  std::filesystem::create_directories(folder.Path("a/b"));
  std::filesystem::create_directories(folder.Path("outside"));
  std::ofstream(folder.Path("a/b/file")) << "x";
  std::ofstream(folder.Path("outside/file")) << "x";
  std::filesystem::create_directory_symlink(folder.Path("outside"), folder.Path("a/b/link"));
  ASSERT_TRUE(disk->RemoveTree(folder.Path("a")).ok());
  EXPECT_FALSE(std::filesystem::exists(folder.Path("a")));
  EXPECT_TRUE(std::filesystem::exists(folder.Path("outside/file")));
  EXPECT_TRUE(disk->RemoveTree(folder.Path("a")).ok());
  std::string deep = "deep";
  for (int i = 0; i < 40; ++i) deep += "/d";
  std::filesystem::create_directories(folder.Path(deep));
  EXPECT_EQ(disk->RemoveTree(folder.Path("deep")).error().code(), Code::kUnsupported);
}

TEST(Disk, LocksAreHeldByOne) {
  const TemporaryFolder folder;
  const auto disk = MakeDisk();
  {
    const auto held = disk->Lock(folder.Path("lock"));
    ASSERT_TRUE(held.ok());
    EXPECT_EQ(disk->Lock(folder.Path("lock")).value(), nullptr);
  }
  EXPECT_FALSE(std::filesystem::exists(folder.Path("lock")));
  EXPECT_NE(disk->Lock(folder.Path("lock")).value(), nullptr);
}

TEST(Disk, EntriesAndRoom) {
  const TemporaryFolder folder;
  const auto disk = MakeDisk();
  std::ofstream(folder.Path("b")) << "xyz";
  std::filesystem::create_directories(folder.Path("a"));
  std::filesystem::create_symlink(folder.Path("absent"), folder.Path("dangling"));
  const auto entries = disk->Entries(folder.Path(""));
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 2u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ(static_cast<int>((*entries)[0].kind), static_cast<int>(DiskEntry::Kind::kFolder));
  EXPECT_EQ((*entries)[1].size_bytes, 3u);
  EXPECT_TRUE(disk->FreeBytes(folder.Path("")).ok());
  EXPECT_EQ(disk->FreeBytes(folder.Path("absent")).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace bantam
