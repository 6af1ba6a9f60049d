// The planner: what a program needs, to the byte, before anything is loaded; and the largest form that fits a budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

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

struct PlanOptions {
  size_t context = 0;  // tokens of one sequence
  KvType kv_type = KvType::kF16;
  size_t step_tokens = 128;  // most tokens of one step
  size_t step_outputs = 1;   // most tokens of one step whose logits are wanted
  int threads = 1;
  // None of these changes results or the plan: only speed.
  bool uneven_cores = false;       // SystemLimits::uneven_cores
  size_t token_tile = kTokenTile;  // a multiple of 16, at most kTokenTile
  size_t prefetch = 0;             // kernels::Panel::prefetch
};

struct MemoryPlan {
  PlanOptions options;
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t activations_bytes = 0;  // buffers of a step, every thread's scratch, states of segments
  uint64_t vocabulary_bytes = 0;
  uint64_t header_bytes = 0;  // the file's metadata, while it is loaded
  uint64_t reserve_bytes = 0;

  uint64_t total_bytes() const { return weights_bytes + kv_bytes + activations_bytes + vocabulary_bytes + header_bytes + reserve_bytes; }
};

// Blocks of 16 tokens that hold `context` tokens.
inline size_t KvBlockCount(size_t context) { return (context + kKvBlockTokens - 1) / kKvBlockTokens; }

// Blocks of each part that one sequence needs: for windowed layers a ring of the widest window, a step, and the block in between.
PerKvPart<size_t> KvBlocks(const Program& program, const PlanOptions& options);

// Rows that a buffer has in a step of the largest size.
size_t RowsMax(const Program& program, const BufferSpec& buffer, const PlanOptions& options);
// Bytes of one thread's scratch memory.
uint64_t ThreadScratchBytes(const Program& program);

// Where few heads of keys and values attend, and threads cannot share them evenly, threads take segments of the context instead. So many
// heads (of all rows) at most.
inline size_t SplitHeadsMax(int threads) { return 4 * static_cast<size_t>(threads); }
inline bool SplitsContext(size_t heads, int threads) { return heads < SplitHeadsMax(threads) && heads % static_cast<size_t>(threads) != 0; }
// Segments of the context that a query of the layer sees, at most.
size_t SegmentsMax(const KvHeads& layer, const PlanOptions& options);
// What the segments of one operation give, until they are merged.
uint64_t SegmentStatesBytes(const Program& program, const PlanOptions& options);

uint64_t ActivationsBytes(const Program& program, const PlanOptions& options);

// What a verb holds beside the model.
struct HeldBytes {
  uint64_t vocabulary = 0;
  uint64_t header = 0;
};

MemoryPlan PlanMemory(const Program& program, const PlanOptions& options, const HeldBytes& held);

// The plan for `wanted`, or if it is too large: 8-bit KV, then a smaller context (halved down to kContextMin). `fixed_context`
// and `fixed_kv` forbid a change that the user did not ask for. Exhausted, with the numbers, when nothing fits.
struct FitRequest {
  PlanOptions wanted;
  uint64_t limit_bytes = 0;
  HeldBytes held;
  bool fixed_context = false;
  bool fixed_kv = false;
};
Result<MemoryPlan> FitMemory(const Program& program, const FitRequest& request);

// Bytes of weights that decoding one token reads; of experts, those used.
uint64_t DecodeReadBytes(const Program& program);
// Multiplications by weights: for each token of a step, and for each token whose logits are wanted.
struct Multiplies {
  uint64_t per_token = 0;
  uint64_t per_output = 0;
};
Multiplies CountMultiplies(const Program& program);

// The plan as lines of text, largest part first.
std::string Describe(const MemoryPlan& plan);

}  // namespace bantam
