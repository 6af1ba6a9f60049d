// The KV blocks of a model, who holds which, and one sequence's share of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/memory_budget.h"
#include "base/result.h"
#include "program/kv_layout.h"
#include "tensor/arena.h"

namespace bantam {

class KvCache {
 public:
  // Exhausted when the budget cannot hold the blocks.
  static Result<KvCache> Make(const KvLayout& layout, const PerKvPart<size_t>& blocks, MemoryBudget& budget);

  const PerKvPart<uint8_t*>& base() const { return base_; }

  // Allocates nothing: the lists of free blocks were sized at the start. Exhausted when none is free.
  Result<uint32_t> Take(KvPart part);
  void Give(KvPart part, uint32_t block);

 private:
  PerKvPart<Arena> arena_;
  PerKvPart<uint8_t*> base_;
  PerKvPart<std::vector<uint32_t>> free_;
};

// The blocks of one sequence. Those of windowed layers are a ring: block b takes the place of block b - ring, whose tokens no query
// sees any more.
class KvSequence {
 public:
  // `ring` is KvBlocks(...)[KvPart::kWindowed], `window` the widest; 0 when no layer has one.
  KvSequence(size_t context, size_t ring, size_t window);

  // Makes tokens [length(), length) writable. Allocates nothing. Exhausted when the cache has no block left.
  Status Extend(KvCache& cache, size_t length);

  // Gives back what only tokens from `length` on need. Returns the length that is kept: 0 instead of `length` when the ring no longer
  // holds what the next token would see.
  size_t Truncate(KvCache& cache, size_t length);

  KvTables tables() const;

 private:
  size_t ring_;
  size_t window_;
  size_t written_ = 0;  // the longest that the sequence was since it was last empty
  PerKvPart<std::vector<uint32_t>> blocks_;
};

}  // namespace bantam
