#include "engine/adaptive.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace bantam {
namespace {

constexpr int64_t kTokenNsMax = 3'600'000'000'000;
constexpr double kWattsMax = 1e6;
// Where answers had no limit, the first one.
constexpr size_t kAnswerTokensFirst = 1024;

std::string Tokens(size_t tokens) { return tokens == SIZE_MAX ? std::string("without a limit") : fmt::format("at most {} tokens", tokens); }

Result<int64_t> TokenTargetNs(double milliseconds) {
  if (milliseconds >= 0 && milliseconds * 1e6 <= static_cast<double>(kTokenNsMax)) return static_cast<int64_t>(milliseconds * 1e6);
  return Error(Code::kInvalidArgument,
               fmt::format("a target of {} ms between tokens: expected 0 (none) to {}", milliseconds, kTokenNsMax / 1'000'000));
}

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

Result<AdaptiveTargets> ReadAdaptiveTargets(double token_ms, double watts, double memory_percent) {
  AdaptiveTargets targets = {.watts = watts, .memory_share = memory_percent / 100};
  BANTAM_ASSIGN(targets.token_ns, TokenTargetNs(token_ms));
  BANTAM_TRY(CheckAdaptiveTargets(targets));
  return targets;
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
    return Trouble{
        Trouble::Of::kMemory, memory,
        fmt::format("{:.0f} % of the memory is in use, and {:.0f} % is the target", 100 * *view.memory_share, 100 * targets_.memory_share)};
  }
  if (latency == worst) {
    return Trouble{
        Trouble::Of::kLatency, latency,
        fmt::format("{:.1f} ms between tokens, and {:.1f} ms is the target", token_ns / 1e6, static_cast<double>(targets_.token_ns) / 1e6)};
  }
  return Trouble{Trouble::Of::kPower, power, fmt::format("{:.1f} W, and {:.1f} W is the target", *view.watts, targets_.watts)};
}

bool AdaptiveController::AllWell(const AdaptiveView& view) const {
  const bool latency =
      targets_.token_ns == 0 || static_cast<double>(view.token_ns.value_or(0)) < kWell * static_cast<double>(targets_.token_ns);
  const bool power = targets_.watts == 0 || view.watts.value_or(0) < kWell * targets_.watts;
  const bool memory = targets_.memory_share == 0 || view.memory_share.value_or(0) < targets_.memory_share - kMemoryRoom;
  return latency && power && memory;
}

std::optional<AdaptiveSettings> AdaptiveController::LowerBy(Way way, const AdaptiveView& view) const {
  AdaptiveSettings lower = settings_;
  switch (way) {
    case Way::kPrefixes:
      lower.prefixes = false;
      break;
    case Way::kDrafts:
      lower.speculate = false;
      break;
    case Way::kSequences: {
      // Places that nobody takes are no change.
      const size_t taken = std::min(settings_.sequences, std::max(view.running, targets_.sequences_min));
      const size_t fewer = std::max(targets_.sequences_min, taken - (taken + 3) / 4);
      if (fewer < taken) lower.sequences = fewer;
      break;
    }
    case Way::kAnswers: {
      const size_t half = settings_.answer_tokens == SIZE_MAX ? kAnswerTokensFirst : settings_.answer_tokens / 2;
      lower.answer_tokens = std::min(settings_.answer_tokens, std::max(targets_.answer_tokens_min, half));
      break;
    }
    case Way::kPrecision:
      if (settings_.precision + 1 < precisions_.size()) ++lower.precision;
      break;
  }
  return lower == settings_ ? std::nullopt : std::optional(lower);
}

std::optional<std::pair<AdaptiveController::Way, AdaptiveSettings>> AdaptiveController::Lower(const AdaptiveView& view,
                                                                                              const Trouble& trouble) const {
  // Drafts of one make the steps of the others longer. Answers that are cut are the last resort.
  constexpr std::array kOrder = {Way::kDrafts, Way::kSequences, Way::kAnswers, Way::kPrecision};
  constexpr std::array kMemoryOrder = {Way::kPrefixes, Way::kPrecision, Way::kSequences, Way::kAnswers};
  for (const Way way : trouble.of == Trouble::Of::kMemory ? kMemoryOrder : kOrder) {
    if (trouble.of == Trouble::Of::kLatency && way == Way::kAnswers) continue;
    if (view.now_ns < useless_until_ns_[static_cast<size_t>(way)]) continue;
    if (const auto lower = LowerBy(way, view)) return std::pair(way, *lower);
  }
  return std::nullopt;
}

bool AdaptiveController::WasInVain(const Trouble& trouble) const {
  // Memory may be others', and comes back late.
  if (steps_.empty() || changed_ns_ == raised_ns_ || trouble.of == Trouble::Of::kMemory) return false;
  const Step& last = steps_.back();
  const bool shows_soon = last.way == Way::kDrafts || last.way == Way::kSequences;
  return shows_soon && last.of == trouble.of && trouble.ratio > (1 - kHelps) * last.ratio;
}

void AdaptiveController::TakeBack() {
  settings_ = steps_.back().from;
  steps_.pop_back();
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
    if (WasInVain(*trouble)) {
      const auto way = static_cast<size_t>(steps_.back().way);
      useless_ns_[way] = std::clamp(2 * useless_ns_[way], kCalmNs, kCalmMaxNs);
      useless_until_ns_[way] = view.now_ns + useless_ns_[way];
      TakeBack();
      changed_ns_ = view.now_ns;
      // The step before has shown already what it does.
      if (!steps_.empty()) steps_.back().ratio = INFINITY;
      return fmt::format("{}: that did not help: {}", trouble->what, Describe(from, settings_));
    }
    const auto lower = Lower(view, *trouble);
    if (!lower) return std::nullopt;
    // What was taken back was needed.
    if (changed_ns_ == raised_ns_) calm_ns_ = view.now_ns - raised_ns_ < calm_ns_ ? std::min(2 * calm_ns_, kCalmMaxNs) : kCalmNs;
    steps_.push_back({settings_, lower->first, trouble->of, trouble->ratio});
    settle_ns_ = lower->first == Way::kAnswers ? kAnswersNs : kSettleNs;
    settings_ = lower->second;
    changed_ns_ = view.now_ns;
    return fmt::format("{}: {}", trouble->what, Describe(from, settings_));
  }
  if (!AllWell(view) || steps_.empty()) {
    well_since_ns_ = -1;
    return std::nullopt;
  }
  if (well_since_ns_ < 0) well_since_ns_ = view.now_ns;
  // Where the last step back brought no trouble, the next one may come sooner.
  const int64_t wait_ns = changed_ns_ == raised_ns_ ? kCalmNs : calm_ns_;
  if (view.now_ns - well_since_ns_ < wait_ns) return std::nullopt;
  TakeBack();
  changed_ns_ = raised_ns_ = view.now_ns;
  settle_ns_ = kSettleNs;
  well_since_ns_ = -1;
  return fmt::format("all targets were met for {} s: {}", wait_ns / 1'000'000'000, Describe(from, settings_));
}

}  // namespace bantam
