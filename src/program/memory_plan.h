// The planner: what a program needs, to the byte, before anything is loaded; and the largest form that fits a budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "program/kv_layout.h"
#include "program/program.h"

namespace bantam {

// Tokens whose activations stay in the second-level cache while a thread's panels pass by: weights are read once for so many, at most.
inline constexpr size_t kTokenTile = 128;

// Code, thread stacks, the allocator's slack and what the C library holds (measured: 5 MiB with a chat open), and what a
// prompt takes while it is tokenised.
inline constexpr uint64_t kProcessReserveBytes = uint64_t{16} << 20;
// A context below this is of no use; the planner refuses instead.
inline constexpr size_t kContextMin = 128;
// Where nobody asks for a context, it has at most so many tokens.
inline constexpr size_t kContextDefault = 4096;

struct PlanOptions {
  size_t context = 0;  // tokens of one sequence
  KvType kv_type = KvType::kF16;
  size_t step_tokens = 128;  // most tokens of one step
  size_t step_outputs = 1;   // most tokens of one step whose logits are wanted
  int threads = 1;
  size_t step_texts = 1;  // most sequences of one step, of programs that read whole texts
  // Of an engine: sequences that hold KV and states at once, how many tokens' keys and values they have together (0: one context), and how
  // many more windows and states are kept for sequences to come.
  size_t sequences = 1;
  size_t kv_tokens = 0;
  size_t checkpoints = 0;
  // Sequences of an engine may have KV of 8 bits instead of kv_type, in the same memory: blocks of both begin with a page of the system, so
  // that what one gives back the other can have.
  bool narrow_kv = false;
  // None of these changes results or the plan: only speed.
  bool uneven_cores = false;                 // SystemLimits::uneven_cores
  size_t token_tile = kTokenTile;            // a multiple of 16, at most kTokenTile
  kernels::PrefetchDistances prefetch = {};  // kernels::Panel::prefetch
};

// How weights of formats lie in memory whose panels are much larger than the file's blocks: IQ1, IQ2, IQ3, TQ and Q1_0.
enum class WeightForm : uint8_t {
  kPanels,  // ready for the kernels
  kRows,    // as in the file: less memory and to the bit the same results, but every token packs them anew
};
std::string_view WeightFormName(WeightForm form);  // "panels", "rows"
std::optional<WeightForm> WeightFormFromName(std::string_view name);

// Keys and values as planned, and those of 8 bits beside them (PlanOptions::narrow_kv).
KvLayout PlannedKv(const Program& program, const PlanOptions& options);
KvLayout NarrowKv(const Program& program, const PlanOptions& options);

struct MemoryPlan {
  PlanOptions options;
  WeightForm weight_form = WeightForm::kPanels;
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t state_bytes = 0;        // of recurrent layers, whatever the context
  uint64_t activations_bytes = 0;  // buffers of a step, every thread's scratch, states of segments
  uint64_t vocabulary_bytes = 0;
  uint64_t header_bytes = 0;    // the file's metadata, while it is loaded
  uint64_t requests_bytes = 0;  // of an engine: what requests that wait or run hold beside KV
  uint64_t adapters_bytes = 0;  // and what rows of a step with them need
  uint64_t draft_bytes = 0;     // all of a draft model
  uint64_t reserve_bytes = 0;

  uint64_t total_bytes() const {
    return weights_bytes + kv_bytes + state_bytes + activations_bytes + vocabulary_bytes + header_bytes + requests_bytes + adapters_bytes +
           draft_bytes + reserve_bytes;
  }
};

// Blocks of 16 tokens that hold `context` tokens.
inline size_t KvBlockCount(size_t context) { return (context + kKvBlockTokens - 1) / kKvBlockTokens; }

// Of the two states that a sequence of recurrent layers has.
uint64_t StateBytes(size_t state_floats);

// Blocks of each part that one sequence needs, or all of a step where a program reads whole texts: for windowed layers a ring of the widest
// window, a step, and the block in between.
PerKvPart<size_t> KvBlocks(const Program& program, const PlanOptions& options);

// Blocks of each part that all sequences together need.
PerKvPart<size_t> PoolBlocks(const Program& program, const PlanOptions& options);

// Rows that a buffer has in a step of the largest size.
size_t RowsMax(const Program& program, const BufferSpec& buffer, const PlanOptions& options);
// Bytes of one thread's scratch memory.
uint64_t ThreadScratchBytes(const Program& program);
// Bytes of the largest panel that a thread packs of rows, aligned; it has room for kTilePanels of them.
uint64_t PackedPanelBytes(const Program& program);

// A step of one row, as decoding is: every thread makes all of a quantised row for itself, which costs less than meeting the others. Bytes
// of one thread's rows; 0 for a single thread.
uint64_t OwnRowsBytes(const Program& program, int threads);
// Rows that a buffer has in such a step.
size_t RowsOfOne(const Program& program, const BufferSpec& buffer);

// Where few heads of keys and values attend, and threads cannot share them evenly, threads take segments of the context instead. Of
// fewer heads (of all rows) than this.
inline size_t SplitHeadsEnd(int threads) { return 4 * static_cast<size_t>(threads); }
inline bool SplitsContext(size_t heads, int threads) { return heads < SplitHeadsEnd(threads) && heads % static_cast<size_t>(threads) != 0; }
// Segments of the context that a query of the layer sees, at most.
size_t SegmentsMax(const KvHeads& layer, const PlanOptions& options);
// What the segments of one operation give, until they are merged.
uint64_t SegmentStatesBytes(const Program& program, const PlanOptions& options);

// Of one thread: which blocks rows of block-sparse layers see. 0 without such layers.
uint64_t SeenBlocksBytes(const Program& program, const PlanOptions& options);

uint64_t ActivationsBytes(const Program& program, const PlanOptions& options);

// What a verb holds beside the model.
struct HeldBytes {
  uint64_t vocabulary = 0;
  uint64_t header = 0;
  uint64_t requests = 0;
  uint64_t spare = 0;  // no part of the plan, but left free by what could grow into it (GrowPool)
  uint64_t adapters = 0;
  uint64_t draft = 0;
};

MemoryPlan PlanMemory(const Program& program, const PlanOptions& options, const HeldBytes& held);

// Keeps matrices as rows whose panels would take at least a fifth more than the file's blocks: IQ1, IQ2, IQ3, TQ and Q1_0. False when there
// are none.
bool KeepRows(Program* program);

// The plan for `wanted`, or if it is too large: fewer sequences at once, 8-bit KV, then a smaller context (halved, but not below
// kContextUseful), then weights kept as rows (if that is smaller) with all that is wanted, and so on down to kContextMin. `fixed_context`,
// `fixed_kv` and `weight_form` forbid changes that the user did not ask for. Several sequences then get as many tokens' KV as fit
// (GrowPool). Exhausted, with the numbers, when nothing fits.
inline constexpr size_t kContextUseful = 1024;
struct FitRequest {
  PlanOptions wanted;
  uint64_t limit_bytes = 0;
  HeldBytes held;
  bool fixed_context = false;
  bool fixed_kv = false;
  std::optional<WeightForm> weight_form;
};
Result<MemoryPlan> FitMemory(Program* program, const FitRequest& request);

// Of a context that passes Program::context_limit.
std::string TooManyPositions(const Program& program, size_t context);

// Bytes of weights that decoding one token reads; of experts, those used.
uint64_t DecodeReadBytes(const Program& program);
// Multiplications by weights: for each token of a step, and for each token whose logits are wanted.
struct Multiplies {
  uint64_t per_token = 0;
  uint64_t per_output = 0;
};
Multiplies CountMultiplies(const Program& program);

// More tokens' keys and values for an engine's sequences, as many as fit the limit and the sequences can have.
void GrowPool(const Program& program, uint64_t limit_bytes, MemoryPlan* plan);

// The plan as lines of text, largest part first.
std::string Describe(const MemoryPlan& plan);

}  // namespace bantam
