#include "base/threads.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>

#include <chrono>
#include <cstring>

#include "base/check.h"
#include "base/system_limits.h"

namespace bantam {
namespace {

// How long a thread spins. Shorter is worse on a machine that does something else too: whoever sleeps at a barrier loses its processor for
// a slice of several milliseconds, finds the other asleep when it is back, and so on; decoding fell to a twentieth.
constexpr std::chrono::microseconds kSpinLong{1000};
// With more threads than processors a spinning thread keeps the one it waits for from running.
constexpr std::chrono::microseconds kSpinShort{20};
// Of a wait, before it is taken for one behind itself: a thread that was woken begins within 60 us on an idle processor.
constexpr std::chrono::microseconds kLate{150};
// Between two looks at the clock: a pause takes 1 to 140 cycles, as the processor likes.
constexpr int kPausesPerLook = 32;

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

int CreateThread(pthread_t* handle, void* (*start)(void*), void* argument) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited
  const int error_number = ::pthread_create(handle, nullptr, start, argument);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return error_number;
}

Result<std::unique_ptr<ThreadPool>> ThreadPool::Make(int threads) {
  CHECK(threads >= 1 && threads <= kThreadsMax);
  std::unique_ptr<ThreadPool> pool(
      new ThreadPool(threads, static_cast<size_t>(threads) <= AffinityProcessors().size() ? kSpinLong : kSpinShort));
  pool->workers_.reserve(static_cast<size_t>(threads - 1));  // workers hold pointers into it
  for (int thread = 1; thread < threads; ++thread) {
    pool->workers_.push_back({pool.get(), thread, {}});
    const int error_number = CreateThread(&pool->workers_.back().handle, Start, &pool->workers_.back());
    if (error_number == 0) continue;
    pool->workers_.pop_back();
    return Error(Code::kExhausted, fmt::format("thread {} of {}: the system refused to start it: {}; use fewer threads (-t)", thread + 1,
                                               threads, std::strerror(error_number)));
  }
  return pool;
}

void* ThreadPool::Start(void* worker) {
  const Worker& self = *static_cast<Worker*>(worker);
  self.pool->Work(self.thread);
  return nullptr;
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  for (RunNumber& number : run_numbers_) number.value.fetch_add(1, std::memory_order_seq_cst);
  Wake();
  for (const Worker& worker : workers_) ::pthread_join(worker.handle, nullptr);
}

void ThreadPool::RecordPlace(int thread) {
  places_[static_cast<size_t>(thread)].processor.store(::sched_getcpu(), std::memory_order_relaxed);
}

// What the thread may use is the same behind the move. Where the system does not allow moves, nothing happens.
void ThreadPool::Leave(pthread_t thread, const cpu_set_t& processors) {
  cpu_set_t before;
  cpu_set_t rest;
  if (::pthread_getaffinity_np(thread, sizeof(before), &before) != 0) return;
  CPU_AND(&rest, &before, &processors);  // those of both
  CPU_XOR(&rest, &rest, &before);
  if (CPU_COUNT(&rest) == 0) return;
  if (::pthread_setaffinity_np(thread, sizeof(rest), &rest) == 0) ::pthread_setaffinity_np(thread, sizeof(before), &before);
}

void ThreadPool::MakeWay(int thread, int team) {
  const std::unique_lock lock(moves_, std::try_to_lock);
  const int here = ::sched_getcpu();
  if (!lock.owns_lock() || here < 0 || here >= CPU_SETSIZE) return;
  cpu_set_t mine;
  CPU_ZERO(&mine);
  CPU_SET(here, &mine);
  cpu_set_t taken = mine;
  bool shared = false;
  for (int other = 0; other < team; ++other) {
    const size_t i = static_cast<size_t>(other);
    if (other == thread) continue;
    if (other != 0 && places_[i].run.load(std::memory_order_acquire) != run_numbers_[i].value.load(std::memory_order_relaxed)) {
      // Where it waits for its turn is not known; if it is elsewhere, it stays there.
      if (thread == 0) Leave(workers_[i - 1].handle, mine);
      continue;
    }
    const int processor = places_[i].processor.load(std::memory_order_relaxed);
    if (processor < 0 || processor >= CPU_SETSIZE) continue;
    shared = shared || processor == here;
    CPU_SET(processor, &taken);
  }
  if (shared) Leave(::pthread_self(), taken);
}

int64_t ThreadPool::AwaitChange(const std::atomic<uint32_t>& word, uint32_t seen, int thread, int team) {
  const auto spin = [&] {
    for (int pause = 0; pause < kPausesPerLook; ++pause) {
      if (word.load(std::memory_order_acquire) != seen) return true;
      Pause();
    }
    return false;
  };
  if (spin()) return 0;
  const int64_t begin = NowNs();
  const int64_t until = begin + std::chrono::nanoseconds(spin_).count();
  int64_t late = begin + std::chrono::nanoseconds(kLate).count();
  while (true) {
    const bool changed = spin();
    const int64_t now = NowNs();
    if (changed) return now - begin;
    if (now >= until) break;
    if (now < late) continue;
    late = until;
    MakeWay(thread, team);
  }
  // The sleeper announces itself before it looks again, and the waker changes the word before it looks for sleepers
  // (both sequentially consistent): one of the two sees the other.
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  {
    std::unique_lock lock(mutex_);
    while (word.load(std::memory_order_seq_cst) == seen) changed_.wait(lock);
  }
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  return NowNs() - begin;
}

void ThreadPool::Wake() {
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

void ThreadPool::Barrier(int thread) {
  const int team = team_;  // behind the arrival of all it may be another run's
  if (team == 1) return;
  RecordPlace(thread);
  const uint32_t number = barrier_number_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == team - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_number_.fetch_add(1, std::memory_order_seq_cst);
    Wake();
    return;
  }
  const int64_t waited_ns = AwaitChange(barrier_number_, number, thread, team);
  if (waited_ns != 0) waited_ns_.fetch_add(waited_ns, std::memory_order_relaxed);
}

void ThreadPool::RunTeam(int team, Task task, void* context) {
  task_ = task;
  context_ = context;
  team_ = team;
  for (int thread = 1; thread < team; ++thread) {
    run_numbers_[static_cast<size_t>(thread)].value.fetch_add(1, std::memory_order_seq_cst);
  }
  if (team > 1) {
    RecordPlace(0);
    Wake();
  }
  task(context, 0);
  Barrier(0);
}

void ThreadPool::RunWorthwhile(Task task, void* context) {
  if (size_ == 1) return RunTeam(/*team=*/1, task, context);
  const int64_t begin = NowNs();
  waited_ns_.store(0, std::memory_order_relaxed);
  RunTeam(team_size_.Next(begin), task, context);
  team_size_.Ended(begin, NowNs(), waited_ns_.load(std::memory_order_relaxed));
}

void ThreadPool::Work(int thread) {
  const std::atomic<uint32_t>& run_number = run_numbers_[static_cast<size_t>(thread)].value;
  uint32_t seen = 0;
  while (true) {
    AwaitChange(run_number, seen, thread, /*team=*/1);  // for thread 0, that is
    ++seen;
    if (stopping_) return;
    RecordPlace(thread);
    places_[static_cast<size_t>(thread)].run.store(seen, std::memory_order_release);
    task_(context_, thread);
    Barrier(thread);
  }
}

std::optional<size_t> PieceQueue::Take(uint64_t round, size_t count, int thread) {
  CHECK(count <= kPiecesMax);
  const uint64_t wanted = round & kRoundMask;
  const int threads = static_cast<int>(shares_.size());
  for (int i = 0; i < threads; ++i) {
    const int owner = (thread + i) % threads;
    const auto [begin, end] = Share(count, owner, threads);
    std::atomic<uint64_t>& state = shares_[static_cast<size_t>(owner)].state;
    uint64_t seen = state.load(std::memory_order_relaxed);
    while (true) {
      // Rounds begin anew after 2^24. Who is already further has found nothing left of this one.
      const uint64_t ahead = ((seen >> (2 * kCountBits)) - wanted) & kRoundMask;
      if (ahead != 0 && ahead <= kRoundMask / 2) break;
      uint64_t front = ahead == 0 ? seen >> kCountBits & kPiecesMax : 0;
      uint64_t back = ahead == 0 ? seen & kPiecesMax : 0;
      if (front + back >= end - begin) break;
      const size_t piece = i == 0 ? begin + front++ : end - 1 - back++;
      const uint64_t next = (wanted << kCountBits | front) << kCountBits | back;
      if (state.compare_exchange_weak(seen, next, std::memory_order_relaxed)) return piece;
    }
  }
  return std::nullopt;
}

}  // namespace bantam
