#include "program/rope.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace bantam {
namespace {

constexpr std::pair<RopeScaling, std::string_view> kNames[] = {{RopeScaling::kNone, "none"},    {RopeScaling::kLinear, "linear"},
                                                               {RopeScaling::kNtk, "ntk"},      {RopeScaling::kDynamicNtk, "dynamic"},
                                                               {RopeScaling::kYarn, "yarn"},    {RopeScaling::kLongRope, "longrope"},
                                                               {RopeScaling::kLlama3, "llama3"}};

constexpr double kTwoPi = 6.283185307179586;

// The base that makes the slowest pair turn `factor` times slower and the fastest as before.
double NtkBase(const RopeSpec& spec, double factor) {
  const double n = static_cast<double>(spec.rotated_dimensions);
  return spec.rotated_dimensions > 2 ? spec.base * std::pow(factor, n / (n - 2)) : spec.base;
}

double BaseFor(const RopeSpec& spec, size_t context) {
  if (spec.scaling == RopeScaling::kNtk) return NtkBase(spec, spec.factor);
  if (spec.scaling == RopeScaling::kDynamicNtk && context > spec.original_context && spec.original_context > 0) {
    const double stretch = static_cast<double>(context) / static_cast<double>(spec.original_context);
    return NtkBase(spec, spec.factor * stretch - (spec.factor - 1));
  }
  return spec.base;
}

// The pair (as a real number) that turns `rotations` times over the original context (equation 17 of the YaRN paper).
double PairOfRotations(const RopeSpec& spec, double rotations) {
  const double n = static_cast<double>(spec.rotated_dimensions);
  return n * std::log(static_cast<double>(spec.original_context) / (rotations * kTwoPi)) / (2 * std::log(spec.base));
}

// How much of pair i is kept as it was: 1 for fast pairs, 0 for slow ones.
double YarnKept(const RopeSpec& spec, size_t i) {
  const double fast = PairOfRotations(spec, spec.beta_fast);
  const double slow = PairOfRotations(spec, spec.beta_slow);
  const double low = std::max(0.0, spec.truncate ? std::floor(fast) : fast);
  const double high = std::min(static_cast<double>(spec.rotated_dimensions) - 1, spec.truncate ? std::ceil(slow) : slow);
  const double ramp = (static_cast<double>(i) - low) / std::max(0.001, high - low);
  return (1 - std::clamp(ramp, 0.0, 1.0)) * spec.extrapolation;
}

double YarnMagnitude(const RopeSpec& spec) {
  const auto correction = [&](double multiplier) { return spec.factor <= 1 ? 1 : 0.1 * multiplier * std::log(spec.factor) + 1; };
  return spec.log_multiplier == 0 ? correction(1) : correction(1) / correction(spec.log_multiplier);
}

double Llama3Frequency(const RopeSpec& spec, double frequency) {
  const double turns = static_cast<double>(spec.original_context) * frequency / kTwoPi;  // over the original context
  if (turns < spec.low_frequency_factor) return frequency / spec.factor;
  if (turns > spec.high_frequency_factor) return frequency;
  const double kept = (turns - spec.low_frequency_factor) / (spec.high_frequency_factor - spec.low_frequency_factor);
  return (1 - kept) * frequency / spec.factor + kept * frequency;
}

double Scaled(const RopeSpec& spec, double frequency, size_t i) {
  switch (spec.scaling) {
    case RopeScaling::kNone:
    case RopeScaling::kNtk:
    case RopeScaling::kDynamicNtk:
    case RopeScaling::kLongRope:
      return frequency;
    case RopeScaling::kLinear:
      return frequency / spec.factor;
    case RopeScaling::kYarn: {
      const double kept = YarnKept(spec, i);
      return frequency / spec.factor * (1 - kept) + frequency * kept;
    }
    case RopeScaling::kLlama3:
      return Llama3Frequency(spec, frequency);
  }
  return frequency;
}

}  // namespace

std::string_view RopeScalingName(RopeScaling scaling) { return kNames[static_cast<size_t>(scaling)].second; }

std::optional<RopeScaling> RopeScalingFromName(std::string_view name) {
  for (const auto& [scaling, known] : kNames) {
    if (name == known) return scaling;
  }
  return std::nullopt;
}

bool DependsOnContext(const RopeSpec& spec) {
  return spec.scaling == RopeScaling::kDynamicNtk || (spec.scaling == RopeScaling::kLongRope && !spec.long_divisors.empty());
}

RopeAngles ResolveRope(const RopeSpec& spec, size_t context) {
  const bool is_long = spec.scaling == RopeScaling::kLongRope && context > spec.original_context && !spec.long_divisors.empty();
  const std::vector<float>& divisors = is_long ? spec.long_divisors : spec.divisors;
  CHECK(divisors.empty() || divisors.size() == spec.pairs());
  const double base = BaseFor(spec, context);
  RopeAngles angles;
  angles.inverse_frequency.resize(spec.pairs());
  for (size_t i = 0; i < spec.pairs(); ++i) {
    const double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(spec.rotated_dimensions));
    angles.inverse_frequency[i] = Scaled(spec, frequency, i);
    if (!divisors.empty()) angles.inverse_frequency[i] /= static_cast<double>(divisors[i]);
  }
  angles.magnitude = spec.attention_factor;
  if (spec.scaling == RopeScaling::kYarn && spec.extrapolation > 0) angles.magnitude *= YarnMagnitude(spec);
  return angles;
}

}  // namespace bantam
