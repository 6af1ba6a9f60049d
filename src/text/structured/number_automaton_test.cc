#include "text/structured/number_automaton.h"

#include <gtest/gtest.h>

#include <charconv>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

namespace bantam {
namespace {

NumberBound Bound(const char* text, bool exclusive = false) { return {*Decimal::Parse(text), exclusive}; }

// All texts of a number's characters, up to a length.
void ForTexts(size_t length, const std::function<void(const std::string&)>& see) {
  const std::string alphabet = "-.01259";
  std::vector<std::string> texts = {""};
  for (size_t i = 0; i < texts.size(); ++i) {
    see(texts[i]);
    if (texts[i].size() == length) continue;
    for (const char c : alphabet) texts.push_back(texts[i] + c);
  }
}

// A number of JSON without an exponent that is not a negative zero.
bool IsPlainNumber(const std::string& text, double* value) {
  size_t at = text.starts_with('-') ? 1 : 0;
  const size_t whole = at;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at;
  if (at == whole || (text[whole] == '0' && at > whole + 1)) return false;
  if (at < text.size()) {
    if (text[at++] != '.' || at == text.size()) return false;
    for (; at < text.size(); ++at) {
      if (text[at] < '0' || text[at] > '9') return false;
    }
  }
  std::from_chars(text.data(), text.data() + text.size(), *value);
  return text[0] != '-' || *value != 0;
}

// Against arithmetic, on every short text.
TEST(NumberAutomaton, BoundsHoldForEveryText) {
  struct Case {
    NumberSpec spec;
    std::function<bool(double)> holds;
  };
  const auto whole = [](double x) { return x == std::floor(x); };
  const std::vector<Case> cases = {
      {{.low = Bound("0"), .high = Bound("10")}, [](double x) { return x >= 0 && x <= 10; }},
      {{.low = Bound("-1.5"), .high = Bound("2", true)}, [](double x) { return x >= -1.5 && x < 2; }},
      {{.low = Bound("0", true)}, [](double x) { return x > 0; }},
      {{.high = Bound("-0.25")}, [](double x) { return x <= -0.25; }},
      {{.low = Bound("1e1", true), .high = Bound("20.05")}, [](double x) { return x > 10 && x <= 20.05; }},
      {{.integer = true, .low = Bound("-12"), .high = Bound("95")}, [&](double x) { return whole(x) && x >= -12 && x <= 95; }},
      {{.integer = true, .low = Bound("0.5"), .high = Bound("9.5")}, [&](double x) { return whole(x) && x >= 1 && x <= 9; }},
      {{.integer = true, .multiples = {*Decimal::Parse("3")}}, [&](double x) { return whole(x) && std::fmod(x, 3) == 0; }},
      {{.low = Bound("-30"), .high = Bound("30"), .multiples = {*Decimal::Parse("5")}},
       [&](double x) { return std::fabs(x) <= 30 && std::fmod(x, 5) == 0; }},
      {{.fractional = true}, [&](double x) { return !whole(x); }},
      {{.excluded = {*Decimal::Parse("1"), *Decimal::Parse("2.5")}}, [](double x) { return x != 1 && x != 2.5; }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    const auto numbers = NumberAutomaton(cases[i].spec, {});
    ASSERT_TRUE(numbers.ok()) << i << ": " << numbers.error().message();
    const bool integers = cases[i].spec.integer || !cases[i].spec.multiples.empty();
    ForTexts(5, [&](const std::string& text) {
      double value = 0;
      const bool number = IsPlainNumber(text, &value) && !(integers && text.find('.') != std::string::npos);
      EXPECT_EQ(numbers->Matches(text), number && cases[i].holds(value)) << "case " << i << ": " << text;
    });
  }
}

TEST(NumberAutomaton, DigitsAreBounded) {
  const auto numbers = NumberAutomaton({}, {});
  ASSERT_TRUE(numbers.ok());
  EXPECT_TRUE(numbers->Matches("-1.5e-10"));
  EXPECT_FALSE(numbers->Matches("1e400")) << "infinity for readers with binary64";
  EXPECT_FALSE(numbers->Matches(std::string(400, '9')));
  EXPECT_FALSE(numbers->Matches("01"));
  EXPECT_FALSE(numbers->Matches("1."));
}

TEST(NumberAutomaton, RefusesWhatBinary64CannotTell) {
  const auto cents = NumberAutomaton({.multiples = {*Decimal::Parse("0.01")}}, {});
  ASSERT_FALSE(cents.ok());
  EXPECT_NE(cents.error().message().find("multiples of whole numbers"), std::string::npos);
  EXPECT_FALSE(NumberAutomaton({.low = Bound("1234567890.123456789", true)}, {}).ok());
}

TEST(Decimal, ReadsAndCompares) {
  EXPECT_EQ(Decimal::Parse("12.50e1")->Compare(*Decimal::Parse("125")), 0);
  EXPECT_EQ(Decimal::Parse("-0")->Compare(*Decimal::Parse("0.0")), 0);
  EXPECT_EQ(Decimal::Parse("1e-2")->fraction, "01");
  EXPECT_LT(Decimal::Parse("-3")->Compare(*Decimal::Parse("-2.5")), 0);
  EXPECT_FALSE(Decimal::Parse("1e999").has_value());
  EXPECT_FALSE(Decimal::Parse("x").has_value());
}

}  // namespace
}  // namespace bantam
