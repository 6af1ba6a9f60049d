#include "text/structured/pattern.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

#include "base/rng.h"
#include "text/structured/string_formats.h"

namespace bantam {
namespace {

CharDfa Parse(const std::string& pattern, PatternMatch match = PatternMatch::kSearch) {
  auto dfa = ParsePattern(pattern, match, {});
  EXPECT_TRUE(dfa.ok()) << pattern << ": " << (dfa.ok() ? "" : dfa.error().message());
  return dfa.ok() ? *dfa : CharDfa();
}

std::string ErrorOf(const std::string& pattern) {
  const auto dfa = ParsePattern(pattern, PatternMatch::kSearch, {});
  return dfa.ok() ? "" : dfa.error().message();
}

// Against the standard library's implementation of ECMA-262, on random texts.
TEST(Pattern, AgreesWithStandardLibrary) {
  const std::vector<std::string> patterns = {"a",
                                             "^a",
                                             "a$",
                                             "^a$",
                                             "ab|c",
                                             "^(ab|c)$",
                                             "a*b",
                                             "^a+b?$",
                                             "[ab]c",
                                             "[^a]$",
                                             "^[a-c]{2,3}$",
                                             "a{2}",
                                             "(?:ab)+c",
                                             "^\\d+$",
                                             "\\w-\\w",
                                             "^\\s*a",
                                             ".b.",
                                             "^(a|b)*abb$",
                                             "^a{0}b$",
                                             "a+?b",
                                             "^(?!ab)a",
                                             "^(?=a)[ab]",
                                             "^(?!.*bb)a",
                                             "(^a|b$)",
                                             "^$",
                                             "^(a(b(c)?)?)?$",
                                             "[-a]b",
                                             "[a\\-]c",
                                             "x{2,}",
                                             "\\.$",
                                             "^a|b$",
                                             "a||b",
                                             "^[^\\s]*$",
                                             "\\x61b",
                                             "\\u0061c",
                                             "^(?:a|ab)(?:c|bcd)$"};
  const std::string alphabet = "abcdx-1 ._";
  Rng rng(1);
  for (const std::string& pattern : patterns) {
    const std::regex reference(pattern, std::regex::ECMAScript);
    for (const PatternMatch match : {PatternMatch::kSearch, PatternMatch::kWhole}) {
      const CharDfa dfa = Parse(pattern, match);
      for (int i = 0; i < 400; ++i) {
        std::string text;
        for (uint64_t left = rng.Next() % 7; left > 0; --left) text += alphabet[rng.Next() % (i % 2 == 0 ? 3 : alphabet.size())];
        const bool expected = match == PatternMatch::kSearch ? std::regex_search(text, reference) : std::regex_match(text, reference);
        EXPECT_EQ(dfa.Matches(text), expected) << pattern << " on '" << text << "'";
      }
    }
  }
}

TEST(Pattern, Unicode) {
  EXPECT_TRUE(Parse("^\\p{L}+$").Matches("Größe"));
  EXPECT_FALSE(Parse("^\\p{L}+$").Matches("a1"));
  EXPECT_TRUE(Parse("^\\P{L}$").Matches("1"));
  EXPECT_TRUE(Parse("^.$").Matches("🙂")) << "characters are code points";
  EXPECT_TRUE(Parse("^\\uD83D\\uDE42$").Matches("🙂"));
  EXPECT_TRUE(Parse("^\\u{1F642}$").Matches("🙂"));
  EXPECT_FALSE(Parse("^.$").Matches("\n"));
  EXPECT_FALSE(Parse("^.$").Matches("\xe2\x80\xa8")) << "U+2028 ends a line";
  EXPECT_TRUE(Parse("^\\s$").Matches("\xc2\xa0"));
  EXPECT_TRUE(Parse("^[à-ü]$").Matches("é"));
}

TEST(Pattern, RefusesByName) {
  EXPECT_NE(ErrorOf("(a)\\1").find("a back reference at character 4"), std::string::npos);
  EXPECT_NE(ErrorOf("\\bword\\b").find("word boundary"), std::string::npos);
  EXPECT_NE(ErrorOf("(?<=a)b").find("look-behind"), std::string::npos);
  EXPECT_NE(ErrorOf("a(?!b)").find("look-ahead"), std::string::npos);
  EXPECT_NE(ErrorOf("^?(?!a)b").find("look-ahead"), std::string::npos) << "the anchor may be absent";
  EXPECT_NE(ErrorOf("\\p{Script=Greek}").find("\\p{Script=Greek}"), std::string::npos);
  for (const char* malformed : {"(a", "a)", "[a", "*a", "a**", "a{3,2}", "\\", "[b-a]", "(?i)a", "\\q", "\\u12"})
    EXPECT_NE(ErrorOf(malformed), "") << malformed;
}

// Work is bounded, whatever the expression asks for.
TEST(Pattern, EndsWithinItsLimits) {
  EXPECT_NE(ErrorOf("(a|b)*a(a|b){24}").find("simplify"), std::string::npos);
  EXPECT_NE(ErrorOf("((a{100}){100}){100}").find("states"), std::string::npos);
  EXPECT_NE(ErrorOf(std::string(200, '(') + "a" + std::string(200, ')')).find("groups within groups"), std::string::npos);
  EXPECT_NE(ErrorOf(std::string(100'000, 'a')).find("65536"), std::string::npos);
  EXPECT_TRUE(Parse("^(a+)+$").Matches("aaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
  EXPECT_FALSE(Parse("^(a+)+$").Matches("aaaaaaaaaaaaaaaaaaaaaaaaaaaab"));
}

TEST(Pattern, Formats) {
  struct Case {
    const char* format;
    std::vector<const char*> valid;
    std::vector<const char*> invalid;
  };
  const std::vector<Case> cases = {
      {"date",
       {"2024-02-29", "2000-02-29", "1999-12-31"},
       {"2023-02-29", "1900-02-29", "2024-04-31", "2024-13-01", "24-01-01", "2024-00-10"}},
      {"time", {"23:59:59Z", "00:00:00.123+01:30", "23:59:60Z"}, {"24:00:00Z", "12:60:00Z", "12:00:00", "12:00:60Z", "12:00:00+24:00"}},
      {"date-time",
       {"1985-04-12T23:20:50.52Z", "1996-12-19T16:39:57-08:00"},
       {"1985-04-12 23:20:50Z", "1985-04-12T23:20:50", "1985-04-12"}},
      {"email", {"joe.bloggs@example.com", "a+b@c-d.org"}, {"joe", "@example.com", "a@b@c.de", ".a@b.de", "a..b@c.de", "a@-b.de"}},
      {"ipv4", {"127.0.0.1", "255.255.255.255"}, {"256.0.0.1", "1.2.3", "01.2.3.4", "1.2.3.4.5"}},
      {"ipv6",
       {"::", "::1", "1:2:3:4:5:6:7:8", "fe80::1", "::ffff:192.168.0.1", "1::d6:192.168.0.1", "1:2:3:4:5:6:1.2.3.4"},
       {"1:2:3", ":::", "1::2::3", "12345::", "::ffff:1.2.3.04"}},
      {"uuid", {"2eb8aa08-aa98-11ea-b4aa-73b441d16380"}, {"2eb8aa08aa9811eab4aa73b441d16380", "2eb8aa08-aa98-11ea-b4aa-73b441d1638"}},
      {"uri",
       {"https://example.com/a?b=c#d", "urn:isbn:0451450523", "mailto:a@b.de"},
       {"/a", "example.com", "http://a b", "http://a/%zz", "://a", "http://[1::2::3]/"}},
      {"hostname", {"example.com", "a-b.c"}, {"-a.com", "a_b", "xn--X", "a..b"}},
      {"duration", {"P4DT12H30M5S", "P1Y", "PT1M", "P2W"}, {"PT1D", "P", "4DT12H", "P1YT", "P1D1H"}},
      {"json-pointer", {"", "/a/b~0~1"}, {"a", "/~", "/~2"}},
  };
  for (const Case& one : cases) {
    const auto format = FindStringFormat(one.format);
    ASSERT_TRUE(format.has_value()) << one.format;
    const CharDfa dfa = Parse(std::string(format->pattern), PatternMatch::kWhole);
    for (const char* text : one.valid) EXPECT_TRUE(dfa.Matches(text)) << one.format << " " << text;
    for (const char* text : one.invalid) EXPECT_FALSE(dfa.Matches(text)) << one.format << " " << text;
  }
}

}  // namespace
}  // namespace bantam
