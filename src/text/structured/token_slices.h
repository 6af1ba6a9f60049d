// Slices of a vocabulary: tokens by the characters that they are of, so that a state that allows all texts of some characters allows
// all tokens of a slice without looking at them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "text/structured/code_ranges.h"

namespace bantam {

enum class TokenSlice : uint8_t {
  kWord,     // ASCII letters and digits
  kSpaced,   // the same and spaces
  kForeign,  // characters past ASCII that are no white space
  kPlain,    // any characters that JSON strings have as they are; the last one may be incomplete
  kMarked    // all others
};
inline constexpr size_t kTokenSlices = 5;
inline constexpr size_t kCharacterSlices = 4;  // those that are defined by their characters

// The characters of a slice before kMarked. Those of kPlain are those of the ones before it as well.
const CodeRanges& CharactersOf(TokenSlice slice);

}  // namespace bantam
