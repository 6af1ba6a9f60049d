#include "base/json.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

TEST(Json, KeepsOrderAndNeverThrowsOnForeignBytes) {
  const Json value = {{"b", 1}, {"a", std::string("x\xff\x80y\n")}};
  EXPECT_EQ(DumpJson(value, -1), "{\"b\":1,\"a\":\"x\xef\xbf\xbd\xef\xbf\xbdy\\n\"}");
}

TEST(Json, ErrorsNameThePlace) {
  const auto message = [](std::string_view text) {
    const auto parsed = ParseJson(text);
    return parsed.ok() ? "ok " + DumpJson(*parsed, -1) : parsed.error().message();
  };
  EXPECT_EQ(message(" {\"b\": [1, \"]\\\"[\", -2.5], \"a\": null}\n"), "ok {\"b\":[1,\"]\\\"[\",-2.5],\"a\":null}");
  EXPECT_EQ(message(""), "line 1, byte 1: no valid JSON here");
  EXPECT_EQ(message("[1,\n 2,\n  x]"), "line 3, byte 3: no valid JSON here");
  EXPECT_EQ(message("[1] 2"), "line 1, byte 5: no valid JSON here");
  EXPECT_EQ(message("\"\xff\""), "line 1, byte 2: no valid JSON here");
  EXPECT_EQ(message("1e999"), "line 1, byte 5: no valid JSON here");
  EXPECT_EQ(message(std::string(100, '[') + std::string(100, ']')).substr(0, 3), "ok ");
  EXPECT_EQ(message("\n" + std::string(101, '[')), "line 2, byte 101: JSON nested deeper than 100");
}

}  // namespace
}  // namespace bantam
