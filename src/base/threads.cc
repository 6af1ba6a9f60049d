#include "base/threads.h"

#include "base/check.h"

namespace bantam {
namespace {

// About 20 us at 4 GHz: longer than any gap between two operations of a decode step.
constexpr int kSpinsMax = 2000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads) {
  CHECK(threads >= 1 && threads <= kThreadsMax);
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  run_number_.fetch_add(1, std::memory_order_seq_cst);
  Wake();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::AwaitChange(const std::atomic<uint32_t>& word, uint32_t seen) {
  for (int spin = 0; spin < kSpinsMax; ++spin) {
    if (word.load(std::memory_order_acquire) != seen) return;
    Pause();
  }
  // The sleeper announces itself before it looks again, and the waker changes the word before it looks for sleepers
  // (both sequentially consistent): one of the two sees the other.
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  {
    std::unique_lock lock(mutex_);
    while (word.load(std::memory_order_seq_cst) == seen) changed_.wait(lock);
  }
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

void ThreadPool::Wake() {
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

void ThreadPool::Barrier() {
  if (size_ == 1) return;
  const uint32_t number = barrier_number_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_number_.fetch_add(1, std::memory_order_seq_cst);
    Wake();
    return;
  }
  AwaitChange(barrier_number_, number);
}

void ThreadPool::Run(Task task, void* context) {
  task_ = task;
  context_ = context;
  if (size_ > 1) {
    run_number_.fetch_add(1, std::memory_order_seq_cst);
    Wake();
  }
  task(context, 0);
  Barrier();
}

void ThreadPool::Work(int thread) {
  uint32_t seen = 0;
  while (true) {
    AwaitChange(run_number_, seen);
    ++seen;
    if (stopping_) return;
    task_(context_, thread);
    Barrier();
  }
}

}  // namespace bantam
