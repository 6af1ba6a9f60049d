#include "base/system_limits.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

namespace bantam {
namespace {

constexpr size_t kSystemFileMax = 1 << 20;
constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

std::optional<uint64_t> LeadingNumber(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  uint64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) return std::nullopt;
  return value;
}

// The number that follows "KEY" at the start of a line.
std::optional<uint64_t> FindNumber(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.starts_with(key)) return LeadingNumber(line.substr(key.size()));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
  return std::nullopt;
}

struct GroupPaths {
  std::string unified;  // v2
  std::string memory;   // v1
  std::string cpu;      // v1
};

bool HasController(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const std::string_view item = list.substr(0, list.find(','));
    if (item == name) return true;
    list.remove_prefix(std::min(item.size() + 1, list.size()));
  }
  return false;
}

// Lines of /proc/self/cgroup: "0::/path" (v2) or "N:controllers:/path" (v1).
GroupPaths ParseGroups(std::string_view text) {
  GroupPaths groups;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second != std::string_view::npos) {
      const std::string_view controllers = line.substr(first + 1, second - first - 1);
      const std::string path(line.substr(second + 1));
      if (controllers.empty()) groups.unified = path;
      if (HasController(controllers, "memory")) groups.memory = path;
      if (HasController(controllers, "cpu")) groups.cpu = path;
    }
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
  return groups;
}

// The folder of a group and all its parents up to the mount: a limit holds for everything below it.
std::vector<std::string> GroupFolders(const std::string& mount, std::string path) {
  std::vector<std::string> folders;
  while (path.size() > 1) {
    folders.push_back(mount + path);
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  folders.push_back(mount);
  return folders;
}

std::optional<uint64_t> ReadNumber(FileSystem& files, const std::string& path) {
  const auto text = files.ReadText(path, kSystemFileMax);
  return text.ok() ? LeadingNumber(*text) : std::nullopt;
}

// Bytes still free below the tightest memory limit; the page cache of inactive files counts as free.
uint64_t GroupMemoryLeft(FileSystem& files, const std::vector<std::string>& folders, std::string_view limit_file,
                         std::string_view usage_file, std::string_view inactive_key) {
  uint64_t left = kNoLimit;
  for (const std::string& folder : folders) {
    const auto limit = ReadNumber(files, fmt::format("{}/{}", folder, limit_file));
    if (!limit) continue;
    const uint64_t usage = ReadNumber(files, fmt::format("{}/{}", folder, usage_file)).value_or(0);
    const auto stat = files.ReadText(folder + "/memory.stat", kSystemFileMax);
    const uint64_t cache = stat.ok() ? FindNumber(*stat, inactive_key).value_or(0) : 0;
    const uint64_t held = usage - std::min(usage, cache);
    left = std::min(left, *limit - std::min(*limit, held));
  }
  return left;
}

double QuotaProcessors(double quota_us, double period_us) { return period_us > 0 ? quota_us / period_us : 0; }

double UnifiedCpuQuota(FileSystem& files, const std::vector<std::string>& folders) {
  double processors = std::numeric_limits<double>::infinity();
  for (const std::string& folder : folders) {
    const auto text = files.ReadText(folder + "/cpu.max", kSystemFileMax);  // "QUOTA PERIOD" or "max PERIOD"
    if (!text.ok()) continue;
    const auto quota = LeadingNumber(*text);
    const size_t space = text->find(' ');
    if (!quota || space == std::string::npos) continue;
    const auto period = LeadingNumber(std::string_view(*text).substr(space));
    if (period) processors = std::min(processors, QuotaProcessors(static_cast<double>(*quota), static_cast<double>(*period)));
  }
  return processors;
}

double LegacyCpuQuota(FileSystem& files, const std::vector<std::string>& folders) {
  double processors = std::numeric_limits<double>::infinity();
  for (const std::string& folder : folders) {
    const auto quota = ReadNumber(files, folder + "/cpu.cfs_quota_us");  // "-1" means none and is no number here
    const auto period = ReadNumber(files, folder + "/cpu.cfs_period_us");
    if (quota && period) {
      processors = std::min(processors, QuotaProcessors(static_cast<double>(*quota), static_cast<double>(*period)));
    }
  }
  return processors;
}

// "KEY12.34" at the start of a line: percent, as a share.
double StallShare(std::string_view text, std::string_view key) {
  const size_t at = text.starts_with(key) ? 0 : text.find(fmt::format("\n{}", key));
  if (at == std::string_view::npos) return 0;
  const std::string_view number = text.substr(text.find(key, at) + key.size());
  double percent = 0;
  if (std::from_chars(number.data(), number.data() + number.size(), percent).ec != std::errc()) return 0;
  return std::clamp(percent / 100, 0.0, 1.0);
}

// Processors that list the same siblings are one core.
int CountCores(FileSystem& files, const std::string& root, const std::vector<int>& affinity) {
  std::set<std::string> cores;
  for (const int processor : affinity) {
    const auto siblings =
        files.ReadText(fmt::format("{}/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", root, processor), kSystemFileMax);
    cores.insert(siblings.ok() ? *siblings : fmt::format("processor {}", processor));
  }
  return std::max(1, static_cast<int>(cores.size()));
}

// Whether processors differ in what the kernel thinks they can do (ARM), or are of two kinds (x86); files that are missing say nothing.
bool DifferInCapacity(FileSystem& files, const std::string& root, const std::vector<int>& affinity) {
  if (files.Exists(root + "/sys/devices/cpu_core/cpus") && files.Exists(root + "/sys/devices/cpu_atom/cpus")) return true;
  std::set<std::string> capacities;
  for (const int processor : affinity) {
    const auto capacity = files.ReadText(fmt::format("{}/sys/devices/system/cpu/cpu{}/cpu_capacity", root, processor), kSystemFileMax);
    if (capacity.ok()) capacities.insert(*capacity);
  }
  return capacities.size() > 1;
}

}  // namespace

SystemLimits ReadSystemLimits(FileSystem& files, const std::string& root, const std::vector<int>& affinity) {
  SystemLimits limits;
  limits.memory_available_bytes = kNoLimit;
  if (const auto meminfo = files.ReadText(root + "/proc/meminfo", kSystemFileMax); meminfo.ok()) {
    const uint64_t total_kib = FindNumber(*meminfo, "MemTotal:").value_or(kNoLimit / 1024);
    limits.memory_total_bytes = total_kib * 1024;
    limits.memory_available_bytes = FindNumber(*meminfo, "MemAvailable:").value_or(total_kib) * 1024;
  }
  const auto group_text = files.ReadText(root + "/proc/self/cgroup", kSystemFileMax);
  const GroupPaths groups = ParseGroups(group_text.ok() ? *group_text : std::string());
  const std::string mount = root + "/sys/fs/cgroup";
  const auto unified = GroupFolders(mount, groups.unified);
  const auto memory = GroupFolders(mount + "/memory", groups.memory);
  const auto cpu = GroupFolders(mount + "/cpu", groups.cpu);

  limits.group_memory_left_bytes =
      std::min(GroupMemoryLeft(files, unified, "memory.max", "memory.current", "inactive_file "),
               GroupMemoryLeft(files, memory, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "));
  // Version 1 writes "no limit" as a number beyond any machine.
  if (limits.group_memory_left_bytes >= limits.memory_total_bytes) limits.group_memory_left_bytes = kNoLimit;
  limits.memory_available_bytes = std::min(limits.memory_available_bytes, limits.group_memory_left_bytes);

  const double quota = std::min(UnifiedCpuQuota(files, unified), LegacyCpuQuota(files, cpu));
  limits.processor_quota = std::isinf(quota) ? 0 : quota;
  limits.affinity_processors = std::max(1, static_cast<int>(affinity.size()));
  limits.processors = limits.affinity_processors;
  // A quota of 1.5 processors runs two threads, each throttled part of the time: round down, but never to none.
  if (quota < limits.processors) limits.processors = std::max(1, static_cast<int>(std::floor(quota)));
  limits.cores = std::min(limits.processors, CountCores(files, root, affinity));
  limits.uneven_cores = DifferInCapacity(files, root, affinity);
  return limits;
}

MemoryPressure ReadMemoryPressure(FileSystem& files, const std::string& root) {
  MemoryPressure pressure;
  const SystemLimits limits = ReadSystemLimits(files, root, /*affinity=*/{});
  pressure.left_bytes = limits.memory_available_bytes;
  pressure.limit_bytes = limits.memory_total_bytes == 0 ? kNoLimit : limits.memory_total_bytes;
  const auto group_text = files.ReadText(root + "/proc/self/cgroup", kSystemFileMax);
  const GroupPaths groups = ParseGroups(group_text.ok() ? *group_text : std::string());
  const std::string mount = root + "/sys/fs/cgroup";
  const auto unified = GroupFolders(mount, groups.unified);
  for (const auto& [folders, file] :
       {std::pair(unified, "memory.max"), {GroupFolders(mount + "/memory", groups.memory), "memory.limit_in_bytes"}}) {
    for (const std::string& folder : folders) {
      const auto limit = ReadNumber(files, fmt::format("{}/{}", folder, file));
      if (limit) pressure.limit_bytes = std::min(pressure.limit_bytes, *limit);
    }
  }
  std::vector<std::string> sources = {root + "/proc/pressure/memory"};
  for (const std::string& folder : unified) sources.push_back(folder + "/memory.pressure");
  for (const std::string& source : sources) {
    const auto text = files.ReadText(source, kSystemFileMax);
    if (!text.ok()) continue;
    pressure.some = std::max(pressure.some, StallShare(*text, "some avg10="));
    pressure.full = std::max(pressure.full, StallShare(*text, "full avg10="));
  }
  return pressure;
}

std::vector<int> AffinityProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> processors;
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) processors.push_back(cpu);
    }
  }
  if (processors.empty()) processors.push_back(0);
  return processors;
}

std::string ProcessorName(FileSystem& files, const std::string& root) {
  constexpr size_t kCpuInfoMax = size_t{4} << 20;
  const auto text = files.ReadText(root + "/proc/cpuinfo", kCpuInfoMax);
  if (!text.ok()) return "unknown";
  // "model name : AMD EPYC"
  const auto field = [&](std::string_view key) {
    const size_t at = text->find(key);
    if (at == std::string::npos) return std::string();
    const size_t end = std::min(text->find('\n', at), text->size());
    const size_t begin = text->find_first_not_of(": \t", at + key.size());
    return begin < end ? text->substr(begin, end - begin) : std::string();
  };
  const std::string name = field("model name");
  if (!name.empty()) return name;
  const std::string part = field("CPU part");
  return part.empty() ? "unknown" : fmt::format("ARM implementer {}, part {}", field("CPU implementer"), part);
}

uint64_t PeakResidentBytes() {
  struct rusage usage {};
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace bantam
