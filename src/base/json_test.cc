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

TEST(Json, NamesThatOccurTwice) {
  const auto message = [](std::string_view text) {
    const auto parsed = ParseJsonOfUniqueNames(text);
    return parsed.ok() ? "ok " + DumpJson(*parsed, -1) : parsed.error().message();
  };
  EXPECT_EQ(message(R"({"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]})"), R"(ok {"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]})");
  EXPECT_EQ(message("[1]"), "ok [1]");
  EXPECT_EQ(message(R"({"a":1,"b":2,"a":1})").substr(0, 23), R"(member "a" occurs twice)");
  EXPECT_EQ(message(R"({"x":[{"b":{"c":1,"\u0063":2}}]})").substr(0, 23), R"(member "c" occurs twice)") << "by another spelling";
  EXPECT_EQ(message("{\"a\":1,"), "line 1, byte 8: no valid JSON here");
}

// Its members are searched one by one: a million of them would take minutes.
TEST(Json, AnObjectOfManyMembersIsRefused) {
  std::string text = "{";
  for (size_t i = 0; i <= kJsonMembersMax; ++i) text += "\"" + std::to_string(i) + "\":0,";
  text.back() = '}';
  EXPECT_EQ(ParseJson(text).error().code(), Code::kCorrupt);
}

// Numbers as they are written, to the last bit, and what is none.
struct Strict final : JsonListener {
  bool Wants(std::string_view path) override { return path.empty(); }
  void Text(std::string_view, std::string&) override {}
  void Number(std::string_view key, double number) override { seen += std::string(key) + "~" + std::to_string(number) + ";"; }
  void Whole(std::string_view key, uint64_t number) override { seen += std::string(key) + "=" + std::to_string(number) + ";"; }
  void Other(std::string_view key) override { seen += std::string(key) + "!"; }
  void Begin(std::string_view, JsonContainer) override {}
  void End() override {}
  std::string seen;
};

TEST(Json, AListenerTellsKindsApart) {
  Strict strict;
  ASSERT_TRUE(ParseJson(R"({"a":18446744073709551615,"b":-1,"c":1.0,"d":[null,true,0],"e":false,"f":18446744073709551616})", &strict).ok());
  EXPECT_EQ(strict.seen, "a=18446744073709551615;b~-1.000000;c~1.000000;!!=0;e!f~18446744073709551616.000000;");
}

struct Recorder : JsonListener {
  bool Wants(std::string_view path) override { return path == "a.big"; }
  void Text(std::string_view key, std::string& text) override { seen += std::string(key) + "=" + text + ";"; }
  void Number(std::string_view key, double number) override {
    seen += std::string(key) + "=" + std::to_string(static_cast<int>(number)) + ";";
  }
  void Begin(std::string_view key, JsonContainer container) override {
    seen += std::string(key) + (container == JsonContainer::kList ? "[" : "(");
  }
  void End() override { seen += ")"; }
  std::string seen;
};

TEST(Json, AListenerTakesWhatItWants) {
  Recorder recorder;
  const auto json = ParseJson(R"({"x":[1,{"big":2}],"a":{"big":{"k":1,"l":["t",2],"m":{"n":"u"}},"c":"d"},"big":{"e":null}})", &recorder);
  ASSERT_TRUE(json.ok()) << json.error().message();
  EXPECT_EQ(DumpJson(*json, -1), R"({"x":[1,{"big":2}],"a":{"big":{},"c":"d"},"big":{"e":null}})");
  EXPECT_EQ(recorder.seen, "k=1;l[=t;=2;)m(n=u;)");
  EXPECT_EQ(ParseJson("{\"a\":", &recorder).error().code(), Code::kCorrupt);
  std::string many = "[";
  for (size_t i = 0; i <= kJsonNodesMax; ++i) many += "1,";
  many.back() = ']';
  EXPECT_EQ(ParseJson(many, &recorder).error().code(), Code::kExhausted);
}

}  // namespace
}  // namespace bantam
