#include "text/structured/token_constraint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/rng.h"
#include "testing/small_vocabulary.h"
#include "text/structured/json_schema.h"
#include "text/structured/text_grammar.h"

namespace bantam {
namespace {

bool HasBit(const std::vector<uint32_t>& bits, uint32_t id) { return (bits[id / 32] >> (id % 32) & 1) != 0; }

std::vector<std::shared_ptr<const Grammar>> Grammars() {
  std::vector<std::shared_ptr<const Grammar>> grammars;
  for (const char* schema : {
           "true",
           R"({"type":"string","minLength":3,"maxLength":9})",
           R"({"type":"string","pattern":"^[a-z ]*$","maxLength":12})",
           R"({"type":"string","pattern":"foo","minLength":2,"maxLength":12})",
           R"({"type":"string","format":"date-time"})",
           R"({"type":"array","items":{"type":"number","minimum":-1,"maximum":12},"minItems":1,"maxItems":3})",
           R"({"type":"object","properties":{"name":{"type":"string"},"na":{"type":"integer"},"a":{"enum":["a","ab","abc",1]}},
                "required":["name"]})",
           R"({"type":"object","properties":{"a":{},"b":{},"c":{}},"additionalProperties":false,"minProperties":2,"maxProperties":2})",
           R"({"anyOf":[{"type":"object","properties":{"a":{"type":"string","maxLength":2}}},
                {"type":"object","properties":{"a":{"type":"string","pattern":"^a"}}}]})",
           R"({"type":"object","patternProperties":{"^a":{"type":"integer"}},"maxProperties":2})",
           R"({"type":"object","properties":{"next":{"$ref":"#"},"v":{"type":"boolean"}},"required":["v"],"additionalProperties":false})",
       }) {
    auto grammar = CompileJsonSchema(schema);
    EXPECT_TRUE(grammar.ok()) << schema;
    if (grammar.ok()) grammars.push_back(*grammar);
  }
  for (const char* gbnf : {"root ::= \"(\" root \")\" | [a-c]{1,3} | \"日本\"\n", "root ::= s s \".\"\ns ::= \"a\" s | \"ab\" s | \"\"\n",
                           "root ::= ([ab] | \"ab\" | \"\\n\")* \"!\"\n"}) {
    auto grammar = CompileGbnf(gbnf);
    EXPECT_TRUE(grammar.ok()) << gbnf;
    if (grammar.ok()) grammars.push_back(*grammar);
  }
  return grammars;
}

// Random texts of each grammar: at every step the mask is what trying each token gives, some token is allowed, and copies are independent.
TEST(TokenConstraint, MaskIsWhatTokensDo) {
  const auto vocabulary = testing::SmallVocabulary();
  Rng rng(7);
  const auto grammars = Grammars();
  for (size_t g = 0; g < grammars.size(); ++g) {
    for (int round = 0; round < 12; ++round) {
      TokenConstraint constraint(TokenMasks::Make(grammars[g], vocabulary));
      std::string text;
      for (int step = 0; step < 40 && !constraint.ended(); ++step) {
        std::vector<uint32_t> bits(vocabulary->words());
        ASSERT_TRUE(constraint.Mask(bits).ok());
        std::vector<uint32_t> allowed;
        for (uint32_t id = 0; id < vocabulary->size(); ++id) {
          TokenConstraint copy(constraint);
          const bool fits = copy.Accept(id).ok();
          ASSERT_EQ(HasBit(bits, id), fits) << "grammar " << g << " after " << text << " token " << id << " " << vocabulary->TextOf(id);
          if (fits) allowed.push_back(id);
        }
        ASSERT_FALSE(allowed.empty()) << "grammar " << g << ": a dead end after " << text;
        const uint32_t id = allowed[rng.Next() % allowed.size()];
        ASSERT_TRUE(constraint.Accept(id).ok());
        text += vocabulary->TextOf(id);
      }
    }
  }
}

TEST(TokenConstraint, ForcedTextIsTheOnlyOne) {
  const auto grammar = CompileJsonSchema(
      R"({"type":"object","properties":{"name":{"const":"日本"},"b":{"type":"integer"}},
          "required":["name","b"],"additionalProperties":false})",
      {.spacing = JsonSpacing::kCompact});
  ASSERT_TRUE(grammar.ok());
  TokenConstraint constraint(TokenMasks::Make(*grammar, testing::SmallVocabulary()));
  EXPECT_EQ(constraint.Forced(), R"({"name":"日本","b":)");
  ASSERT_TRUE(constraint.AcceptText(constraint.Forced()).ok());
  EXPECT_EQ(constraint.Forced(), "");
  ASSERT_TRUE(constraint.AcceptText("12}").ok());
  EXPECT_TRUE(constraint.MayEnd());
  EXPECT_EQ(constraint.Forced(), "");
}

TEST(TokenConstraint, RefusedTokensChangeNothing) {
  const auto grammar = CompileJsonSchema(R"({"type":"integer"})");
  ASSERT_TRUE(grammar.ok());
  const auto vocabulary = testing::SmallVocabulary();
  TokenConstraint constraint(TokenMasks::Make(*grammar, vocabulary));
  const auto end = static_cast<uint32_t>(vocabulary->size() - 1);
  EXPECT_FALSE(constraint.Accept(end).ok()) << "nothing has been said yet";
  EXPECT_FALSE(constraint.Accept(end - 1).ok()) << "a control token";
  EXPECT_FALSE(constraint.Accept(end + 1).ok()) << "no token at all";
  EXPECT_FALSE(constraint.Accept('x').ok());
  EXPECT_TRUE(constraint.Accept('1').ok());
  const TokenConstraint before(constraint);
  EXPECT_FALSE(constraint.AcceptText("2x").ok());
  EXPECT_EQ(constraint.position().places, before.position().places);
  EXPECT_TRUE(constraint.Accept(end).ok());
  EXPECT_TRUE(constraint.ended());
  EXPECT_FALSE(constraint.Accept('1').ok()) << "the answer has ended";
}

// Grammars that can be read in more ways with every character end in an error, and not in looking at all of them.
TEST(TokenConstraint, TooAmbiguousIsAnError) {
  std::string stars = "root ::= s1\n";
  for (int i = 1; i < 60; ++i) stars += fmt::format("s{} ::= ([a-z] s{})* s{}\n", i, i + 1, i + 1);
  stars += "s60 ::= [a-z]*\n";
  const auto vocabulary = testing::SmallVocabulary();
  for (const std::string& gbnf : {std::string("root ::= e\ne ::= [a-z] | [a-z] e e | [a-z] e e e\n"), stars}) {
    const auto grammar = CompileGbnf(gbnf);
    ASSERT_TRUE(grammar.ok()) << grammar.error().message();
    TokenConstraint constraint(TokenMasks::Make(*grammar, vocabulary));
    std::vector<uint32_t> bits(vocabulary->words());
    Status status = Ok();
    for (int i = 0; i < 2000 && status.ok(); ++i) {
      status = constraint.Mask(bits);
      if (status.ok()) status = constraint.Accept('a');
    }
    ASSERT_FALSE(status.ok()) << gbnf;
    EXPECT_EQ(status.error().code(), Code::kUnsupported) << status.error().message();
  }
}

// A place to go back to is a copy.
TEST(TokenConstraint, CopiesAreIndependent) {
  const auto grammar = CompileJsonSchema(R"({"type":"array","items":{"type":"array","items":{"type":"integer"}}})");
  ASSERT_TRUE(grammar.ok());
  TokenConstraint constraint(TokenMasks::Make(*grammar, testing::SmallVocabulary()));
  ASSERT_TRUE(constraint.AcceptText("[[1").ok());
  const TokenConstraint saved(constraint);
  ASSERT_TRUE(constraint.AcceptText("]]").ok());
  EXPECT_TRUE(constraint.MayEnd());
  constraint = saved;
  EXPECT_FALSE(constraint.MayEnd());
  EXPECT_TRUE(constraint.AcceptText("2],[3]]").ok());
}

TEST(TokenVocabulary, SpellsWithTheLongest) {
  std::vector<std::string> texts(256);
  for (size_t i = 0; i < texts.size(); ++i) texts[i] = std::string(1, static_cast<char>(i));
  texts.insert(texts.end(), {"ab", "abcd", "bc", ""});
  const auto vocabulary = TokenVocabulary::Make(texts, {259}).value();
  EXPECT_EQ(vocabulary->Spell("ababcd"), (std::vector<uint32_t>{256, 257}));
  EXPECT_EQ(vocabulary->Spell("abcx"), (std::vector<uint32_t>{256, 'c', 'x'})) << "abcd begins like it, and is not it";
  EXPECT_EQ(vocabulary->Spell("\xff"), (std::vector<uint32_t>{255}));
  EXPECT_EQ(vocabulary->Spell(""), std::vector<uint32_t>{});
}

TEST(TokenVocabulary, NeedsEveryByte) {
  std::vector<std::string> texts(256);
  for (size_t i = 0; i < texts.size(); ++i) texts[i] = std::string(1, static_cast<char>(i));
  EXPECT_TRUE(TokenVocabulary::Make(texts, {}).ok());
  texts['a'] = "aa";
  const auto missing = TokenVocabulary::Make(texts, {});
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message().find("0x61"), std::string::npos);
}

}  // namespace
}  // namespace bantam
