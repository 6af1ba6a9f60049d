#include "base/power_meter.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <string_view>

namespace bantam {
namespace {

constexpr int kDevicesMax = 32;
constexpr size_t kFileBytesMax = 4096;

}  // namespace

std::optional<double> PowerMeter::Number(const std::string& path) {
  const Result<std::string> text = files_.ReadText(root_ + path, kFileBytesMax);
  if (!text.ok()) return std::nullopt;
  uint64_t number = 0;
  if (std::from_chars(text->data(), text->data() + text->size(), number).ec != std::errc()) return std::nullopt;
  return static_cast<double>(number);
}

std::string PowerMeter::Name(const std::string& device) {
  const Result<std::string> text = files_.ReadText(root_ + device + "/name", kFileBytesMax);
  return text.ok() ? text->substr(0, text->find('\n')) : std::string();
}

std::optional<double> PowerMeter::ReadCounters(int64_t now_ns) {
  std::vector<Counter> counters;
  for (int i = 0; i < kDevicesMax; ++i) {
    const std::string zone = fmt::format("/sys/class/powercap/intel-rapl:{}", i);
    const auto energy = Number(zone + "/energy_uj");
    if (!energy) continue;
    const std::string name = Name(zone);
    const Counter counter = {*energy, Number(zone + "/max_energy_range_uj").value_or(0)};
    if (name == "psys") {
      // The whole platform, packages and all.
      counters = {counter};
      break;
    }
    if (name.starts_with("package")) counters.push_back(counter);
  }
  if (counters.empty()) return std::nullopt;
  std::optional<double> watts;
  if (counters.size() == counters_.size() && now_ns > read_ns_) {
    double micro_joules = 0;
    for (size_t i = 0; i < counters.size(); ++i) {
      const double more = counters[i].micro_joules - counters_[i].micro_joules;
      micro_joules += more < 0 ? more + counters[i].range : more;
    }
    // Micro joules in nanoseconds are kilowatts.
    if (micro_joules >= 0) watts = 1000 * micro_joules / static_cast<double>(now_ns - read_ns_);
  }
  counters_ = std::move(counters);
  read_ns_ = now_ns;
  return watts;
}

std::optional<double> PowerMeter::ReadSensors() {
  std::optional<double> watts;
  for (int i = 0; i < kDevicesMax; ++i) {
    const std::string device = fmt::format("/sys/class/hwmon/hwmon{}", i);
    constexpr std::string_view kGraphics[] = {"amdgpu", "radeon", "nouveau", "nvidia", "i915", "xe"};
    const std::string name = Name(device);
    if (std::find(std::begin(kGraphics), std::end(kGraphics), name) != std::end(kGraphics)) continue;
    auto micro_watts = Number(device + "/power1_average");
    if (!micro_watts) micro_watts = Number(device + "/power1_input");
    if (micro_watts) watts = watts.value_or(0) + *micro_watts / 1e6;
  }
  return watts;
}

std::optional<double> PowerMeter::ReadBattery() {
  std::optional<double> watts;
  for (int i = 0; i < kDevicesMax; ++i) {
    const std::string battery = fmt::format("/sys/class/power_supply/BAT{}", i);
    const Result<std::string> status = files_.ReadText(root_ + battery + "/status", kFileBytesMax);
    if (!status.ok() || !status->starts_with("Discharging")) continue;
    if (const auto micro_watts = Number(battery + "/power_now")) watts = watts.value_or(0) + *micro_watts / 1e6;
  }
  return watts;
}

Status PowerMeter::Check() {
  bool measures = Read(0).has_value() || !counters_.empty();
  for (int i = 0; i < kDevicesMax && !measures; ++i) {
    measures = Number(fmt::format("/sys/class/power_supply/BAT{}/power_now", i)).has_value();
  }
  if (measures) return Ok();
  return Error(Code::kUnsupported,
               "nothing here measures power (energy counters of the processor, which only root may read; sensors of the board; a battery); "
               "run as root, or leave the target away");
}

std::optional<double> PowerMeter::Read(int64_t now_ns) {
  if (const auto watts = ReadCounters(now_ns); watts || !counters_.empty()) return watts;
  if (const auto watts = ReadSensors()) return watts;
  return ReadBattery();
}

}  // namespace bantam
