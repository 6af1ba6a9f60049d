// What this process may use of the machine: memory and processors, as the smaller of the hardware and the control groups.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"

namespace bantam {

struct SystemLimits {
  uint64_t memory_available_bytes = 0;  // what can be taken now without swapping, within the control group's limit
  int processors = 1;                   // usable at once: affinity mask and CPU quota, at least 1
};

// Reads ROOT/proc/meminfo, ROOT/proc/self/cgroup and the control-group files (v1 and v2) below ROOT/sys/fs/cgroup.
// `affinity_processors` comes from AffinityProcessors(), or from a test. Missing files mean "no limit".
SystemLimits ReadSystemLimits(FileSystem& files, const std::string& root, int affinity_processors);

// Processors in this thread's affinity mask, at least 1.
int AffinityProcessors();

// The most memory this process has held so far (resident set, high-water mark), in bytes.
uint64_t PeakResidentBytes();

}  // namespace bantam
