#include "formats/model_file.h"

#include <gtest/gtest.h>

#include <cmath>

namespace bantam {
namespace {

Metadata Make(std::vector<MetadataEntry> entries) { return Metadata::Make(std::move(entries)).value(); }

TEST(Metadata, AbsentKeysAreNotErrors) {
  const Metadata metadata = Make({});
  EXPECT_FALSE((*metadata.U32("a")).has_value());
  EXPECT_FALSE((*metadata.Text("a")).has_value());
  EXPECT_FALSE((*metadata.Numbers("a", 5)).has_value());
}

TEST(Metadata, WrongTypesAndRangesAre) {
  const Metadata metadata = Make({{"big", uint64_t{1} << 32},
                                  {"negative", int64_t{-1}},
                                  {"text", std::string_view("x")},
                                  {"nan", NAN},
                                  {"small", int64_t{3}},
                                  {"array", MetadataArray{ValueType::kU8, 3, {}}}});
  EXPECT_EQ(metadata.U32("big").error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.U32("negative").error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.U32("text").error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.Number("nan").error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.Number("text").error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.Bool("small").error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.Text("small").error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.Texts("array", 5).error().code(), Code::kCorrupt);
  EXPECT_EQ(metadata.Numbers("array", 2).error().code(), Code::kCorrupt) << "longer than the caller's limit";
  EXPECT_EQ(**metadata.U32("small"), 3u);
  EXPECT_EQ(**metadata.Number("big"), 0x1p32);
}

}  // namespace
}  // namespace bantam
