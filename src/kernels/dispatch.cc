#include <fmt/format.h>

#include <span>
#include <utility>

#include "kernels/kernels.h"
#include "kernels/ref/ref.h"
#include "tensor/half.h"
#if defined(__x86_64__)
#include <cpuid.h>

#include "kernels/avx2/avx2.h"
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/avx512_bf16.h"
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "kernels/neon/neon.h"
#endif

namespace bantam {
namespace {

static_assert(kernels::kRows == kPanelRows && kernels::kKinds == kPanelKinds && kernels::kQuantizedMin == kQuantizedMin);

struct Instructions {
  const char* name;
  bool (*present)();
};

struct Candidate {
  const KernelSet* set;
  std::span<const Instructions> needs;
};

#if defined(__x86_64__)
// __builtin_cpu_supports of g++ 12 does not know it: leaf 7, subleaf 1, EAX bit 4. AVX2 beside it says that the system keeps its registers.
bool HasAvxVnni() {
  unsigned a = 0;
  unsigned rest[3];
  return __get_cpuid_count(7, 1, &a, &rest[0], &rest[1], &rest[2]) != 0 && (a >> 4 & 1) != 0;
}

// Made here: what is compiled for those instructions must not run before they are asked for, not even to fill a table.
KernelSet MakeAvx512Bf16() {
  KernelSet set = kernels::kAvx512;
  set.name = "avx512-bf16";
  set.product[static_cast<size_t>(PanelKind::kBF16)] = kernels::kAvx512Bf16.product;
  set.to_bf16 = kernels::kAvx512Bf16.to_bf16;
  return set;
}
const KernelSet kAvx512Bf16 = MakeAvx512Bf16();

// __builtin_cpu_supports takes a literal.
#define BANTAM_X86(name)                                   \
  Instructions {                                           \
    name, [] { return __builtin_cpu_supports(name) != 0; } \
  }
constexpr Instructions kAvx512Needs[] = {BANTAM_X86("avx512f"), BANTAM_X86("avx512bw"), BANTAM_X86("avx512dq"), BANTAM_X86("avx512vl"),
                                         BANTAM_X86("avx512vnni")};
constexpr Instructions kAvx512Bf16Needs[] = {BANTAM_X86("avx512f"),  BANTAM_X86("avx512bw"),   BANTAM_X86("avx512dq"),
                                             BANTAM_X86("avx512vl"), BANTAM_X86("avx512vnni"), BANTAM_X86("avx512bf16")};
constexpr Instructions kAvxVnniNeeds[] = {BANTAM_X86("avx2"), BANTAM_X86("fma"), BANTAM_X86("f16c"), {"avxvnni", HasAvxVnni}};
constexpr Instructions kAvx2Needs[] = {BANTAM_X86("avx2"), BANTAM_X86("fma"), BANTAM_X86("f16c")};
#undef BANTAM_X86
#elif defined(__aarch64__)
constexpr Instructions kDotProduct = {"asimddp", [] { return (::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }};
constexpr Instructions kNeonI8mmNeeds[] = {kDotProduct, {"i8mm", [] { return (::getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }}};
constexpr Instructions kNeonDotNeeds[] = {kDotProduct};
#endif

// Fastest first.
constexpr Candidate kCandidates[] = {
#if defined(__x86_64__)
    {&kAvx512Bf16, kAvx512Bf16Needs}, {&kernels::kAvx512, kAvx512Needs}, {&kernels::kAvxVnni, kAvxVnniNeeds}, {&kernels::kAvx2, kAvx2Needs},
#elif defined(__aarch64__)
    {&kernels::kNeonI8mm, kNeonI8mmNeeds},
    {&kernels::kNeonDot, kNeonDotNeeds},
    {&kernels::kNeon, {}},
#endif
    {&kernels::kReference, {}},
};

// Names of the instructions that this processor lacks for the set.
std::string MissingFor(const Candidate& candidate) {
  std::string missing;
  for (const Instructions& need : candidate.needs) {
    if (!need.present()) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", need.name);
  }
  return missing;
}

bool RunsHere(const Candidate& candidate) { return MissingFor(candidate).empty(); }

}  // namespace

std::vector<KernelSetReport> ExamineKernels() {
  std::vector<KernelSetReport> reports;
  for (const Candidate& candidate : kCandidates) {
    KernelSetReport report;
    report.name = candidate.set->name;
    for (const Instructions& need : candidate.needs) report.needs += fmt::format("{}{}", report.needs.empty() ? "" : ", ", need.name);
    report.missing = MissingFor(candidate);
    if (report.missing.empty()) {
      const Status tested = SelfTest(*candidate.set);
      report.self_test = tested.ok() ? "passed" : tested.error().message();
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

std::vector<std::string_view> KernelSetNames() {
  std::vector<std::string_view> names;
  for (const Candidate& candidate : kCandidates) names.push_back(candidate.set->name);
  return names;
}

std::vector<const KernelSet*> RunnableKernels() {
  std::vector<const KernelSet*> sets;
  for (const Candidate& candidate : kCandidates) {
    if (RunsHere(candidate)) sets.push_back(candidate.set);
  }
  return sets;
}

Result<const KernelSet*> ChooseKernels(std::string_view name) {
  for (const Candidate& candidate : kCandidates) {
    if (name == "auto") {
      // A set that disagrees with the reference is passed over: slow and right beats fast and wrong.
      if (RunsHere(candidate) && SelfTest(*candidate.set).ok()) return candidate.set;
      continue;
    }
    if (name != candidate.set->name) continue;
    if (!RunsHere(candidate)) {
      return Error(Code::kUnavailable,
                   fmt::format("--kernels {}: this processor lacks {}; use --kernels auto", name, MissingFor(candidate)));
    }
    if (Status tested = SelfTest(*candidate.set); !tested.ok()) {
      return Error(Code::kUnavailable, fmt::format("--kernels {}: {}; use --kernels auto", name, tested.error().message()));
    }
    return candidate.set;
  }
  return Error(Code::kInvalidArgument, fmt::format("--kernels {}: expected auto, {}", name, fmt::join(KernelSetNames(), ", ")));
}

InputForm InputOf(const KernelSet& set, PanelKind kind) {
  if (set.quantized[static_cast<size_t>(kind)]) return InputForm::kBlocks;
  return kind == PanelKind::kBF16 && set.to_bf16 != nullptr ? InputForm::kBf16 : InputForm::kFloats;
}

kernels::PrefetchDistances DefaultPrefetch() {
#if defined(__x86_64__)
  // Measured on decoding from memory: on Zen 5 one sequence gains 20 % by 8 KB and eight gain 30 to 170 %; on Zen 4 one loses 17 %; eight
  // on Sapphire Rapids gain 12 % by 2 KB, and one nothing.
  constexpr unsigned kZen5 = 0x1a;
  unsigned signature = 0;
  unsigned rest[3];
  if (__builtin_cpu_is("intel") != 0 && __builtin_cpu_supports("avx512f") != 0) return {.one = 0, .few = 2048};
  if (__get_cpuid(1, &signature, &rest[0], &rest[1], &rest[2]) == 0) return {};
  const unsigned family = (signature >> 8 & 15) + (signature >> 20 & 255);
  if (__builtin_cpu_is("amd") != 0 && family == kZen5) return {.one = 8192, .few = 8192};
  return {};
#else
  return {};
#endif
}

}  // namespace bantam
