// Invariants of our own code. CHECK is always on; DCHECK is for hot paths and is off under NDEBUG.
// Whatever a file, a peer, a user or a device can cause is an Error (result.h), never a CHECK.
#pragma once

namespace bantam {

// Prints "CHECK failed: EXPRESSION at FILE:LINE" to stderr and aborts, so that a core dump shows the frame.
[[noreturn]] void CheckFailed(const char* expression, const char* file, int line);

}  // namespace bantam

#define CHECK(condition)                                     \
  do {                                                       \
    if (!(condition)) [[unlikely]]                           \
      ::bantam::CheckFailed(#condition, __FILE__, __LINE__); \
  } while (false)

#ifdef NDEBUG
#define DCHECK(condition) \
  do {                    \
  } while (false && (condition))
#else
#define DCHECK(condition) CHECK(condition)
#endif
