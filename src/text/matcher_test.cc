#include "text/matcher.h"

#include <gtest/gtest.h>

#include <set>

#include "base/rng.h"
#include "text/char_class.h"
#include "text/pre_tokenizers.h"
#include "text/utf8.h"

namespace bantam {
namespace {

std::vector<std::string> Matches(const Matcher& matcher, std::string_view text, MatchWork* work) {
  std::string copy;
  const std::string_view searched = matcher.Prepare(text, &copy);
  std::vector<std::string> parts;
  for (TextSpan match = {0, 0}; matcher.Find(searched, match.end, work, &match);) {
    parts.emplace_back(text.substr(match.begin, match.end - match.begin));
  }
  return parts;
}

std::vector<std::string> Matches(std::string_view regex, std::string_view text) {
  MatchWork work;
  return Matches(*CompileScanner(regex).value(), text, &work);
}

using Parts = std::vector<std::string>;

TEST(Scanner, Classes) {
  EXPECT_EQ(Matches("[a-cx]+", "abxdc"), (Parts{"abx", "c"}));
  EXPECT_EQ(Matches("[^\\s\\p{L}]", "a1 -"), (Parts{"1", "-"}));
  EXPECT_EQ(Matches("\\p{Lu}\\P{Lu}", "aBcDD"), (Parts{"Bc"}));
  EXPECT_EQ(Matches("[\\x{4E00}-\\x{9fa5}\\u0041]+", "A\xe4\xb8\xad!"), (Parts{"A\xe4\xb8\xad"}));
  EXPECT_EQ(Matches("[+\\-/]", "a-b"), (Parts{"-"}));
  EXPECT_EQ(Matches(".+", "ab\ncd"), (Parts{"ab", "cd"}));
  EXPECT_EQ(Matches("\\w+", "a_1\xcc\x81-"), (Parts{"a_1\xcc\x81"}));
}

TEST(Scanner, RepetitionsGiveBack) {
  EXPECT_EQ(Matches("\\s*[\\r\\n]+", "  \n \n  x"), (Parts{"  \n \n"}));
  EXPECT_EQ(Matches("a+ab", "aaab"), (Parts{"aaab"}));
  EXPECT_EQ(Matches("a++ab", "aaab"), (Parts{}));
  EXPECT_EQ(Matches("\\p{N}{1,3}", "12345"), (Parts{"123", "45"}));
  EXPECT_EQ(Matches("(?:ab|a)b", "ab"), (Parts{"ab"}));
  EXPECT_EQ(Matches("x(?:a|ab)?c", "xabc xc"), (Parts{"xabc", "xc"}));
}

TEST(Scanner, LooksAhead) {
  EXPECT_EQ(Matches("\\s+(?!\\S)", "a   b "), (Parts{"  ", " "}));
  EXPECT_EQ(Matches("a(?=b)", "aab"), (Parts{"a"}));
  EXPECT_EQ(Matches("\\s+$", " a  "), (Parts{"  "}));
}

TEST(Scanner, WithoutRegardToCase) {
  EXPECT_EQ(Matches("(?i:'s|'re)", "'S 'Re 's 'x '\xc5\xbf"), (Parts{"'S", "'Re", "'s", "'\xc5\xbf"}));
  EXPECT_EQ(Matches("(?i:a)b", "Ab AB"), (Parts{"Ab"}));
}

TEST(Scanner, WhatItCannotRunIsUnsupported) {
  for (const char* regex : {"(a+)+",   "a*?", "\\bx", "(?<=a)b", "a{2}+", "[[a]]", "[a&&b]", "\\p{Greek}",
                            "(a",      "a)",  "[a",   "a{",      "^a",    "*",     "a**",    "a*",
                            "(?=ab)c", "\\1", "\\",   "[z-a]",   "\\x{}", "\\p{",  "a{3,1}", "(?i)[\\x{100}-\\x{200}]"}) {
    const auto scanner = CompileScanner(regex);
    ASSERT_FALSE(scanner.ok()) << regex;
    EXPECT_EQ(scanner.error().code(), Code::kUnsupported) << regex;
  }
  EXPECT_EQ(CompileMatcher("(a").error().code(), Code::kUnsupported);
  // PCRE2 would read these otherwise than Ruby, or they cut between characters.
  for (const char* regex : {"\\p{N}{1,3}+", "[\\p{L}&&[^B]]", "\\h+", "[a[b]]+", "(?=(\\d{3})+(?!\\d))", "a{,3}b"}) {
    EXPECT_EQ(CompileMatcher(regex).error().code(), Code::kUnsupported) << regex;
  }
  EXPECT_EQ(CompileMatcher(std::string(kPatternBytesMax + 1, 'a')).error().code(), Code::kUnsupported);
}

// A text of characters that pre-tokenizers treat differently, now and then malformed.
std::string RandomText(Rng& rng) {
  constexpr std::string_view kPool[] = {" ",
                                        " ",
                                        " ",
                                        "\n",
                                        "\r",
                                        "\t",
                                        "\xc2\x85",
                                        "\xc2\xa0",
                                        "\xe3\x80\x80",
                                        "a",
                                        "b",
                                        "s",
                                        "S",
                                        "t",
                                        "ll",
                                        "E",
                                        "re",
                                        "'",
                                        "'",
                                        "1",
                                        "2",
                                        "\xc2\xbd",
                                        "\xd9\xa3",
                                        "\xe2\x85\xa7",
                                        ".",
                                        ",",
                                        "!",
                                        "$",
                                        "+",
                                        "_",
                                        "-",
                                        "/",
                                        "\xe2\x80\xa6",
                                        "\xe2\x82\xac",
                                        "\xc3\xa9",
                                        "\xc3\x89",
                                        "\xc7\x85",
                                        "\xca\xb0",
                                        "\xcc\x81",
                                        "\xe0\xa4\xbf",
                                        "\xe2\x83\xa3",
                                        "\xe4\xb8\xad",
                                        "\xe3\x81\x82",
                                        "\xe3\x82\xab",
                                        "\xed\x95\x9c",
                                        "\xd0\x96",
                                        "\xd7\x90",
                                        "\xf0\x9f\xa6\x99",
                                        "\xe2\x80\x8d",
                                        "\xf0\x90\x90\x80",
                                        "\xc5\xbf",
                                        "\xe2\x84\xaa",
                                        "\x01",
                                        "\x7f",
                                        "\xef\xbf\xbd"};
  std::string text;
  for (uint64_t n = rng.Next() % 40; n > 0; --n) text += kPool[rng.Next() % std::size(kPool)];
  return text;
}

// Every pattern that a GGUF file can name, on scanners and in PCRE2: an independent implementation of the same language.
TEST(Scanner, AgreesWithPcre2OnEveryNamedPattern) {
  if (!CompilePcre2("a").ok()) GTEST_SKIP() << "this build has no PCRE2";
  std::set<std::string_view> patterns;
  for (const NamedPreTokenizer& named : NamedPreTokenizers()) patterns.insert(named.patterns.begin(), named.patterns.end());
  std::vector<std::string_view> not_scanned;
  for (const std::string_view pattern : patterns) {
    const auto scanner = CompileScanner(pattern);
    const auto library = CompilePcre2(pattern);
    ASSERT_TRUE(library.ok()) << library.error().message();
    if (!scanner.ok()) {
      not_scanned.push_back(pattern);
      continue;
    }
    Rng rng(7);
    for (int round = 0; round < 3000; ++round) {
      const std::string text = RandomText(rng);
      MatchWork work;
      ASSERT_EQ(Matches(**scanner, text, &work), Matches(**library, text, &work)) << pattern << "\n" << text;
      ASSERT_FALSE(work.exhausted);
    }
  }
  EXPECT_EQ(not_scanned.size(), 2u) << "exaone-moe repeats a group, tiny_aya looks far ahead";
}

// All characters, one by one, between others.
TEST(Scanner, AgreesWithPcre2OnEveryCharacter) {
  const auto library = CompilePcre2(kGpt2Pattern);
  if (!library.ok()) GTEST_SKIP() << "this build has no PCRE2";
  const auto scanner = CompileScanner(kGpt2Pattern).value();
  MatchWork work;
  for (char32_t code = 1; code < 0x30000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    // The library's database may be of an older version.
    if ((PropertiesOf(code) & SetOf(Category::kCn)) != 0) continue;
    std::string text = "a ";
    AppendUtf8(code, &text);
    text += "b1";
    const auto ours = Matches(*scanner, text, &work);
    const auto theirs = Matches(**library, text, &work);
    // Perl's white space still has U+180E, Unicode's has not since version 6.3.
    if (ours == theirs || code == 0x180e) continue;
    // Assigned since then: nothing but a gap or a symbol there.
    MatchWork other;
    EXPECT_FALSE(Matches(*CompilePcre2("\\p{Cn}").value(), text, &other).empty()) << static_cast<uint32_t>(code);
  }
}

TEST(Scanner, WorkIsLinear) {
  for (const NamedPreTokenizer& named : NamedPreTokenizers()) {
    for (const std::string_view pattern : named.patterns) {
      const auto scanner = CompileScanner(pattern);
      if (!scanner.ok()) continue;
      for (const char* unit : {" ", "a", "A", "\n", "1", ".", "\xcc\x81", "\xca\xb0", "\xe4\xb8\xad", "'", "\xff"}) {
        std::string text;
        while (text.size() < 100'000) text += unit;
        MatchWork work;
        (void)Matches(**scanner, text, &work);
        EXPECT_LT(work.steps, 12 * text.size()) << named.name << ": " << pattern << " on " << testing::PrintToString(unit);
      }
    }
  }
}

TEST(Scanner, HostilePatternsStop) {
  const auto scanner = CompileScanner("a*a*a*a*a*b").value();
  MatchWork work;
  work.steps_max = 1'000'000;
  EXPECT_TRUE(Matches(*scanner, std::string(5000, 'a'), &work).empty());
  EXPECT_TRUE(work.exhausted);
}

TEST(Pcre2, HostilePatternsStop) {
  const auto library = CompilePcre2("(a|aa)+\\1?[bd]x?");
  if (!library.ok()) GTEST_SKIP() << "this build has no PCRE2";
  MatchWork work;
  EXPECT_TRUE(Matches(**library, std::string(5000, 'a') + "c", &work).empty());
  EXPECT_TRUE(work.exhausted);
}

TEST(Pcre2, RunsWhatItReadsAsItIsMeant) {
  if (!CompilePcre2("a").ok()) GTEST_SKIP() << "this build has no PCRE2";
  for (const char* regex : {"\\b\\p{L}+", "(?<=a)\\x{62}+", "(?:ab){2}c|\\p{N}{1,3}", "[\\p{L}\\p{M}]+?x", "a{3}(?=bc)"}) {
    const auto matcher = CompileMatcher(regex);
    EXPECT_TRUE(matcher.ok()) << regex << ": " << matcher.error().message();
  }
}

// A match that looks far ahead is paid for by how far it looks.
TEST(Pcre2, LookingAheadIsPaidFor) {
  const auto library = CompilePcre2("\\d{1,3}(?=(?:\\d{3})*\\b)");
  if (!library.ok()) GTEST_SKIP() << "this build has no PCRE2";
  MatchWork work;
  work.steps_max = 200 * 40'000;
  (void)Matches(**library, std::string(40'000, '1'), &work);
  EXPECT_TRUE(work.exhausted || work.steps > 40'000);
  MatchWork little;
  little.steps_max = 10'000;
  EXPECT_EQ(Matches(**library, "1234567 12", &little), (Parts{"1", "234", "567", "12"}));
  EXPECT_FALSE(little.exhausted);
}

TEST(Pcre2, MalformedBytesArePartsOfTheirOwn) {
  const auto library = CompilePcre2("[^a]\\b|a");
  if (!library.ok()) GTEST_SKIP() << "this build has no PCRE2";
  MatchWork work;
  EXPECT_EQ(Matches(**library,
                    "\xff"
                    "a\xc3",
                    &work),
            (Parts{"\xff", "a"}));
}

}  // namespace
}  // namespace bantam
