#include "engine/adaptive.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace bantam {
namespace {

constexpr int64_t kTokenNsMax = 3'600'000'000'000;
constexpr double kWattsMax = 1e6;
// Where answers had no limit, the first one.
constexpr size_t kAnswerTokensFirst = 1024;

std::string Tokens(size_t tokens) { return tokens == SIZE_MAX ? std::string("without a limit") : fmt::format("at most {} tokens", tokens); }

}  // namespace

Status CheckAdaptiveTargets(const AdaptiveTargets& targets) {
  BANTAM_TRY(TokenTargetNs(static_cast<double>(targets.token_ns) / 1e6));
  if (!(targets.watts >= 0 && targets.watts <= kWattsMax)) {
    return Error(Code::kInvalidArgument, fmt::format("a target of {} watts: expected 0 (none) to {}", targets.watts, kWattsMax));
  }
  if (targets.memory_share != 0 && !(targets.memory_share > kMemoryRoom && targets.memory_share <= 1)) {
    return Error(Code::kInvalidArgument, fmt::format("a target of {} % of the memory: expected 0 (none), or more than {} and at most 100",
                                                     100 * targets.memory_share, 100 * kMemoryRoom));
  }
  if (targets.sequences_min == 0 || targets.answer_tokens_min == 0) {
    return Error(Code::kInvalidArgument, "a bound of 0 sequences or tokens: expected at least 1");
  }
  return Ok();
}

Result<int64_t> TokenTargetNs(double milliseconds) {
  if (milliseconds >= 0 && milliseconds * 1e6 <= static_cast<double>(kTokenNsMax)) return static_cast<int64_t>(milliseconds * 1e6);
  return Error(Code::kInvalidArgument,
               fmt::format("a target of {} ms between tokens: expected 0 (none) to {}", milliseconds, kTokenNsMax / 1'000'000));
}

AdaptiveController::AdaptiveController(const AdaptiveTargets& targets, const AdaptiveSettings& best, std::vector<std::string> precisions)
    : targets_(targets), precisions_(std::move(precisions)), settings_(best) {}

std::optional<AdaptiveController::Trouble> AdaptiveController::Worst(const AdaptiveView& view) const {
  const double token_ns = static_cast<double>(view.token_ns.value_or(0));
  const double latency = targets_.token_ns == 0 ? 0 : token_ns / static_cast<double>(targets_.token_ns);
  const double power = targets_.watts == 0 ? 0 : view.watts.value_or(0) / targets_.watts;
  const double memory = targets_.memory_share == 0 ? 0 : view.memory_share.value_or(0) / targets_.memory_share;
  const double worst = std::max({latency, power, memory});
  if (worst <= 1) return std::nullopt;
  // What ends processes comes first.
  if (memory > 1) {
    return Trouble{Trouble::Of::kMemory, fmt::format("{:.0f} % of the memory is in use, and {:.0f} % is the target",
                                                     100 * *view.memory_share, 100 * targets_.memory_share)};
  }
  if (latency == worst) {
    return Trouble{Trouble::Of::kLatency, fmt::format("{:.1f} ms between tokens, and {:.1f} ms is the target", token_ns / 1e6,
                                                      static_cast<double>(targets_.token_ns) / 1e6)};
  }
  return Trouble{Trouble::Of::kPower, fmt::format("{:.1f} W, and {:.1f} W is the target", *view.watts, targets_.watts)};
}

bool AdaptiveController::AllWell(const AdaptiveView& view) const {
  const bool latency =
      targets_.token_ns == 0 || static_cast<double>(view.token_ns.value_or(0)) < kWell * static_cast<double>(targets_.token_ns);
  const bool power = targets_.watts == 0 || view.watts.value_or(0) < kWell * targets_.watts;
  const bool memory = targets_.memory_share == 0 || view.memory_share.value_or(0) < targets_.memory_share - kMemoryRoom;
  return latency && power && memory;
}

std::optional<AdaptiveSettings> AdaptiveController::Lower(const AdaptiveView& view, const Trouble& trouble) const {
  AdaptiveSettings lower = settings_;
  const auto fewer_sequences = [&] {
    // Places that nobody takes are no change.
    const size_t taken = std::min(settings_.sequences, std::max(view.running, targets_.sequences_min));
    lower.sequences = std::max(targets_.sequences_min, taken - (taken + 3) / 4);
    return lower.sequences < taken;
  };
  const auto shorter_answers = [&] {
    const size_t half = settings_.answer_tokens == SIZE_MAX ? kAnswerTokensFirst : settings_.answer_tokens / 2;
    lower.answer_tokens = std::max(targets_.answer_tokens_min, half);
    return lower.answer_tokens < settings_.answer_tokens;
  };
  const auto no_prefixes = [&] { return std::exchange(lower.prefixes, false); };
  const auto no_drafts = [&] { return std::exchange(lower.speculate, false); };
  const auto less_precision = [&] { return ++lower.precision < precisions_.size(); };
  const auto take = [&](auto... ways) -> std::optional<AdaptiveSettings> {
    const auto lowers = [&](auto way) {
      lower = settings_;
      return way();
    };
    return (lowers(ways) || ...) ? std::optional(lower) : std::nullopt;
  };
  switch (trouble.of) {
    case Trouble::Of::kLatency:
      // Drafts of one make the steps of the others longer.
      return take(no_drafts, fewer_sequences, less_precision);
    case Trouble::Of::kPower:
      return take(no_drafts, fewer_sequences, shorter_answers, less_precision);
    case Trouble::Of::kMemory:
      return take(no_prefixes, less_precision, fewer_sequences, shorter_answers);
  }
  return std::nullopt;
}

std::string AdaptiveController::Describe(const AdaptiveSettings& from, const AdaptiveSettings& to) const {
  if (to.precision != from.precision)
    return fmt::format("the model in {} instead of {}", precisions_[to.precision], precisions_[from.precision]);
  if (to.sequences != from.sequences) return fmt::format("{} sequences at once instead of {}", to.sequences, from.sequences);
  if (to.answer_tokens != from.answer_tokens)
    return fmt::format("answers {} instead of {}", Tokens(to.answer_tokens), Tokens(from.answer_tokens));
  if (to.prefixes != from.prefixes) return to.prefixes ? "prefixes are kept again" : "prefixes are not kept";
  return to.speculate ? "drafts again" : "no drafts";
}

std::optional<std::string> AdaptiveController::Update(const AdaptiveView& view) {
  const std::optional<Trouble> trouble = Worst(view);
  const AdaptiveSettings from = settings_;
  if (trouble) {
    well_since_ns_ = -1;
    // What was changed has to be there before it can show: answers that run stay.
    if (view.now_ns - changed_ns_ < settle_ns_ || view.running > settings_.sequences) return std::nullopt;
    const std::optional<AdaptiveSettings> lower = Lower(view, *trouble);
    if (!lower) return std::nullopt;
    // What was taken back was needed.
    if (changed_ns_ == raised_ns_) calm_ns_ = view.now_ns - raised_ns_ < calm_ns_ ? std::min(2 * calm_ns_, kCalmMaxNs) : kCalmNs;
    before_.push_back(settings_);
    settle_ns_ = lower->answer_tokens == settings_.answer_tokens ? kSettleNs : kAnswersNs;
    settings_ = *lower;
    changed_ns_ = view.now_ns;
    return fmt::format("{}: {}", trouble->what, Describe(from, settings_));
  }
  if (!AllWell(view) || before_.empty()) {
    well_since_ns_ = -1;
    return std::nullopt;
  }
  if (well_since_ns_ < 0) well_since_ns_ = view.now_ns;
  // Where the last step back brought no trouble, the next one may come sooner.
  const int64_t wait_ns = changed_ns_ == raised_ns_ ? kCalmNs : calm_ns_;
  if (view.now_ns - well_since_ns_ < wait_ns) return std::nullopt;
  settings_ = before_.back();
  before_.pop_back();
  changed_ns_ = raised_ns_ = view.now_ns;
  settle_ns_ = kSettleNs;
  well_since_ns_ = -1;
  return fmt::format("all targets were met for {} s: {}", wait_ns / 1'000'000'000, Describe(from, settings_));
}

}  // namespace bantam
