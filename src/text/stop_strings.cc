#include "text/stop_strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace bantam {

namespace {

// Bytes at the end of `text` that are the beginning of one of `stops`, though not a whole one: the most there are.
size_t PartialStopTail(std::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    if (stop.empty()) continue;
    for (size_t size = std::min(stop.size() - 1, text.size()); size > longest; --size) {
      if (text.ends_with(std::string_view(stop).substr(0, size))) longest = size;
    }
  }
  return longest;
}

}  // namespace

Result<StopStrings> StopStrings::Make(std::vector<std::string> stops) {
  if (stops.size() > kStopStringsMax) {
    return Error(Code::kInvalidArgument, fmt::format("{} stop strings, expected at most {}", stops.size(), kStopStringsMax));
  }
  for (const std::string& stop : stops) {
    if (!stop.empty() && stop.size() <= kStopStringBytesMax) continue;
    return Error(Code::kInvalidArgument, fmt::format("a stop string of {} bytes, expected 1 to {}", stop.size(), kStopStringBytesMax));
  }
  return StopStrings(std::move(stops));
}

std::string StopStrings::Push(std::string_view text) {
  if (stopped()) return {};
  pending_ += text;
  // The stop that ends first wins, of those the one that begins first: what a reader who sees one byte after another would find.
  size_t first_end = std::string::npos;
  size_t first_begin = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t begin = pending_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end > first_end || (end == first_end && begin > first_begin)) continue;
    first_end = end;
    first_begin = begin;
    found_ = stop;
  }
  const size_t shown = stopped() ? first_begin : pending_.size() - PartialStopTail(pending_, stops_);
  std::string out = pending_.substr(0, shown);
  pending_.erase(0, stopped() ? pending_.size() : shown);
  return out;
}

std::string StopStrings::Finish() { return std::exchange(pending_, {}); }

}  // namespace bantam
