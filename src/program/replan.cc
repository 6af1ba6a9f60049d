#include "program/replan.h"

#include <utility>

namespace bantam {

std::optional<MemoryPlan> ReplanKv(FitRequest fit, const MemoryPlan& plan, Program program, KvType type) {
  fit.wanted = plan.options;
  fit.wanted.kv_type = type;
  fit.wanted.kv_tokens = 0;  // as many as fit, again
  // What is narrower was found to cost too much.
  if (IsFloat(type)) fit.wanted.narrow_kv = false;
  fit.weight_form = plan.weight_form;
  fit.fixed_context = true;
  fit.fixed_kv = true;
  Result<MemoryPlan> better = FitMemory(&program, fit);
  if (!better.ok() || better->options.sequences != plan.options.sequences) return std::nullopt;
  better->weight_form = plan.weight_form;
  return std::move(better).value();
}

}  // namespace bantam
