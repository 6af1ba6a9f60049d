// The part of regular expressions that pre-tokenizers use, parsed to a tree. scanner.cc turns it into a program.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/char_class.h"

namespace bantam {

struct RegexItem;
using RegexSequence = std::vector<RegexItem>;
using RegexAlternatives = std::vector<RegexSequence>;

struct RegexItem {
  enum class Kind : uint8_t {
    kRun,       // least to most characters of a class
    kGroup,     // one of the alternatives, or with least = 0 nothing
    kAhead,     // a character of the class comes next
    kNotAhead,  // none does, be it that the text ends
    kLineEnd    // the end of the text, or a line feed comes next
  };
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  Kind kind = Kind::kRun;
  CharClass chars;
  uint32_t least = 1;
  uint32_t most = 1;
  bool possessive = false;
  RegexAlternatives alternatives;
};

// Unsupported for constructs outside that part and for malformed expressions: whoever calls asks PCRE2 then.
Result<RegexAlternatives> ParseRegex(std::string_view regex);

}  // namespace bantam
