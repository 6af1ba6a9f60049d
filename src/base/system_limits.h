// What this process may use of the machine: memory and processors, as the smaller of the hardware and the control groups.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"

namespace bantam {

struct SystemLimits {
  uint64_t memory_total_bytes = 0;                // of the machine
  uint64_t memory_available_bytes = 0;            // what can be taken now without swapping, within the control group's limit
  uint64_t group_memory_left_bytes = UINT64_MAX;  // below the tightest control group; UINT64_MAX: no limit
  double processor_quota = 0;                     // of the tightest control group; 0: none
  int affinity_processors = 1;                    // in the affinity mask
  int processors = 1;                             // usable at once: affinity mask and CPU quota, at least 1
  int cores = 1;                                  // physical cores among them: threads beyond that share arithmetic units
  bool uneven_cores = false;                      // the mask's processors differ in capacity (big.LITTLE), or the machine's in kind (x86)
};

// Reads ROOT/proc/meminfo, ROOT/proc/self/cgroup, the control-group files (v1 and v2) below ROOT/sys/fs/cgroup, and which processors are
// siblings, and how fast, below ROOT/sys/devices/system/cpu. `affinity` comes from AffinityProcessors(), or from a test. Missing files mean
// "no limit".
SystemLimits ReadSystemLimits(FileSystem& files, const std::string& root, const std::vector<int>& affinity);

// How short memory is right now.
struct MemoryPressure {
  uint64_t left_bytes = UINT64_MAX;   // SystemLimits::memory_available_bytes
  uint64_t limit_bytes = UINT64_MAX;  // of the machine, or of the tightest control group
  // Shares of the last ten seconds (0 to 1) in which some task, or every task, waited for memory: of the machine or of the control group
  // (version 2), whichever is worse. 0 where the kernel does not say (pressure stall information, since Linux 4.20).
  double some = 0;
  double full = 0;
};

// ROOT/proc/pressure/memory and memory.pressure of the control groups, beside what ReadSystemLimits reads.
MemoryPressure ReadMemoryPressure(FileSystem& files, const std::string& root);

// Numbers of the processors in this thread's affinity mask, at least one.
std::vector<int> AffinityProcessors();

// What the processor calls itself in ROOT/proc/cpuinfo ("AMD EPYC 9654", or implementer and part of ARM); "unknown" where nothing says.
std::string ProcessorName(FileSystem& files, const std::string& root);

// The most memory this process has held so far (resident set, high-water mark), in bytes.
uint64_t PeakResidentBytes();

}  // namespace bantam
