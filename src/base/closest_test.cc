#include "base/closest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bantam {
namespace {

using ::testing::ElementsAre;

constexpr std::string_view kNames[] = {"llama", "gemma", "gemma2", "qwen2", "qwen2moe", "qwen3"};

TEST(Closest, FewestChangesFirst) {
  EXPECT_THAT(Closest("qwen3moe", kNames, 2), ElementsAre("qwen2moe", "qwen3"));
  EXPECT_THAT(Closest("gmema", kNames, 1), ElementsAre("gemma"));
  EXPECT_THAT(Closest("llama4", kNames, 1), ElementsAre("llama"));
  EXPECT_THAT(Closest("llama", kNames, 1), ElementsAre("llama"));
}

TEST(Closest, AnySize) {
  EXPECT_EQ(Closest("", kNames, 10).size(), std::size(kNames));
  EXPECT_THAT(Closest("", kNames, 2), ElementsAre("llama", "gemma")) << "of equal ones in their order";
  EXPECT_EQ(Closest(std::string(1 << 20, 'x'), kNames, 3).size(), 3u);
  EXPECT_THAT(Closest("x", {}, 3), ElementsAre());
}

}  // namespace
}  // namespace bantam
