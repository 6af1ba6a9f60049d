// CharClass: a set of characters as regular expressions write it, by properties and ranges.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "text/unicode.h"

namespace bantam {

class CharClass {
 public:
  // Each adds to the set.
  void AddSet(PropertySet set) { set_ |= set; }
  void AddOutside(PropertySet set) { outside_.push_back(set); }
  void AddRange(char32_t first, char32_t last) { ranges_.push_back({first, last}); }
  void AddIgnoringCase(char32_t code);
  void Negate() { negated_ = !negated_; }
  // To be called once, before the class is asked.
  void Finish();

  bool HasAscii(unsigned char byte) const { return (ascii_[byte / 64] >> (byte % 64) & 1) != 0; }
  bool Has(char32_t code) const { return code < 0x80 ? HasAscii(static_cast<unsigned char>(code)) : Evaluate(code); }
  bool operator==(const CharClass&) const = default;

 private:
  struct Range {
    char32_t first;
    char32_t last;
    bool operator==(const Range&) const = default;
  };
  bool Evaluate(char32_t code) const;

  std::array<uint64_t, 2> ascii_ = {};
  PropertySet set_ = 0;
  std::vector<PropertySet> outside_;  // characters that have nothing of such a set
  std::vector<Range> ranges_;         // sorted by Finish, apart from each other
  bool negated_ = false;
};

}  // namespace bantam
