// What targets of whole model files share: one file in memory, and two tokens of the model that it holds.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/memory_budget.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "model/vocabulary.h"
#include "program/executor.h"

namespace bantam {

constexpr uint64_t kMemoryMax = uint64_t{256} << 20;

class MemoryMapping final : public FileMapping {
 public:
  MemoryMapping(const uint8_t* data, size_t size) { bytes_ = {reinterpret_cast<const std::byte*>(data), size}; }
  void Release(uint64_t, uint64_t) const override {}
};

// One file, whatever its name.
class MemoryFiles final : public FileSystem {
 public:
  MemoryFiles(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  Result<std::unique_ptr<FileMapping>> Map(const std::string&) override {
    return std::unique_ptr<FileMapping>(std::make_unique<MemoryMapping>(data_, size_));
  }
  Result<std::string> ReadText(const std::string&, size_t) override { return Error(Code::kNotFound, "no such file"); }
  Result<std::unique_ptr<FileWriter>> Create(const std::string&) override { return Error(Code::kDenied, "read-only"); }
  bool Exists(const std::string&) override { return true; }
  Result<std::vector<Entry>> List(const std::string&) override { return Error(Code::kNotFound, "no such folder"); }
  Status Remove(const std::string&) override { return Error(Code::kDenied, "read-only"); }

 private:
  const uint8_t* data_;
  size_t size_;
};

// `choice` picks the kernel set and the KV type.
inline Status RunTwoTokens(ModelFile& file, size_t choice) {
  MemoryBudget budget(kMemoryMax);
  const auto threads_owner = ThreadPool::Make(1).value();
  ThreadPool& pool = *threads_owner;
  const std::vector<const KernelSet*> sets = RunnableKernels();
  const KernelSet& kernels = *sets[choice % sets.size()];
  BANTAM_ASSIGN(ModelOutline outline, OutlineModel(file, kernels));
  PlanOptions options;
  options.kv_type = kAllKvTypes[choice / sets.size() % kAllKvTypes.size()];
  options.context = 32;
  options.step_tokens = 2;
  const MemoryPlan plan = PlanMemory(outline.program, options, {});
  if (plan.total_bytes() > kMemoryMax) return Error(Code::kExhausted, "too large to run here");
  BANTAM_ASSIGN(const auto model, LoadModel(std::move(outline), file, {budget, pool}, nullptr));
  const KvLayout layout(options.kv_type, model->program.kv_layers);
  const PerKvPart<size_t> blocks = KvBlocks(model->program, options);
  BANTAM_ASSIGN(KvCache cache, KvCache::Make(layout, blocks, {model->program.state_floats, /*sequences=*/1}, budget));
  KvSequence sequence(options.context, blocks[KvPart::kWindowed], WindowMax(model->program));
  BANTAM_TRY(sequence.Extend(cache, 2));
  BANTAM_ASSIGN(const auto executor, Executor::Make({model->program, model->weights, kernels, options}, {budget, pool}));
  const uint32_t last = static_cast<uint32_t>(model->program.vocabulary - 1);
  const float* state = sequence.state(cache);
  float* next_state = sequence.next_state(cache);
  const StepRow rows[2] = {{0, 0, sequence.tables(), state, next_state, /*end=*/2},
                           {last, 1, sequence.tables(), state, next_state, /*end=*/2}};
  // Of whole texts, the first row's stands for all.
  const uint32_t outputs[1] = {model->program.whole_texts ? 0u : 1u};
  executor->Run({rows, outputs, cache.base()});
  return Ok();
}

// A text through the vocabulary and back, then two tokens.
inline void RunModel(ModelFile& file, size_t choice) {
  const auto tokenizer = ReadVocabulary(file);
  if (tokenizer.ok()) {
    const auto ids = tokenizer->Encode("Hello <s> w\xc3\xb6rld", /*special=*/true);
    if (ids.ok()) (void)tokenizer->Decode(*ids, /*special=*/true);
  }
  (void)RunTwoTokens(file, choice).ok();
}

}  // namespace bantam
