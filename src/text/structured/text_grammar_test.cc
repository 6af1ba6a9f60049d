#include "text/structured/text_grammar.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "testing/small_vocabulary.h"
#include "text/structured/token_constraint.h"

namespace bantam {
namespace {

bool Accepts(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  static const auto vocabulary = testing::SmallVocabulary();
  TokenConstraint constraint(TokenMasks::Make(grammar, vocabulary));
  return constraint.AcceptText(text).ok() && constraint.MayEnd();
}

std::shared_ptr<const Grammar> Gbnf(std::string_view text) {
  auto grammar = CompileGbnf(text);
  EXPECT_TRUE(grammar.ok()) << text << ": " << (grammar.ok() ? "" : grammar.error().message());
  return grammar.ok() ? *grammar : nullptr;
}

std::string ErrorOf(std::string_view text) {
  const auto grammar = CompileGbnf(text);
  return grammar.ok() ? "" : grammar.error().message();
}

TEST(Gbnf, Elements) {
  const auto grammar = Gbnf(R"(# comment
root ::= "a" [0-9]+ ("x" | "yy")? tail  # behind
tail ::= (
  "\n" | [^a-z"\]]
) | .{2}
)");
  ASSERT_NE(grammar, nullptr);
  EXPECT_TRUE(Accepts(grammar, "a12yy\n"));
  EXPECT_TRUE(Accepts(grammar, "a1é"));
  EXPECT_TRUE(Accepts(grammar, "a1x日本"));
  EXPECT_FALSE(Accepts(grammar, "a1]"));
  EXPECT_FALSE(Accepts(grammar, "ax\n"));
}

TEST(Gbnf, RecursionAndLoops) {
  const auto grammar =
      Gbnf("root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= num | \"(\" ws expr ws \")\"\nnum ::= [0-9]+\nws ::= [ \\t\\n]*\n");
  ASSERT_NE(grammar, nullptr);
  EXPECT_TRUE(Accepts(grammar, "1+(2*( 3-4))"));
  EXPECT_FALSE(Accepts(grammar, "1+(2*(3-4)"));
  EXPECT_FALSE(Accepts(grammar, "1+"));
  // Right recursion is no nesting.
  const auto list = Gbnf("root ::= \"a\" root | value\nvalue ::= \"(\" value \")\" | \"b\"\n");
  ASSERT_NE(list, nullptr);
  EXPECT_TRUE(Accepts(list, std::string(2000, 'a') + "((b))"));
}

// Readings that are all possible at once do not multiply.
TEST(Gbnf, AmbiguityStaysSmall) {
  const auto grammar = Gbnf("root ::= s s s \"!\"\ns ::= \"a\" s \"b\" | \"a\" s \"b\" | \"a\" s s \"b\" | t\nt ::= \"a\" t | \"\"\n");
  ASSERT_NE(grammar, nullptr);
  TokenConstraint constraint(TokenMasks::Make(grammar, testing::SmallVocabulary()));
  EXPECT_TRUE(constraint.AcceptText(std::string(60, 'a') + std::string(20, 'b')).ok());
  EXPECT_LT(constraint.position().places.size(), 5000u);
}

TEST(Gbnf, CountedRepetitions) {
  const auto grammar = Gbnf("root ::= item{2,4} [x]{0,100000}\nitem ::= \"(\" item? \")\"\n");
  ASSERT_NE(grammar, nullptr);
  EXPECT_TRUE(Accepts(grammar, "()(())"));
  EXPECT_TRUE(Accepts(grammar, "()()()()xxx"));
  EXPECT_FALSE(Accepts(grammar, "()"));
  EXPECT_FALSE(Accepts(grammar, "()()()()()"));
}

TEST(Gbnf, Json) {
  const auto grammar = Gbnf(R"gbnf(root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4})
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

ws ::= | " " | "\n" [ \t]{0,20}
)gbnf");
  ASSERT_NE(grammar, nullptr);
  EXPECT_TRUE(Accepts(grammar, "{\"a\": [1, -2.5e1, \"\\u00e9\\n\"],\n  \"b\": {}}"));
  EXPECT_FALSE(Accepts(grammar, "[1]"));
  EXPECT_FALSE(Accepts(grammar, "{\"a\":1,}"));
}

TEST(Gbnf, ErrorsSayWhere) {
  EXPECT_NE(ErrorOf("x ::= \"a\"\n").find("root is missing"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= a\n").find("a is used and not defined"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= \"a\n").find("without its end"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= (\"a\"\n").find("without its )"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= \"a\"\nroot ::= \"b\"\n").find("line 2: the rule root is defined twice"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= root \"a\" | \"b\"\n").find("left recursion"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= e root \"a\" | \"b\"\ne ::= \"x\"?\n").find("left recursion"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= <think>\n").find("tokens by name"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= \"a\" root\n").find("no text can satisfy it"), std::string::npos);
  EXPECT_NE(ErrorOf("root = \"a\"\n").find("::= is expected"), std::string::npos);
  EXPECT_NE(ErrorOf("root ::= \"a\"{3,1}\n").find("out of order"), std::string::npos);
}

TEST(RegexGrammar, IsAnchored) {
  const auto grammar = CompileRegex("[a-c]+(-\\d{2})?");
  ASSERT_TRUE(grammar.ok());
  EXPECT_TRUE(Accepts(*grammar, "abc-12"));
  EXPECT_FALSE(Accepts(*grammar, "xabc"));
  EXPECT_FALSE(Accepts(*grammar, "abc-1"));
  EXPECT_FALSE(CompileRegex("a$b").ok()) << "nothing matches";
}

}  // namespace
}  // namespace bantam
