#include "fleet/retry.h"

#include <fmt/format.h>

#include <algorithm>

namespace bantam {

Status Retry::After(const Error& failure, bool brought) {
  ++failures_;
  idle_ = brought ? 0 : idle_ + 1;
  known_ = known_ || brought;
  // A host whose name nobody knows is a wrong name; but once it was known, the network is gone.
  const bool passes = failure.code() == Code::kUnavailable || (failure.code() == Code::kNotFound && known_);
  if (!passes || idle_ > tools_.idle_retries_max || failures_ > kRetriesMax) return failure;
  constexpr int64_t kNsPerSecond = 1'000'000'000;
  const int64_t seconds = int64_t{1} << std::min(idle_, kIdleRetriesMax - 1);
  if (!tools_.progress(fmt::format("trying again in {} s: {}", seconds, failure.message()), /*done=*/0, /*total=*/0)) {
    return Error(Code::kCancelled, "interrupted");
  }
  return tools_.pause(seconds * kNsPerSecond);
}

}  // namespace bantam
