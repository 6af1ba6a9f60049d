#include "model/kv_cache.h"

#include "base/check.h"

namespace bantam {

Result<KvCache> KvCache::Make(const KvLayout& layout, size_t blocks, MemoryBudget& budget) {
  KvCache cache;
  BANTAM_ASSIGN(cache.arena_, Arena::Make(budget, blocks * layout.block_bytes(), "kv"));
  cache.base_ = reinterpret_cast<uint8_t*>(cache.arena_.Take(blocks * layout.block_bytes()).data());
  cache.free_.reserve(blocks);
  for (size_t block = blocks; block > 0; --block) cache.free_.push_back(static_cast<uint32_t>(block - 1));
  return cache;
}

Result<uint32_t> KvCache::Take() {
  if (free_.empty()) return Error(Code::kExhausted, "all KV blocks are in use; raise --context or --memory");
  const uint32_t block = free_.back();
  free_.pop_back();
  return block;
}

void KvCache::Give(uint32_t block) {
  CHECK(free_.size() < free_.capacity());
  free_.push_back(block);
}

}  // namespace bantam
