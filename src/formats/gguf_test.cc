#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "base/rng.h"
#include "testing/gguf_builder.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using testing::GgufBuilder;

class GgufTest : public ::testing::Test {
 protected:
  Result<ModelFile> Open(const std::string& bytes) {
    std::ofstream(folder_.Path("m.gguf"), std::ios::binary) << bytes;
    return OpenGguf(*files_, folder_.Path("m.gguf"));
  }
  // The file is refused with this code, and the message has these words and the path.
  void Refused(const std::string& bytes, Code code, const std::string& words) {
    const auto file = Open(bytes);
    ASSERT_FALSE(file.ok()) << words;
    EXPECT_EQ(file.error().code(), code) << file.error().message();
    EXPECT_NE(file.error().message().find(words), std::string::npos) << file.error().message();
    EXPECT_NE(file.error().message().find("m.gguf"), std::string::npos) << file.error().message();
  }
  static GgufBuilder::Tensor Small(const std::string& name) { return {name, {4, 2}, 0, std::string(32, '\1'), -1}; }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

std::string Bytes64(uint64_t value) { return {reinterpret_cast<const char*>(&value), 8}; }
std::string Bytes32(uint32_t value) { return {reinterpret_cast<const char*>(&value), 4}; }

TEST_F(GgufTest, ReadsWhatWasWritten) {
  GgufBuilder builder;
  builder.U32("a.count", 7).F32("a.rate", 0.5f).Bool("a.flag", true).Text("a.name", "caf\xc3\xa9");
  builder.Texts("a.list", {"x", "", "yz"}).F32s("a.numbers", {1.5f, -2}).Raw("a.i64", 11, Bytes64(static_cast<uint64_t>(-5)));
  builder.Add(Small("one")).Add({"two", {32}, 8, std::string(34, '\2'), -1});
  for (const uint32_t version : {2u, 3u}) {
    builder.version = version;
    auto file = Open(builder.Build());
    ASSERT_TRUE(file.ok()) << file.error().message();
    EXPECT_EQ(file->format, "GGUF v" + std::to_string(version));
    EXPECT_EQ(**file->metadata.U32("a.count"), 7u);
    EXPECT_EQ(**file->metadata.Number("a.rate"), 0.5);
    EXPECT_EQ(**file->metadata.Number("a.i64"), -5.0);
    EXPECT_EQ(**file->metadata.Bool("a.flag"), true);
    EXPECT_EQ(**file->metadata.Text("a.name"), "caf\xc3\xa9");
    EXPECT_EQ(**file->metadata.Texts("a.list", 3), (std::vector<std::string_view>{"x", "", "yz"}));
    EXPECT_EQ(**file->metadata.Numbers("a.numbers", 2), (std::vector<double>{1.5, -2}));
    const TensorInfo* tensor = file->directory.Find("two");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->dtype, DType::kQ8_0);
    EXPECT_EQ(tensor->size_bytes, 34u);
    EXPECT_EQ(AsText(*file->source->View(tensor->offset_bytes, tensor->size_bytes)), std::string(34, '\2'));
    EXPECT_EQ(file->directory.Find("three"), nullptr);
  }
}

TEST_F(GgufTest, EveryCutIsACleanError) {
  GgufBuilder builder;
  builder.U32("a", 1).Texts("b", {"x", "yy"}).F32s("c", {1, 2}).Text("d", "text");
  builder.Add(Small("one")).Add(Small("two"));
  const std::string whole = builder.Build();
  for (size_t size = 1; size < whole.size(); ++size) {
    const auto file = Open(whole.substr(0, size));
    ASSERT_FALSE(file.ok()) << size;
    EXPECT_TRUE(file.error().code() == Code::kCorrupt) << file.error().message();
  }
  EXPECT_TRUE(Open(whole).ok());
}

TEST_F(GgufTest, HeadersThatLie) {
  const std::string good = GgufBuilder().U32("a", 1).Add(Small("one")).Build();
  const auto with = [&](size_t at, const std::string& bytes) { return std::string(good).replace(at, bytes.size(), bytes); };
  Refused("not a model at all, only text", Code::kUnsupported, "not a GGUF file");
  Refused(with(4, Bytes32(1)), Code::kUnsupported, "version 1");
  Refused(with(4, Bytes32(4)), Code::kUnsupported, "version 4");
  Refused(with(4, Bytes32(0x03000000)), Code::kUnsupported, "big-endian");
  Refused(with(8, Bytes64(UINT64_MAX)), Code::kCorrupt, "tensors");
  Refused(with(16, Bytes64(UINT64_MAX)), Code::kCorrupt, "metadata pairs");
  Refused(with(16, Bytes64(60000)), Code::kCorrupt, "");
}

TEST_F(GgufTest, MetadataThatLies) {
  Refused(GgufBuilder().U32("a", 1).U32("a", 2).Build(), Code::kCorrupt, "a occurs twice");
  Refused(GgufBuilder().Raw("a", 13, Bytes64(0)).Build(), Code::kCorrupt, "value type 13");
  Refused(GgufBuilder().Raw("a", 7, "\2").Build(), Code::kCorrupt, "bool");
  Refused(GgufBuilder().Raw("a", 8, Bytes64(UINT64_MAX)).Build(), Code::kCorrupt, "needs 18446744073709551615 bytes");
  Refused(GgufBuilder().Raw("a", 9, Bytes32(4) + Bytes64(UINT64_MAX / 2)).Build(), Code::kCorrupt, "");
  Refused(GgufBuilder().Raw("a", 9, Bytes32(8) + Bytes64(UINT64_MAX)).Build(), Code::kCorrupt, "");
  Refused(GgufBuilder().Raw("a", 9, Bytes32(9) + Bytes64(1) + Bytes32(4) + Bytes64(0)).Build(), Code::kCorrupt, "array of type 9");
  Refused(GgufBuilder().U32("", 1).Build(), Code::kCorrupt, "0 bytes");
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 30}) {
    Refused(GgufBuilder().U32("general.alignment", alignment).Add(Small("one")).Build(), Code::kCorrupt, "power of two");
  }
}

TEST_F(GgufTest, TensorsThatLie) {
  const auto one = [](GgufBuilder::Tensor tensor) { return GgufBuilder().Add(std::move(tensor)).Build(); };
  const std::string bytes(64, '\0');
  Refused(one({"t", {}, 0, bytes, -1}), Code::kCorrupt, "0 dimensions");
  Refused(one({"t", {1, 1, 1, 1, 1}, 0, bytes, -1}), Code::kCorrupt, "5 dimensions");
  Refused(one({"t", {0}, 0, bytes, -1}), Code::kCorrupt, "dimension 0");
  Refused(one({"t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, bytes, -1}), Code::kCorrupt, "no possible size");
  Refused(one({"t", {uint64_t{1} << 62, 4, 1, 1}, 0, bytes, -1}), Code::kCorrupt, "no possible size");
  Refused(one({"t", {33}, 8, bytes, -1}), Code::kCorrupt, "multiple of 32");
  Refused(one({"t", {4}, 4, bytes, -1}), Code::kUnsupported, "weight format 4");
  Refused(one({"t", {17}, 0, bytes, -1}), Code::kCorrupt, "end past the file");
  Refused(one({"t", {4}, 0, bytes, 16}), Code::kCorrupt, "multiple of the alignment");
  Refused(one({"t", {4}, 0, bytes, 32 * 1000}), Code::kCorrupt, "end past the file");
  Refused(one({"t", {4}, 0, bytes, static_cast<int64_t>(0x7fffffffffffffe0)}), Code::kCorrupt, "end past the file");
  Refused(GgufBuilder().Add(Small("t")).Add(Small("t")).Build(), Code::kCorrupt, "t occurs twice");
  GgufBuilder::Tensor overlapping = Small("b");
  overlapping.offset = 0;
  Refused(GgufBuilder().Add(Small("a")).Add(overlapping).Build(), Code::kCorrupt, "share bytes");
}

TEST_F(GgufTest, LargerAlignment) {
  GgufBuilder builder;
  builder.alignment = 256;
  builder.U32("general.alignment", 256).Add(Small("one")).Add(Small("two"));
  const auto file = Open(builder.Build());
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->directory.Find("two")->offset_bytes % 256, 0u);
}

// A list that never ends, in a file that is long enough for it: time and memory end with the longest header.
TEST_F(GgufTest, AnEndlessListIsNotFollowed) {
  const uint64_t count = uint64_t{1} << 30;
  const std::string start = GgufBuilder().Raw("a", 9, Bytes32(8) + Bytes64(count)).Build();
  const std::string path = folder_.Path("m.gguf");
  std::ofstream(path, std::ios::binary) << start;
  std::filesystem::resize_file(path, uint64_t{16} << 30);  // a hole: strings of no bytes
  const auto file = OpenGguf(*files_, path);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().code(), Code::kCorrupt);
  EXPECT_NE(file.error().message().find("within the first 67108864 bytes"), std::string::npos) << file.error().message();
}

// Another process writes into the file after it was opened: what was checked stays as it was.
TEST_F(GgufTest, AFileThatChangesInUse) {
  const std::string path = folder_.Path("m.gguf");
  const std::string whole = testing::BuildTinyModel({.layers = 1, .width = 64, .feed_forward = 64}).Build();
  auto file = Open(whole);
  ASSERT_TRUE(file.ok());
  const auto names = [&] {
    std::string all;
    for (const TensorInfo& tensor : file->directory.tensors()) all += tensor.name;
    const auto texts = file->metadata.Texts("tokenizer.ggml.tokens", 1000).value().value_or(std::vector<std::string_view>());
    for (const std::string_view text : texts) all += text;
    return all;
  };
  const std::string before = names();
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out) << std::string(whole.size(), '\xff');
  EXPECT_EQ(names(), before);
  EXPECT_NE(file->directory.Find("token_embd.weight"), nullptr);
}

// Bytes flipped anywhere in a real file: an answer or an error, nothing else.
TEST_F(GgufTest, RandomDamageNeverCrashes) {
  const std::string whole = testing::BuildTinyModel({.layers = 1, .width = 64, .feed_forward = 64}).Build();
  Rng rng(99);
  const size_t header = 12000;  // where counts, lengths and types are
  for (int round = 0; round < 400; ++round) {
    std::string damaged = whole;
    for (int i = 0; i < 1 + round % 4; ++i) damaged[rng.Next() % header] = static_cast<char>(rng.Next());
    (void)Open(damaged);
  }
}

}  // namespace
}  // namespace bantam
