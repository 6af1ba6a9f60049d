#include "compress/window_runner.h"

namespace bantam {

WindowRunner::WindowRunner(const Model& model, const PlanOptions& options)
    : model_(model),
      options_(options),
      sequence_(options.context, KvBlocks(model.program, options)[KvPart::kWindowed], WindowMax(model.program)) {}

Result<std::unique_ptr<WindowRunner>> WindowRunner::Make(const Model& model, const PlanOptions& options, const Resources& resources) {
  CHECK(!model.program.whole_texts);
  std::unique_ptr<WindowRunner> runner(new WindowRunner(model, options));
  BANTAM_ASSIGN(runner->cache_, KvCache::Make(PlannedKv(model.program, options), KvBlocks(model.program, options),
                                              {model.program.state_floats, /*sequences=*/1}, resources.budget));
  BANTAM_ASSIGN(runner->executor_, Executor::Make({model.program, model.weights, *model.kernels, options}, resources));
  // Observers are shown rounded inputs as floats in the places of adapters.
  BANTAM_TRY(runner->executor_->RoomForRank(/*rank=*/1, resources.budget));
  return runner;
}

Result<bool> WindowRunner::Read(std::span<const uint32_t> tokens, const Extras& extras) {
  const size_t begin = sequence_.length();
  CHECK(!tokens.empty() && tokens.size() <= options_.step_tokens && begin + tokens.size() <= options_.context);
  CHECK(extras.outputs <= std::min(tokens.size(), options_.step_outputs));
  BANTAM_TRY(sequence_.Extend(cache_, begin + tokens.size()));
  rows_.clear();
  output_rows_.clear();
  for (size_t i = 0; i < tokens.size(); ++i) {
    CHECK(tokens[i] < vocabulary());
    rows_.push_back(
        {tokens[i], static_cast<uint32_t>(begin + i), sequence_.tables(), sequence_.state(cache_), sequence_.next_state(cache_)});
    if (i + extras.outputs >= tokens.size()) output_rows_.push_back(static_cast<uint32_t>(i));
  }
  Step step = {rows_, output_rows_, cache_.base()};
  step.cancelled = extras.cancelled;
  step.observer = extras.observer;
  step.ranges = extras.ranges;
  if (!executor_->Run(step)) return false;
  sequence_.Commit(begin + tokens.size());
  return true;
}

}  // namespace bantam
