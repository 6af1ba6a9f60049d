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

// Costs as they are measured: a base that reads the weights, and so much for each row.
StepCost CostOf(int64_t base_ns, int64_t row_ns) {
  StepCost cost;
  for (int i = 0; i < 3; ++i) {
    for (const size_t rows : {1, 2, 4, 8, 16, 32, 64, 128}) cost.Observe(rows, base_ns + row_ns * static_cast<int64_t>(rows));
  }
  return cost;
}

constexpr DraftCandidate kCandidate = {.right = 0.8, .tokens_max = 8, .behind = 1, .remaining = 100};

std::vector<size_t> LengthsOf(const DraftPlanner::Step& step, const std::vector<DraftCandidate>& candidates) {
  DraftPlanner planner;
  DraftWork work = planner.Next(step, candidates);
  // The first may be a try, and is no decision.
  planner.Observe(1, 1);
  work = planner.Next(step, candidates);
  work.lengths.resize(candidates.size());
  return work.lengths;
}

TEST(DraftPlanner, RunsTheDraftModelWhereItPays) {
  const StepCost model = CostOf(10'000'000, 100'000);
  const StepCost small = CostOf(1'000'000, 10'000);
  const StepCost large = CostOf(9'000'000, 90'000);
  const auto length = [&](const StepCost& draft, DraftCandidate candidate, size_t outputs = 8) {
    return LengthsOf({.cost = model, .draft_cost = draft, .rows = 1, .outputs = outputs, .step_tokens = 128, .slowdown_max = 1.5},
                     {candidate})[0];
  };
  EXPECT_GE(length(small, kCandidate), 3u);
  EXPECT_EQ(length(large, kCandidate), 0u) << "as slow as what it would save";
  EXPECT_EQ(length(small, kCandidate, /*outputs=*/2), 2u);
  DraftCandidate candidate = kCandidate;
  candidate.right = 0.99;
  EXPECT_EQ(length(small, candidate), 8u);
  candidate.tokens_max = 5;
  EXPECT_EQ(length(small, candidate), 5u);
  candidate.right = 0.1;
  EXPECT_EQ(length(small, candidate), 0u);
  candidate = kCandidate;
  candidate.behind = 4000;
  EXPECT_GT(length(small, candidate), 0u) << "18 ms a thousand tokens, over a hundred steps";
  candidate.remaining = 10;
  EXPECT_EQ(length(small, candidate), 0u) << "the answer ends before it is read";
}

// The best length by a search over the gain as it is defined.
TEST(DraftPlanner, TheLengthThatGivesMost) {
  Rng rng(5);
  size_t drafted = 0;
  for (int round = 0; round < 300; ++round) {
    const StepCost model = CostOf(static_cast<int64_t>(5'000'000 + rng.Next() % 5'000'000), static_cast<int64_t>(rng.Next() % 1'000'000));
    const StepCost draft = CostOf(static_cast<int64_t>(rng.Next() % 3'000'000), static_cast<int64_t>(1 + rng.Next() % 100'000));
    DraftCandidate candidate = kCandidate;
    candidate.right = 0.3 + 0.69 * rng.Uniform();
    double best_gain = 1.05;
    size_t best = 0;
    double tokens = 1;
    double all_right = 1;
    for (size_t length = 1; length <= 8; ++length) {
      all_right *= candidate.right;
      if (all_right < 0.2) break;
      tokens += all_right;
      const double ns =
          static_cast<double>(model.Predict(1 + length)) + static_cast<double>(length) * static_cast<double>(draft.Predict(1));
      const double gain = tokens * static_cast<double>(model.Predict(1)) / ns;
      if (gain <= best_gain) continue;
      best_gain = gain;
      best = length;
    }
    const DraftPlanner::Step step = {.cost = model, .draft_cost = draft, .rows = 1, .outputs = 8, .step_tokens = 128, .slowdown_max = 1.5};
    ASSERT_EQ(LengthsOf(step, {candidate})[0], best) << round;
    drafted += best > 0 ? 1 : 0;
  }
  EXPECT_GT(drafted, 100u);
}

// Those for whom nothing is guessed keep their pace, and the room for guesses is shared.
TEST(DraftPlanner, ManySequences) {
  const StepCost model = CostOf(10'000'000, 100'000);
  const StepCost draft = CostOf(1'000'000, 10'000);
  const std::vector<DraftCandidate> four(4, kCandidate);
  DraftPlanner::Step step = {.cost = model, .draft_cost = draft, .rows = 4, .outputs = 8, .step_tokens = 128, .slowdown_max = 1.5};
  EXPECT_EQ(LengthsOf(step, four), std::vector<size_t>(4, 2));
  step.outputs = 3;
  EXPECT_EQ(LengthsOf(step, four), (std::vector<size_t>{1, 1, 1, 0}));
  // One is behind, and its reading leaves the other its pace.
  step.rows = 2;
  step.outputs = 8;
  std::vector<DraftCandidate> two(2, kCandidate);
  two[1].behind = 1000;
  step.slowdown_max = 2;
  DraftPlanner planner;
  const DraftWork work = planner.Next(step, two);
  ASSERT_EQ(work.lengths.size(), 2u);
  EXPECT_GT(work.lengths[0], 0u);
  EXPECT_GT(work.lengths[1], 0u);
  EXPECT_GE(work.rows_max, 17u);
  EXPECT_LE(
      draft.Predict(work.rows_max) + static_cast<int64_t>(work.lengths[0] - 1) * draft.Predict(1) + model.Predict(2 + work.lengths[0]),
      2 * model.Predict(2));
  step.slowdown_max = 1.01;
  const DraftWork tight = DraftPlanner().Next(step, two);
  EXPECT_TRUE(tight.lengths.empty() || tight.lengths[1] == 0) << "a token a step is not worth one";
  // A third one has no draft: what the guesses of the others take is limited too.
  step.rows = 3;
  step.slowdown_max = 1.2;
  const std::vector<size_t> lengths = LengthsOf(step, std::vector<DraftCandidate>(2, kCandidate));
  EXPECT_GT(lengths[0], 0u);
  EXPECT_LE(static_cast<int64_t>(lengths[0]) * draft.Predict(2) + model.Predict(3 + lengths[0] + lengths[1]), 12'400'000);
}

// Where it does not pay it is tried again, more and more seldom, and at once where it pays again.
TEST(DraftPlanner, TriesAgain) {
  const StepCost model = CostOf(10'000'000, 100'000);
  const StepCost draft = CostOf(9'000'000, 10'000);
  const StepCost small = CostOf(1'000'000, 10'000);
  DraftPlanner planner;
  std::vector<int> tries;
  const auto step = [&](const StepCost& cost) {
    const DraftWork work =
        planner.Next({.cost = model, .draft_cost = cost, .rows = 1, .outputs = 8, .step_tokens = 128, .slowdown_max = 1.5},
                     std::vector<DraftCandidate>{kCandidate});
    if (!work.lengths.empty()) planner.Observe(work.lengths[0], work.lengths[0]);
    return !work.lengths.empty();
  };
  for (int i = 0; i < 5000; ++i) {
    if (step(draft)) tries.push_back(i);
  }
  ASSERT_GE(tries.size(), 5u);
  EXPECT_LE(tries.size(), 12u);
  EXPECT_EQ(tries[0], 0);
  for (size_t i = 2; i < tries.size(); ++i) EXPECT_GE(tries[i] - tries[i - 1], tries[i - 1] - tries[i - 2]);
  EXPECT_LE(tries.back() - tries[tries.size() - 2], 1100) << "but not never";
  int drafted = 0;
  for (int i = 0; i < 48; ++i) drafted += step(small) ? 1 : 0;
  EXPECT_EQ(drafted, 36) << "three of four: what steps without take was measured three times only";
  StepCost often = model;
  for (int i = 0; i < 100; ++i) often.Observe(1, 10'100'000);
  drafted = 0;
  for (int i = 0; i < 50; ++i) {
    drafted += planner.Next({.cost = often, .draft_cost = small, .rows = 1, .outputs = 8, .step_tokens = 128, .slowdown_max = 1.5},
                            std::vector<DraftCandidate>{kCandidate})
                       .lengths.empty()
                   ? 0
                   : 1;
  }
  EXPECT_EQ(drafted, 48);
  EXPECT_GT(planner.overall().right(), 0.9);
}

// What steps without drafts take is known before there are any.
TEST(DraftPlanner, PlainStepsFirst) {
  StepCost model;
  const StepCost draft = CostOf(1'000'000, 10'000);
  DraftPlanner planner;
  const std::vector<DraftCandidate> one(1, kCandidate);
  model.Observe(5, 60'000'000);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(planner.Next({.cost = model, .draft_cost = draft, .rows = 1, .outputs = 8, .step_tokens = 128, .slowdown_max = 1.5}, one)
                    .lengths.empty());
    model.Observe(1, 10'000'000);
  }
  EXPECT_FALSE(planner.Next({.cost = model, .draft_cost = draft, .rows = 1, .outputs = 8, .step_tokens = 128, .slowdown_max = 1.5}, one)
                   .lengths.empty());
}

// Nothing is known of the draft model before it has run.
TEST(DraftPlanner, TheFirstTry) {
  const StepCost model = CostOf(10'000'000, 100'000);
  const StepCost unknown;
  DraftPlanner planner;
  std::vector<DraftCandidate> two(2, kCandidate);
  two[0].behind = 500;
  two[1].behind = 300;
  const DraftPlanner::Step step = {.cost = model, .draft_cost = unknown, .rows = 2, .outputs = 8, .step_tokens = 128, .slowdown_max = 1.5};
  const DraftWork work = planner.Next(step, two);
  EXPECT_EQ(work.lengths, (std::vector<size_t>{0, 3})) << "one is enough: that which is read soonest";
  EXPECT_EQ(work.rows_max, 16u);
  int tried = 0;
  for (int i = 0; i < 1000; ++i) tried += planner.Next(step, two).lengths.empty() ? 0 : 1;
  EXPECT_LT(tried, 500) << "where it never gets to a draft it is given up for a while";
  EXPECT_TRUE(planner.Next({.cost = model, .draft_cost = unknown, .rows = 1, .outputs = 0, .step_tokens = 128, .slowdown_max = 1.5}, two)
                  .lengths.empty());
}

}  // namespace
}  // namespace bantam
