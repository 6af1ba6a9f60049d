#include "model/model_digest.h"

#include <gtest/gtest.h>

#include <fstream>
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
