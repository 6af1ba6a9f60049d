// Expression: the tree that regular expressions and the bodies of GBNF rules are parsed to.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "text/structured/char_automaton.h"

namespace bantam {

struct Expression {
  enum class Kind : uint8_t {
    kChars,         // one character of a set
    kSequence,      // the parts, one behind the other
    kAlternatives,  // one of the parts
    kRepeat,        // the one part, least to most times
    kRule,          // what a rule of a grammar gives
    kBegin,         // only before the first character
    kEnd            // only behind the last one
  };
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  Kind kind = Kind::kSequence;
  CodeRanges chars;
  std::vector<Expression> parts;
  uint32_t least = 1;
  uint32_t most = 1;
  uint32_t rule = 0;
};

// Adds the expression, which has no rules, between two new states: start and final of what was added. Exhausted past the limits.
struct NfaPart {
  uint32_t start;
  uint32_t final;
};
Result<NfaPart> AddToNfa(const Expression& expression, const AutomatonLimits& limits, CharNfa* nfa);

}  // namespace bantam
