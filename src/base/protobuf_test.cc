#include "base/protobuf.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

using std::string_literals::operator""s;

// The encodings of Protocol Buffers' own documentation, and one field of each other kind.
TEST(Protobuf, ReadsEachKindOfField) {
  const std::string message =
      "\x08\x96\x01"s
      "\x12\x07testing"s
      "\x1d\x00\x00\x80\x3f"s
      "\x21\x01\x00\x00\x00\x00\x00\x00\x80"s;
  ProtoReader reader(message, "m");
  ProtoField field;
  ASSERT_TRUE(reader.Next(&field).value());
  EXPECT_EQ(field.number, 1u);
  EXPECT_EQ(field.value, 150u);
  ASSERT_TRUE(reader.Next(&field).value());
  EXPECT_EQ(field.number, 2u);
  EXPECT_EQ(field.bytes, "testing");
  ASSERT_TRUE(reader.Next(&field).value());
  EXPECT_EQ(field.AsFloat(), 1.0f);
  ASSERT_TRUE(reader.Next(&field).value());
  EXPECT_EQ(field.value, 0x8000000000000001u);
  EXPECT_FALSE(reader.Next(&field).value());
}

TEST(Protobuf, RefusesWhatIsCutOffOrMalformed) {
  for (const std::string& message : {"\x08"s, "\x08\x96"s, "\x12\x08testing"s, "\x1d\x00\x00"s, "\x21\x01"s, "\x00\x01"s, "\x0b"s, "\x0f"s,
                                     "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"s, "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"s}) {
    ProtoReader reader(message, "m");
    ProtoField field;
    const auto next = reader.Next(&field);
    ASSERT_FALSE(next.ok()) << message.size();
    EXPECT_EQ(next.error().code(), Code::kCorrupt);
  }
}

TEST(Protobuf, TheLargestNumber) {
  const std::string message = "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"s;
  ProtoReader reader(message, "m");
  ProtoField field;
  ASSERT_TRUE(reader.Next(&field).value());
  EXPECT_EQ(field.value, UINT64_MAX);
}

}  // namespace
}  // namespace bantam
