// KvCache: the KV blocks of a model, and who holds which.
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
  // Exhausted when the budget cannot hold `blocks` blocks.
  static Result<KvCache> Make(const KvLayout& layout, size_t blocks, MemoryBudget& budget);

  uint8_t* base() const { return base_; }

  // Allocates nothing: the list of free blocks was sized at the start. Exhausted when none is free.
  Result<uint32_t> Take();
  void Give(uint32_t block);

 private:
  Arena arena_;
  uint8_t* base_ = nullptr;
  std::vector<uint32_t> free_;
};

}  // namespace bantam
