#include "model/model_digest.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>

#include "base/file.h"
#include "formats/gguf.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class ModelDigestTest : public ::testing::Test {
 protected:
  Digest Of(const std::string& path) {
    const ModelFile file = OpenGguf(*files_, path).value();
    return DigestModel(file).value();
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

TEST_F(ModelDigestTest, TellsModelsApart) {
  const std::string a = folder_.Path("a.gguf");
  testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(a);
  testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(folder_.Path("same.gguf"));
  testing::BuildTinyModel({.width = 64, .feed_forward = 64, .context = 511}).Write(folder_.Path("context.gguf"));
  testing::BuildTinyModel({.width = 64, .feed_forward = 64, .seed = 2}).Write(folder_.Path("seed.gguf"));
  testing::BuildTinyModel({.layers = 3, .width = 64, .feed_forward = 64}).Write(folder_.Path("layers.gguf"));
  EXPECT_EQ(Of(a), Of(folder_.Path("same.gguf")));
  std::set<Digest> digests;
  for (const char* name : {"a.gguf", "context.gguf", "seed.gguf", "layers.gguf"}) digests.insert(Of(folder_.Path(name)));
  EXPECT_EQ(digests.size(), 4u);
}

// Without its weights, as long as nobody can have changed them.
TEST_F(ModelDigestTest, NamesFilesByWhatTheKernelSaysOfThem) {
  const std::string a = folder_.Path("a.gguf");
  testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(a);
  const auto now = [&] { return IdentityOf(a)->changed_ns; };
  constexpr int64_t kMinute = 60'000'000'000;
  const ModelFile file = OpenGguf(*files_, a).value();
  const auto name = NameFiles(*files_, file, now() + kMinute);
  if (!name) GTEST_SKIP() << a << " lies on a file system whose times of changes say nothing";
  EXPECT_EQ(NameFiles(*files_, file, now() + 2 * kMinute), name);
  EXPECT_EQ(NameFiles(*files_, file, now() + kMinute - 1), std::nullopt) << "it could be written within the same tick of the clock";
  EXPECT_EQ(NameFiles(*files_, file, now() - kMinute), std::nullopt) << "a clock that was set back";
  // The same bytes in another file, or written again.
  const std::string b = folder_.Path("b.gguf");
  testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(b);
  EXPECT_NE(NameFiles(*files_, OpenGguf(*files_, b).value(), IdentityOf(b)->changed_ns + kMinute), name);
  std::filesystem::last_write_time(a, std::filesystem::last_write_time(a) - std::chrono::hours(1));
  EXPECT_NE(NameFiles(*files_, file, now() + kMinute), name);
  std::filesystem::remove(a);
  EXPECT_EQ(NameFiles(*files_, file, INT64_MAX), std::nullopt);
}

TEST_F(ModelDigestTest, OneBitOfAWeight) {
  const std::string a = folder_.Path("a.gguf");
  testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(a);
  const Digest before = Of(a);
  std::string bytes;
  {
    std::ifstream in(a, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  bytes[bytes.size() - 100] = static_cast<char>(bytes[bytes.size() - 100] ^ 1);
  std::ofstream(folder_.Path("b.gguf"), std::ios::binary) << bytes;
  EXPECT_NE(Of(folder_.Path("b.gguf")), before);
  const ModelFile file = OpenGguf(*files_, a).value();
  const auto cancelled = DigestModel(file, [](std::string_view, uint64_t, uint64_t) { return false; });
  EXPECT_EQ(cancelled.error().code(), Code::kCancelled);
}

}  // namespace
}  // namespace bantam
