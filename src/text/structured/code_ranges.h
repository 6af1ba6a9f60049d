// CodeRanges: a set of code points as sorted ranges. Surrogates are in no set: no text can hold them.
#pragma once

#include <cstdint>
#include <vector>

#include "text/unicode.h"

namespace bantam {

struct CodeRange {
  char32_t first;
  char32_t last;
  bool operator==(const CodeRange&) const = default;
};

inline constexpr char32_t kCodePointMax = 0x10ffff;

class CodeRanges {
 public:
  CodeRanges() = default;
  CodeRanges(char32_t first, char32_t last) { Add(first, last); }
  static CodeRanges All() { return CodeRanges(0, kCodePointMax); }

  void Add(char32_t first, char32_t last);
  void Add(const CodeRanges& other);
  // Code points with one of the properties; walks all of Unicode.
  void AddProperties(PropertySet set);
  // The other case of each character, by the simple mappings.
  void AddOtherCases();
  CodeRanges Complement() const;
  bool Has(char32_t code) const;

  bool empty() const { return ranges_.empty(); }
  const std::vector<CodeRange>& list() const { return ranges_; }
  bool operator==(const CodeRanges&) const = default;

 private:
  void Normalize();
  std::vector<CodeRange> ranges_;  // sorted, apart from each other, without surrogates
};

}  // namespace bantam
