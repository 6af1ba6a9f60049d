#include "text/char_class.h"

#include <algorithm>

namespace bantam {

void CharClass::AddIgnoringCase(char32_t code) {
  AddRange(code, code);
  AddRange(ToLower(code), ToLower(code));
  AddRange(ToUpper(code), ToUpper(code));
  // The two letters outside ASCII that fold into it.
  if (code == 's' || code == 'S') AddRange(0x17f, 0x17f);
  if (code == 'k' || code == 'K') AddRange(0x212a, 0x212a);
}

void CharClass::Finish() {
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
  std::vector<Range> merged;
  for (const Range& range : ranges_) {
    if (!merged.empty() && range.first <= merged.back().last) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  ranges_ = std::move(merged);
  for (unsigned byte = 0; byte < 128; ++byte) {
    if (Evaluate(byte)) ascii_[byte / 64] |= uint64_t{1} << (byte % 64);
  }
}

bool CharClass::Evaluate(char32_t code) const {
  const PropertySet properties = PropertiesOf(code);
  bool has = (properties & set_) != 0;
  for (const PropertySet set : outside_) has = has || (properties & set) == 0;
  if (!has && !ranges_.empty()) {
    const auto range =
        std::upper_bound(ranges_.begin(), ranges_.end(), code, [](char32_t wanted, const Range& r) { return wanted < r.first; });
    has = range != ranges_.begin() && code <= std::prev(range)->last;
  }
  return has != negated_;
}

}  // namespace bantam
