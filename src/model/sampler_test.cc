#include "model/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace bantam {
namespace {

SamplerOptions Open(float temperature) {
  return {.temperature = temperature, .top_k = 0, .top_p = 1, .min_p = 0, .repetition_penalty = 1, .penalty_window = 64, .seed = 1};
}

std::map<uint32_t, int> Draw(const SamplerOptions& options, const std::vector<float>& logits, int n) {
  Sampler sampler(options, logits.size());
  std::map<uint32_t, int> counts;
  for (int i = 0; i < n; ++i) ++counts[sampler.Sample(logits)];
  return counts;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerIdOfEquals) {
  Sampler sampler(Open(0), 4);
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 3, 2, 3}), 1u);
  EXPECT_EQ(sampler.Sample(std::vector<float>{NAN, -5, NAN, -6}), 1u) << "NaN is never chosen";
}

// Chi-square of 1e5 draws against softmax(logits / t), 3 degrees of freedom: 16.3 is the 0.1 % limit.
TEST(Sampler, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {0, 1, -1, 0.5f};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    double total = 0;
    std::vector<double> expected;
    for (const float logit : logits) expected.push_back(std::exp(static_cast<double>(logit / temperature)));
    for (const double e : expected) total += e;
    auto counts = Draw(Open(temperature), logits, 100000);
    double chi = 0;
    for (uint32_t token = 0; token < 4; ++token) {
      const double e = expected[token] / total * 100000;
      chi += (counts[token] - e) * (counts[token] - e) / e;
    }
    EXPECT_LT(chi, 16.3) << temperature;
  }
}

TEST(Sampler, SameSeedSameTokens) {
  const std::vector<float> logits(50, 0.0f);
  Sampler a(Open(1), 50);
  Sampler b(Open(1), 50);
  SamplerOptions other = Open(1);
  other.seed = 2;
  Sampler c(other, 50);
  int different = 0;
  for (int i = 0; i < 100; ++i) {
    const uint32_t token = a.Sample(logits);
    EXPECT_EQ(token, b.Sample(logits));
    different += token != c.Sample(logits) ? 1 : 0;
  }
  EXPECT_GT(different, 80);
}

TEST(Sampler, FiltersKeepWhatTheyPromise) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  const auto kept = [&](const SamplerOptions& options) { return Draw(options, logits, 5000).size(); };
  SamplerOptions options = Open(1);
  EXPECT_EQ(kept(options), 4u);
  options.top_k = 2;
  EXPECT_EQ(kept(options), 2u);
  options = Open(1);
  options.top_p = 0.79f;
  EXPECT_EQ(kept(options), 2u) << "0.5 + 0.3 reaches 0.79";
  options.top_p = 0.81f;
  EXPECT_EQ(kept(options), 3u);
  options.top_p = 1e-6f;
  EXPECT_EQ(kept(options), 1u) << "never nothing";
  options = Open(1);
  options.min_p = 0.25f;
  EXPECT_EQ(kept(options), 3u) << "0.15 is at least a quarter of 0.5, 0.05 is not";
}

TEST(Sampler, RepetitionPenaltyPushesSeenTokensDown) {
  SamplerOptions options = Open(0);
  options.repetition_penalty = 2;
  options.penalty_window = 2;
  Sampler sampler(options, 3);
  const std::vector<float> logits = {4, 3, -1};
  EXPECT_EQ(sampler.Sample(logits), 0u);
  sampler.Accept(0);
  EXPECT_EQ(sampler.Sample(logits), 1u) << "4 / 2 < 3";
  sampler.Accept(1);
  EXPECT_EQ(sampler.Sample(logits), 0u) << "4 / 2 > 3 / 2";
  sampler.Accept(2);
  sampler.Accept(2);
  EXPECT_EQ(sampler.Sample(logits), 0u) << "0 has left the window";
  const std::vector<float> negative = {-3, -4, -1};
  EXPECT_EQ(sampler.Sample(negative), 2u) << "-1 * 2 is still above -3";
}

TEST(Sampler, HopelessLogitsStillGiveAToken) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplerOptions options = Open(temperature);
    options.top_p = 0.9f;
    Sampler sampler(options, 3);
    EXPECT_LT(sampler.Sample(std::vector<float>{NAN, NAN, NAN}), 3u);
    EXPECT_LT(sampler.Sample(std::vector<float>{INFINITY, INFINITY, 0}), 3u);
    EXPECT_LT(sampler.Sample(std::vector<float>{-INFINITY, -INFINITY, -INFINITY}), 3u);
  }
}

TEST(SamplerOptions, OutOfRangeIsNamed) {
  SamplerOptions options;
  options.temperature = -1;
  EXPECT_NE(CheckSamplerOptions(options).error().message().find("--temperature"), std::string::npos);
  options = {};
  options.top_p = 0;
  EXPECT_FALSE(CheckSamplerOptions(options).ok());
  options = {};
  options.min_p = NAN;
  EXPECT_FALSE(CheckSamplerOptions(options).ok());
  options = {};
  options.repetition_penalty = 0;
  EXPECT_FALSE(CheckSamplerOptions(options).ok());
  EXPECT_TRUE(CheckSamplerOptions({}).ok());
}

}  // namespace
}  // namespace bantam
