// PowerMeter: what this machine takes, where something in it measures that.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace bantam {

// Reads, of what there is, the first of: the energy counter of the platform ("psys"), or those of the processors' packages
// (ROOT/sys/class/powercap/intel-rapl:N/energy_uj, which Linux lets only root read since 5.10); sensors of the board
// (ROOT/sys/class/hwmon/hwmonN/power1_average or power1_input) but for those of graphics cards; and the battery while it empties
// (ROOT/sys/class/power_supply/BATN/power_now).
class PowerMeter {
 public:
  PowerMeter(FileSystem& files, std::string root) : files_(files), root_(std::move(root)) {}

  // Watts: of counters the mean since the last call, of sensors what they say now. Nothing at the first look at counters, and where nothing
  // measures.
  std::optional<double> Read(int64_t now_ns);
  // Unsupported where nothing measures; says what would.
  Status Check();

 private:
  std::optional<double> ReadCounters(int64_t now_ns);
  std::optional<double> ReadSensors();
  std::optional<double> ReadBattery();
  std::optional<double> Number(const std::string& path);
  std::string Name(const std::string& device);

  FileSystem& files_;
  const std::string root_;
  struct Counter {
    double micro_joules;
    double range;  // where it starts over
  };
  std::vector<Counter> counters_;  // as they were
  int64_t read_ns_ = 0;
};

}  // namespace bantam
