// SentencePiece's precompiled map of characters: a double-array trie of what is replaced, and the replacements.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bantam {

class Charsmap {
 public:
  // `blob`: u32 bytes of the trie, its units as u32 (Darts-clone), then texts that each end with a NUL. Corrupt when it is cut off.
  static Result<Charsmap> Parse(std::string_view blob);

  // The longest match first at each place; characters without one stay, malformed bytes become U+FFFD. What
  // grows past `size_max` is cut off there.
  std::string Apply(std::string_view text, size_t size_max) const;

  // One step of it: what stands at `at` goes to `out`. Returns where the next begins.
  size_t Step(std::string_view text, size_t at, std::string* out) const;

  uint64_t bytes() const { return units_.capacity() * sizeof(uint32_t) + texts_.capacity(); }

 private:
  // Bytes of the longest match at the start of `text`, 0 if there is none, and where its replacement begins in texts_.
  size_t Match(std::string_view text, size_t* replacement) const;

  std::vector<uint32_t> units_;
  std::string texts_;
};

}  // namespace bantam
