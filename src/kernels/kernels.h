// The kernel table: every operation as a plain reference (the specification) and per instruction set a faster one.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kernels/kernel_types.h"
#include "tensor/panel.h"

namespace bantam {

using kernels::KernelSet;

// "auto" (the fastest set that this processor has and that passes its self-test) or one of KernelSetNames().
// InvalidArgument for an unknown name; Unavailable when the processor lacks the set or the self-test fails.
Result<const KernelSet*> ChooseKernels(std::string_view name);

// What this processor makes of each set of this build, fastest first.
struct KernelSetReport {
  std::string_view name;
  std::string needs;      // instructions
  std::string missing;    // of those; empty when the set can run
  std::string self_test;  // "passed", or why not; empty when the set cannot run
};
std::vector<KernelSetReport> ExamineKernels();

// Names of the sets this build contains, fastest first, "ref" last.
std::vector<std::string_view> KernelSetNames();

// Sets that this processor can run, fastest first, "ref" last.
std::vector<const KernelSet*> RunnableKernels();

// Panel::prefetch where nothing was measured (bantam tune): what suits this processor's family.
kernels::PrefetchDistances DefaultPrefetch();

// What the set's product of a kind takes as its columns.
enum class InputForm : uint8_t { kFloats, kBlocks, kBf16 };
InputForm InputOf(const KernelSet& set, PanelKind kind);

// Compares a set with the reference on small random panels, vectors and KV blocks; under 5 ms. Internal, naming the
// kernel and the difference, when they disagree.
Status SelfTest(const KernelSet& set);

}  // namespace bantam
