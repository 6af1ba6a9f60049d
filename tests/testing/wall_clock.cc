#include "testing/wall_clock.h"

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <ctime>

namespace {

std::atomic<int64_t> shift_s = 0;

}  // namespace

namespace bantam::testing {

void ShiftWallClock(int64_t seconds) { shift_s = seconds; }

}  // namespace bantam::testing

// In front of the C library's, for this program and the libraries that it uses.
extern "C" int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const long done = ::syscall(SYS_clock_gettime, clock, now);
  if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift_s;
  return static_cast<int>(done);
}

extern "C" int gettimeofday(timeval* now, void*) noexcept {
  timespec read = {};
  const int done = clock_gettime(CLOCK_REALTIME, &read);
  *now = {read.tv_sec, read.tv_nsec / 1000};
  return done;
}

extern "C" time_t time(time_t* into) noexcept {
  timespec read = {};
  if (clock_gettime(CLOCK_REALTIME, &read) != 0) return -1;
  if (into != nullptr) *into = read.tv_sec;
  return read.tv_sec;
}
