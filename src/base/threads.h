// ThreadPool: a fixed team that runs one function together and meets at barriers.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/team_size.h"

namespace bantam {

// The caller of Run is thread 0, so a pool of one starts no thread. Between runs, and at barriers, a thread spins for a
// millisecond and then sleeps: decoding meets a barrier every few microseconds, and an idle program must cost nothing.
// Not reentrant: one Run at a time, from one thread. Two of a team that share a processor while another is free are parted: the system
// leaves them together for several of its ticks, of 4 ms each.
class ThreadPool {
 public:
  static constexpr int kThreadsMax = 256;

  // Exhausted when the system gives no more threads; those that started are gone again.
  static Result<std::unique_ptr<ThreadPool>> Make(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }
  // Threads of the run that goes on: 0 to team() - 1.
  int team() const { return team_; }

  // Calls function(thread) on every thread of the pool and returns when all have ended. Allocates nothing.
  template <typename Function>
  void Run(Function&& function) {
    RunTeam(size_, CallerOf<Function>(), &function);
  }
  // Same, on as many threads as are worth having now (TeamSize): for what is run again and again, has barriers and asks for team().
  template <typename Function>
  void RunWorthwhile(Function&& function) {
    RunWorthwhile(CallerOf<Function>(), &function);
  }

  // Called by every thread of a running task: none goes on before all have come.
  void Barrier(int thread);

 private:
  ThreadPool(int threads, std::chrono::microseconds spin) : size_(threads), spin_(spin) {}
  using Task = void (*)(void* context, int thread);
  template <typename Function>
  static Task CallerOf() {
    return [](void* context, int thread) { (*static_cast<std::remove_reference_t<Function>*>(context))(thread); };
  }
  struct Worker {
    ThreadPool* pool;
    int thread;
    pthread_t handle;
  };
  void RunTeam(int team, Task task, void* context);
  void RunWorthwhile(Task task, void* context);
  static void* Start(void* worker);
  void Work(int thread);
  // What thread 1 and those behind it wait for: one more run to take part in.
  struct alignas(64) RunNumber {
    std::atomic<uint32_t> value = 0;
  };
  // The processor of each thread when it last began a run or came to a barrier (-1: never), and the run that it began last.
  struct alignas(64) Place {
    std::atomic<int> processor = -1;
    std::atomic<uint32_t> run = 0;
  };
  void RecordPlace(int thread);
  // Of a thread that waits for others of a team: if one of them runs on its processor, it goes to one where none of them is; and thread 0
  // sends those away from its own that have not begun the run.
  void MakeWay(int thread, int team);
  static void Leave(pthread_t thread, const cpu_set_t& processors);
  // Waits until `word` differs from `seen`, and returns for how long, as far as it was long enough to look at the clock: nanoseconds. The
  // thread that waits, and the team that it waits for.
  int64_t AwaitChange(const std::atomic<uint32_t>& word, uint32_t seen, int thread, int team);
  void Wake();

  const int size_;
  const std::chrono::microseconds spin_;  // before a thread sleeps
  Task task_ = nullptr;
  void* context_ = nullptr;
  bool stopping_ = false;
  int team_ = size_;
  TeamSize team_size_{size_};
  std::vector<RunNumber> run_numbers_{static_cast<size_t>(size_)};  // by thread
  std::vector<Place> places_{static_cast<size_t>(size_)};           // by thread
  alignas(64) std::atomic<uint32_t> barrier_number_ = 0;
  alignas(64) std::atomic<int> arrived_ = 0;
  alignas(64) std::atomic<int64_t> waited_ns_ = 0;  // at barriers, all threads of the run that goes on
  alignas(64) std::atomic<int> sleepers_ = 0;
  std::mutex moves_;  // one thread at a time changes where threads may run
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Worker> workers_;
};

// pthread_create of a thread that takes no signals: they are the program's, and of a library the host's. Returns its error number.
int CreateThread(pthread_t* handle, void* (*start)(void*), void* argument);

// The part [begin, end) of `count` pieces that thread `thread` of `threads` takes: contiguous, sizes differ by at most one.
inline std::pair<size_t, size_t> Share(size_t count, int thread, int threads) {
  const size_t n = static_cast<size_t>(threads);
  const size_t t = static_cast<size_t>(thread);
  return {count * t / n, count * (t + 1) / n};
}

// Pieces of one operation after another, dealt out while the threads work: each takes its own share piece by piece, in order, and then what
// is left of others', from its end, so that a slow core holds up nobody for longer than a piece and each goes on through memory in order.
class PieceQueue {
 public:
  explicit PieceQueue(int threads) : shares_(static_cast<size_t>(threads)) {}

  static constexpr uint64_t kPiecesMax = (uint64_t{1} << 20) - 1;
  // The next of `count` pieces (at most kPiecesMax) of an operation for a thread, or nothing when all are taken. Every thread of an
  // operation takes until there is nothing, with the same round; rounds grow from one operation to the next.
  std::optional<size_t> Take(uint64_t round, size_t count, int thread);

 private:
  static constexpr int kCountBits = 20;
  static constexpr uint64_t kRoundMask = UINT64_MAX >> (2 * kCountBits);
  struct alignas(64) Taken {
    std::atomic<uint64_t> state = 0;  // round modulo 2^24, pieces taken from the front of this thread's share, and from its end
  };
  std::vector<Taken> shares_;
};

}  // namespace bantam
