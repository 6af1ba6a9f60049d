// Session: one sequence on one model: what has been read so far, and the logits of what comes next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/memory_budget.h"
#include "base/progress.h"
#include "base/result.h"
#include "base/threads.h"
#include "engine/stop_reason.h"
#include "model/adapter/adapter.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "model/sampler.h"
#include "program/executor.h"
#include "program/memory_plan.h"
#include "text/tokenizer.h"

namespace bantam {

class Session {
 public:
  // The model and pool outlive the session. Exhausted when the budget cannot hold KV and activations.
  static Result<std::unique_ptr<Session>> Make(const Model& model, const MemoryPlan& plan, const Resources& resources);

  // Takes an adapter of the model for what follows. The session has to be empty. Exhausted when the budget cannot hold what its rows need.
  Status Use(std::shared_ptr<const Adapter> adapter, MemoryBudget& budget);

  size_t context() const { return plan_.options.context; }
  std::span<const uint32_t> tokens() const { return tokens_; }
  size_t vocabulary() const { return model_.program.vocabulary; }

  // Reads tokens, in steps of at most PlanOptions::step_tokens; the logits are then those after the last one. `progress`
  // is also asked within steps and may end it: Cancelled, with the tokens of whole steps kept. Other errors: InvalidArgument
  // (an id outside the vocabulary, no tokens), Exhausted (they do not fit the context). Without `progress` a single token
  // allocates nothing.
  Status Append(std::span<const uint32_t> tokens, const Progress& progress = nullptr);

  // The same, with the logits of every token: `sink` gets [n, vocabulary] per step. Needs a plan whose step_outputs is
  // step_tokens.
  using LogitsSink = std::function<Status(std::span<const float> logits)>;
  Status AppendForLogits(std::span<const uint32_t> tokens, const LogitsSink& sink, const Cancelled& cancelled = nullptr);

  // Forgets tokens from `length` on, and returns how many are kept: 0 when layers with a sliding window have already overwritten what
  // the next token would see, or recurrent ones have gone on for more than one step. The logits are then stale until the next Append.
  size_t Truncate(size_t length);

  // After the last token appended: [vocabulary].
  std::span<const float> logits() const { return {executor_->logits() + last_output_ * vocabulary(), vocabulary()}; }

  // From here on steps add their times to `profile`, which outlives them; null: no more.
  void Profile(StepProfile* profile) { profile_ = profile; }

  // What attention reads of KV for one token after `context - 1` others, over all layers.
  uint64_t KvReadBytes(size_t context) const { return layout_.ReadBytes(context); }

 private:
  Session(const Model& model, const MemoryPlan& plan);
  Status Check(std::span<const uint32_t> tokens) const;
  // One step of at most step_tokens tokens; Cancelled leaves the session as it was.
  Status RunStep(std::span<const uint32_t> tokens, bool all_outputs, const Cancelled& cancelled);

  const Model& model_;
  const MemoryPlan plan_;
  const KvLayout layout_;
  KvCache cache_;
  std::unique_ptr<Executor> executor_;
  std::shared_ptr<const Adapter> adapter_;  // or none
  std::vector<uint32_t> tokens_;            // capacity: the context
  KvSequence sequence_;
  std::vector<StepRow> rows_;
  std::vector<uint32_t> output_rows_;
  size_t last_output_ = 0;
  StepProfile* profile_ = nullptr;
};

struct GenerateOptions {
  size_t tokens_max = 0;
  // Polled before every token; true stops the answer.
  std::function<bool()> cancelled;
  // Texts that end the answer, wherever token boundaries fall; they are not part of it.
  std::vector<std::string> stops;
  // Gets text as soon as its characters are complete and it cannot be the beginning of a stop.
  std::function<void(std::string_view text)> on_text;
};

struct GenerateResult {
  StopReason reason = StopReason::kEndOfTurn;
  size_t tokens = 0;        // generated, the end-of-turn token not counted
  size_t decode_steps = 0;  // single-token steps that were timed
  int64_t decode_ns = 0;
  uint64_t kv_read_bytes = 0;
  std::string text;
};

// Answers from the session's current logits. The generated tokens enter the session. Corrupt where those are no numbers; the texts before
// are kept.
Result<GenerateResult> Generate(Session& session, Sampler& sampler, const Tokenizer& tokenizer, const Clock& clock,
                                const GenerateOptions& options);

}  // namespace bantam
