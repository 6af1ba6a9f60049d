#include "cli/kv_check.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "formats/gguf.h"
#include "model/model_digest.h"
#include "testing/checkpoint.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

constexpr int64_t kMinute = 60'000'000'000;

class KvChecksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Build(/*seed=*/1);
    if (!NameFiles(*files_, OpenGguf(*files_, path_).value(), Later())) {
      GTEST_SKIP() << path_ << " lies on a file system whose times of changes say nothing";
    }
  }
  void Build(uint64_t seed) { testing::BuildTinyModel({.width = 64, .heads = 4, .feed_forward = 64, .seed = seed}).Write(path_); }
  int64_t Later() const { return IdentityOf(path_)->changed_ns + kMinute; }

  // What is known of the model that is there; reads_ says whether its weights were read for that.
  KvChecks Find(int64_t now_ns) {
    reads_ = false;
    const ModelFile file = OpenGguf(*files_, path_).value();
    const auto count = [&](std::string_view, uint64_t, uint64_t) { return reads_ = true; };
    auto found = FindKvChecks(*files_, {file, now_ns}, count);
    EXPECT_TRUE(found.ok()) << found.error().message();
    return std::move(found).value();
  }
  // Figures for the model as it is and with stretched positions.
  void Measure() {
    KvChecks checks = Find(Later());
    checks.by_rope[""][KvType::kInt8] = 0.005;
    checks.by_rope["yarn:4"][KvType::kInt8] = 0.5;
    ASSERT_TRUE(WriteKvChecks(*files_, path_, checks, "").ok());
  }

  testing::TemporaryFolder folder_;
  const std::string path_ = folder_.Path("m.gguf");
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  bool reads_ = false;
};

TEST_F(KvChecksTest, KnowsTheModelByItsFiles) {
  EXPECT_TRUE(Find(Later()).by_rope.empty());
  EXPECT_TRUE(reads_);
  Measure();
  const KvChecks known = Find(Later());
  EXPECT_FALSE(reads_) << "nothing changed: weights need not be read";
  EXPECT_EQ(known.by_rope.at("").at(KvType::kInt8), 0.005);
  EXPECT_EQ(known.by_rope.at("yarn:4").at(KvType::kInt8), 0.5);
  // Just written: it may be another one within the same tick of the clock.
  EXPECT_EQ(Find(Later() - 1).by_rope, known.by_rope);
  EXPECT_TRUE(reads_);
}

TEST_F(KvChecksTest, KnowsTheSameWeightsInAnotherFile) {
  Measure();
  const KvChecks known = Find(Later());
  std::filesystem::copy_file(path_, folder_.Path("copy.gguf"));
  std::filesystem::rename(folder_.Path("copy.gguf"), path_);
  EXPECT_EQ(Find(Later()).by_rope, known.by_rope);
  EXPECT_TRUE(reads_);
  EXPECT_EQ(Find(Later()).by_rope, known.by_rope);
  EXPECT_FALSE(reads_) << "once read, it is known by its files again";
}

TEST_F(KvChecksTest, KnowsNothingOfOtherWeights) {
  Measure();
  Build(/*seed=*/2);
  EXPECT_TRUE(Find(Later()).by_rope.empty());
  EXPECT_TRUE(reads_);
}

TEST_F(KvChecksTest, FiguresAreOfOneWayToStretchPositions) {
  EXPECT_EQ(KvRopeName({}), "");
  EXPECT_EQ(KvRopeName({RopeScaling::kYarn, 4}), "yarn:4");
  EXPECT_NE(KvRopeName({RopeScaling::kYarn, 4}), KvRopeName({RopeScaling::kLinear, 4}));
  Measure();
  KvChecks checks = Find(Later());
  EXPECT_EQ(ChooseKvType(checks.by_rope[""], KvType::kInt8).type, KvType::kInt8);
  EXPECT_TRUE(ChooseKvType(checks.by_rope[""], KvType::kInt8).known);
  EXPECT_NE(ChooseKvType(checks.by_rope["yarn:4"], KvType::kInt8).type, KvType::kInt8);
  EXPECT_FALSE(ChooseKvType(checks.by_rope["linear:2"], KvType::kInt8).known);
  // However many are asked for, the file stays small, and has the last one.
  for (int factor = 1; factor <= 30; ++factor) {
    const std::string rope = fmt::format("linear:{}", factor);
    checks.by_rope[rope][KvType::kInt8] = 0.001 * factor;
    ASSERT_TRUE(WriteKvChecks(*files_, path_, checks, rope).ok());
    const auto kept = ReadKvChecks(*files_, path_);
    ASSERT_TRUE(kept.has_value());
    EXPECT_LE(kept->by_rope.size(), kKvRopesMax);
    EXPECT_EQ(kept->by_rope.at(rope), checks.by_rope.at(rope));
  }
}

TEST_F(KvChecksTest, WhatIsDamagedIsNothing) {
  Measure();
  const std::string text = files_->ReadText(KvChecksPath(path_), 65536).value();
  ASSERT_TRUE(ReadKvChecks(*files_, path_).has_value());
  const auto read = [&](std::string_view from, std::string_view to) {
    std::string damaged = text;
    damaged.replace(damaged.find(from), from.size(), to);
    testing::WriteText(KvChecksPath(path_), damaged);
    return ReadKvChecks(*files_, path_);
  };
  EXPECT_FALSE(read("\"format\": 2", "\"format\": 1"));
  EXPECT_FALSE(read("0.005", "-0.005"));
  EXPECT_FALSE(read("0.005", "\"much\""));
  EXPECT_FALSE(read("\"q8\"", "\"q7\""));
  EXPECT_FALSE(read("\"model\"", "\"mode\""));
  EXPECT_FALSE(read("{", ""));
  const auto unnamed = read("\"files\"", "\"file\"");
  ASSERT_TRUE(unnamed.has_value());
  EXPECT_FALSE(unnamed->files.has_value());
}

}  // namespace
}  // namespace bantam
