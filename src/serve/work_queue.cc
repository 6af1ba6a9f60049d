#include "serve/work_queue.h"

#include <fmt/format.h>

#include <cstring>
#include <exception>
#include <utility>

#include "base/threads.h"

namespace bantam {

Result<std::unique_ptr<WorkQueue>> WorkQueue::Make(int threads, size_t waiting_max) {
  std::unique_ptr<WorkQueue> queue(new WorkQueue(waiting_max));
  queue->threads_.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    pthread_t handle;
    const int error_number = CreateThread(&handle, Main, queue.get());
    if (error_number != 0) {
      return Error(Code::kExhausted,
                   fmt::format("a thread that reads requests: the system refused to start it: {}", std::strerror(error_number)));
    }
    queue->threads_.push_back(handle);
  }
  return queue;
}

WorkQueue::~WorkQueue() { Stop(); }

void WorkQueue::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (const pthread_t thread : std::exchange(threads_, {})) ::pthread_join(thread, nullptr);
  // Destroyed without the lock: what they hold may tell others.
  std::deque<Piece> dropped;
  const std::lock_guard lock(mutex_);
  dropped.swap(waiting_);
}

bool WorkQueue::Add(std::function<void()> work, std::function<void()> failed) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || waiting_.size() >= waiting_max_) return false;
    waiting_.push_back({std::move(work), std::move(failed)});
  }
  changed_.notify_one();
  return true;
}

void* WorkQueue::Main(void* self) {
  static_cast<WorkQueue*>(self)->Work();
  return nullptr;
}

void WorkQueue::Work() {
  while (true) {
    Piece piece;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      piece = std::move(waiting_.front());
      waiting_.pop_front();
    }
    // The outermost frame: what the standard library throws when memory is gone ends one request and not the process.
    try {
      piece.work();
    } catch (const std::exception&) {
      piece.work = nullptr;  // what it held may be what is missing
      try {
        piece.failed();
      } catch (const std::exception&) {
        // Its client hears nothing, and everybody else goes on.
      }
    }
  }
}

}  // namespace bantam
