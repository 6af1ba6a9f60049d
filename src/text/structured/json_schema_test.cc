#include "text/structured/json_schema.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "testing/small_vocabulary.h"
#include "text/structured/token_constraint.h"

namespace bantam {
namespace {

std::shared_ptr<const Grammar> Compile(std::string_view schema) {
  auto grammar = CompileJsonSchema(schema);
  EXPECT_TRUE(grammar.ok()) << schema << ": " << (grammar.ok() ? "" : grammar.error().message());
  return grammar.ok() ? *grammar : nullptr;
}

bool Accepts(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  static const auto vocabulary = testing::SmallVocabulary();
  TokenConstraint constraint(TokenMasks::Make(grammar, vocabulary));
  return constraint.AcceptText(text).ok() && constraint.MayEnd();
}

std::string ErrorOf(std::string_view schema) {
  const auto grammar = CompileJsonSchema(schema);
  return grammar.ok() ? "" : grammar.error().message();
}

struct Case {
  const char* schema;
  std::vector<const char*> valid;
  std::vector<const char*> invalid;
};

void Check(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    const auto grammar = Compile(one.schema);
    if (grammar == nullptr) continue;
    for (const char* text : one.valid) EXPECT_TRUE(Accepts(grammar, text)) << one.schema << " should allow " << text;
    for (const char* text : one.invalid) EXPECT_FALSE(Accepts(grammar, text)) << one.schema << " should not allow " << text;
  }
}

TEST(JsonSchema, Values) {
  Check({
      {"true",
       {"null", "1", "\"a\"", "[]", "{}", "[1, {\"a\":[true,null]}]", "{\"a\":1,\"a\":2}"},
       {"", "nul", "[1,]", "{\"a\"}", "'a'", " 1", "1 ", "{ }"}},
      {R"({"type":"null"})", {"null"}, {"0", "false", "\"null\""}},
      {R"({"type":["boolean","null"]})", {"true", "false", "null"}, {"1"}},
      {R"({"type":"integer"})", {"0", "-5", "123456789012345678"}, {"1.0", "1e3", "01", "-0", "1234567890123456789012"}},
      {R"({"type":"number"})", {"0", "-5.25", "1e9", "-0.0"}, {".5", "5.", "1e999", "NaN"}},
      {R"({"type":"string"})",
       {"\"\"", "\"\\n\\\"\\\\\\u0001é🙂\""},
       {"\"\\u0041\"", "\"\\/\"", "\"\n\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"a"}},
      {R"({"enum":[1,"a",null,[1,{"b":2}]]})", {"1", "\"a\"", "null", "[1,{\"b\":2}]"}, {"2", "\"b\"", "[1]"}},
      {R"({"const":{"a":[]}})", {"{\"a\":[]}"}, {"{}", "{\"a\":[1]}"}},
      {R"({"enum":["a",1,2.5,true],"type":["string","integer"]})", {"\"a\"", "1"}, {"2.5", "true"}},
      {R"({"enum":["a","abc","abcd"],"minLength":2,"pattern":"c$"})", {"\"abc\""}, {"\"a\"", "\"abcd\""}},
      {R"({"enum":["aa","ab","ac","ba","bb"]})", {"\"aa\"", "\"bb\""}, {"\"a\"", "\"bc\"", "\"aaa\""}},
  });
}

TEST(JsonSchema, Numbers) {
  Check({
      {R"({"type":"integer","minimum":3,"maximum":120})", {"3", "99", "120"}, {"2", "121", "-3", "3.5"}},
      {R"({"type":"number","exclusiveMinimum":0,"maximum":1})", {"0.5", "1", "1.0"}, {"0", "0.0", "1.01", "-0.5", "5e-1"}},
      {R"({"type":"number","minimum":0,"exclusiveMinimum":true})", {"0.1"}, {"0"}},
      {R"({"type":"integer","multipleOf":7})", {"0", "7", "-14"}, {"1", "8"}},
      {R"({"type":"integer","format":"int32"})", {"2147483647", "-2147483648"}, {"2147483648"}},
      {R"({"minimum":5})", {"5", "\"text\"", "[]"}, {"4"}},
  });
}

TEST(JsonSchema, Strings) {
  Check({
      {R"({"type":"string","minLength":2,"maxLength":3})", {"\"ab\"", "\"日本語\"", "\"\\n\\n\""}, {"\"a\"", "\"abcd\"", "\"\\n\""}},
      {R"({"type":"string","maxLength":100000})", {"\"\"", "\"abc\""}, {}},
      {R"({"type":"string","pattern":"^[a-z]+$","minLength":2,"maxLength":4})", {"\"ab\"", "\"abcd\""}, {"\"a\"", "\"abcde\"", "\"aB\""}},
      {R"({"type":"string","pattern":"^(ab)*$","minLength":3,"maxLength":5})", {"\"abab\""}, {"\"ab\"", "\"aba\"", "\"ababab\""}},
      {R"({"type":"string","pattern":"^[ab]{2,3}$"})", {"\"ab\"", "\"aba\""}, {"\"a\"", "\"abab\"", "\"ac\""}},
      {R"({"type":"string","pattern":"^[ab]{2,}$","maxLength":3})", {"\"ab\"", "\"aba\""}, {"\"a\"", "\"abab\""}},
      {R"({"type":"string","pattern":"b"})", {"\"b\"", "\"abc\"", "\"\\nb\""}, {"\"\"", "\"a\""}},
      {R"({"type":"string","pattern":"^\"\\\\$"})", {"\"\\\"\\\\\""}, {"\"\"\""}},
      {R"({"type":"string","format":"date","pattern":"^2024"})", {"\"2024-02-29\""}, {"\"2023-01-01\"", "\"2024-02-30\""}},
      {R"({"type":"string","format":"unknown-to-everyone"})", {"\"x\""}, {"1"}},
      {R"({"allOf":[{"type":"string","pattern":"a"},{"pattern":"b"}]})", {"\"ab\"", "\"ba\""}, {"\"a\"", "\"b\""}},
  });
}

TEST(JsonSchema, Lists) {
  Check({
      {R"({"type":"array","items":{"type":"integer"}})", {"[]", "[1]", "[1,2, 3]"}, {"[\"a\"]", "[1,]", "[,1]", "[1 ,2]", "[1,  2]"}},
      {R"({"type":"array","items":{"const":1},"minItems":2,"maxItems":3})", {"[1,1]", "[1,1,1]"}, {"[]", "[1]", "[1,1,1,1]"}},
      {R"({"type":"array","maxItems":0})", {"[]"}, {"[1]"}},
      {R"({"type":"array","minItems":1})", {"[1]", "[1,2]"}, {"[]"}},
      {R"({"prefixItems":[{"const":1},{"const":2}],"items":{"const":3}})",
       {"[]", "[1]", "[1,2]", "[1,2,3,3]", "\"x\""},
       {"[2]", "[1,3]", "[1,2,2]"}},
      {R"({"prefixItems":[{"const":1},{"const":2}],"items":false,"minItems":2})", {"[1,2]"}, {"[1]", "[1,2,3]"}},
      {R"({"type":"array","items":[{"const":1}],"additionalItems":{"const":2}})", {"[1,2,2]"}, {"[2]"}},
      {R"({"type":"array","uniqueItems":true,"items":{"enum":["a","b","c"]},"minItems":2})",
       {"[\"a\",\"b\"]", "[\"a\",\"c\"]"},
       {"[\"a\",\"a\"]", "[\"a\"]"}},
      {R"({"type":"array","items":{"const":1},"maxItems":5000})", {"[1,1,1]"}, {"[2]"}},
      {R"({"contains":true})", {"[1]", "1"}, {"[]"}},
  });
}

TEST(JsonSchema, Objects) {
  Check({
      {R"({"properties":{"a":{"const":1},"b":{"const":2}},"required":["b"],"additionalProperties":false,"type":"object"})",
       {"{\"b\":2}", "{\"a\":1,\"b\":2}", "{\"a\": 1, \"b\": 2}"},
       {"{}", "{\"a\":1}", "{\"a\":2,\"b\":2}", "{\"b\":2,\"c\":1}", "{\"b\":2,\"b\":2}"}},
      {R"({"type":"object","properties":{"a":{"const":1}},"additionalProperties":{"type":"null"}})",
       {"{}", "{\"a\":1,\"b\":null}", "{\"aa\":null}"},
       {"{\"b\":1}", "{\"b\":null,\"a\":null}"}},
      {R"({"type":"object","required":["x"]})", {"{\"x\":[]}"}, {"{}"}},
      {R"({"type":"object","patternProperties":{"^n":{"type":"integer"},"x$":{"minimum":5}},"additionalProperties":false})",
       {"{\"n\":1,\"nx\":7}", "{\"x\":\"s\"}"},
       {"{\"nx\":1}", "{\"n\":\"s\"}", "{\"q\":1}"}},
      {R"({"type":"object","propertyNames":{"pattern":"^[a-c]$"}})", {"{\"a\":1}"}, {"{\"d\":1}", "{\"ab\":1}"}},
      {R"({"type":"object","properties":{"a":{},"b":{},"c":{}},"additionalProperties":false,"minProperties":2,"maxProperties":2})",
       {"{\"a\":1,\"b\":1}", "{\"a\":1,\"c\":1}", "{\"b\":1,\"c\":1}"},
       {"{}", "{\"a\":1}", "{\"a\":1,\"b\":1,\"c\":1}"}},
      {R"({"type":"object","minProperties":1,"maxProperties":2})", {"{\"q\":1}", "{\"q\":1,\"r\":2}"}, {"{}", "{\"q\":1,\"r\":2,\"s\":3}"}},
      {R"({"type":"object","dependentRequired":{"a":["b"]},"properties":{"a":{},"b":{}},"additionalProperties":false})",
       {"{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"},
       {"{\"a\":1}"}},
      {R"({"type":"object","dependencies":{"a":{"properties":{"b":{"const":1}}}},"properties":{"a":{},"b":{}},
           "additionalProperties":false})",
       {"{\"b\":2}", "{\"a\":1,\"b\":1}", "{\"a\":1}"},
       {"{\"a\":1,\"b\":2}"}},
      {R"({"type":"object","properties":{"a\"\n":{"const":1}},"additionalProperties":false})", {"{\"a\\\"\\n\":1}"}, {"{\"a\":1}"}},
      {R"({"type":"object","properties":{"a":false}})", {"{}", "{\"b\":1}"}, {"{\"a\":1}"}},
  });
}

TEST(JsonSchema, Combinations) {
  Check({
      {R"({"anyOf":[{"type":"string"},{"type":"integer","minimum":5}]})", {"\"a\"", "5"}, {"4", "null"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]},
           {"properties":{"a":{"minimum":3},"b":{"const":1}}}]})",
       {"{\"a\":3}", "{\"a\":4,\"b\":1}"},
       {"{\"a\":2}", "{}", "{\"a\":3,\"b\":2}"}},
      {R"({"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"x":{"type":"integer"}},"required":["k"]},
                    {"type":"object","properties":{"k":{"const":"b"},"x":{"type":"string"}},"required":["k"]}]})",
       {R"({"k":"a","x":1})", R"({"k":"b","x":"s"})"},
       {R"({"k":"a","x":"s"})", R"({"k":"c"})"}},
      {R"({"type":"object","properties":{"a":{},"b":{}},"additionalProperties":false,"oneOf":[{"required":["a"]},{"required":["b"]}]})",
       {"{\"a\":1}", "{\"b\":1}"},
       {"{}", "{\"a\":1,\"b\":1}"}},
      {R"({"oneOf":[{"type":"integer"},{"minimum":2}]})", {"1", "2.5", "\"x\""}, {"3", "1.5"}},
      {R"({"not":{"type":"string"}})", {"1", "null"}, {"\"a\""}},
      {R"({"type":"string","not":{"enum":["a","b"]}})", {"\"c\"", "\"aa\""}, {"\"a\""}},
      {R"({"type":"string","not":{"pattern":"^x"}})", {"\"ax\"", "\"\""}, {"\"xa\""}},
      {R"({"type":"object","properties":{"a":{},"b":{}},"additionalProperties":false,"not":{"dependentRequired":{"a":["b"]}}})",
       {"{\"a\":1}"},
       {"{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"}},
      {R"({"type":"integer","not":{"if":{"minimum":5},"then":{"maximum":8},"else":{"const":1}}})", {"9", "2", "-3"}, {"1", "5", "8"}},
      {R"({"type":"integer","not":{"const":3}})", {"2", "33"}, {"3"}},
      {R"({"type":"object","properties":{"k":{"enum":["a","b"]},"v":{}},"required":["k","v"],"additionalProperties":false,
           "if":{"properties":{"k":{"const":"a"}}},"then":{"properties":{"v":{"type":"integer"}}},
           "else":{"properties":{"v":{"type":"string"}}}})",
       {R"({"k":"a","v":1})", R"({"k":"b","v":"s"})"},
       {R"({"k":"a","v":"s"})", R"({"k":"b","v":1})"}},
  });
}

TEST(JsonSchema, References) {
  Check({
      {R"({"$ref":"#/$defs/node","$defs":{"node":{"type":"object",
           "properties":{"next":{"$ref":"#/$defs/node"}},"additionalProperties":false}}})",
       {"{}", "{\"next\":{\"next\":{}}}"},
       {"{\"next\":1}"}},
      {R"({"definitions":{"a/b":{"const":1},"c%d":{"const":2}},"anyOf":[{"$ref":"#/definitions/a~1b"},{"$ref":"#/definitions/c%25d"}]})",
       {"1", "2"},
       {"3"}},
      {R"({"$id":"http://x.test/root.json","$ref":"other.json#frag",
           "$defs":{"o":{"$id":"other.json","$defs":{"f":{"$anchor":"frag","const":7}}}}})",
       {"7"},
       {"8"}},
      {R"({"$ref":"#/$defs/a","maximum":5,"$defs":{"a":{"type":"integer","minimum":3}}})", {"3", "5"}, {"2", "6"}},
  });
  EXPECT_NE(ErrorOf(R"({"$ref":"http://elsewhere.test/schema"})").find("another document"), std::string::npos);
  EXPECT_NE(ErrorOf(R"({"$ref":"#/nowhere"})").find("names nothing"), std::string::npos);
  EXPECT_NE(ErrorOf(R"({"allOf":[{"$ref":"#"}]})").find("refers to itself"), std::string::npos);
  EXPECT_NE(ErrorOf(R"({"anyOf":[{"$ref":"#"},{"type":"string"}]})").find("refers to itself"), std::string::npos);
}

TEST(JsonSchema, RefusesByPlaceAndName) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({"properties":{"x":{"type":"array","uniqueItems":true}}})", "#/properties/x/uniqueItems"},
      {R"({"type":"array","contains":{"const":1}})", "#/contains"},
      {R"({"type":"object","unevaluatedProperties":false})", "#/unevaluatedProperties"},
      {R"({"type":"number","multipleOf":0.01})", "multiples of whole numbers"},
      {R"({"properties":{"x":{"type":"string","pattern":"(a)\\1"}}})", "#/properties/x/pattern: a back reference"},
      {R"({"type":"object","minProperties":3})", "#/minProperties"},
      {R"({"oneOf":[{"items":{"const":1}},{"items":{"const":2}}]})", "#/oneOf"},
      {R"({"type":"text"})", "#/type"},
      {R"({"minLength":-1})", "#/minLength"},
      {R"({"required":"a"})", "#/required"},
      {R"({"properties":{"x":3}})", "a schema has to be an object"},
      {"{", "line"},
  };
  for (const auto& [schema, part] : cases) EXPECT_NE(ErrorOf(schema).find(part), std::string::npos) << schema << ": " << ErrorOf(schema);
  // Said of kinds that cannot occur, it does no harm.
  EXPECT_EQ(ErrorOf(R"({"type":"string","uniqueItems":true,"unevaluatedProperties":false})"), "");
  EXPECT_EQ(ErrorOf(R"({"type":"array","uniqueItems":true,"maxItems":1})"), "");
}

TEST(JsonSchema, RefusesWhatNothingSatisfies) {
  for (const char* schema :
       {"false", R"({"type":"integer","minimum":2,"maximum":1})", R"({"type":"object","required":["a"],"properties":{"a":false}})",
        R"({"enum":[]})", R"({"type":"string","pattern":"^a$","minLength":2})", R"({"allOf":[{"type":"string"},{"type":"null"}]})",
        R"({"type":"array","minItems":2,"items":false})", R"({"type":"integer","exclusiveMinimum":1,"exclusiveMaximum":2})",
        R"({"type":"object","required":["a"],"properties":{"a":{"$ref":"#"}}})"}) {
    EXPECT_NE(ErrorOf(schema).find("no text can satisfy it"), std::string::npos) << schema << ": " << ErrorOf(schema);
  }
}

TEST(JsonSchema, LimitsAreErrors) {
  JsonSchemaOptions options;
  options.limits.source_bytes = 10;
  EXPECT_FALSE(CompileJsonSchema(R"({"type":"string"})", options).ok());
  options = {};
  options.limits.states = 20;
  EXPECT_FALSE(CompileJsonSchema(R"({"properties":{"a":{"properties":{"b":{}}}}})", options).ok());
  options = {};
  options.limits.automaton.work_max_in_all = 2'000;
  std::string patterns;
  for (int i = 0; i < 50; ++i) patterns += fmt::format(R"({}"p{}":{{"pattern":"^a{{{}}}b"}})", i > 0 ? "," : "", i, i + 1);
  const auto many = CompileJsonSchema(fmt::format(R"({{"properties":{{{}}}}})", patterns), options);
  ASSERT_FALSE(many.ok());
  EXPECT_NE(many.error().message().find("steps in all"), std::string::npos) << many.error().message();
  // 2 to the power of 40 alternatives.
  std::string all;
  for (int i = 0; i < 40; ++i)
    all += std::string(i > 0 ? "," : "") + R"({"anyOf":[{"minLength":)" + std::to_string(i) + R"(},{"maxLength":)" +
           std::to_string(i + 50) + "}]}";
  EXPECT_NE(ErrorOf(R"({"allOf":[)" + all + "]}").find("combine to more than"), std::string::npos);
  // As many levels of recursion as there are choices.
  std::string dependencies;
  for (int i = 0; i < 5000; ++i) dependencies += fmt::format(R"({}"a{}":["b"])", i > 0 ? "," : "", i);
  EXPECT_NE(ErrorOf(R"({"type":"object","dependentRequired":{)" + dependencies + "}}").find("alternatives hold at once"),
            std::string::npos);
  std::string chain = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 3000; ++i) {
    chain += fmt::format(R"("d{}":{{"oneOf":[{{"$ref":"#/$defs/d{}"}},{{"type":"null"}}]}},)", i, i + 1);
  }
  EXPECT_NE(ErrorOf(chain + R"("d3000":{"type":"string"}}})"), "");
  // Required members that require members, many levels down.
  std::string deep = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 3000; ++i)
    deep += "\"d" + std::to_string(i) + R"(":{"type":"object","required":["x"],"properties":{"x":{"$ref":"#/$defs/d)" +
            std::to_string(i + 1) + "\"}}},";
  EXPECT_NE(ErrorOf(deep + R"("d3000":true}})").find("levels deep"), std::string::npos);
}

// At the limit of depth only what leads to an end is left.
TEST(JsonSchema, NestingEnds) {
  JsonSchemaOptions options;
  options.limits.depth = 5;
  const auto grammar = CompileJsonSchema(R"({"type":"array","items":{"$ref":"#"}})", options);
  ASSERT_TRUE(grammar.ok());
  EXPECT_TRUE(Accepts(*grammar, "[[[[[[]]]]]]"));
  EXPECT_FALSE(Accepts(*grammar, "[[[[[[[]]]]]]]"));
}

TEST(JsonSchema, Spacing) {
  JsonSchemaOptions options;
  options.spacing = JsonSpacing::kCompact;
  const auto compact = CompileJsonSchema(R"({"type":"array"})", options);
  ASSERT_TRUE(compact.ok());
  EXPECT_TRUE(Accepts(*compact, "[1,2]"));
  EXPECT_FALSE(Accepts(*compact, "[1, 2]"));
}

}  // namespace
}  // namespace bantam
