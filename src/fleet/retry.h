// When to try again what a network did not bring.
#pragma once

#include "base/result.h"
#include "fleet/download.h"

namespace bantam {

// Of one thing that is fetched in as many attempts as it takes.
class Retry {
 public:
  explicit Retry(const DownloadTools& tools) : tools_(tools) {}

  // After an attempt that failed; `brought` says whether it got further than those before it. Tells of it, waits, and returns Ok when
  // another attempt may help; the failure when none does; Cancelled.
  Status After(const Error& failure, bool brought);

 private:
  const DownloadTools& tools_;
  int failures_ = 0;
  int idle_ = 0;  // failures in a row that brought nothing
  bool known_ = false;
};

// The result of `action`, which starts anew each time.
template <typename Action>
auto Retried(const DownloadTools& tools, const Action& action) -> decltype(action()) {
  Retry retry(tools);
  while (true) {
    auto result = action();
    if (result.ok()) return result;
    BANTAM_TRY(retry.After(result.error(), /*brought=*/false));
  }
}

}  // namespace bantam
