#include "engine/draft.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"

namespace bantam {
namespace {

using Tokens = std::vector<uint32_t>;

TEST(LookUpDraft, WhatFollowedTheLongestMatch) {
  EXPECT_EQ(LookUpDraft(Tokens{1, 2, 3, 9, 2, 3, 8, 7, 1, 2, 3}, 3), (Tokens{9, 2, 3})) << "three match, and not the later two";
  EXPECT_EQ(LookUpDraft(Tokens{2, 3, 4, 9, 2, 3, 5, 9, 2, 3}, 2), (Tokens{5, 9})) << "of equals the latest";
  EXPECT_EQ(LookUpDraft(Tokens{8, 1, 2, 1, 2}, 5), (Tokens{1, 2, 1, 2, 1})) << "circles go on";
  EXPECT_EQ(LookUpDraft(Tokens{1, 2, 3, 2}, 8), Tokens{}) << "one token is no match";
  EXPECT_EQ(LookUpDraft(Tokens{1, 2, 3, 4}, 8), Tokens{});
  EXPECT_EQ(LookUpDraft(Tokens{7}, 8), Tokens{});
  EXPECT_EQ(LookUpDraft(Tokens{}, 8), Tokens{});
}

// Against a search by definition.
TEST(LookUpDraft, RandomTexts) {
  Rng rng(3);
  for (int round = 0; round < 3000; ++round) {
    Tokens tokens;
    for (uint64_t i = 0, end = rng.Next() % 30; i < end; ++i) tokens.push_back(static_cast<uint32_t>(rng.Next() % 3));
    Tokens expected;
    for (size_t length = kDraftMatchMax; length >= kDraftMatchMin && expected.empty(); --length) {
      for (size_t at = tokens.size(); at-- > 0 && expected.empty();) {
        if (tokens.size() < length + 1 || at + length >= tokens.size()) continue;
        if (!std::equal(tokens.end() - static_cast<std::ptrdiff_t>(length), tokens.end(),
                        tokens.begin() + static_cast<std::ptrdiff_t>(at))) {
          continue;
        }
        Tokens all = tokens;
        for (size_t i = at + length; expected.size() < 5; ++i) {
          expected.push_back(all[i]);
          all.push_back(all[i]);
        }
      }
    }
    ASSERT_EQ(LookUpDraft(tokens, 5), expected) << round;
  }
}

TEST(DraftLength, DraftsWhereTheyPay) {
  StepCost memory_bound;  // up to eight rows cost little more than one
  for (const size_t rows : {1, 2, 4, 8}) memory_bound.Observe(rows, 1'000'000 + 10'000 * static_cast<int64_t>(rows));
  StepCost compute_bound;  // each row costs the same
  for (const size_t rows : {1, 2, 4, 8}) compute_bound.Observe(rows, 1'000'000 * static_cast<int64_t>(rows));
  DraftLength length;
  EXPECT_GT(length.Best(memory_bound, 1, 8), 2u) << "a guess is worth a try";
  EXPECT_EQ(length.Best(compute_bound, 1, 8), 0u);
  EXPECT_EQ(length.Best(StepCost(), 1, 8), 0u) << "nothing was measured";
  for (int i = 0; i < 50; ++i) length.Observe(4, 4);
  EXPECT_EQ(length.Best(memory_bound, 1, 7), 7u);
  for (int i = 0; i < 50; ++i) length.Observe(4, 0);
  EXPECT_EQ(length.Best(memory_bound, 1, 7), 0u) << "drafts that are never right disable themselves";
  for (int i = 0; i < 2000; ++i) length.Observe(0, 0);
  EXPECT_GT(length.Best(memory_bound, 1, 7), 0u) << "but are tried again some day";
}

}  // namespace
}  // namespace bantam
