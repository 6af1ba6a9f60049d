#include <fmt/format.h>

#include "kernels/kernels.h"
#include "kernels/ref/ref.h"
#include "tensor/half.h"
#include "tensor/panel.h"
#if defined(__x86_64__)
#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#endif

namespace bantam {
namespace {

static_assert(kernels::kRows == kPanelRows && kernels::kKinds == kPanelKinds && kernels::kQuantizedMin == kQuantizedMin);

struct Candidate {
  const KernelSet* set;
  bool (*runs_here)();
};

#if defined(__x86_64__)
bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
#endif
bool Always() { return true; }

// Fastest first.
constexpr Candidate kCandidates[] = {
#if defined(__x86_64__)
    {&kernels::kAvx512, HasAvx512},
    {&kernels::kAvx2, HasAvx2},
#endif
    {&kernels::kReference, Always},
};

}  // namespace

std::vector<std::string_view> KernelSetNames() {
  std::vector<std::string_view> names;
  for (const Candidate& candidate : kCandidates) names.push_back(candidate.set->name);
  return names;
}

std::vector<const KernelSet*> RunnableKernels() {
  std::vector<const KernelSet*> sets;
  for (const Candidate& candidate : kCandidates) {
    if (candidate.runs_here()) sets.push_back(candidate.set);
  }
  return sets;
}

Result<const KernelSet*> ChooseKernels(std::string_view name) {
  for (const Candidate& candidate : kCandidates) {
    if (name == "auto") {
      // A set that disagrees with the reference is passed over: slow and right beats fast and wrong.
      if (candidate.runs_here() && SelfTest(*candidate.set).ok()) return candidate.set;
      continue;
    }
    if (name != candidate.set->name) continue;
    if (!candidate.runs_here()) {
      return Error(Code::kUnavailable, fmt::format("--kernels {}: this processor lacks the instructions; use --kernels auto", name));
    }
    if (Status tested = SelfTest(*candidate.set); !tested.ok()) {
      return Error(Code::kUnavailable, fmt::format("--kernels {}: {}; use --kernels auto", name, tested.error().message()));
    }
    return candidate.set;
  }
  return Error(Code::kInvalidArgument, fmt::format("--kernels {}: expected auto, {}", name, fmt::join(KernelSetNames(), ", ")));
}

}  // namespace bantam
