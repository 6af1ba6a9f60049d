#include "base/bytes.h"

#include <gtest/gtest.h>

#include <array>

namespace bantam {
namespace {

TEST(ByteReader, ReadsFieldsInOrder) {
  const std::array<unsigned char, 7> bytes = {0x01, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff};
  ByteReader reader(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(*reader.Read<uint8_t>("a"), 1);
  EXPECT_EQ(*reader.Read<uint16_t>("b"), 0x1234);
  EXPECT_EQ(*reader.Read<int32_t>("c"), -1);
  EXPECT_EQ(reader.remaining(), 0u);
}

TEST(ByteReader, NamesTheFieldThatIsCutShort) {
  const std::array<unsigned char, 3> bytes = {1, 2, 3};
  ByteReader reader(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(reader.Take(2, "head").ok());
  const auto field = reader.Read<uint32_t>("the count");
  ASSERT_FALSE(field.ok());
  EXPECT_EQ(field.error().code(), Code::kCorrupt);
  EXPECT_EQ(field.error().message(), "the count at offset 2 needs 4 bytes and the file has 1 left; it is cut short or damaged");
  EXPECT_FALSE(reader.Take(UINT64_MAX, "huge").ok());
  EXPECT_EQ(reader.offset(), 2u) << "a failed read does not move";
}

TEST(CheckedArithmetic, NoticesOverflow) {
  uint64_t result = 0;
  EXPECT_TRUE(CheckedMultiply(1u << 31, 4, &result));
  EXPECT_EQ(result, uint64_t{1} << 33);
  EXPECT_FALSE(CheckedMultiply(uint64_t{1} << 33, uint64_t{1} << 31, &result));
  EXPECT_FALSE(CheckedAdd(UINT64_MAX, 1, &result));
}

// Vectors of the FNV reference code (http://www.isthe.com/chongo/tech/comp/fnv/).
TEST(Fingerprint, IsFnv1a) {
  EXPECT_EQ(Fingerprint({}), 0xcbf29ce484222325ULL);
  EXPECT_EQ(Fingerprint(std::as_bytes(std::span("foobar", 6))), 0x85944171f73967e8ULL);
}

}  // namespace
}  // namespace bantam
