#include "program/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace bantam {
namespace {

// Worked out by hand from the published definition.
TEST(SparseMixer, WeightsAreSoftmaxesOverThoseThatAreClose) {
  const auto weight = [](const std::vector<float>& logits, const std::vector<int32_t>& chosen) {
    return SparseMixerWeight(logits, chosen, /*jitter=*/0.01f);
  };
  const std::vector<float> apart = {4.5f, 5, 4, -3};
  EXPECT_EQ(weight(apart, {1}), 1);
  EXPECT_EQ(weight(apart, {1, 0}), 1) << "each has a softmax of its own";
  EXPECT_FLOAT_EQ(weight({4, 4.95f, 5, 4}, {2}), 1 / (1 + std::exp(4.95f - 5)));
  EXPECT_FLOAT_EQ(weight({4, 4.95f, 5, 4.93f}, {2, 1}), 1 / (1 + std::exp(4.93f - 4.95f))) << "the first is out of it";
  // Below zero the logit's own magnitude counts.
  EXPECT_FLOAT_EQ(weight({-1, -1.01f, -1.03f}, {0}), 1 / (1 + std::exp(-0.01f)));
  EXPECT_FLOAT_EQ(weight({0, 0, -1}, {0}), 0.5f);
}

TEST(Probabilities, Softmax) {
  const std::vector<float> logits = {1, 2, 3};
  const double total = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  RouteOp op = {};
  op.normalize = false;
  const Probabilities all(op, logits);
  for (const float logit : logits) EXPECT_NEAR(all.Of(logit), std::exp(static_cast<double>(logit)) / total, 1e-7);
  op.gating = Gating::kSigmoid;
  EXPECT_NEAR(Probabilities(op, logits).Of(2), 1 / (1 + std::exp(-2.0)), 1e-7);
}

}  // namespace
}  // namespace bantam
