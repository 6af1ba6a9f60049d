// bantam doctor: what this machine is, what of it this process may use, and which kernels were chosen and why.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/memory_budget.h"
#include "base/system_limits.h"
#include "cli/model_folder.h"
#include "cli/terminal.h"
#include "cli/verbs.h"
#include "engine/machine.h"
#include "fleet/store.h"
#include "kernels/kernels.h"
#include "model/open.h"

namespace bantam {
namespace {

constexpr size_t kBandwidthBytes = size_t{256} << 20;

struct Options {
  bool json = false;
};

struct Speeds {
  int threads = 1;
  double bytes_per_s = 0;
  double int8_per_s = 0;
  double float_per_s = 0;
};

struct Findings {
  std::string processor;
  SystemLimits limits;
  std::vector<KernelSetReport> sets;
  std::string chosen;
  std::vector<Speeds> speeds;
  std::string folder;
  std::vector<StoredModel> models;
  std::vector<std::string> problems;
};

Result<Speeds> MeasureSpeeds(const KernelSet& kernels, std::span<const std::byte> memory, int threads) {
  BANTAM_ASSIGN(const auto pool, ThreadPool::Make(threads));
  const MonotonicClock clock;
  Speeds speeds = {threads, 0, 0, 0};
  speeds.bytes_per_s = MeasureReadBandwidth(memory, kernels, *pool, clock);
  speeds.int8_per_s = MeasurePeak(kernels.int8_peak, *pool, clock);
  speeds.float_per_s = MeasurePeak(kernels.float_peak, *pool, clock);
  return speeds;
}

// What a user should know, worst first.
std::vector<std::string> Problems(FileSystem& files, const Findings& found) {
  std::vector<std::string> problems;
  for (const KernelSetReport& set : found.sets) {
    if (!set.self_test.empty() && set.self_test != "passed") {
      problems.push_back(
          fmt::format("the kernel set {} failed its self-test and is not used: {}; please report it", set.name, set.self_test));
    }
  }
  if (found.chosen == "ref") problems.push_back("no fast kernel set runs on this processor: the portable reference is used, and is slow");
  const SystemLimits& limits = found.limits;
  if (limits.processors < limits.affinity_processors) {
    problems.push_back(fmt::format("a control group allows {:.2f} processors of {}: more threads than {} would be throttled",
                                   limits.processor_quota, limits.affinity_processors, limits.processors));
  }
  if (found.models.empty())
    problems.push_back(fmt::format("no models in {}; bantam pull {} fetches the demo model", found.folder, kDemoName));
  for (const StoredModel& model : found.models) {
    const Result<ModelFile> file = OpenModel(files, fmt::format("{}/{}", found.folder, model.name));
    if (!file.ok()) problems.push_back(file.error().message());
  }
  return problems;
}

Result<Findings> Examine(FileSystem& files) {
  Findings found;
  found.processor = ProcessorName(files, /*root=*/"");
  found.limits = ReadSystemLimits(files, /*root=*/"", AffinityProcessors());
  found.sets = ExamineKernels();
  BANTAM_ASSIGN(const KernelSet* kernels, ChooseKernels("auto"));
  found.chosen = kernels->name;
  // A machine with little memory is measured with little of it.
  const uint64_t bytes = std::min<uint64_t>(kBandwidthBytes, found.limits.memory_available_bytes / 4);
  const std::vector<std::byte> memory(static_cast<size_t>(bytes), std::byte{1});
  BANTAM_ASSIGN(const Speeds one, MeasureSpeeds(*kernels, memory, 1));
  found.speeds.push_back(one);
  if (found.limits.cores > 1) {
    BANTAM_ASSIGN(const Speeds all, MeasureSpeeds(*kernels, memory, std::min(found.limits.cores, ThreadPool::kThreadsMax)));
    found.speeds.push_back(all);
  }
  found.folder = ModelFolder();
  BANTAM_ASSIGN(found.models, ListStore(files, *MakeDisk(), found.folder));
  std::erase_if(found.models, [](const StoredModel& model) { return model.unfinished; });
  found.problems = Problems(files, found);
  return found;
}

std::string LimitText(const SystemLimits& limits) {
  std::string text =
      fmt::format("  memory      {} of {} available", FormatBytes(limits.memory_available_bytes), FormatBytes(limits.memory_total_bytes));
  text += limits.group_memory_left_bytes == UINT64_MAX
              ? "; no control group limits it\n"
              : fmt::format("; a control group leaves {}\n", FormatBytes(limits.group_memory_left_bytes));
  text += fmt::format("  processors  {} usable on {} core{}", limits.processors, limits.cores, limits.cores == 1 ? "" : "s");
  text += fmt::format("; {} in the affinity mask", limits.affinity_processors);
  text += limits.processor_quota == 0 ? "; no control group limits them\n"
                                      : fmt::format("; a control group allows {:.2f}\n", limits.processor_quota);
  return text;
}

std::string ToText(const Findings& found) {
  std::string text = fmt::format("machine\n  processor   {}\n{}", Printable(found.processor), LimitText(found.limits));
  text += "\nkernel sets, fastest first\n";
  for (const KernelSetReport& set : found.sets) {
    const std::string why = !set.missing.empty() ? fmt::format("not here: the processor lacks {}", set.missing)
                                                 : fmt::format("self-test {}{}", set.self_test, set.name == found.chosen ? "; chosen" : "");
    text += fmt::format("  {:<11} {}{}\n", set.name, why, set.needs.empty() ? "" : fmt::format(" (needs {})", set.needs));
  }
  text += "\nmeasured limits\n";
  for (const Speeds& s : found.speeds) {
    text += fmt::format("  {:<11} reads {:.1f} GB/s, multiplies {:.0f} G/s in 8 bits and {:.0f} G/s in 32-bit floats\n",
                        fmt::format("{} thread{}", s.threads, s.threads == 1 ? "" : "s"), s.bytes_per_s * 1e-9, s.int8_per_s * 1e-9,
                        s.float_per_s * 1e-9);
  }
  uint64_t bytes = 0;
  for (const auto& model : found.models) bytes += model.size_bytes;
  text += fmt::format("\nmodels\n  folder      {} ({} models, {})\n", Printable(found.folder), found.models.size(), FormatBytes(bytes));
  text += found.problems.empty() ? "\nno problems found\n" : "\nproblems\n";
  for (const std::string& problem : found.problems) text += fmt::format("  {}\n", Printable(problem));
  return text;
}

Json ToJson(const Findings& found) {
  const SystemLimits& l = found.limits;
  Json json = {{"processor", found.processor},
               {"memory_total_bytes", l.memory_total_bytes},
               {"memory_available_bytes", l.memory_available_bytes},
               {"group_memory_left_bytes", l.group_memory_left_bytes == UINT64_MAX ? Json() : Json(l.group_memory_left_bytes)},
               {"affinity_processors", l.affinity_processors},
               {"processor_quota", l.processor_quota == 0 ? Json() : Json(l.processor_quota)},
               {"processors", l.processors},
               {"cores", l.cores}};
  Json sets = Json::array();
  for (const KernelSetReport& set : found.sets) {
    sets.push_back({{"name", set.name}, {"needs", set.needs}, {"missing", set.missing}, {"self_test", set.self_test}});
  }
  json["kernel_sets"] = sets;
  json["kernels"] = found.chosen;
  Json speeds = Json::array();
  for (const Speeds& s : found.speeds) {
    speeds.push_back({{"threads", s.threads},
                      {"read_bytes_per_s", s.bytes_per_s},
                      {"int8_multiplies_per_s", s.int8_per_s},
                      {"float_multiplies_per_s", s.float_per_s}});
  }
  json["measured"] = speeds;
  json["model_folder"] = found.folder;
  json["models"] = found.models.size();
  json["problems"] = found.problems;
  return json;
}

}  // namespace

void AddDoctorVerb(CLI::App& app, Action* action) {
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("doctor", "what this machine offers: processor, limits, kernels chosen and why, measured speeds, models");
  verb->add_flag("--json", options->json, "print JSON");
  verb->footer("Example: bantam doctor");
  verb->callback([=] {
    *action = [=](FileSystem& files) {
      const Result<Findings> found = Examine(files);
      if (!found.ok()) return Fail(found.error());
      return PrintResult(options->json ? DumpJson(ToJson(*found), /*indent=*/2) + "\n" : ToText(*found));
    };
  });
}

}  // namespace bantam
