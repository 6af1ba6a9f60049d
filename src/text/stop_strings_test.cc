#include "text/stop_strings.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

struct Outcome {
  std::string shown;
  std::string found;
  bool operator==(const Outcome&) const = default;
};

// In pieces of `step` bytes.
Outcome RunInSteps(const std::vector<std::string>& stops, std::string_view text, size_t step) {
  StopStrings matcher = StopStrings::Make(stops).value();
  Outcome outcome;
  for (size_t at = 0; at < text.size(); at += step) outcome.shown += matcher.Push(text.substr(at, step));
  outcome.shown += matcher.Finish();
  outcome.found = matcher.found();
  return outcome;
}

TEST(StopStrings, TheSameHoweverTheTextIsCut) {
  struct Case {
    std::vector<std::string> stops;
    std::string text;
    Outcome outcome;
  };
  const Case cases[] = {
      {{"\n\n"}, "one\ntwo\n\nthree", {"one\ntwo", "\n\n"}},
      {{"STOP"}, "go STO and STSTOP here", {"go STO and ST", "STOP"}},
      {{"aab"}, "aaab", {"a", "aab"}},
      {{"END", "\nUser:"}, "Hi\nUser: END", {"Hi", "\nUser:"}},
      {{"abcd", "bc"}, "abcd", {"a", "bc"}},
      {{"xbc", "bc"}, "axbc", {"a", "xbc"}},
      {{}, "free", {"free", ""}},
      {{"never"}, "neve", {"neve", ""}},
      {{"\xe2\x82\xac"}, "5 \xe2\x82\xac more", {"5 ", "\xe2\x82\xac"}},
  };
  for (const Case& c : cases) {
    for (size_t step = 1; step <= c.text.size(); ++step)
      EXPECT_EQ(RunInSteps(c.stops, c.text, step), c.outcome) << c.text << " by " << step;
  }
}

TEST(StopStrings, OnlyWhatMayBecomeAStopWaits) {
  StopStrings matcher = StopStrings::Make({"<end>", "\nQ"}).value();
  EXPECT_EQ(matcher.Push("a < b"), "a < b");
  EXPECT_EQ(matcher.Push(" <"), " ");
  EXPECT_EQ(matcher.Push("en"), "");
  EXPECT_EQ(matcher.Push("ter>"), "<enter>");
  EXPECT_EQ(matcher.Push("x\n"), "x");
  EXPECT_EQ(matcher.Push("y"), "\ny");
  EXPECT_EQ(matcher.Push("<end>z"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopStrings, RefusesWhatIsNone) {
  EXPECT_EQ(StopStrings::Make({""}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(StopStrings::Make({std::string(kStopStringBytesMax + 1, 'x')}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(StopStrings::Make(std::vector<std::string>(kStopStringsMax + 1, "x")).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace bantam
