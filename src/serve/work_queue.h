// WorkQueue: a few threads for what takes too long for the server's own: reading requests, encoding texts.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"

namespace bantam {

class WorkQueue {
 public:
  // At most `waiting_max` pieces of work wait. `failed` is told what the standard library threw out of one, when memory is gone. Exhausted
  // when the system gives no thread.
  static Result<std::unique_ptr<WorkQueue>> Make(int threads, size_t waiting_max, std::function<void(const char* what)> failed);
  // What runs is waited for, what waits is dropped.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // False: as many wait as may.
  bool Add(std::function<void()> work);

 private:
  WorkQueue(size_t waiting_max, std::function<void(const char* what)> failed) : waiting_max_(waiting_max), failed_(std::move(failed)) {}
  static void* Main(void* self);
  void Work();

  const size_t waiting_max_;
  const std::function<void(const char* what)> failed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  bool stopping_ = false;
  std::vector<pthread_t> threads_;
};

}  // namespace bantam
