#include "testing/model_runner.h"

#include <algorithm>

#include "model/open.h"

namespace bantam::testing {

Result<std::unique_ptr<ModelRunner>> ModelRunner::Make(const std::string& path, const RunSetup& setup, size_t tokens_max) {
  const auto files = MakeFileSystem();
  BANTAM_ASSIGN(ModelFile file, OpenModel(*files, path));
  return Make(std::move(file), setup, tokens_max);
}

Result<std::unique_ptr<ModelRunner>> ModelRunner::Make(ModelFile file, const RunSetup& setup, size_t tokens_max) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner(setup));
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, *setup.kernels));
  for (size_t layer = 0; setup.window != 0 && layer < outline.program.kv_layers.size(); layer += 2) {
    outline.program.kv_layers[layer].window = setup.window;
  }
  BANTAM_ASSIGN(runner->model_, LoadModel(std::move(outline), file, {runner->budget_, runner->pool_}, nullptr));
  PlanOptions options;
  options.context = tokens_max;
  options.kv_type = setup.kv_type;
  options.step_tokens = std::min(tokens_max, *std::max_element(setup.chunks.begin(), setup.chunks.end()));
  options.step_outputs = options.step_tokens;
  options.threads = setup.threads;
  const Program& program = runner->model_->program;
  PerKvPart<size_t> blocks = KvBlocks(program, options);
  if (!setup.ring) blocks[KvPart::kWindowed] = KvBlockCount(tokens_max);
  BANTAM_ASSIGN(runner->cache_, KvCache::Make(KvLayout(setup.kv_type, program.kv_layers), blocks, {program.state_floats, /*sequences=*/1},
                                              runner->budget_));
  runner->sequence_ = std::make_unique<KvSequence>(tokens_max, blocks[KvPart::kWindowed], WindowMax(program));
  BANTAM_ASSIGN(runner->executor_, Executor::Make({runner->model_->program, runner->model_->weights, *setup.kernels, options},
                                                  {runner->budget_, runner->pool_}));
  return runner;
}

Status ModelRunner::Adapt(const std::string& path, float scale) {
  const auto files = MakeFileSystem();
  BANTAM_ASSIGN(AdapterOutline outline, OutlineAdapter(*files, path, {model_->config, model_->program, *model_->kernels}, scale));
  BANTAM_TRY(executor_->RoomForRank(outline.rank_max, budget_));
  BANTAM_ASSIGN(adapter_, LoadAdapter(std::move(outline), *model_, budget_));
  return Ok();
}

std::vector<float> ModelRunner::Logits(std::span<const uint32_t> tokens) {
  std::vector<float> logits;
  size_t chunk = 0;
  for (size_t done = 0; done < tokens.size(); ++chunk) {
    const size_t n = std::min(setup_.chunks[chunk % setup_.chunks.size()], tokens.size() - done);
    std::vector<StepRow> rows;
    std::vector<uint32_t> outputs;
    CHECK(sequence_->Extend(cache_, done + n).ok());
    for (size_t i = 0; i < n; ++i) {
      rows.push_back({tokens[done + i], static_cast<uint32_t>(done + i), sequence_->tables(), sequence_->state(cache_),
                      sequence_->next_state(cache_)});
      if (adapter_ != nullptr) rows.back().adapter = &adapter_->updates;
      outputs.push_back(static_cast<uint32_t>(i));
    }
    executor_->Run({rows, outputs, cache_.base()});
    sequence_->Commit(done + n);
    logits.insert(logits.end(), executor_->logits(), executor_->logits() + n * model_->program.vocabulary);
    done += n;
  }
  return logits;
}

}  // namespace bantam::testing
