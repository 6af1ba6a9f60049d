#include "text/structured/number_automaton.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "text/structured/pattern.h"

namespace bantam {
namespace {

constexpr int kExponentMax = 400;
constexpr uint64_t kMultipleMax = 10'000;  // an automaton of remainders has as many states

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string DigitsAt(std::string_view text, size_t* at) {
  const size_t begin = *at;
  while (*at < text.size() && IsDigit(text[*at])) ++*at;
  return std::string(text.substr(begin, *at - begin));
}

// The digits of magnitudes from `low` to `high`, neither negative, read from the left.
class MagnitudeBuilder {
 public:
  MagnitudeBuilder(const NumberSpec& spec, uint32_t whole_max, uint32_t fraction_max, CharNfa* nfa)
      : spec_(spec), whole_max_(whole_max), fraction_max_(spec.integer ? 0 : fraction_max), nfa_(*nfa) {}

  // Adds the numbers behind `start`; they end in `final`.
  void Add(const NumberBound& low, const std::optional<NumberBound>& high, uint32_t start, uint32_t final) {
    low_ = low;
    high_ = high;
    final_ = final;
    places_.clear();
    for (uint32_t length = 1; length <= whole_max_; ++length) {
      const auto low_size = static_cast<uint32_t>(std::max<size_t>(low.value.whole.size(), 1));
      const auto high_size = static_cast<uint32_t>(high.has_value() ? std::max<size_t>(high->value.whole.size(), 1) : UINT32_MAX);
      if (low_size > length || high_size < length) continue;
      length_ = length;
      const Place place{length, 0, low_size == length, high.has_value() && high_size == length, false};
      nfa_.Link(start, StateOf(place));
    }
    for (size_t i = 0; i < queue_.size(); ++i) {
      const auto [place, state] = queue_[i];
      Expand(place, state);
    }
    queue_.clear();
  }

 private:
  // Digits that were read, of a number with `length` digits before the point; whether they equal those of the bounds so far.
  struct Place {
    uint32_t length;
    uint32_t read;
    bool at_low;
    bool at_high;
    bool fractional;  // a digit behind the point was not 0
    auto operator<=>(const Place&) const = default;
  };

  static char DigitOf(const Decimal& value, uint32_t length, uint32_t read) {
    if (read >= length) return read - length < value.fraction.size() ? value.fraction[read - length] : '0';
    return value.whole.empty() ? '0' : value.whole[read];
  }
  static bool RestIsZero(const Decimal& value, uint32_t length, uint32_t read) {
    return read < length ? false : read - length >= value.fraction.size();
  }

  uint32_t StateOf(const Place& place) {
    const auto [found, added] = places_.emplace(place, 0);
    if (added) {
      found->second = nfa_.Add();
      queue_.emplace_back(place, found->second);
    }
    return found->second;
  }

  bool MayEnd(const Place& place) const {
    if (place.read < place.length || (spec_.fractional && !place.fractional)) return false;
    if (place.at_low && (low_.exclusive || !RestIsZero(low_.value, place.length, place.read))) return false;
    return !place.at_high || !high_->exclusive || !RestIsZero(high_->value, place.length, place.read);
  }

  void Expand(const Place& place, uint32_t state) {
    if (MayEnd(place)) nfa_.Link(state, final_);
    if (place.read >= place.length + fraction_max_) return;
    uint32_t from = state;
    if (place.read == place.length) {
      from = nfa_.Add();
      nfa_.Read(state, CodeRanges('.', '.'), from);
    }
    for (char digit = '0'; digit <= '9'; ++digit) {
      if (digit == '0' && place.read == 0 && place.length > 1) continue;
      Place next = place;
      ++next.read;
      if (place.at_low) {
        const char bound = DigitOf(low_.value, place.length, place.read);
        if (digit < bound) continue;
        next.at_low = digit == bound;
      }
      if (place.at_high) {
        const char bound = DigitOf(high_->value, place.length, place.read);
        if (digit > bound) continue;
        next.at_high = digit == bound;
      }
      if (next.read > next.length && digit != '0') next.fractional = true;
      const auto code = static_cast<char32_t>(digit);
      nfa_.Read(from, CodeRanges(code, code), StateOf(next));
    }
  }

  const NumberSpec& spec_;
  uint32_t whole_max_;
  uint32_t fraction_max_;
  CharNfa& nfa_;
  NumberBound low_;
  std::optional<NumberBound> high_;
  uint32_t final_ = 0;
  uint32_t length_ = 0;
  std::map<Place, uint32_t> places_;
  std::vector<std::pair<Place, uint32_t>> queue_;
};

// Integers that are multiples, by their remainders.
CharNfa Multiples(uint64_t divisor) {
  CharNfa nfa;
  nfa.start = nfa.Add();
  nfa.final = nfa.Add();
  const uint32_t unsigned_start = nfa.Add();
  nfa.Link(nfa.start, unsigned_start);
  nfa.Read(nfa.start, CodeRanges('-', '-'), unsigned_start);
  std::vector<uint32_t> states(divisor);
  for (uint32_t& state : states) state = nfa.Add();
  nfa.Link(unsigned_start, states[0]);
  nfa.Link(states[0], nfa.final);
  for (uint64_t remainder = 0; remainder < divisor; ++remainder) {
    for (char32_t digit = '0'; digit <= '9'; ++digit) {
      nfa.Read(states[remainder], CodeRanges(digit, digit), states[(remainder * 10 + (digit - '0')) % divisor]);
    }
  }
  return nfa;
}

std::optional<uint64_t> SmallInteger(const Decimal& value) {
  if (!value.integer() || value.whole.size() > 9) return std::nullopt;
  uint64_t number = 0;
  for (const char c : value.whole) number = number * 10 + static_cast<uint64_t>(c - '0');
  return number;
}

Result<CharDfa> Bounded(const NumberSpec& spec, const AutomatonLimits& limits) {
  const bool exclusive =
      (spec.low.has_value() && spec.low->exclusive) || (spec.high.has_value() && spec.high->exclusive) || !spec.excluded.empty();
  const uint32_t digits = spec.integer && !exclusive ? kIntegerDigitsMax : kNumberDigitsMax;
  size_t whole = 1;
  size_t fraction = 0;
  for (const auto& bound : {spec.low, spec.high}) {
    if (!bound.has_value()) continue;
    whole = std::max(whole, bound->value.whole.size());
    fraction = std::max(fraction, bound->value.fraction.size());
  }
  auto whole_max = static_cast<uint32_t>(digits);
  auto fraction_max = static_cast<uint32_t>(0);
  if (!spec.integer) {
    // Digits before the point where bounds have them, or some more where there is none.
    const bool open = !spec.low.has_value() || !spec.high.has_value();
    whole_max = static_cast<uint32_t>(std::min<size_t>(open ? std::max<size_t>(whole + 1, 9) : whole, digits));
    if (fraction + whole_max > digits && fraction + std::min<size_t>(whole, digits) <= digits)
      whole_max = static_cast<uint32_t>(digits - fraction);
    if (fraction + whole_max > digits && whole <= digits) {
      return Error(Code::kUnsupported, fmt::format("bounds of more than {} digits cannot be guaranteed to readers with binary64", digits));
    }
    fraction_max = std::max(digits - whole_max, 1u);
  }
  CharNfa nfa;
  nfa.start = nfa.Add();
  nfa.final = nfa.Add();
  MagnitudeBuilder builder(spec, whole_max, fraction_max, &nfa);
  const Decimal zero;
  // From 0 up.
  if (!spec.high.has_value() || spec.high->value.Compare(zero) >= 0) {
    const bool above = spec.low.has_value() && spec.low->value.Compare(zero) >= 0;
    builder.Add(above ? *spec.low : NumberBound{}, spec.high, nfa.start, nfa.final);
  }
  // Below 0: magnitudes the other way round.
  if (!spec.low.has_value() || spec.low->value.Compare(zero) < 0) {
    const bool below = spec.high.has_value() && spec.high->value.Compare(zero) < 0;
    const NumberBound least = below ? NumberBound{spec.high->value.Negated(), spec.high->exclusive} : NumberBound{zero, /*exclusive=*/true};
    std::optional<NumberBound> most;
    if (spec.low.has_value()) most = NumberBound{spec.low->value.Negated(), spec.low->exclusive};
    const uint32_t start = nfa.Add();
    nfa.Read(nfa.start, CodeRanges('-', '-'), start);
    builder.Add(least, most, start, nfa.final);
  }
  return CharDfa::FromNfa(nfa, limits);
}

std::string PatternOf(const Decimal& value) {
  std::string pattern = value.negative ? "-" : value.zero() ? "-?" : "";
  pattern += value.whole.empty() ? "0" : value.whole;
  return pattern + (value.fraction.empty() ? "(\\.0+)?" : "\\." + value.fraction + "0*");
}

}  // namespace

std::optional<Decimal> Decimal::Parse(std::string_view text) {
  Decimal value;
  size_t at = 0;
  if (text.starts_with('-')) {
    value.negative = true;
    ++at;
  }
  value.whole = DigitsAt(text, &at);
  if (at < text.size() && text[at] == '.') value.fraction = DigitsAt(text, &++at);
  int exponent = 0;
  if (at < text.size() && (text[at] | 0x20) == 'e') {
    ++at;
    const bool minus = at < text.size() && text[at] == '-';
    if (at < text.size() && (text[at] == '-' || text[at] == '+')) ++at;
    for (const char c : DigitsAt(text, &at)) exponent = std::min(exponent * 10 + (c - '0'), kExponentMax + 1);
    if (minus) exponent = -exponent;
  }
  if (at != text.size() || std::abs(exponent) > kExponentMax) return std::nullopt;
  for (; exponent > 0; --exponent) {
    value.whole += value.fraction.empty() ? '0' : value.fraction[0];
    if (!value.fraction.empty()) value.fraction.erase(0, 1);
  }
  for (; exponent < 0; ++exponent) {
    value.fraction.insert(value.fraction.begin(), value.whole.empty() ? '0' : value.whole.back());
    if (!value.whole.empty()) value.whole.pop_back();
  }
  value.whole.erase(0, std::min(value.whole.find_first_not_of('0'), value.whole.size()));
  value.fraction.resize(value.fraction.find_last_not_of('0') + 1);
  if (value.zero()) value.negative = false;
  return value;
}

Decimal Decimal::Of(const Json& number) { return Parse(number.dump()).value_or(Decimal{}); }

Decimal Decimal::Negated() const {
  Decimal other = *this;
  other.negative = !negative && !zero();
  return other;
}

int Decimal::Compare(const Decimal& other) const {
  if (negative != other.negative) return negative ? -1 : 1;
  int order = 0;
  if (whole.size() != other.whole.size()) {
    order = whole.size() < other.whole.size() ? -1 : 1;
  } else {
    order = whole != other.whole ? whole.compare(other.whole) : fraction.compare(other.fraction);
  }
  order = order < 0 ? -1 : order > 0 ? 1 : 0;
  return negative ? -order : order;
}

std::string KeyOf(const NumberSpec& spec) {
  std::string key = fmt::format("{}{}", spec.integer ? 'i' : '-', spec.fractional ? 'f' : '-');
  const auto add = [&](const Decimal& value) { key += fmt::format(" {}{}.{}", value.negative ? "-" : "", value.whole, value.fraction); };
  for (const auto& bound : {spec.low, spec.high}) {
    key += bound.has_value() ? (bound->exclusive ? 'x' : 'b') : '-';
    if (bound.has_value()) add(bound->value);
  }
  for (const Decimal& value : spec.multiples) add(value);
  key += '/';
  for (const Decimal& value : spec.excluded) add(value);
  return key;
}

Result<CharDfa> NumberAutomaton(const NumberSpec& spec, const AutomatonLimits& limits) {
  NumberSpec whole = spec;
  for (const Decimal& multiple : spec.multiples) whole.integer = whole.integer || multiple.integer();
  if (whole.integer && whole.fractional) return CharDfa();
  const bool bounded = whole.low.has_value() || whole.high.has_value() || whole.fractional || !whole.excluded.empty();
  CharDfa numbers;
  if (bounded || whole.integer) {
    BANTAM_ASSIGN(numbers, Bounded(whole, limits));
  } else {
    BANTAM_ASSIGN(numbers, ParsePattern("-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?", PatternMatch::kWhole, limits));
  }
  for (const Decimal& multiple : spec.multiples) {
    const auto divisor = SmallInteger(multiple);
    if (!divisor.has_value() || *divisor == 0 || *divisor > kMultipleMax) {
      return Error(Code::kUnsupported,
                   fmt::format("only multiples of whole numbers from 1 to {} can be guaranteed to readers with binary64", kMultipleMax));
    }
    BANTAM_ASSIGN(const CharDfa multiples, CharDfa::FromNfa(Multiples(*divisor), limits));
    BANTAM_ASSIGN(numbers, CharDfa::Combine(numbers, multiples, CharDfa::Product::kBoth, limits));
  }
  for (const Decimal& value : spec.excluded) {
    BANTAM_ASSIGN(const CharDfa one, ParsePattern(PatternOf(value), PatternMatch::kWhole, limits));
    BANTAM_ASSIGN(numbers, CharDfa::Combine(numbers, one, CharDfa::Product::kFirstOnly, limits));
  }
  return numbers;
}

bool MeetsNumberSpec(const NumberSpec& spec, const Json& number) {
  const Decimal value = Decimal::Of(number);
  if (spec.integer && !value.integer()) return false;
  if (spec.fractional && value.integer()) return false;
  if (spec.low.has_value()) {
    const int order = value.Compare(spec.low->value);
    if (order < 0 || (order == 0 && spec.low->exclusive)) return false;
  }
  if (spec.high.has_value()) {
    const int order = value.Compare(spec.high->value);
    if (order > 0 || (order == 0 && spec.high->exclusive)) return false;
  }
  for (const Decimal& multiple : spec.multiples) {
    const auto divisor = SmallInteger(multiple);
    if (!divisor.has_value() || *divisor == 0 || !value.integer()) return false;
    uint64_t remainder = 0;
    for (const char c : value.whole) remainder = (remainder * 10 + static_cast<uint64_t>(c - '0')) % *divisor;
    if (remainder != 0) return false;
  }
  return std::none_of(spec.excluded.begin(), spec.excluded.end(), [&](const Decimal& other) { return value.Compare(other) == 0; });
}

}  // namespace bantam
