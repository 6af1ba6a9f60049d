// LogLines: lines for standard error from threads that may not wait for whoever reads it. What there is no room for is dropped, and
// counted.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bantam {

class LogLines {
 public:
  using Write = std::function<void(std::string_view line)>;
  // `write` is called by a thread of its own, and may take as long as it likes. At most `bytes_max` wait for it. Exhausted when the system
  // gives no thread.
  static Result<std::unique_ptr<LogLines>> Start(Write write, size_t bytes_max);
  // Ends when the line that is written is; what waits is written where that does not take `write` more than a second.
  ~LogLines();
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  void Add(std::string line);
  uint64_t dropped() const;

 private:
  // What the thread uses, which may outlive the rest while a write hangs.
  struct Shared {
    Write write;
    size_t bytes_max = 0;
    mutable std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::string> waiting;
    size_t bytes = 0;
    uint64_t dropped = 0;
    bool stopping = false;
    bool ended = false;
  };
  explicit LogLines(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  static void* Main(void* shared);

  const std::shared_ptr<Shared> shared_;
  pthread_t thread_{};
};

}  // namespace bantam
