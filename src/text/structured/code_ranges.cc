#include "text/structured/code_ranges.h"

#include <algorithm>

namespace bantam {
namespace {

constexpr char32_t kSurrogateFirst = 0xd800;
constexpr char32_t kSurrogateLast = 0xdfff;

}  // namespace

void CodeRanges::Add(char32_t first, char32_t last) {
  last = std::min(last, kCodePointMax);
  if (first > last) return;
  if (first < kSurrogateFirst) ranges_.push_back({first, std::min<char32_t>(last, kSurrogateFirst - 1)});
  if (last > kSurrogateLast) ranges_.push_back({std::max<char32_t>(first, kSurrogateLast + 1), last});
  Normalize();
}

void CodeRanges::Add(const CodeRanges& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  Normalize();
}

void CodeRanges::AddProperties(PropertySet set) {
  for (char32_t code = 0; code <= kCodePointMax; ++code) {
    if (code == kSurrogateFirst) code = kSurrogateLast + 1;
    if ((PropertiesOf(code) & set) == 0) continue;
    if (!ranges_.empty() && ranges_.back().last + 1 == code) {
      ranges_.back().last = code;
    } else {
      ranges_.push_back({code, code});
    }
  }
  Normalize();
}

void CodeRanges::AddOtherCases() {
  std::vector<CodeRange> more;
  for (const CodeRange& range : ranges_) {
    for (char32_t code = range.first; code <= range.last; ++code) {
      for (const char32_t other : {ToLower(code), ToUpper(code)}) {
        if (other != code) more.push_back({other, other});
      }
    }
  }
  ranges_.insert(ranges_.end(), more.begin(), more.end());
  Normalize();
}

CodeRanges CodeRanges::Complement() const {
  CodeRanges result;
  char32_t next = 0;
  for (const CodeRange& range : ranges_) {
    if (range.first > next) result.ranges_.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kCodePointMax) result.ranges_.push_back({next, kCodePointMax});
  // A gap may hold surrogates.
  std::vector<CodeRange> gaps;
  gaps.swap(result.ranges_);
  for (const CodeRange& gap : gaps) {
    if (gap.first < kSurrogateFirst) result.ranges_.push_back({gap.first, std::min<char32_t>(gap.last, kSurrogateFirst - 1)});
    if (gap.last > kSurrogateLast) result.ranges_.push_back({std::max<char32_t>(gap.first, kSurrogateLast + 1), gap.last});
  }
  result.Normalize();
  return result;
}

bool CodeRanges::Has(char32_t code) const {
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), code, [](char32_t c, const CodeRange& range) { return c < range.first; });
  return after != ranges_.begin() && code <= (after - 1)->last;
}

void CodeRanges::Normalize() {
  std::sort(ranges_.begin(), ranges_.end(), [](const CodeRange& a, const CodeRange& b) { return a.first < b.first; });
  size_t kept = 0;
  for (size_t i = 0; i < ranges_.size(); ++i) {
    if (kept > 0 && ranges_[i].first <= ranges_[kept - 1].last + 1) {
      ranges_[kept - 1].last = std::max(ranges_[kept - 1].last, ranges_[i].last);
    } else {
      ranges_[kept++] = ranges_[i];
    }
  }
  ranges_.resize(kept);
}

}  // namespace bantam
