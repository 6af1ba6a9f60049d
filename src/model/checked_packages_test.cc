#include "model/checked_packages.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "testing/checkpoint.h"
#include "testing/paths.h"

namespace bantam {
namespace {

class NamedSource final : public TensorSource {
 public:
  Result<std::span<const std::byte>> View(uint64_t, uint64_t) override { return std::span<const std::byte>(); }
  void Release(uint64_t, uint64_t) override {}
  std::optional<Contents> contents() const override { return named; }
  bool AllChecked() const override { return all; }

  std::optional<Contents> named = Contents{{1, 2, 3}, {10, 11, 12, 13, 14}};
  bool all = true;
};

constexpr int64_t kLater = 2'000'000'000;

class CheckedPackagesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(folder_.Path("checked"));
    std::filesystem::create_directories(folder_.Path("root/proc/sys/kernel/random"));
    Boot("one");
  }
  void Boot(const std::string& id) { testing::WriteText(folder_.Path("root/proc/sys/kernel/random/boot_id"), id + "\n"); }
  CheckedPackages Packages() { return CheckedPackages(*files_, folder_.Path("checked"), folder_.Path("root")); }
  size_t Remembered() {
    EXPECT_TRUE(Packages().Remember(model_, kLater).ok());
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_.Path("checked"))) ++count;
    return count;
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  NamedSource model_;
  NamedSource source_other_;
};

TEST_F(CheckedPackagesTest, UntilTheFileChangesOrTheMachineStartsAgain) {
  EXPECT_FALSE(Packages().Has(model_));
  EXPECT_EQ(Remembered(), 1u);
  EXPECT_TRUE(Packages().Has(model_));
  const TensorSource::Contents as_it_was = *model_.named;
  const auto known_with = [&](auto change) {
    model_.named = as_it_was;
    change(*model_.named);
    return Packages().Has(model_);
  };
  EXPECT_FALSE(known_with([](auto& named) { named.digest[31] = 1; }));
  EXPECT_FALSE(known_with([](auto& named) { ++named.file.device; }));
  EXPECT_FALSE(known_with([](auto& named) { ++named.file.inode; }));
  EXPECT_FALSE(known_with([](auto& named) { ++named.file.size_bytes; }));
  EXPECT_FALSE(known_with([](auto& named) { ++named.file.written_ns; }));
  EXPECT_FALSE(known_with([](auto& named) { ++named.file.changed_ns; }));
  EXPECT_TRUE(known_with([](auto&) {}));
  Boot("two");
  EXPECT_FALSE(Packages().Has(model_));
}

TEST_F(CheckedPackagesTest, WhatIsNotRemembered) {
  model_.all = false;
  EXPECT_EQ(Remembered(), 0u) << "a part was not checked";
  model_.all = true;
  model_.named->file.changed_ns = kLater - 999'999'999;
  EXPECT_EQ(Remembered(), 0u) << "written just now";
  model_.named.reset();
  EXPECT_EQ(Remembered(), 0u) << "no package, or a file system without times of changes";
  model_.named = TensorSource::Contents{};
  Boot("");
  EXPECT_EQ(Remembered(), 0u) << "nothing is known of the machine's start";
  EXPECT_FALSE(Packages().Has(model_));
}

TEST_F(CheckedPackagesTest, RecordsOfOtherBootsAreRemoved) {
  ASSERT_EQ(Remembered(), 1u);
  testing::WriteText(folder_.Path("checked/notes"), "the user's");
  Boot("two");
  source_other_.named->digest = {9};
  ASSERT_TRUE(Packages().Remember(source_other_, kLater).ok());
  EXPECT_FALSE(std::filesystem::exists(folder_.Path("checked/" + HexOf(model_.named->digest))));
  EXPECT_TRUE(std::filesystem::exists(folder_.Path("checked/notes")));
  EXPECT_TRUE(Packages().Has(source_other_));
}

TEST_F(CheckedPackagesTest, RecordsAreLimited) {
  for (size_t i = 0; i < CheckedPackages::kRecordsMax; ++i) {
    NamedSource source;
    source.named->digest = {static_cast<uint8_t>(i), static_cast<uint8_t>(i >> 8), 77};
    // As Remember writes them, without looking through the folder each time.
    const std::string name = HexOf(source.named->digest);
    testing::WriteText(folder_.Path("checked/" + name), "bantam checked 1\n" + name + "\none\n");
  }
  EXPECT_EQ(Packages().Remember(model_, kLater).error().code(), Code::kExhausted);
  EXPECT_FALSE(Packages().Has(model_));
}

TEST_F(CheckedPackagesTest, RecordsThatLie) {
  ASSERT_EQ(Remembered(), 1u);
  const std::string path = std::filesystem::directory_iterator(folder_.Path("checked"))->path();
  for (const std::string& text : {std::string(), std::string("bantam checked 1\n"), std::string(1 << 20, 'x')}) {
    testing::WriteText(path, text);
    EXPECT_FALSE(Packages().Has(model_));
  }
}

}  // namespace
}  // namespace bantam
