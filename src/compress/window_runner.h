// Runs a model over windows of tokens, each from an empty context: what calibration and comparisons need of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "model/load.h"
#include "program/executor.h"

namespace bantam {

class WindowRunner {
 public:
  // The model and pool outlive it. Exhausted when the budget cannot hold KV and activations. Options: the context is that of a window.
  static Result<std::unique_ptr<WindowRunner>> Make(const Model& model, const PlanOptions& options, const Resources& resources);

  size_t vocabulary() const { return model_.program.vocabulary; }
  size_t step_tokens() const { return options_.step_tokens; }
  size_t window() const { return options_.context; }

  // Forgets the window.
  void Begin() { Keep(0); }
  // Forgets what lies behind so many tokens, and returns how many are kept: as many, or none where the model's states cannot go back.
  size_t Keep(size_t length) { return sequence_.Truncate(cache_, length); }
  // The window's next tokens, at most step_tokens of them. The last `outputs` of them have logits then. False where it was cancelled: the
  // window is to be begun again.
  struct Extras {
    size_t outputs = 0;  // at most PlanOptions::step_outputs
    ProductObserver* observer = nullptr;
    const Cancelled* cancelled = nullptr;  // not with ranges
    std::span<const OpRange> ranges = {};  // of the program; empty: all of it
  };
  Result<bool> Read(std::span<const uint32_t> tokens, const Extras& extras);
  // [outputs][vocabulary] of the last call.
  const float* logits() const { return executor_->logits(); }

 private:
  WindowRunner(const Model& model, const PlanOptions& options);

  const Model& model_;
  const PlanOptions options_;
  KvCache cache_;
  KvSequence sequence_;
  std::unique_ptr<Executor> executor_;
  std::vector<StepRow> rows_;
  std::vector<uint32_t> output_rows_;
};

}  // namespace bantam
