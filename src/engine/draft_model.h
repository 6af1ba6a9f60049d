// DraftModel: a smaller model of the same vocabulary that guesses what a model is going to say next. The model checks its guesses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/memory_budget.h"
#include "base/result.h"
#include "engine/step_cost.h"
#include "formats/model_file.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "program/executor.h"
#include "program/memory_plan.h"
#include "text/tokenizer.h"

namespace bantam {

// A draft model before any of its weights is read.
struct DraftOutline {
  ModelFile file;
  ModelOutline outline;
};
// Errors name the file: Unsupported for models that cannot guess (recurrent layers go back no further than a step, encoders write nothing)
// or whose guesses cannot be checked, InvalidArgument for another vocabulary, and those of reading it.
Result<DraftOutline> OutlineDraft(ModelFile file, const Tokenizer& tokenizer, const ModelOutline& model);

// Ok where both have the same tokens under the same ids, and begin and end texts alike. One may have more behind the other's last, as
// long as they are unused. InvalidArgument names the first difference.
Status CheckSameVocabulary(const Tokenizer& model, const Tokenizer& draft);

// What a draft model adds at least to a plan with these options: the draft's tokens, of all sequences together, are those of one context.
uint64_t DraftBytesMin(const DraftOutline& draft, const PlanOptions& options);
// The draft model's own plan beside that of the model, which gets its bytes: more tokens' keys and values where the limit leaves room.
MemoryPlan PlanDraft(const DraftOutline& draft, uint64_t limit_bytes, MemoryPlan* plan);

// Belongs to the thread of its engine. Sequences share its keys and values: who finds no room has no guesses for a while.
class DraftModel {
 public:
  // All of these outlive it. `vocabulary`: ids below are the model's. `fail` as EngineOptions::fail.
  struct Setup {
    const Model& model;
    const MemoryPlan& plan;
    const Tokenizer& tokenizer;
    const Clock& clock;
    size_t vocabulary = 0;
    std::function<bool()> fail = {};
  };
  // Exhausted when the budget cannot hold KV and activations.
  static Result<std::unique_ptr<DraftModel>> Make(const Setup& setup, const Resources& resources);

  // What it has read of one answer, and guessed. Its KV is free when this goes; the draft model outlives it.
  class Sequence {
   public:
    ~Sequence();
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;

   private:
    friend class DraftModel;
    Sequence(DraftModel& of, size_t context, size_t ring, size_t window) : of_(of), kv_(context, ring, window) {}

    DraftModel& of_;
    KvSequence kv_;
    size_t known_ = 0;               // tokens in front of the guesses
    std::vector<uint32_t> guesses_;  // behind them in KV
    uint64_t used_ = 0;              // when there were guesses for it
    uint64_t waits_until_ = 0;       // there was no room
  };
  std::unique_ptr<Sequence> Begin();
  // What one holds: bytes.
  uint64_t SequenceBytes() const;

  // Of the tokens of an answer, which only grow, those that it has not read: at least the newest.
  size_t Behind(const Sequence& sequence, std::span<const uint32_t> known) const;
  // How many tokens it could guess for it: 0 without room, and where its context ends.
  size_t Room(const Sequence& sequence, std::span<const uint32_t> known) const;

  struct Ask {
    Sequence* sequence = nullptr;
    std::span<const uint32_t> known = {};
    size_t tokens = 0;                       // guesses that are wanted, at least 1
    std::vector<uint32_t>* draft = nullptr;  // gets them: the likeliest, and none behind the end of a turn
  };
  // Reads at most `rows_max` tokens in all and `step_tokens` of each, in the order of the asks; who is read to the end then gets guesses, a
  // step for a token of each.
  void Propose(std::span<const Ask> asks, size_t rows_max);

  const StepCost& cost() const { return cost_; }
  uint64_t steps() const { return steps_; }
  size_t step_tokens() const { return plan_.options.step_tokens; }
  const KvCache& kv() const { return kv_; }
  // Internal where the blocks that sequences hold are not those that are counted.
  Status CheckHolders() const;

 private:
  DraftModel(const Setup& setup, const Resources& resources);
  // Forgets guesses that did not come true.
  void Correct(Sequence& sequence, std::span<const uint32_t> known);
  size_t Right(const Sequence& sequence, std::span<const uint32_t> known) const;
  bool Extend(Sequence& sequence, size_t length);
  bool ForgetOldest();
  // A row of the next step; `draft` gets the likeliest token after it, if it is not null.
  void AddRow(const Sequence& sequence, uint32_t token, size_t position, std::vector<uint32_t>* draft);
  void Run();

  const Model& model_;
  const MemoryPlan plan_;
  const Tokenizer& tokenizer_;
  const Clock& clock_;
  const size_t vocabulary_;
  const std::function<bool()> fail_;
  const size_t ring_;
  const size_t window_;
  KvCache kv_;
  std::unique_ptr<Executor> executor_;
  StepCost cost_;
  uint64_t steps_ = 0;
  uint64_t uses_ = 0;
  std::vector<Sequence*> sequences_;  // all that there are
  std::vector<StepRow> rows_;
  std::vector<uint32_t> output_rows_;
  std::vector<std::vector<uint32_t>*> drafts_;  // of each output
};

}  // namespace bantam
