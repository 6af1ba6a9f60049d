#include "text/spm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "base/rng.h"

namespace bantam {
namespace {

using Pieces = std::map<std::string, SpmPiece, std::less<>>;

std::vector<std::string> Merge(std::string_view text, const Pieces& pieces, size_t* lookups = nullptr) {
  std::vector<std::string> parts;
  MergeSpm(
      text,
      [&](std::string_view part) -> std::optional<SpmPiece> {
        if (lookups != nullptr) ++*lookups;
        const auto at = pieces.find(part);
        return at == pieces.end() ? std::nullopt : std::optional(at->second);
      },
      [&](std::string_view part, std::optional<uint32_t>) { parts.emplace_back(part); });
  return parts;
}

using Parts = std::vector<std::string>;

TEST(Spm, HighestScoreFirstThenLeftmost) {
  const Pieces pieces = {{"ab", {0, -1}}, {"bc", {1, -0.5f}}, {"aa", {2, -1}}};
  EXPECT_EQ(Merge("abc", pieces), (Parts{"a", "bc"}));
  EXPECT_EQ(Merge("aaa", pieces), (Parts{"aa", "a"}));
  EXPECT_EQ(Merge("", pieces), Parts());
}

// The definition, literally: look at all neighbours, join the best pair, start again.
Parts MergeByDefinition(std::string_view text, const Pieces& pieces) {
  Parts parts;
  for (const char c : text) parts.emplace_back(1, c);
  while (true) {
    size_t best = parts.size();
    float best_score = -INFINITY;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto at = pieces.find(parts[i] + parts[i + 1]);
      if (at != pieces.end() && at->second.score > best_score) {
        best = i;
        best_score = at->second.score;
      }
    }
    if (best == parts.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(Spm, EqualsTheDefinitionOnRandomVocabularies) {
  Rng rng(11);
  for (int round = 0; round < 300; ++round) {
    Pieces pieces;
    for (int i = 0; i < 40; ++i) {
      std::string text;
      const size_t size = 2 + rng.Next() % 4;
      while (text.size() < size) text += static_cast<char>('a' + rng.Next() % 3);
      pieces[text] = {static_cast<uint32_t>(i), -static_cast<float>(rng.Next() % 10)};
    }
    std::string text;
    while (text.size() < 60) text += static_cast<char>('a' + rng.Next() % 3);
    EXPECT_EQ(Merge(text, pieces), MergeByDefinition(text, pieces)) << text;
  }
}

TEST(Spm, CharactersStayWhole) {
  EXPECT_EQ(Merge("\xc3\xa9\xf0\x9f\xa6\x99", {}), (Parts{"\xc3\xa9", "\xf0\x9f\xa6\x99"}));
  EXPECT_EQ(Merge("\xf0\x9f", {}), (Parts{"\xf0\x9f"})) << "cut short at the end";
  EXPECT_EQ(Merge("\x80\x80", {}), (Parts{"\x80", "\x80"}));
}

TEST(Spm, LookupsGrowLinearly) {
  Pieces pieces;
  for (size_t size = 2; size <= 64; size *= 2) pieces[std::string(size, 'a')] = {0, -static_cast<float>(size)};
  size_t lookups = 0;
  Merge(std::string(100000, 'a'), pieces, &lookups);
  EXPECT_LT(lookups, 400000u);
}

}  // namespace
}  // namespace bantam
