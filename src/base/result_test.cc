#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace bantam {
namespace {

Result<int> Half(int x) {
  if (x % 2 != 0) return Error(Code::kInvalidArgument, "odd");
  return x / 2;
}

Result<int> Quarter(int x) {
  BANTAM_ASSIGN(const int half, Half(x));
  return Half(half).With("second half");
}

Status Check(int x) {
  BANTAM_TRY(Half(x));
  return Ok();
}

TEST(Result, ValueAndErrorTravel) {
  EXPECT_EQ(*Quarter(12), 3);
  const Result<int> failed = Quarter(6);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(failed.error().message(), "second half: odd");
  EXPECT_TRUE(Check(4).ok());
  EXPECT_EQ(Check(5).error().message(), "odd");
}

TEST(Result, HoldsWhatCanOnlyBeMoved) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 7);
}

TEST(Result, ErrorKnowsWhereItWasMade) {
  EXPECT_NE(std::string(Half(1).error().where().file_name()).find("result_test"), std::string::npos);
}

// The contract of the verbs.
TEST(Result, ExitStatusPerCode) {
  EXPECT_EQ(ExitStatus(Code::kInvalidArgument), 2);
  EXPECT_EQ(ExitStatus(Code::kNotFound), 3);
  EXPECT_EQ(ExitStatus(Code::kCorrupt), 3);
  EXPECT_EQ(ExitStatus(Code::kUnsupported), 3);
  EXPECT_EQ(ExitStatus(Code::kExhausted), 4);
  EXPECT_EQ(ExitStatus(Code::kUnavailable), 5);
  EXPECT_EQ(ExitStatus(Code::kCancelled), 130);
}

TEST(ResultDeathTest, ValueOfAnErrorIsOurDefect) { EXPECT_DEATH((void)Half(3).value(), "CHECK failed"); }

}  // namespace
}  // namespace bantam
