#include "engine/adaptive.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/rng.h"

namespace bantam {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1'000 * kMs;
constexpr int64_t kLook = kSecond / 2;

bool Has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(Adaptive, LatencyTakesDraftsThenSequences) {
  AdaptiveController controller({.token_ns = 50 * kMs}, {.sequences = 8}, {});
  std::vector<std::string> changes;
  int64_t now = 0;
  for (; now < 120 * kSecond; now += kLook) {
    const AdaptiveSettings& settings = controller.settings();
    const int64_t token_ns = (settings.speculate ? 20 : 0) * kMs + 12 * kMs * static_cast<int64_t>(settings.sequences);
    const auto change = controller.Update({.now_ns = now, .token_ns = token_ns, .running = settings.sequences});
    if (change) changes.push_back(*change);
  }
  EXPECT_EQ(changes, (std::vector<std::string>{
                         "116.0 ms between tokens, and 50.0 ms is the target: no drafts",
                         "96.0 ms between tokens, and 50.0 ms is the target: 6 sequences at once instead of 8",
                         "72.0 ms between tokens, and 50.0 ms is the target: 4 sequences at once instead of 6",
                     }));
  EXPECT_EQ(controller.settings(), (AdaptiveSettings{.sequences = 4, .speculate = false}));
  // Between the marks nothing moves; below, all comes back, the last change first.
  for (const int64_t end = now + 300 * kSecond; now < end; now += kLook) {
    ASSERT_FALSE(controller.Update({.now_ns = now, .token_ns = 45 * kMs, .running = 1}));
  }
  changes.clear();
  for (const int64_t end = now + 300 * kSecond; now < end; now += kLook) {
    const auto change = controller.Update({.now_ns = now, .token_ns = 10 * kMs, .running = 1});
    if (change) changes.push_back(*change);
  }
  EXPECT_EQ(changes, (std::vector<std::string>{
                         "all targets were met for 30 s: 6 sequences at once instead of 4",
                         "all targets were met for 30 s: 8 sequences at once instead of 6",
                         "all targets were met for 30 s: drafts again",
                     }));
  EXPECT_EQ(controller.settings(), AdaptiveSettings{.sequences = 8});
}

// Where nothing helps, nothing stays changed, and it is tried ever less often.
TEST(Adaptive, WhatDoesNotHelpIsTakenBack) {
  AdaptiveController controller({.token_ns = 50 * kMs}, {.sequences = 8}, {});
  std::vector<std::string> changes;
  int64_t lowered = 0;
  for (int64_t now = 0; now < 3600 * kSecond; now += kLook) {
    const auto change = controller.Update({.now_ns = now, .token_ns = 80 * kMs, .running = controller.settings().sequences});
    if (change) changes.push_back(*change);
    lowered += controller.settings() == AdaptiveSettings{.sequences = 8} ? 0 : 1;
  }
  ASSERT_GE(changes.size(), 4u);
  EXPECT_EQ(changes[1], "80.0 ms between tokens, and 50.0 ms is the target: that did not help: drafts again");
  EXPECT_EQ(changes[3], "80.0 ms between tokens, and 50.0 ms is the target: that did not help: 8 sequences at once instead of 6");
  EXPECT_LT(changes.size(), 60u);
  EXPECT_LT(lowered, 3600 * kSecond / kLook / 10) << "a tenth of the time";
}

// What helped stays when the next step does not.
TEST(Adaptive, OnlyTheLastStepIsTakenBack) {
  AdaptiveController controller({.token_ns = 50 * kMs}, {.sequences = 8, .speculate = false}, {});
  for (int64_t now = 0; now < 25 * kSecond; now += kLook) {
    const auto sequences = static_cast<int64_t>(controller.settings().sequences);
    controller.Update({.now_ns = now, .token_ns = std::max<int64_t>(60, 12 * sequences) * kMs, .running = controller.settings().sequences});
  }
  EXPECT_EQ(controller.settings().sequences, 4u) << "6 and then 4 helped, 3 did not";
}

TEST(Adaptive, PlacesThatNobodyTakesAreNoChange) {
  AdaptiveController controller({.token_ns = 50 * kMs, .sequences_min = 2}, {.sequences = 8, .speculate = false}, {});
  ASSERT_TRUE(controller.Update({.now_ns = 0, .token_ns = 80 * kMs, .running = 3}));
  EXPECT_EQ(controller.settings().sequences, 2u);
  EXPECT_FALSE(controller.Update({.now_ns = 10 * kSecond, .token_ns = 80 * kMs, .running = 3})) << "the bound";
}

TEST(Adaptive, MemoryTakesPrecisionFirst) {
  AdaptiveController controller({.memory_share = 0.9, .answer_tokens_min = 500}, {.sequences = 1}, {"Q8_0", "Q4_K"});
  const auto look = [&](int64_t second, double share) {
    return controller.Update({.now_ns = second * kSecond, .memory_share = share}).value_or("");
  };
  EXPECT_EQ(look(0, 0.9), "");
  EXPECT_EQ(look(1, 0.93), "93 % of the memory is in use, and 90 % is the target: prefixes are not kept");
  EXPECT_EQ(look(2, 0.99), "") << "it has time to show";
  EXPECT_TRUE(Has(look(7, 0.95), "the model in Q4_K instead of Q8_0"));
  EXPECT_TRUE(Has(look(13, 0.95), "answers at most 1024 tokens instead of without a limit"));
  EXPECT_EQ(look(19, 0.95), "") << "answers that run have to end first";
  EXPECT_TRUE(Has(look(44, 0.95), "answers at most 512 tokens instead of at most 1024 tokens"));
  EXPECT_TRUE(Has(look(75, 0.95), "answers at most 500 tokens"));
  EXPECT_EQ(look(106, 0.95), "") << "all bounds are reached";
  EXPECT_EQ(look(200, 0.85), "");
  EXPECT_EQ(look(300, 0.85), "") << "not enough room to go back";
}

// Answers that run stay: nothing more is changed before the last change can show.
TEST(Adaptive, WaitsForAnswersThatRun) {
  AdaptiveController controller({.token_ns = 50 * kMs}, {.sequences = 8, .speculate = false}, {});
  int64_t now = 0;
  for (; now < 60 * kSecond; now += kLook) controller.Update({.now_ns = now, .token_ns = 80 * kMs, .running = 8});
  EXPECT_EQ(controller.settings().sequences, 6u);
  for (; now < 70 * kSecond; now += kLook) controller.Update({.now_ns = now, .token_ns = 60 * kMs, .running = 6});
  EXPECT_EQ(controller.settings().sequences, 4u);
}

TEST(Adaptive, PowerShortensAnswers) {
  AdaptiveController controller({.watts = 5}, {.sequences = 1, .speculate = false}, {});
  EXPECT_EQ(controller.Update({.now_ns = 0, .watts = 6.25, .running = 1}).value_or(""),
            "6.2 W, and 5.0 W is the target: answers at most 1024 tokens instead of without a limit");
  EXPECT_FALSE(controller.Update({.now_ns = 60 * kSecond})) << "nothing is known of the power";
}

// A machine whose latency follows the sequences: the controller settles, and tries again ever less often.
TEST(Adaptive, DoesNotFlutter) {
  AdaptiveController controller({.token_ns = 50 * kMs}, {.sequences = 8, .speculate = false}, {});
  Rng rng(3);
  std::vector<int64_t> changes;
  for (int64_t now = 0; now < 7200 * kSecond; now += kLook) {
    const auto sequences = static_cast<int64_t>(controller.settings().sequences);
    const int64_t noise = static_cast<int64_t>(rng.Next() % 3) * kMs;
    // Of 4 sequences 36 to 38 ms: well below, so that 6 are tried again and again.
    if (controller.Update({.now_ns = now, .token_ns = 9 * sequences * kMs + noise, .running = controller.settings().sequences})) {
      changes.push_back(now);
    }
  }
  EXPECT_LT(changes.size(), 45u);
  ASSERT_GT(changes.size(), 4u);
  for (size_t i = 1; i < changes.size(); ++i) ASSERT_GE(changes[i] - changes[i - 1], AdaptiveController::kSettleNs);
  EXPECT_GE(changes.back() - changes[changes.size() - 3], AdaptiveController::kCalmMaxNs);
}

// Whatever comes: bounds hold, changes leave time, and every change says why.
TEST(Adaptive, RandomViewsKeepTheBounds) {
  const AdaptiveTargets targets = {.token_ns = 50 * kMs, .watts = 5, .memory_share = 0.9, .sequences_min = 2, .answer_tokens_min = 100};
  const AdaptiveSettings best = {.sequences = 16, .answer_tokens = 5000};
  for (uint64_t seed = 0; seed < 20; ++seed) {
    AdaptiveController controller(targets, best, {"F16", "Q8_0", "Q4_0"});
    Rng rng(seed);
    int64_t now = 0;
    int64_t changed = -AdaptiveController::kSettleNs;
    for (int i = 0; i < 3000; ++i, now += kLook) {
      AdaptiveView view = {.now_ns = now, .running = rng.Next() % (1 + controller.settings().sequences)};
      const double level = i / 300 % 2 == 0 ? 1.3 : 0.5;  // times of trouble and of none
      if (rng.Next() % 4 != 0) view.token_ns = static_cast<int64_t>(level * rng.Uniform() * 60.0 * kMs);
      if (rng.Next() % 4 != 0) view.watts = level * 6 * rng.Uniform();
      if (rng.Next() % 4 != 0) view.memory_share = std::min(1.0, level * rng.Uniform());
      const AdaptiveSettings before = controller.settings();
      const auto change = controller.Update(view);
      const AdaptiveSettings& now_set = controller.settings();
      ASSERT_EQ(change.has_value(), !(now_set == before));
      if (!change) continue;
      ASSERT_TRUE(Has(*change, "target")) << *change;
      ASSERT_GE(now - changed, AdaptiveController::kSettleNs);
      changed = now;
      ASSERT_TRUE(now_set.sequences >= targets.sequences_min && now_set.sequences <= best.sequences);
      ASSERT_TRUE(now_set.answer_tokens >= targets.answer_tokens_min && now_set.answer_tokens <= best.answer_tokens);
      ASSERT_LT(now_set.precision, 3u);
    }
    for (const int64_t end = now + 3600 * kSecond; now < end; now += kLook) controller.Update({.now_ns = now});
    EXPECT_EQ(controller.settings(), best) << "an hour without trouble";
  }
}

TEST(Adaptive, TargetsAreChecked) {
  EXPECT_TRUE(CheckAdaptiveTargets({}).ok());
  EXPECT_TRUE(CheckAdaptiveTargets({.token_ns = kSecond, .watts = 10, .memory_share = 1}).ok());
  for (const AdaptiveTargets& wrong :
       {AdaptiveTargets{.token_ns = -1}, AdaptiveTargets{.watts = -1}, AdaptiveTargets{.memory_share = 1.5},
        AdaptiveTargets{.memory_share = 0.1}, AdaptiveTargets{.sequences_min = 0}, AdaptiveTargets{.answer_tokens_min = 0}}) {
    EXPECT_EQ(CheckAdaptiveTargets(wrong).error().code(), Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace bantam
