#include "text/utf8.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";

TEST(Utf8, TailsOfIncompleteCharacters) {
  EXPECT_EQ(IncompleteUtf8Tail(""), 0u);
  EXPECT_EQ(IncompleteUtf8Tail("abc"), 0u);
  const std::string llama = "x\xf0\x9f\xa6\x99";
  EXPECT_EQ(IncompleteUtf8Tail(llama), 0u);
  EXPECT_EQ(IncompleteUtf8Tail(llama.substr(0, 4)), 3u);
  EXPECT_EQ(IncompleteUtf8Tail(llama.substr(0, 3)), 2u);
  EXPECT_EQ(IncompleteUtf8Tail(llama.substr(0, 2)), 1u);
  EXPECT_EQ(IncompleteUtf8Tail("\x99\x99\x99\x99"), 0u) << "continuations without a lead never become a character";
}

// Examples of the Unicode Standard, section 3.9, table 3-8 and others.
TEST(Utf8, InvalidBytesAreReplacedOneByOne) {
  const std::string r = kReplacement;
  EXPECT_EQ(ReplaceInvalidUtf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x99z"), "a\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x99z");
  EXPECT_EQ(ReplaceInvalidUtf8("\xc0\xaf"), r + r) << "overlong";
  EXPECT_EQ(ReplaceInvalidUtf8("\xe0\x80\xaf"), r + r + r) << "overlong";
  EXPECT_EQ(ReplaceInvalidUtf8("\xed\xa0\x80"), r + r + r) << "surrogate";
  EXPECT_EQ(ReplaceInvalidUtf8("\xf4\x90\x80\x80"), r + r + r + r) << "past U+10FFFF";
  EXPECT_EQ(ReplaceInvalidUtf8("\xf8z\xff"), r + "z" + r);
  EXPECT_EQ(ReplaceInvalidUtf8("\xe2\x82"), r + r) << "cut short";
}

}  // namespace
}  // namespace bantam
