// Numbers of JSON within bounds, as automata over their digits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "text/structured/char_automaton.h"

namespace bantam {

// A decimal number, exactly.
struct Decimal {
  bool negative = false;
  std::string whole;     // digits without leading zeros; empty for 0
  std::string fraction;  // digits without trailing zeros

  static std::optional<Decimal> Parse(std::string_view text);
  static Decimal Of(const Json& number);
  bool zero() const { return whole.empty() && fraction.empty(); }
  bool integer() const { return fraction.empty(); }
  Decimal Negated() const;
  int Compare(const Decimal& other) const;
};

struct NumberBound {
  Decimal value;
  bool exclusive = false;
};

struct NumberSpec {
  bool integer = false;     // without a fraction
  bool fractional = false;  // with one that is not 0
  std::optional<NumberBound> low = {};
  std::optional<NumberBound> high = {};
  std::vector<Decimal> multiples = {};
  std::vector<Decimal> excluded = {};
};

// The same text for the same specification.
std::string KeyOf(const NumberSpec& spec);

// What is written has so many digits at most, so that readers with binary64 see the same order and no infinity.
inline constexpr uint32_t kNumberDigitsMax = 15;
inline constexpr uint32_t kIntegerDigitsMax = 18;  // where no exclusive bound has to be told from its neighbours

// Unsupported, with the reason, for what digits cannot guarantee.
Result<CharDfa> NumberAutomaton(const NumberSpec& spec, const AutomatonLimits& limits);

// Whether a value meets the specification.
bool MeetsNumberSpec(const NumberSpec& spec, const Json& number);

}  // namespace bantam
