#include "model/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace bantam {
namespace {

// Everything off but the temperature.
SamplerOptions Open(float temperature) {
  SamplerOptions options;
  options.temperature = temperature;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  options.seed = 1;
  return options;
}

std::map<uint32_t, int> DrawMany(const SamplerOptions& options, const std::vector<float>& logits, int n) {
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

// ---- Distributions: chi-square of 1e5 draws against probabilities computed here from the formula in sampler_steps.h ----

constexpr int kDraws = 100000;
const std::vector<float> kLogits = {1.2f, 0.3f, 2.5f, -0.7f, 0.9f, 1.7f, -1.5f, 0.1f};

std::vector<double> Softmax(const std::vector<double>& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  std::vector<double> p;
  for (const double logit : logits) total += p.emplace_back(std::exp(logit - largest));
  for (double& value : p) value /= total;
  return p;
}
std::vector<double> Logits() { return {kLogits.begin(), kLogits.end()}; }

// Tokens from the likeliest to the least likely.
std::vector<size_t> Ranked(const std::vector<double>& p) {
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  return order;
}

// p restricted to the tokens for which keep(token) holds.
template <typename Keep>
std::vector<double> Restricted(std::vector<double> p, Keep keep) {
  double total = 0;
  for (size_t i = 0; i < p.size(); ++i) total += p[i] = keep(i) ? p[i] : 0;
  for (double& value : p) value /= total;
  return p;
}

void ExpectDistribution(const SamplerOptions& options, const std::vector<double>& expected, std::span<const uint32_t> context = {}) {
  ASSERT_TRUE(CheckSamplerOptions(options).ok());
  Sampler sampler(options, kLogits.size());
  sampler.Observe(context);
  std::vector<int> counts(kLogits.size());
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.Sample(kLogits)];
  // The 0.1 % limits for 0 to 7 degrees of freedom.
  constexpr double kLimit[] = {0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32};
  double chi = 0;
  size_t possible = 0;
  for (size_t token = 0; token < expected.size(); ++token) {
    if (expected[token] == 0) {
      EXPECT_EQ(counts[token], 0) << "token " << token;
      continue;
    }
    ++possible;
    const double e = expected[token] * kDraws;
    chi += (counts[token] - e) * (counts[token] - e) / e;
  }
  ASSERT_GT(possible, 1u) << "a test of one token shows nothing";
  EXPECT_LT(chi, kLimit[possible - 1]);
}

TEST(Distribution, Temperature) {
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    std::vector<double> logits = Logits();
    for (double& logit : logits) logit /= static_cast<double>(temperature);
    ExpectDistribution(Open(temperature), Softmax(logits));
  }
}

TEST(Distribution, DynamicTemperature) {
  SamplerOptions options = Open(1);
  options.temperature_range = 0.6f;
  options.temperature_exponent = 2;
  const std::vector<double> p = Softmax(Logits());
  double entropy = 0;
  for (const double value : p) entropy -= value * std::log(value);
  const double temperature = 0.4 + 1.2 * std::pow(entropy / std::log(8.0), 2);
  std::vector<double> logits = Logits();
  for (double& logit : logits) logit /= temperature;
  ExpectDistribution(options, Softmax(logits));
}

TEST(Distribution, TopK) {
  SamplerOptions options = Open(1);
  options.top_k = 3;
  ExpectDistribution(options, Restricted(Softmax(Logits()), [](size_t i) { return i == 2 || i == 5 || i == 0; }));
}

TEST(Distribution, TopP) {
  SamplerOptions options = Open(1);
  options.top_p = 0.8f;
  const std::vector<double> p = Softmax(Logits());
  std::vector<bool> kept(8);
  double mass = 0;
  for (const size_t token : Ranked(p)) {
    if (mass >= 0.8) break;
    kept[token] = true;
    mass += p[token];
  }
  ExpectDistribution(options, Restricted(p, [&](size_t i) { return kept[i]; }));
}

TEST(Distribution, MinP) {
  SamplerOptions options = Open(1);
  options.min_p = 0.15f;
  const std::vector<double> p = Softmax(Logits());
  ExpectDistribution(options, Restricted(p, [&](size_t i) { return p[i] >= 0.15 * p[2]; }));
}

TEST(Distribution, Typical) {
  for (const float typical : {0.3f, 0.6f, 0.9f}) {
    SamplerOptions options = Open(1);
    options.typical = typical;
    const std::vector<double> p = Softmax(Logits());
    double entropy = 0;
    for (const double value : p) entropy -= value * std::log(value);
    std::vector<double> nearness;
    for (const double value : p) nearness.push_back(-std::fabs(-std::log(value) - entropy));
    std::vector<bool> kept(8);
    double mass = 0;
    for (const size_t token : Ranked(nearness)) {
      if (mass >= static_cast<double>(typical)) break;
      kept[token] = true;
      mass += p[token];
    }
    EXPECT_TRUE(typical > 0.5f || !kept[2]) << "the likeliest token is not the most typical one here";
    ExpectDistribution(options, Restricted(p, [&](size_t i) { return kept[i]; }));
  }
}

// Ties on the way to the most typical tokens: two likely ones are farther from the entropy than twelve equal ones.
TEST(Distribution, TypicalAmongEquals) {
  std::vector<float> logits(14, std::log(0.05f));
  logits[0] = logits[1] = std::log(0.2f);
  SamplerOptions options = Open(1);
  options.typical = 0.45f;
  const auto counts = DrawMany(options, logits, 5000);
  EXPECT_EQ(counts.size(), 9u) << "nine of 0.05 reach 0.45";
  EXPECT_FALSE(counts.contains(0) || counts.contains(1));
}

TEST(Distribution, TopNSigma) {
  SamplerOptions options = Open(1);
  options.top_n_sigma = 1.2f;
  const std::vector<double> logits = Logits();
  double mean = 0;
  double squares = 0;
  for (const double logit : logits) mean += logit / 8;
  for (const double logit : logits) squares += (logit - mean) * (logit - mean) / 8;
  ExpectDistribution(options, Restricted(Softmax(logits), [&](size_t i) { return logits[i] >= 2.5 - 1.2 * std::sqrt(squares); }));
}

TEST(Distribution, Xtc) {
  SamplerOptions options = Open(1);
  options.xtc = {.probability = 0.3f, .threshold = 0.12f};
  const std::vector<double> p = Softmax(Logits());
  const std::vector<size_t> order = Ranked(p);
  size_t above = 0;
  while (p[order[above]] >= 0.12) ++above;
  ASSERT_GE(above, 2u);
  std::vector<double> expected =
      Restricted(p, [&](size_t i) { return static_cast<size_t>(std::find(order.begin(), order.end(), i) - order.begin()) + 1 >= above; });
  for (size_t i = 0; i < 8; ++i) expected[i] = 0.3 * expected[i] + 0.7 * p[i];
  ExpectDistribution(options, expected);
}

TEST(Distribution, Penalties) {
  SamplerOptions options = Open(1);
  options.penalties = {.repetition = 1.5f, .frequency = 0.25f, .presence = 0.5f};
  options.penalty_window = 4;
  std::vector<double> logits = Logits();
  logits[2] = logits[2] / 1.5 - 2 * 0.25 - 0.5;
  logits[3] = logits[3] * 1.5 - 0.25 - 0.5;
  logits[7] = logits[7] / 1.5 - 0.25 - 0.5;
  ExpectDistribution(options, Softmax(logits), std::vector<uint32_t>{5, 5, 2, 3, 2, 7});
}

TEST(Distribution, Dry) {
  SamplerOptions options = Open(1);
  options.dry = {.multiplier = 0.4f, .base = 2, .allowed_length = 2};
  // The context ends in 1 2 3. Before, 1 2 3 was followed by 4 (a repetition of 3), 2 3 by 5 (of 2), and 3 by 6 (of 1: allowed).
  const std::vector<uint32_t> context = {1, 2, 3, 4, 0, 2, 3, 5, 3, 6, 1, 2, 3};
  std::vector<double> logits = Logits();
  logits[4] -= 0.4 * 2;
  logits[5] -= 0.4;
  ExpectDistribution(options, Softmax(logits), context);
  // A breaker within what would be repeated.
  options.dry_breakers = {2};
  ExpectDistribution(options, Softmax(Logits()), context);
  // A breaker is never penalised itself: 4 would extend the repetition.
  options.dry_breakers = {4};
  std::vector<double> without_breaker = Logits();
  without_breaker[5] -= 0.4;
  ExpectDistribution(options, Softmax(without_breaker), context);
  options.dry_breakers = {1};
  logits[4] = static_cast<double>(kLogits[4]) - 0.4;
  ExpectDistribution(options, Softmax(logits), context);
}

TEST(Distribution, LogitBias) {
  SamplerOptions options = Open(1);
  options.logit_bias = {{2, -1.5f}, {6, 2.0f}, {5, -INFINITY}, {1000, 1.0f}};
  std::vector<double> logits = Logits();
  logits[2] -= 1.5;
  logits[6] += 2;
  ExpectDistribution(options, Restricted(Softmax(logits), [](size_t i) { return i != 5; }));
}

TEST(Distribution, Mirostat2) {
  SamplerOptions options = Open(1);
  // With a learning rate of 0, mu stays at twice tau.
  options.mirostat = {.version = 2, .tau = 1.5f, .eta = 0};
  const std::vector<double> p = Softmax(Logits());
  ExpectDistribution(options, Restricted(p, [&](size_t i) { return -std::log2(p[i]) <= 3; }));
}

TEST(Distribution, Mirostat1) {
  SamplerOptions options = Open(1);
  options.mirostat = {.version = 1, .tau = 1, .eta = 0};
  const std::vector<double> p = Softmax(Logits());
  const std::vector<size_t> order = Ranked(p);
  double tb = 0;
  double tt = 0;
  for (size_t i = 1; i < 8; ++i) {
    const double t = std::log((static_cast<double>(i) + 1) / static_cast<double>(i));
    tb += t * std::log(p[order[i - 1]] / p[order[i]]);
    tt += t * t;
  }
  const double s = tb / tt;
  const double k = std::pow((s - 1) * 4 / (1 - std::pow(8.0, 1 - s)), 1 / s);
  ASSERT_GE(k, 2);
  ASSERT_LT(k, 7);
  std::vector<bool> kept(8);
  for (size_t i = 0; i < static_cast<size_t>(k); ++i) kept[order[i]] = true;
  ExpectDistribution(options, Restricted(p, [&](size_t i) { return kept[i]; }));
}

// What mirostat is for: the mean surprise of drawn tokens settles at tau.
TEST(Mirostat, SurpriseSettlesAtTheTarget) {
  constexpr size_t kVocabulary = 2000;
  std::vector<float> logits(kVocabulary);
  for (size_t i = 0; i < kVocabulary; ++i) logits[i] = -1.1f * std::log(static_cast<float>(i + 1));  // Zipf
  for (const int version : {1, 2}) {
    for (const float tau : {3.5f, 5.0f}) {
      SamplerOptions options = Open(1);
      options.mirostat = {.version = version, .tau = tau, .eta = 0.1f};
      Sampler sampler(options, kVocabulary);
      double total = 0;
      for (const float logit : logits) total += std::exp(static_cast<double>(logit));
      double surprise = 0;
      for (int i = 0; i < 4000; ++i) {
        const uint32_t token = sampler.Sample(logits);
        if (i >= 1000) surprise -= std::log2(std::exp(static_cast<double>(logits[token])) / total) / 3000;
      }
      EXPECT_NEAR(surprise, static_cast<double>(tau), 0.1) << version;
    }
  }
}

// Temperature before top-k or after makes no difference; before min-p it does.
TEST(Distribution, OrderMatters) {
  SamplerOptions options = Open(2);
  options.min_p = 0.3f;
  const std::vector<double> p = Softmax(Logits());
  std::vector<double> hot_logits = Logits();
  for (double& logit : hot_logits) logit /= 2;
  const std::vector<double> hot = Softmax(hot_logits);
  ExpectDistribution(options, Restricted(hot, [&](size_t i) { return p[i] >= 0.3 * p[2]; }));
  options.order = ParseSamplerSteps("temperature,min-p").value();
  ExpectDistribution(options, Restricted(hot, [&](size_t i) { return hot[i] >= 0.3 * hot[2]; }));
  options.order = ParseSamplerSteps("temperature").value();
  ExpectDistribution(options, hot);
}

TEST(SamplerSteps, NamesAreParsedAndRefused) {
  EXPECT_EQ(ParseSamplerSteps("top-k,temperature").value(), (std::vector<SamplerStep>{SamplerStep::kTopK, SamplerStep::kTemperature}));
  EXPECT_TRUE(ParseSamplerSteps("").value().empty());
  EXPECT_NE(ParseSamplerSteps("top-k,warm").error().message().find("--samplers warm: expected"), std::string::npos);
  EXPECT_FALSE(ParseSamplerSteps("top-k,top-k").ok());
}

// Every repetition by trying all, against the linear scan.
TEST(Repetitions, AsFoundByTryingAll) {
  Rng rng(8);
  for (int round = 0; round < 300; ++round) {
    std::vector<uint32_t> history(rng.Next() % 40);
    for (uint32_t& token : history) token = static_cast<uint32_t>(rng.Next() % 3);
    const size_t reach = rng.Next() % 3 == 0 ? rng.Next() % 6 : history.size();
    std::map<uint32_t, size_t> expected;
    for (size_t i = 0; i + 1 < history.size(); ++i) {
      size_t length = 0;
      while (length <= i && history[i - length] == history[history.size() - 1 - length]) ++length;
      length = std::min(length, reach);
      if (length > 0) expected[history[i + 1]] = std::max(expected[history[i + 1]], length);
    }
    std::map<uint32_t, size_t> got;
    std::vector<uint32_t> scratch(history.size());
    std::reverse(history.begin(), history.end());
    FindRepetitions(history, reach, scratch, [&](uint32_t token, size_t length) {
      if (length > 0) got[token] = std::max(got[token], length);
    });
    EXPECT_EQ(got, expected) << round;
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
  const auto kept = [&](const SamplerOptions& options) { return DrawMany(options, logits, 5000).size(); };
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
  options.penalties.repetition = 2;
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

// Rounding leaves the sum of many probabilities short of 1: what is left over must not fall to a token that is banned.
TEST(Sampler, BannedTokensAreNeverDrawn) {
  constexpr size_t kVocabulary = 128256;
  std::vector<float> logits(kVocabulary);
  for (size_t i = 0; i < kVocabulary; ++i) logits[i] = static_cast<float>(i % 97) * 0.01f;
  SamplerOptions options = Open(1);
  options.logit_bias = {{kVocabulary - 1, -INFINITY}};
  options.xtc = {.probability = 0.5f, .threshold = 0};
  Sampler sampler(options, kVocabulary);
  for (int i = 0; i < 300; ++i) EXPECT_NE(sampler.Sample(logits), kVocabulary - 1);
}

// Only allowed tokens are drawn, as if there were no others: as often as from a vocabulary of those alone.
TEST(Sampler, TokensThatAreNotAllowedDoNotExist) {
  std::vector<float> logits(100);
  Rng rng(5);
  for (float& logit : logits) logit = static_cast<float>(8 * rng.Uniform());
  std::vector<uint32_t> allowed(4);
  std::vector<uint32_t> ids;
  for (const uint32_t id : {3u, 31u, 32u, 64u, 99u}) {
    allowed[id / 32] |= uint32_t{1} << id % 32;
    ids.push_back(id);
  }
  std::vector<float> few;
  for (const uint32_t id : ids) few.push_back(logits[id]);
  for (const float temperature : {0.0f, 1.0f}) {
    SamplerOptions options;
    options.temperature = temperature;
    options.seed = 9;
    Sampler masked(options, logits.size());
    Sampler small(options, few.size());
    for (int i = 0; i < 200; ++i) ASSERT_EQ(masked.Sample(logits, allowed), ids[small.Sample(few)]);
  }
  SamplerOptions banned;
  for (const uint32_t id : ids) banned.logit_bias.push_back({id, -INFINITY});
  Sampler sampler(banned, logits.size());
  const uint32_t token = sampler.Sample(logits, allowed);
  EXPECT_NE(std::find(ids.begin(), ids.end(), token), ids.end()) << "a bias that bans all of them";
}

// The k likeliest are found without looking at the others twice: whatever is asked, as if all had been there. A bias too small to change a
// logit asks for all.
TEST(Sampler, FewCandidatesGiveWhatAllWouldHave) {
  Rng rng(17);
  for (int round = 0; round < 300; ++round) {
    const size_t vocabulary = 1 + rng.Next() % 400;
    SamplerOptions options;
    options.temperature = rng.Next() % 3 == 0 ? 0.0f : 0.8f;
    options.top_k = static_cast<uint32_t>(1 + rng.Next() % 50);
    options.top_p = rng.Next() % 2 == 0 ? 1.0f : 0.9f;
    options.penalties.repetition = rng.Next() % 2 == 0 ? 1.0f : 1.3f;
    options.penalties.frequency = rng.Next() % 2 == 0 ? 0.0f : 0.5f;
    options.penalty_window = static_cast<uint32_t>(rng.Next() % 20);
    options.seed = rng.Next();
    if (rng.Next() % 2 == 0) options.order = {SamplerStep::kTopK, SamplerStep::kPenalties, SamplerStep::kTopP, SamplerStep::kTemperature};
    for (int i = 0; i < 3 && rng.Next() % 2 == 0; ++i) {
      options.logit_bias.push_back({static_cast<uint32_t>(rng.Next() % vocabulary), rng.Next() % 2 == 0 ? -INFINITY : -2.0f});
    }
    Sampler few(options, vocabulary);
    options.logit_bias.push_back({0, 1e-30f});
    Sampler all(options, vocabulary);
    // A mask may end early.
    std::vector<uint32_t> allowed(1 + rng.Next() % ((vocabulary + 31) / 32), UINT32_MAX);
    for (uint32_t& word : allowed) word &= rng.Next() % 2 == 0 ? UINT32_MAX : static_cast<uint32_t>(rng.Next());
    allowed[0] |= 1;
    std::vector<float> logits(vocabulary);
    for (int token = 0; token < 20; ++token) {
      // Many are equal, and some are no numbers.
      for (float& logit : logits) logit = rng.Next() % 50 == 0 ? NAN : static_cast<float>(1 + rng.Next() % 24);
      const std::span<const uint32_t> mask = round % 2 == 0 ? std::span<const uint32_t>(allowed) : std::span<const uint32_t>();
      const uint32_t expected = all.Sample(logits, mask);
      ASSERT_EQ(few.Sample(logits, mask), expected) << "round " << round;
      few.Accept(expected);
      all.Accept(expected);
    }
  }
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
  options.penalties.repetition = 0;
  EXPECT_FALSE(CheckSamplerOptions(options).ok());
  EXPECT_TRUE(CheckSamplerOptions({}).ok());
}

}  // namespace
}  // namespace bantam
