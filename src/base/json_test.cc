#include "base/json.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

TEST(Json, KeepsOrderAndNeverThrowsOnForeignBytes) {
  const Json value = {{"b", 1}, {"a", std::string("x\xff\x80y\n")}};
  EXPECT_EQ(DumpJson(value, -1), "{\"b\":1,\"a\":\"x\xef\xbf\xbd\xef\xbf\xbdy\\n\"}");
}

}  // namespace
}  // namespace bantam
