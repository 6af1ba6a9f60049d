// StopStrings: ends an answer at the first of some texts, wherever token boundaries fall, and holds back only what may become one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bantam {

inline constexpr size_t kStopStringsMax = 32;
inline constexpr size_t kStopStringBytesMax = 256;

class StopStrings {
 public:
  // InvalidArgument for an empty text, one that is too long, or too many.
  static Result<StopStrings> Make(std::vector<std::string> stops);

  // What of the answer so far can be shown now. Nothing more once stopped().
  std::string Push(std::string_view text);
  // At the end of the answer: what was held back.
  std::string Finish();

  // The stop that was found; what comes with it and behind it is not part of the answer.
  bool stopped() const { return !found_.empty(); }
  const std::string& found() const { return found_; }

 private:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  std::vector<std::string> stops_;
  std::string pending_;
  std::string found_;
};

}  // namespace bantam
