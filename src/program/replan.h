// A plan made again, when it is known of the model what was not known when it was planned.
#pragma once

#include <optional>

#include "program/memory_plan.h"

namespace bantam {

// `plan`, which was made of `fit`, with keys and values of another type: for the same context and as many sequences, in the same form of
// weights; several sequences have as many tokens' KV as fit then. Nothing where that does not fit.
std::optional<MemoryPlan> ReplanKv(FitRequest fit, const MemoryPlan& plan, Program program, KvType type);

}  // namespace bantam
