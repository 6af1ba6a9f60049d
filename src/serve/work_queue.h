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
  // At most `waiting_max` pieces of work wait. Exhausted when the system gives no thread.
  static Result<std::unique_ptr<WorkQueue>> Make(int threads, size_t waiting_max);
  // As Stop.
  ~WorkQueue();
  // What runs is waited for, what waits is dropped, and nothing is taken any more.
  void Stop();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // False: as many wait as may. `failed` is called in place of what was left of the work when the standard library threw, for memory is
  // gone.
  bool Add(std::function<void()> work, std::function<void()> failed);

 private:
  explicit WorkQueue(size_t waiting_max) : waiting_max_(waiting_max) {}
  static void* Main(void* self);
  void Work();

  const size_t waiting_max_;
  std::mutex mutex_;
  std::condition_variable changed_;
  struct Piece {
    std::function<void()> work;
    std::function<void()> failed;
  };
  std::deque<Piece> waiting_;
  bool stopping_ = false;
  std::vector<pthread_t> threads_;
};

}  // namespace bantam
