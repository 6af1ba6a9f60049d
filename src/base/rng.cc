#include "base/rng.h"

#include <sys/random.h>

#include <ctime>

namespace bantam {

uint64_t RandomSeed() {
  uint64_t seed = 0;
  if (::getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == sizeof(seed)) return seed;
  // Early at boot there may be none yet: the time is better than a constant.
  struct timespec now {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_nsec) * 0x9e3779b97f4a7c15ULL ^ static_cast<uint64_t>(now.tv_sec);
}

}  // namespace bantam
