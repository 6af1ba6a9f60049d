// From a model file to logits in one call, for tests.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/memory_budget.h"
#include "base/threads.h"
#include "model/adapter/adapter.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "program/executor.h"

namespace bantam::testing {

struct RunSetup {
  const KernelSet* kernels = nullptr;
  KvType kv_type = KvType::kF32;
  int threads = 2;
  std::vector<size_t> chunks = {1 << 20};  // sizes of the steps, repeated; cut to the tokens that are left
  size_t window = 0;                       // of every second layer; 0: none
  bool ring = true;                        // whether windowed layers get no more blocks than they need
};

// Everything a model needs to run on its own.
class ModelRunner {
 public:
  static Result<std::unique_ptr<ModelRunner>> Make(const std::string& path, const RunSetup& setup, size_t tokens_max);
  static Result<std::unique_ptr<ModelRunner>> Make(ModelFile file, const RunSetup& setup, size_t tokens_max);

  // Takes an adapter for what follows.
  Status Adapt(const std::string& path, float scale = 1);
  const Adapter* adapter() const { return adapter_.get(); }
  const Model& model() const { return *model_; }
  MemoryBudget& budget() { return budget_; }

  // Logits of every token of one sequence: [tokens, vocabulary].
  std::vector<float> Logits(std::span<const uint32_t> tokens);

 private:
  ModelRunner(const RunSetup& setup)
      : setup_(setup), budget_(uint64_t{1} << 40), pool_owner_(ThreadPool::Make(setup.threads).value()), pool_(*pool_owner_) {}
  RunSetup setup_;
  MemoryBudget budget_;
  std::unique_ptr<ThreadPool> pool_owner_;
  ThreadPool& pool_;
  std::unique_ptr<Model> model_;
  std::shared_ptr<const Adapter> adapter_;
  KvCache cache_;
  std::unique_ptr<KvSequence> sequence_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace bantam::testing
