#include "formats/gguf_parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "testing/gguf_builder.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using testing::GgufBuilder;
using ::testing::HasSubstr;

class GgufParts : public ::testing::Test {
 protected:
  std::string Path(uint32_t part) const { return folder_.Path("m-0000" + std::to_string(part) + "-of-00003.gguf"); }
  struct Said {
    uint32_t number;
    uint32_t count = 3;
    uint32_t tensors = 4;
  };
  static GgufBuilder Part(const Said& said) {
    GgufBuilder builder;
    builder.U32("split.no", said.number).U32("split.count", said.count).U32("split.tensors.count", said.tensors);
    return builder;
  }
  static GgufBuilder::Tensor Small(const std::string& name, char byte) { return {name, {4, 2}, 0, std::string(32, byte), -1}; }
  static void Write(const std::string& path, const GgufBuilder& builder) { std::ofstream(path, std::ios::binary) << builder.Build(); }
  void WriteAll() {
    Write(Path(1), Part({0}).Text("general.name", "three").Add(Small("a", 1)));
    Write(Path(2), Part({1}).Add(Small("b", 2)).Add(Small("c", 3)));
    Write(Path(3), Part({2}).Add(Small("d", 4)));
  }
  Result<ModelFile> Open(const std::string& path) { return OpenGgufModel(*files_, path); }
  std::string Error(uint32_t part = 1) {
    const Result<ModelFile> file = Open(Path(part));
    return file.ok() ? "" : file.error().message();
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

TEST_F(GgufParts, AreOneModel) {
  WriteAll();
  Result<ModelFile> file = Open(Path(1));
  ASSERT_TRUE(file.ok()) << file.error().message();
  EXPECT_EQ(file->format, "GGUF v3 in 3 files");
  EXPECT_EQ(**file->metadata.Text("general.name"), "three");
  ASSERT_EQ(file->directory.tensors().size(), 4u);
  for (const auto& [name, byte] : {std::pair("a", 1), {"b", 2}, {"c", 3}, {"d", 4}}) {
    const TensorInfo* tensor = file->directory.Find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(AsText(*file->source->View(tensor->offset_bytes, tensor->size_bytes)), std::string(32, static_cast<char>(byte))) << name;
    file->source->Release(tensor->offset_bytes, tensor->size_bytes);
  }
}

TEST(GgufPartName, Shapes) {
  const auto name = ParseGgufPartName("a/m-Q8_0-00002-of-00013.gguf");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->stem, "a/m-Q8_0");
  EXPECT_EQ(name->number, 2u);
  EXPECT_EQ(name->count, 13u);
  EXPECT_EQ(GgufPartPath("a/m-Q8_0", 2, 13), "a/m-Q8_0-00002-of-00013.gguf");
  EXPECT_TRUE(ParseGgufPartName("m-00001-of-00001.gguf").has_value());
  for (const char* other :
       {"", "m.gguf", "-00001-of-00002.gguf", "a/-00001-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf",
        "m-0001-of-0002.gguf", "m-00001-of-00002.GGUF", "m-00001-of-00002.safetensors", "m-0000x-of-00002.gguf", "m-00001-of-00002",
        "m_00001-of-00002.gguf", "m-+0001-of-00002.gguf", "m-00001_of_00002.gguf"}) {
    EXPECT_FALSE(ParseGgufPartName(other).has_value()) << other;
  }
}

TEST_F(GgufParts, AFolderHoldsOneModel) {
  EXPECT_EQ(FindGgufParts(*files_, folder_.Path("")).value(), std::nullopt);
  WriteAll();
  Write(folder_.Path("one.gguf"), GgufBuilder().Add(Small("a", 1)));
  Write(folder_.Path("one-00001-of-00001.gguf"), GgufBuilder().Add(Small("a", 1)));
  const auto first = FindGgufParts(*files_, folder_.Path(""));
  ASSERT_TRUE(first.ok() && first->has_value());
  EXPECT_EQ(Open(**first)->directory.tensors().size(), 4u);
  Write(folder_.Path("other-00001-of-00002.gguf"), Part({0}).Add(Small("a", 1)));
  EXPECT_THAT(FindGgufParts(*files_, folder_.Path("")).error().message(), HasSubstr("several models"));
  EXPECT_FALSE(FindGgufParts(*files_, folder_.Path("absent")).ok());
}

TEST_F(GgufParts, OneFileIsItself) {
  GgufBuilder builder;
  Write(folder_.Path("one.gguf"), builder.Add(Small("a", 1)));
  EXPECT_EQ(Open(folder_.Path("one.gguf"))->format, "GGUF v3");
  Write(folder_.Path("one.gguf"), Part({0, 1, 1}).Add(Small("a", 1)));
  EXPECT_EQ(Open(folder_.Path("one.gguf"))->format, "GGUF v3");
}

TEST_F(GgufParts, WhatIsRefused) {
  WriteAll();
  EXPECT_THAT(Error(2), HasSubstr("part 2 of 3 of a model; name the first, "));
  std::filesystem::copy_file(Path(1), folder_.Path("renamed.gguf"));
  EXPECT_THAT(Open(folder_.Path("renamed.gguf")).error().message(), HasSubstr("expected a name that ends in -00001-of-00003.gguf"));
  Write(Path(2), Part({1, 3, 9}).Add(Small("b", 2)).Add(Small("c", 3)));
  EXPECT_THAT(Error(), HasSubstr("part 2 of 3 of a model of 9 tensors, expected part 2 of 3 of one of 4"));
  Write(Path(2), Part({2}).Add(Small("b", 2)).Add(Small("c", 3)));
  EXPECT_THAT(Error(), HasSubstr("expected part 2 of 3"));
  Write(Path(2), GgufBuilder().Add(Small("b", 2)).Add(Small("c", 3)));
  EXPECT_THAT(Error(), HasSubstr("part 1 of 1 of a model of 0 tensors"));
  Write(Path(2), Part({1}).Add(Small("b", 2)));
  EXPECT_THAT(Error(), HasSubstr("3 tensors in 3 parts, expected 4"));
  Write(Path(2), Part({1}).Add(Small("b", 2)).Add(Small("a", 3)));
  EXPECT_THAT(Error(), HasSubstr("a"));
  EXPECT_NE(Error(), "");
  std::ofstream(Path(2), std::ios::binary) << "GGUF";
  EXPECT_THAT(Error(), HasSubstr("m-00002-of-00003.gguf"));
  std::filesystem::remove(Path(2));
  EXPECT_THAT(Error(), HasSubstr("part 2 of 3"));
  Write(Path(1), Part({5}).Add(Small("a", 1)));
  EXPECT_THAT(Error(), HasSubstr("split.count and split.no: 3 and 5"));
  Write(Path(1), Part({0, 4000}).Add(Small("a", 1)));
  EXPECT_THAT(Error(), HasSubstr("split.count"));
}

}  // namespace
}  // namespace bantam
