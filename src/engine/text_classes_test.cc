#include "engine/text_classes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace bantam {
namespace {

using ::testing::HasSubstr;

TEST(TextClasses, ASoftmaxSumsToOneWhateverTheScores) {
  for (const float shift : {0.0f, 1e4f, -3e38f}) {
    std::vector<float> scores = {shift + 1, shift, shift};
    const bool apart = scores[0] != scores[1];
    Activate(ClassActivation::kSoftmax, scores);
    const float expected = apart ? static_cast<float>(std::exp(1) / (std::exp(1) + 2)) : 1.0f / 3;
    EXPECT_NEAR(scores[0], expected, 1e-4f) << shift;
    EXPECT_NEAR(scores[0] + scores[1] + scores[2], 1, 1e-6f) << shift;
  }
}

TEST(TextClasses, ASigmoidIsOfEachByItself) {
  std::vector<float> scores = {0, 1e4f, -1e4f, 1};
  Activate(ClassActivation::kSigmoid, scores);
  EXPECT_EQ(scores[0], 0.5f);
  EXPECT_EQ(scores[1], 1);
  EXPECT_EQ(scores[2], 0);
  EXPECT_NEAR(scores[3], 0.7310586f, 1e-7f);
  std::vector<float> same = {3, -2};
  Activate(ClassActivation::kNothing, same);
  EXPECT_EQ(same, (std::vector<float>{3, -2}));
}

TEST(TextClasses, WhatTheModelSaysComesFirst) {
  TextRules rules;
  EXPECT_EQ(ActivationOf(rules, 1), ClassActivation::kNothing);
  EXPECT_EQ(ActivationOf(rules, 3), ClassActivation::kSoftmax);
  rules.activation = ClassActivation::kSigmoid;
  EXPECT_EQ(ActivationOf(rules, 1), ClassActivation::kSigmoid);
  EXPECT_EQ(ActivationOf(rules, 3), ClassActivation::kSigmoid);
  rules.labels = {"a", "b"};
  EXPECT_TRUE(CheckLabels(rules, 2).ok());
  EXPECT_THAT(CheckLabels(rules, 3).error().message(), HasSubstr("2 labels for a classifier of 3 classes"));
}

TEST(TextClasses, TheLargestFirst) {
  const std::vector<float> values = {1, 3, 2, 3};
  EXPECT_EQ(TopClasses(values, 0), (std::vector<size_t>{1, 3, 2, 0}));
  EXPECT_EQ(TopClasses(values, 2), (std::vector<size_t>{1, 3}));
  EXPECT_EQ(TopClasses(values, 9), (std::vector<size_t>{1, 3, 2, 0}));
}

TEST(TextClasses, Rankings) {
  TextRules rules;
  std::vector<float> scores = {2};
  EXPECT_EQ(RankingOf(rules, 1)->Of(scores), 2);
  rules.activation = ClassActivation::kSigmoid;
  EXPECT_NEAR(RankingOf(rules, 1)->Of(scores), 0.880797f, 1e-6f);
  // Yes against no, wherever they stand.
  rules = {};
  rules.labels = {"no", "yes"};
  std::vector<float> answers = {1, 3};
  EXPECT_NEAR(RankingOf(rules, 2)->Of(answers), 0.880797f, 1e-6f);
  rules.labels = {"good", "bad"};
  EXPECT_THAT(RankingOf(rules, 2).error().message(),
              HasSubstr("a classifier of 2 classes: texts are ranked by one score, so take a model that gives one"));
}

}  // namespace
}  // namespace bantam
