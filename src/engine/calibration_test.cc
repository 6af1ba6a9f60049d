#include "engine/calibration.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

Result<Calibration> Read(std::string_view text) { return Calibration::Read(ParseJson(text).value()); }

TEST(Calibration, LinesBetweenPoints) {
  const Calibration calibration = Read(R"({"confidence": [[0.2, 0.1], [0.6, 0.5], [0.9, 0.5], [1, 0.95]]})").value();
  EXPECT_FLOAT_EQ(calibration.Map(0), 0.1f);
  EXPECT_FLOAT_EQ(calibration.Map(0.2f), 0.1f);
  EXPECT_FLOAT_EQ(calibration.Map(0.4f), 0.3f);
  EXPECT_FLOAT_EQ(calibration.Map(0.75f), 0.5f);
  EXPECT_FLOAT_EQ(calibration.Map(0.95f), 0.725f);
  EXPECT_FLOAT_EQ(calibration.Map(1), 0.95f);
  float before = 0;
  for (int i = 0; i <= 100; ++i) {
    const float now = calibration.Map(static_cast<float>(i) / 100);
    ASSERT_GE(now, before);
    before = now;
  }
  EXPECT_FLOAT_EQ(Read(R"({"confidence": [[0.5, 0.7]]})")->Map(0.1f), 0.7f);
}

TEST(Calibration, WhatIsWrongIsNamed) {
  for (const char* text : {"{}", "[]", R"({"confidence": []})", R"({"confidence": [[0, 0, 1]]})", R"({"confidence": [[0, "x"]]})",
                           R"({"confidence": [[0.1, 0.1], [0.1, 0.2]]})", R"({"confidence": [[0.1, 0.3], [0.2, 0.2]]})",
                           R"({"confidence": [[-1, 0]]})", R"({"confidence": [[0, 2]]})"}) {
    const auto read = Read(text);
    ASSERT_FALSE(read.ok()) << text;
    EXPECT_EQ(read.error().code(), Code::kInvalidArgument);
  }
  EXPECT_NE(Read(R"({"confidence": [[0.1, 0.3], [0.2, 0.2]]})").error().message().find("confidence[1]"), std::string::npos);
}

}  // namespace
}  // namespace bantam
