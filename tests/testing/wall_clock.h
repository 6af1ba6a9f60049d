// The wall clock of this process, as if somebody set it: for tests of what must not notice.
#pragma once

#include <cstdint>

namespace bantam::testing {

// From now on it shows so many seconds more than the machine's; 0: the same.
void ShiftWallClock(int64_t seconds);

}  // namespace bantam::testing
