// Regular expressions of users and schemas (ECMA-262, the regular part), turned into automata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/structured/char_automaton.h"

namespace bantam {

enum class PatternMatch : uint8_t {
  kSearch,  // the expression occurs in the text, as `pattern` of JSON Schema has it
  kWhole    // it is the text
};

inline constexpr size_t kPatternBytesMax = 65'536;
inline constexpr uint32_t kPatternDepthMax = 100;  // groups within groups

// Texts that match. InvalidArgument: not an expression; Unsupported, by name: back references, word boundaries, look-behind, and
// look-ahead elsewhere than at the beginning of an alternative of the outermost level; Exhausted past the limits.
Result<CharDfa> ParsePattern(std::string_view pattern, PatternMatch match, const AutomatonLimits& limits);

// `^[class]{least,most}$` taken apart: texts of `characters`, a pattern, whose number is counted rather than kept in states.
struct RepeatedClass {
  std::string characters;
  uint64_t least;
  uint64_t most;
};
std::optional<RepeatedClass> AsRepeatedClass(std::string_view pattern);

// What stands behind a backslash, outside of a class; *at is moved behind it.
Result<CodeRanges> ParseEscape(std::string_view text, size_t* at);

// A character class of ECMA-262 or GBNF that begins behind its '['; *at is moved behind its ']'.
Result<CodeRanges> ParseCharacterClass(std::string_view text, size_t* at);

}  // namespace bantam
