// Adaptive mode: what an engine changes of itself to stay within a latency, a power or a share of the memory, and changes back when it can.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace bantam {

// 0: no target.
struct AdaptiveTargets {
  int64_t token_ns = 0;     // from one token of an answer to the next, for 95 of 100
  double watts = 0;         // of what the machine measures
  double memory_share = 0;  // of the limit, in use
  // No change goes below.
  size_t sequences_min = 1;
  size_t answer_tokens_min = 64;  // SIZE_MAX: answers are never cut

  bool any() const { return token_ns > 0 || watts > 0 || memory_share > 0; }
};

// InvalidArgument names the target that is out of range.
Status CheckAdaptiveTargets(const AdaptiveTargets& targets);
// Of what a user gave: milliseconds, watts and a percentage, 0 where there is no target. Errors: those of CheckAdaptiveTargets;
// InvalidArgument for milliseconds that are negative, no number, or more than an hour.
Result<AdaptiveTargets> ReadAdaptiveTargets(double token_ms, double watts, double memory_percent);
// Of memory so much has to be free beside the target before a change is taken back, so no target is lower.
inline constexpr double kMemoryRoom = 0.1;

// What may be changed.
struct AdaptiveSettings {
  size_t sequences = 1;             // that run at once
  size_t answer_tokens = SIZE_MAX;  // of a new answer, at most
  bool speculate = true;
  bool prefixes = true;  // are kept; false: what is free goes back to the system
  size_t precision = 0;  // which package of the model, 0: the best
  bool operator==(const AdaptiveSettings&) const = default;
};

// What was measured since the last look; nothing where nothing was.
struct AdaptiveView {
  int64_t now_ns = 0;
  std::optional<int64_t> token_ns = {};  // as in the targets
  std::optional<double> watts = {};
  std::optional<double> memory_share = {};
  size_t running = 0;  // sequences now
};

// A pure controller: the same views give the same changes. One step at a time, and time between two to see what it did: what did not help
// against latency or power is taken back at once, and left alone for a while. What was changed last is changed back first, when all targets
// were met with room to spare for a while; where that brings the trouble back, the next try comes twice as late.
class AdaptiveController {
 public:
  // A change is given so long to show; to change back, all has to be well for so long.
  static constexpr int64_t kSettleNs = 5'000'000'000;
  static constexpr int64_t kAnswersNs = 30'000'000'000;  // of what only new answers see
  static constexpr int64_t kCalmNs = 30'000'000'000;
  static constexpr int64_t kCalmMaxNs = 16 * kCalmNs;
  // Well is what is below this share of a target (of memory: a tenth of the limit below).
  static constexpr double kWell = 0.8;
  // A change helped if it took away so much of what was measured.
  static constexpr double kHelps = 0.03;

  // `best` is where nothing has to be changed; `precisions` names the packages that there are, the best first, or is empty.
  AdaptiveController(const AdaptiveTargets& targets, const AdaptiveSettings& best, std::vector<std::string> precisions);
  // Of one package, on an engine for so many sequences.
  static std::shared_ptr<AdaptiveController> Make(const AdaptiveTargets& targets, size_t sequences) {
    return std::make_shared<AdaptiveController>(targets, AdaptiveSettings{.sequences = sequences}, std::vector<std::string>());
  }

  // The change that is made now, with its reason; nothing otherwise. settings() are then others.
  std::optional<std::string> Update(const AdaptiveView& view);
  const AdaptiveSettings& settings() const { return settings_; }

 private:
  struct Trouble {
    enum class Of { kLatency, kPower, kMemory } of;
    double ratio;  // to the target
    std::string what;
  };
  // Ways to change something.
  enum class Way : uint8_t { kPrefixes, kDrafts, kSequences, kAnswers, kPrecision };
  static constexpr size_t kWays = 5;
  struct Step {
    AdaptiveSettings from;
    Way way;
    Trouble::Of of;
    double ratio;
  };
  std::optional<Trouble> Worst(const AdaptiveView& view) const;
  bool AllWell(const AdaptiveView& view) const;
  // The next step down for this trouble; nothing when all bounds are reached.
  std::optional<std::pair<Way, AdaptiveSettings>> Lower(const AdaptiveView& view, const Trouble& trouble) const;
  std::optional<AdaptiveSettings> LowerBy(Way way, const AdaptiveView& view) const;
  // Whether the last step was to help against this and did not.
  bool WasInVain(const Trouble& trouble) const;
  void TakeBack();
  std::string Describe(const AdaptiveSettings& from, const AdaptiveSettings& to) const;

  const AdaptiveTargets targets_;
  const std::vector<std::string> precisions_;
  AdaptiveSettings settings_;
  std::vector<Step> steps_;  // that stand
  // A way that did not help is not gone again before.
  std::array<int64_t, kWays> useless_until_ns_ = {};
  std::array<int64_t, kWays> useless_ns_ = {};
  int64_t changed_ns_ = INT64_MIN / 2;
  int64_t raised_ns_ = INT64_MIN / 2;  // a change was taken back
  int64_t settle_ns_ = kSettleNs;
  int64_t well_since_ns_ = -1;
  int64_t calm_ns_ = kCalmNs;
};

}  // namespace bantam
