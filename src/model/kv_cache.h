// The KV blocks of a model and the states of its recurrent layers, who holds which, and one sequence's share of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/memory_budget.h"
#include "base/result.h"
#include "program/kv_layout.h"
#include "tensor/arena.h"

namespace bantam {

// States of recurrent layers: two for each sequence, of Program::state_floats each.
struct StateSizes {
  size_t floats = 0;
  size_t sequences = 0;
};

class KvCache {
 public:
  // Exhausted when the budget cannot hold the blocks and states.
  static Result<KvCache> Make(const KvLayout& layout, const PerKvPart<size_t>& blocks, const StateSizes& states, MemoryBudget& budget);

  const PerKvPart<uint8_t*>& base() const { return base_; }

  bool recurrent() const { return state_floats_ > 0; }
  // A pair of states, and the place of one of the two.
  Result<uint32_t> TakeStates();
  void GiveStates(uint32_t pair) { free_states_.push_back(pair); }
  float* State(uint32_t pair, size_t which) const { return states_ + (2 * pair + which) * state_floats_; }
  size_t state_floats() const { return state_floats_; }
  size_t free_states() const { return free_states_.size(); }

  // A block has holders: who takes it, and who shares it from then on. It is free when all have given it back. None of these allocates
  // anything: the lists were sized at the start. Exhausted when none is free.
  Result<uint32_t> Take(KvPart part);
  void Share(KvPart part, uint32_t block) { ++holders_[part][block]; }
  void Give(KvPart part, uint32_t block);
  uint32_t holders(KvPart part, uint32_t block) const { return holders_[part][block]; }
  size_t free_blocks(KvPart part) const { return free_[part].size(); }
  size_t blocks(KvPart part) const { return holders_[part].size(); }
  size_t block_bytes(KvPart part) const { return block_bytes_[part]; }
  // Gives the memory of free blocks back to the system until they are taken again; the plan keeps its room. Returns how much.
  uint64_t ReleaseFree();
  uint8_t* Block(KvPart part, uint32_t block) const { return base_[part] + block * block_bytes_[part]; }

 private:
  PerKvPart<Arena> arena_;
  PerKvPart<uint8_t*> base_;
  PerKvPart<size_t> block_bytes_;
  PerKvPart<std::vector<uint32_t>> free_;
  PerKvPart<std::vector<uint32_t>> holders_;  // of each block
  Arena state_arena_;
  float* states_ = nullptr;
  size_t state_floats_ = 0;  // of one, in whole cache lines
  std::vector<uint32_t> free_states_;
};

// What a sequence was at some length, to begin others from: blocks that somebody holds meanwhile.
struct KvCheckpoint {
  size_t length = 0;                        // in whole blocks where there are any
  std::span<const uint32_t> full = {};      // all blocks of layers that see everything
  std::span<const uint32_t> windowed = {};  // the newest blocks of layers with a window: what the next token sees
  const float* state = nullptr;             // of recurrent layers
};

// The blocks of one sequence. Those of windowed layers are a ring: block b takes the place of block b - ring, whose tokens no query
// sees any more. What others hold too is never written: a step that begins within such a block copies it, and a ring leaves it to them. A
// step of recurrent layers reads one state and writes the other, so that one that is cancelled has changed nothing.
class KvSequence {
 public:
  // `ring` is KvBlocks(...)[KvPart::kWindowed], `window` the widest; 0 when no layer has one.
  KvSequence(size_t context, size_t ring, size_t window);

  // What Extend would take from the cache.
  PerKvPart<size_t> Needs(const KvCache& cache, size_t length) const;
  // Makes tokens [length(), length) writable. Allocates nothing. Exhausted when the cache has no block left.
  Status Extend(KvCache& cache, size_t length);

  // A step that ended at `length` tokens is done.
  void Commit(size_t length);
  size_t length() const { return length_; }

  // Gives back what only tokens from `length` on need. Returns the length that is kept: 0 instead of `length` when the ring no longer
  // holds what the next token would see, or when recurrent layers have a state only for another length (they go back one step).
  size_t Truncate(KvCache& cache, size_t length);

  // Begins an empty sequence with what another one was. Exhausted when no pair of states is free.
  Status Adopt(KvCache& cache, const KvCheckpoint& from);
  // What the next token of this length sees; the checkpoint refers to this sequence. The state is that of length() only.
  KvCheckpoint Checkpoint(const KvCache& cache, size_t length) const;

  KvTables tables() const;
  // What the next step reads and writes; null without recurrent layers.
  const float* state(const KvCache& cache) const { return recurrent_ ? cache.State(states_, current_) : nullptr; }
  float* next_state(const KvCache& cache) const { return recurrent_ ? cache.State(states_, 1 - current_) : nullptr; }
  // Block b of a part, or kNoBlock where the ring holds it no longer.
  std::span<const uint32_t> blocks(KvPart part) const { return blocks_[part]; }

  static constexpr uint32_t kNoBlock = UINT32_MAX;

 private:
  bool Copies(const KvCache& cache, KvPart part) const;

  size_t ring_;
  size_t window_;
  size_t length_ = 0;
  size_t written_ = 0;  // the longest that the sequence was since it was last empty
  size_t adopted_ = 0;  // the length that it began with
  PerKvPart<std::vector<uint32_t>> blocks_;
  bool recurrent_ = false;  // a pair of states is held
  uint32_t states_ = 0;
  size_t current_ = 0;    // of the pair
  size_t committed_ = 0;  // the length of the current state
  size_t previous_ = 0;   // and of the other; 0: none
};

}  // namespace bantam
