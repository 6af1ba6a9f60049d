#include "formats/gguf_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

#include "base/bytes.h"
#include "formats/gguf.h"
#include "testing/faulty_files.h"
#include "testing/paths.h"

namespace bantam {
namespace {

std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool Same(const MetadataValue& a, const MetadataValue& b) {
  if (const auto* number = std::get_if<double>(&a)) return *number == std::get<double>(b);
  if (const auto* number = std::get_if<uint64_t>(&a)) return *number == std::get<uint64_t>(b);
  if (const auto* number = std::get_if<int64_t>(&a)) return *number == std::get<int64_t>(b);
  if (const auto* flag = std::get_if<bool>(&a)) return *flag == std::get<bool>(b);
  return std::get<std::string_view>(a) == std::get<std::string_view>(b);
}

class GgufWriterTest : public ::testing::Test {
 protected:
  // Copies a model file through the writer, `chunk` bytes at a time.
  static Status Copy(FileSystem& files, const std::string& from, const std::string& to, size_t chunk) {
    BANTAM_ASSIGN(ModelFile file, OpenGguf(files, from));
    std::vector<GgufTensor> tensors;
    for (const TensorInfo& tensor : file.directory.tensors()) {
      tensors.push_back({std::string(tensor.name), tensor.dtype, {tensor.dimensions, tensor.dimensions + tensor.n_dimensions}});
    }
    BANTAM_ASSIGN(const auto writer, GgufWriter::Make(files, to, file.metadata.entries(), tensors));
    for (const TensorInfo& tensor : file.directory.tensors()) {
      for (uint64_t done = 0; done < tensor.size_bytes; done += chunk) {
        const uint64_t part = std::min<uint64_t>(chunk, tensor.size_bytes - done);
        BANTAM_ASSIGN(const auto bytes, file.source->View(tensor.offset_bytes + done, part));
        BANTAM_TRY(writer->Append(bytes));
      }
    }
    return writer->Commit();
  }
  static std::vector<float> Floats(const ModelFile& file, const TensorInfo& tensor) {
    const auto bytes = file.source->View(tensor.offset_bytes, tensor.size_bytes);
    std::vector<float> floats(tensor.elements());
    if (bytes.ok()) Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes->data()), floats.size(), floats.data());
    return floats;
  }
  // Copies a model file whose matrices are F32, and packs those as rows of `dtype`.
  static Status Pack(FileSystem& files, const std::string& from, const std::string& to, DType dtype) {
    BANTAM_ASSIGN(ModelFile file, OpenGguf(files, from));
    const auto packs = [&](const TensorInfo& tensor) {
      return tensor.n_dimensions == 2 && tensor.dimensions[0] % Info(dtype).block_elements == 0;
    };
    std::vector<GgufTensor> tensors;
    for (const TensorInfo& tensor : file.directory.tensors()) {
      tensors.push_back(
          {std::string(tensor.name), packs(tensor) ? dtype : tensor.dtype, {tensor.dimensions, tensor.dimensions + tensor.n_dimensions}});
    }
    BANTAM_ASSIGN(const auto writer, GgufWriter::Make(files, to, file.metadata.entries(), tensors));
    for (const TensorInfo& tensor : file.directory.tensors()) {
      BANTAM_ASSIGN(const auto bytes, file.source->View(tensor.offset_bytes, tensor.size_bytes));
      if (!packs(tensor)) {
        BANTAM_TRY(writer->Append(bytes));
        continue;
      }
      const std::vector<float> values = Floats(file, tensor);
      std::vector<uint8_t> packed(RowBytes(dtype, values.size()));
      BANTAM_TRY(PackRow(dtype, values, {}, packed.data()));
      BANTAM_TRY(writer->Append(std::as_bytes(std::span(packed))));
    }
    return writer->Commit();
  }
  // Runs `write` with its n-th operation on files failing, for every n until it succeeds. Returns that n.
  int FailEach(const std::string& target, const std::function<Status(FileSystem&)>& write) {
    std::ofstream(target) << "before";
    for (int n = 1;; ++n) {
      testing::Fuse fuse;
      fuse.Set(n);
      testing::FaultyFiles files(fuse);
      const Status written = write(files);
      if (!fuse.blown()) {
        EXPECT_TRUE(written.ok());
        return n;
      }
      EXPECT_FALSE(written.ok()) << n;
      if (written.ok()) return n;
      EXPECT_NE(written.error().message().find("injected fault"), std::string::npos) << written.error().message();
      EXPECT_EQ(ReadBytes(target), "before") << n;
      const auto entries = std::filesystem::directory_iterator(folder_.Path(""));
      EXPECT_EQ(std::distance(begin(entries), end(entries)), 1) << n;
    }
  }
  Status Write(std::vector<MetadataEntry> metadata, const std::vector<GgufTensor>& tensors) {
    BANTAM_ASSIGN(const auto writer, GgufWriter::Make(*files_, folder_.Path("m.gguf"), std::move(metadata), tensors));
    return writer->Commit();
  }
  void Refused(std::vector<MetadataEntry> metadata, const std::vector<GgufTensor>& tensors, const std::string& words) {
    const Status written = Write(std::move(metadata), tensors);
    ASSERT_FALSE(written.ok()) << words;
    EXPECT_EQ(written.error().code(), Code::kInvalidArgument) << words;
    EXPECT_NE(written.error().message().find(words), std::string::npos) << written.error().message();
    EXPECT_TRUE(std::filesystem::is_empty(folder_.Path("")));
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
};

// A file that llama.cpp's tools wrote comes out the same, byte for byte: types, order, padding.
TEST_F(GgufWriterTest, CopiesAreByteEqual) {
  const std::string from = testing::DataPath("models/stories260K.gguf");
  for (const size_t chunk : {size_t{1000}, size_t{1} << 30}) {
    ASSERT_TRUE(Copy(*files_, from, folder_.Path("copy.gguf"), chunk).ok());
    EXPECT_TRUE(ReadBytes(folder_.Path("copy.gguf")) == ReadBytes(from)) << chunk;
  }
}

TEST_F(GgufWriterTest, EveryTypeComesBack) {
  const std::string texts = EncodeTexts(std::vector<std::string_view>{"x", "", "yz"});
  const std::vector<MetadataEntry> entries = {{"u8", uint64_t{200}, ValueType::kU8},
                                              {"i8", int64_t{-100}, ValueType::kI8},
                                              {"u16", uint64_t{60000}, ValueType::kU16},
                                              {"i16", int64_t{-30000}, ValueType::kI16},
                                              {"u32", uint64_t{4000000000}, ValueType::kU32},
                                              {"i32", int64_t{-2000000000}, ValueType::kI32},
                                              {"f32", 0.5, ValueType::kF32},
                                              {"u64", uint64_t{1} << 63, ValueType::kU64},
                                              {"i64", int64_t{-1} << 62, ValueType::kI64},
                                              {"f64", 0.1, ValueType::kF64},
                                              {"yes", true},
                                              {"text", std::string_view("caf\xc3\xa9")},
                                              {"texts", MetadataArray{ValueType::kString, 3, std::as_bytes(std::span(texts))}},
                                              {"general.alignment", uint64_t{256}, ValueType::kU32}};
  const std::vector<GgufTensor> tensors = {{"one", DType::kF32, {3, 2}}, {"two", DType::kQ8_0, {32, 1, 2}}};
  auto writer = GgufWriter::Make(*files_, folder_.Path("m.gguf"), entries, tensors);
  ASSERT_TRUE(writer.ok()) << writer.error().message();
  const std::string data = std::string(24, '\1') + std::string(68, '\2');
  ASSERT_TRUE((*writer)->Append(std::as_bytes(std::span(data))).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  auto file = OpenGguf(*files_, folder_.Path("m.gguf"));
  ASSERT_TRUE(file.ok()) << file.error().message();
  ASSERT_EQ(file->metadata.entries().size(), entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const MetadataEntry& got = file->metadata.entries()[i];
    EXPECT_EQ(got.key, entries[i].key);
    if (std::holds_alternative<MetadataArray>(got.value)) continue;
    EXPECT_EQ(got.value.index(), entries[i].value.index()) << got.key;
    EXPECT_TRUE(Same(got.value, entries[i].value)) << got.key;
  }
  EXPECT_EQ(**file->metadata.Texts("texts", 3), (std::vector<std::string_view>{"x", "", "yz"}));
  const TensorInfo* two = file->directory.Find("two");
  ASSERT_NE(two, nullptr);
  EXPECT_EQ(two->n_dimensions, 3u);
  EXPECT_EQ(two->offset_bytes % 256, 0u);
  EXPECT_EQ(AsText(*file->source->View(two->offset_bytes, two->size_bytes)), std::string(68, '\2'));
}

TEST_F(GgufWriterTest, RefusesWhatTheReaderWould) {
  Refused({{"a", true}, {"a", false}}, {}, "a occurs twice");
  Refused({{"", true}}, {}, "0 bytes");
  Refused({{"u8", uint64_t{300}, ValueType::kU8}}, {}, "does not fit the type");
  Refused({{"u32", int64_t{-1}, ValueType::kU32}}, {}, "does not fit the type");
  Refused({{"general.alignment", uint64_t{3}, ValueType::kU32}}, {}, "power of two");
  Refused({}, {{"t", DType::kF32, {1}}, {"t", DType::kF32, {1}}}, "t occurs twice");
  Refused({}, {{"t", DType::kF32, {}}}, "tensor t: dimensions []");
  Refused({}, {{"t", DType::kF32, {1, 1, 1, 1, 1}}}, "expected 1 to 4");
  Refused({}, {{"t", DType::kF32, {4, 0}}}, "at least 1");
  Refused({}, {{"t", DType::kQ4_K, {128}}}, "a multiple of 256");
  Refused({}, {{"t", DType::kF32, {uint64_t{1} << 40, uint64_t{1} << 40}}}, "tensor t");
  Refused({}, {{"t", DType::kF32, {4}}}, "tensor t: 0 of 16 bytes were written");
}

TEST_F(GgufWriterTest, MoreBytesThanTensorsAreRefused) {
  auto writer = GgufWriter::Make(*files_, folder_.Path("m.gguf"), {}, {{"t", DType::kF32, {1}}});
  ASSERT_TRUE(writer.ok());
  const std::string five(5, 'x');
  EXPECT_EQ((*writer)->Append(std::as_bytes(std::span(five))).error().code(), Code::kInvalidArgument);
}

// What a failed write left in the file is not known: it can not be committed.
TEST_F(GgufWriterTest, NothingGoesOnAfterAFailure) {
  testing::Fuse fuse;
  testing::FaultyFiles files(fuse);
  auto writer = GgufWriter::Make(files, folder_.Path("m.gguf"), {}, {{"t", DType::kF32, {2}}});
  ASSERT_TRUE(writer.ok());
  const std::string eight(8, 'x');
  fuse.Set(1);
  EXPECT_FALSE((*writer)->Append(std::as_bytes(std::span(eight))).ok());
  EXPECT_EQ((*writer)->Append(std::as_bytes(std::span(eight))).error().code(), Code::kInvalidArgument);
  EXPECT_EQ((*writer)->Commit().error().code(), Code::kInvalidArgument);
  writer->reset();
  EXPECT_TRUE(std::filesystem::is_empty(folder_.Path("")));
}

// The n-th operation on files fails, for every n: an error each time, nothing left behind, what was there before untouched.
TEST_F(GgufWriterTest, EveryFaultIsAnErrorAndLeavesNothing) {
  const std::string from = testing::DataPath("models/stories260K.gguf");
  const std::string target = folder_.Path("m.gguf");
  const int operations = FailEach(target, [&](FileSystem& files) { return Copy(files, from, target, 1 << 16); });
  EXPECT_GT(operations, 50) << "map, create, header, 48 tensors with their padding, commit";
  EXPECT_TRUE(ReadBytes(target) == ReadBytes(from));
}

TEST_F(GgufWriterTest, EveryFaultInPackingIsAnErrorAndLeavesNothing) {
  const std::string from = testing::DataPath("models/stories260K.gguf");
  const std::string target = folder_.Path("m.gguf");
  FailEach(target, [&](FileSystem& files) { return Pack(files, from, target, DType::kQ8_0); });
  auto packed = OpenGguf(*files_, target);
  auto original = OpenGguf(*files_, from);
  ASSERT_TRUE(packed.ok() && original.ok());
  size_t narrower = 0;
  for (const TensorInfo& tensor : original->directory.tensors()) {
    const TensorInfo* other = packed->directory.Find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    const std::vector<float> before = Floats(*original, tensor);
    const std::vector<float> after = Floats(*packed, *other);
    ASSERT_EQ(before.size(), after.size()) << tensor.name;
    narrower += other->size_bytes < tensor.size_bytes ? 1 : 0;
    // half a step of 127, and the scale's own rounding to f16
    const float largest = std::abs(*std::ranges::max_element(before, {}, [](float x) { return std::abs(x); }));
    for (size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(before[i], after[i], largest / 220) << tensor.name << " " << i;
  }
  EXPECT_GT(narrower, 10U);
}

}  // namespace
}  // namespace bantam
