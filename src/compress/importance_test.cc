#include "compress/importance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/bytes.h"
#include "formats/gguf.h"
#include "testing/paths.h"

namespace bantam {
namespace {

void Write(const std::string& path, std::string_view bytes) { std::ofstream(path, std::ios::binary) << bytes; }

Importance Sample() {
  Importance importance;
  importance.tensors["blk.0.attn_q.weight"] = {2, {8, 2}, {4}};
  importance.tensors["blk.0.ffn_up_exps.weight"] = {2, {6, 3, 0, 0, 4, 8}, {3, 0, 1}};
  importance.text = "story.txt";
  importance.windows = 7;
  importance.window_tokens = 512;
  return importance;
}

TEST(Importance, MeansAreOfWhatWasSeen) {
  const Importance importance = Sample();
  EXPECT_EQ(importance.Find("blk.0.attn_q.weight")->Means(0), (std::vector<float>{2, 0.5f}));
  const ColumnImportance& experts = *importance.Find("blk.0.ffn_up_exps.weight");
  EXPECT_EQ(experts.Means(2), (std::vector<float>{4, 8}));
  EXPECT_EQ(experts.Means(1), (std::vector<float>{2.5f, 2.75f})) << "an expert that nobody chose has the others'";
  EXPECT_EQ((ColumnImportance{1, {0}, {0}}).Means(0), (std::vector<float>{1}));
  EXPECT_EQ(importance.Find("blk.1.attn_q.weight"), nullptr);
}

TEST(Importance, ComesBackFromItsFile) {
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  ASSERT_TRUE(WriteImportance(*files, folder.Path("i.gguf"), Sample()).ok());
  const auto read = ReadImportance(*files, folder.Path("i.gguf"));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->text, "story.txt");
  EXPECT_EQ(read->windows, 7u);
  EXPECT_EQ(read->window_tokens, 512u);
  ASSERT_EQ(read->tensors.size(), 2u);
  for (const auto& [name, entry] : Sample().tensors) {
    EXPECT_EQ(read->tensors.at(name).sums, entry.sums);
    EXPECT_EQ(read->tensors.at(name).counts, entry.counts);
  }
  // As llama.cpp's tool names and shapes them.
  const ModelFile file = OpenGguf(*files, folder.Path("i.gguf")).value();
  EXPECT_EQ(file.metadata.Text("general.type").value(), "imatrix");
  const TensorInfo* counts = file.directory.Find("blk.0.ffn_up_exps.weight.counts");
  ASSERT_NE(counts, nullptr);
  EXPECT_EQ(counts->columns(), 1u);
  EXPECT_EQ(counts->rows(), 3u);
}

// The older file: entries, then the number of windows and the text.
std::string OldFile(float second) {
  std::string bytes;
  AppendLittleEndian<int32_t>(&bytes, 1);
  AppendLittleEndian<int32_t>(&bytes, 19);
  bytes += "blk.0.attn_q.weight";
  AppendLittleEndian<int32_t>(&bytes, 5);
  AppendLittleEndian<int32_t>(&bytes, 2);
  const float values[] = {10, second};  // five times the mean squares
  bytes.append(reinterpret_cast<const char*>(values), sizeof(values));
  AppendLittleEndian<int32_t>(&bytes, 5);
  AppendLittleEndian<int32_t>(&bytes, 8);
  return bytes + "text.txt";
}

TEST(Importance, ReadsTheOlderFile) {
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  Write(folder.Path("old.dat"), OldFile(1));
  const auto read = ReadImportance(*files, folder.Path("old.dat"));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->Find("blk.0.attn_q.weight")->Means(0), (std::vector<float>{2, 0.2f}));
  EXPECT_EQ(read->text, "text.txt");
  EXPECT_EQ(read->windows, 5u);
}

TEST(Importance, RefusesWhatIsNone) {
  const testing::TemporaryFolder folder;
  const auto files = MakeFileSystem();
  for (const float number : {-1.0f, NAN, INFINITY}) {
    Write(folder.Path("bad.dat"), OldFile(number));
    const auto read = ReadImportance(*files, folder.Path("bad.dat"));
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(read.error().code(), Code::kCorrupt);
    EXPECT_NE(read.error().message().find("blk.0.attn_q.weight"), std::string::npos) << read.error().message();
  }
  const std::string whole = OldFile(1);
  for (size_t size = 1; size + 17 < whole.size(); ++size) {
    Write(folder.Path("cut.dat"), whole.substr(0, size));
    EXPECT_FALSE(ReadImportance(*files, folder.Path("cut.dat")).ok()) << size;
  }
  const auto model = ReadImportance(*files, testing::DataPath("models/stories260K.gguf"));
  ASSERT_FALSE(model.ok());
  EXPECT_NE(model.error().message().find("imatrix"), std::string::npos) << model.error().message();
}

}  // namespace
}  // namespace bantam
