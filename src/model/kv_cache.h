// The KV blocks of a model and the states of its recurrent layers, who holds which, and one sequence's share of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
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

// A pool of blocks, all of one layout, with the states; or one of two pools that share their memory. A handle: copies mean the same pool.
class KvCache {
 public:
  KvCache() = default;
  // Exhausted when the budget cannot hold the blocks and states.
  static Result<KvCache> Make(const KvLayout& layout, const PerKvPart<size_t>& blocks, const StateSizes& states, MemoryBudget& budget);
  // A second pool, of another layout, whose blocks take from the memory of this one's, and which has the same states. It asks the system
  // for addresses, and the budget for nothing: what lies in free blocks of either goes back to the system when the other needs it. Blocks
  // of both are whole pages (KvLayout::block_multiple), or some of their memory stays. Exhausted when there are no addresses.
  Result<KvCache> MakeBeside(const KvLayout& layout);

  const PerKvPart<uint8_t*>& base() const { return pool_->base; }

  bool recurrent() const { return room_->state_floats > 0; }
  // A pair of states, and the place of one of the two.
  Result<uint32_t> TakeStates();
  void GiveStates(uint32_t pair) { room_->free_states.push_back(pair); }
  float* State(uint32_t pair, size_t which) const { return room_->states + (2 * pair + which) * room_->state_floats; }
  size_t state_floats() const { return room_->state_floats; }
  size_t free_states() const { return room_->free_states.size(); }

  // A block has holders: who takes it, and who shares it from then on. It is free when all have given it back. None of these allocates
  // anything: the lists were sized at the start. Exhausted when none is free.
  Result<uint32_t> Take(KvPart part);
  void Share(KvPart part, uint32_t block) { ++pool_->holders[part][block]; }
  void Give(KvPart part, uint32_t block);
  uint32_t holders(KvPart part, uint32_t block) const { return pool_->holders[part][block]; }
  // That may be taken now, with what the other pool holds.
  size_t free_blocks(KvPart part) const;
  size_t blocks(KvPart part) const { return pool_->holders[part].size(); }
  size_t block_bytes(KvPart part) const { return pool_->block_bytes[part]; }
  // Gives the memory of free blocks of both pools back to the system until they are taken again; the plan keeps its room. Returns how much.
  uint64_t ReleaseFree();
  uint8_t* Block(KvPart part, uint32_t block) const { return pool_->base[part] + block * pool_->block_bytes[part]; }

 private:
  struct Pool {
    PerKvPart<Arena> arena = {};
    PerKvPart<uint8_t*> base = {};
    PerKvPart<size_t> block_bytes = {};
    PerKvPart<std::vector<uint32_t>> free = {};
    PerKvPart<std::vector<uint32_t>> holders = {};  // of each block
    PerKvPart<std::vector<bool>> touched = {};      // blocks that have memory

    void AddBlocks(KvPart part, size_t count);
    uint64_t Release(KvPart part, uint32_t block);
  };
  // What pools share.
  struct Room {
    std::vector<std::unique_ptr<Pool>> pools = {};
    PerKvPart<uint64_t> bytes = {};
    PerKvPart<uint64_t> taken = {};    // of them, by blocks that somebody holds
    PerKvPart<uint64_t> touched = {};  // by blocks that have memory, free ones among them
    Arena state_arena = {};
    float* states = nullptr;
    size_t state_floats = 0;  // of one, in whole cache lines
    std::vector<uint32_t> free_states = {};
  };
  // Takes memory of free blocks until a new one of so many bytes has room.
  void MakeRoom(KvPart part, uint64_t bytes);

  std::shared_ptr<Room> room_;
  Pool* pool_ = nullptr;  // of the room
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
