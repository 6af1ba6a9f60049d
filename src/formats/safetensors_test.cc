#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "testing/checkpoint.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

std::string WithHeader(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + std::string(data_bytes, '\1');
}

Result<std::vector<SafetensorsTensor>> Read(const std::string& file) { return ReadSafetensors(std::as_bytes(std::span(file))); }

std::string ErrorOf(const std::string& file) {
  const auto read = Read(file);
  return read.ok() ? "" : read.error().message();
}

TEST(Safetensors, ReadsWhatIsThere) {
  // As the format's own documentation lays it out, with metadata, and in another order than the bytes.
  const auto read =
      Read(WithHeader(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},)"
                      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"I64","shape":[0],"data_offsets":[16,16]}})",
                      16));
  ASSERT_TRUE(read.ok()) << read.error().message();
  ASSERT_EQ(read->size(), 3u);
  EXPECT_EQ((*read)[0].name, "a");
  EXPECT_EQ((*read)[1].name, "b");
  EXPECT_EQ((*read)[1].type, SafetensorsType::kF16);
  EXPECT_EQ((*read)[1].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ((*read)[1].offset_bytes - (*read)[0].offset_bytes, 4u);
  EXPECT_EQ((*read)[1].size_bytes, 12u);
  EXPECT_EQ((*read)[2].size_bytes, 0u);
}

TEST(Safetensors, NamesWhatIsWrong) {
  struct Case {
    std::string file;
    const char* says;
  };
  const std::string a = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const Case cases[] = {
      {"\x10\0\0", "the length of the header"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8), "a header of 18446744073709551615 bytes"},
      {WithHeader("{", 0), "no valid JSON"},
      {WithHeader("[]", 0), "no JSON object"},
      {WithHeader("{" + a + "," + a + "}", 4), "names tensor a twice"},
      {WithHeader("{" + a + "}", 3), "tensor a: bytes up to 4 of the data, of which the file has 3; it is cut short, fetch it again"},
      {WithHeader("{" + a + "}", 5), "tensors end at byte 4 of the data, expected 5"},
      {WithHeader("{" + a + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[5,7]}})", 7),
       "tensor b begins at byte 5 of the data, expected 4"},
      {WithHeader("{" + a + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}})", 5), "tensor b begins at byte 3"},
      {WithHeader(R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", 1), "element type F4 is not known"},
      {WithHeader(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1), "tensor a: no dtype"},
      {WithHeader(R"({"a":7})", 1), "tensor a: no dtype"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1),
       "tensor a: shape that is no list of whole numbers of U8"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0), "tensor a: shape"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1), "at bytes [1,0]"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}})", 1), "tensor a"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1), "at most 8 dimensions"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1,null],"data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1,true],"data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":{"x":1},"data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1), "no list of whole numbers"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1), "at bytes [0]"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", 1), "at bytes [0,1,1]"},
      {WithHeader(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"shape":[2],"data_offsets":[3]},"shape":[1]}})", 1),
       "a member of it twice"},
      {WithHeader(R"({"a":{"dtype":["U8"],"shape":[1],"data_offsets":[0,1]}})", 1), "no dtype"},
      {WithHeader(R"({"a":["dtype","U8"]})", 1), "no dtype"},
      {WithHeader(R"({"__metadata__":{},"__metadata__":{}})", 0), "__metadata__ twice"},
  };
  for (const Case& c : cases) EXPECT_THAT(ErrorOf(c.file), HasSubstr(c.says)) << c.file;
}

// Members that nobody knows, and metadata of any form, are skipped.
TEST(Safetensors, OtherMembers) {
  const auto read = Read(WithHeader(
      R"({"a":{"x":{"shape":[2],"dtype":"F4"},"dtype":"U8","y":[[null]],"shape":[1],"z":null,"data_offsets":[0,1]},"__metadata__":7})", 1));
  ASSERT_TRUE(read.ok()) << read.error().message();
  ASSERT_EQ(read->size(), 1u);
  EXPECT_EQ((*read)[0].shape, std::vector<uint64_t>{1});
}

// As many as the checkpoint of 48 layers with 128 experts has in GPTQ, and more than any model has.
TEST(Safetensors, ManyTensors) {
  const auto header = [](size_t n) {
    std::string text = "{";
    for (size_t i = 0; i < n; ++i) {
      // Their order is not that of their bytes.
      const size_t at = (i * 7919) % n;
      text += "\"model.layers.experts." + std::to_string(at) + ".qweight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" +
              std::to_string(at) + "," + std::to_string(at + 1) + "]},";
    }
    text.back() = '}';
    return text;
  };
  constexpr size_t kExperts = size_t{48} * 128 * 3 * 4;
  const auto read = Read(WithHeader(header(kExperts), kExperts));
  ASSERT_TRUE(read.ok()) << read.error().message();
  ASSERT_EQ(read->size(), kExperts);
  EXPECT_EQ((*read)[12345].name, "model.layers.experts.12345.qweight");
  const std::string small = R"("":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  std::string many = "{" + small;
  for (size_t i = 0; i < kSafetensorsTensorsMax; ++i) many += "," + small;
  EXPECT_THAT(ErrorOf(WithHeader(many + "}", 0)), HasSubstr("more than 262144 tensors"));
}

TEST(Safetensors, AnyPrefixIsAnError) {
  const std::string file =
      testing::SafetensorsFile({{"a", {"F32", {2, 2}, std::string(16, 'x')}}, {"b", {"BF16", {3}, std::string(6, 'y')}}});
  ASSERT_TRUE(Read(file).ok());
  for (size_t size = 0; size < file.size(); ++size) EXPECT_FALSE(Read(file.substr(0, size)).ok()) << size;
  EXPECT_FALSE(Read(file + "z").ok());
}

}  // namespace
}  // namespace bantam
