#include "model/kv_cache.h"

#include <algorithm>

#include "base/check.h"
#include "program/memory_plan.h"

namespace bantam {

Result<KvCache> KvCache::Make(const KvLayout& layout, const PerKvPart<size_t>& blocks, const StateSizes& states, MemoryBudget& budget) {
  KvCache cache;
  for (const KvPart part : kAllKvParts) {
    const size_t n = blocks[part];
    const uint64_t bytes = n * layout.block_bytes(part);
    if (bytes == 0) continue;
    BANTAM_ASSIGN(cache.arena_[part], Arena::Make(budget, bytes, "kv"));
    cache.base_[part] = reinterpret_cast<uint8_t*>(cache.arena_[part].Take(bytes).data());
    cache.free_[part].reserve(n);
    for (size_t block = n; block > 0; --block) cache.free_[part].push_back(static_cast<uint32_t>(block - 1));
  }
  if (states.floats == 0) return cache;
  const uint64_t bytes = StateBytes(states.floats);
  BANTAM_ASSIGN(cache.state_arena_, Arena::Make(budget, states.sequences * bytes, "recurrent states"));
  cache.states_ = cache.state_arena_.TakeArray<float>(states.sequences * bytes / sizeof(float));
  cache.state_floats_ = bytes / 2 / sizeof(float);
  cache.free_states_.reserve(states.sequences);
  for (size_t pair = states.sequences; pair > 0; --pair) cache.free_states_.push_back(static_cast<uint32_t>(pair - 1));
  return cache;
}

Result<uint32_t> KvCache::TakeStates() {
  if (free_states_.empty()) return Error(Code::kExhausted, "all states of recurrent layers are in use; end another sequence first");
  const uint32_t pair = free_states_.back();
  free_states_.pop_back();
  return pair;
}

Result<uint32_t> KvCache::Take(KvPart part) {
  if (free_[part].empty()) return Error(Code::kExhausted, "all KV blocks are in use; raise --context or --memory");
  const uint32_t block = free_[part].back();
  free_[part].pop_back();
  return block;
}

void KvCache::Give(KvPart part, uint32_t block) {
  CHECK(free_[part].size() < free_[part].capacity());
  free_[part].push_back(block);
}

KvSequence::KvSequence(size_t context, size_t ring, size_t window) : ring_(ring), window_(window) {
  for (const KvPart part : kAllKvParts) blocks_[part].reserve(KvBlockCount(context));
}

Status KvSequence::Extend(KvCache& cache, size_t length) {
  auto& full = blocks_[KvPart::kFull];
  auto& windowed = blocks_[KvPart::kWindowed];
  while (cache.base()[KvPart::kFull] != nullptr && full.size() < KvBlockCount(length)) {
    BANTAM_ASSIGN(const uint32_t block, cache.Take(KvPart::kFull));
    full.push_back(block);
  }
  while (ring_ > 0 && windowed.size() < KvBlockCount(length)) {
    uint32_t block = 0;
    if (windowed.size() < ring_) {
      BANTAM_ASSIGN(block, cache.Take(KvPart::kWindowed));
    } else {
      block = windowed[windowed.size() - ring_];
    }
    windowed.push_back(block);
  }
  if (cache.recurrent() && !recurrent_) {
    BANTAM_ASSIGN(states_, cache.TakeStates());
    recurrent_ = true;
  }
  // The step that comes writes over the older state, even if it is cancelled.
  previous_ = 0;
  written_ = std::max(written_, length);
  return Ok();
}

void KvSequence::Commit(size_t length) {
  current_ = 1 - current_;
  previous_ = committed_;
  committed_ = length;
}

size_t KvSequence::Truncate(KvCache& cache, size_t length) {
  if (ring_ > 0 && length > 0 && length < written_) {
    // The next token sees `window - 1` tokens before it; the newest block overwrote the one a ring before it.
    const size_t first_seen = length > window_ - 1 ? length - (window_ - 1) : 0;
    if (first_seen / kKvBlockTokens + ring_ <= (written_ - 1) / kKvBlockTokens) length = 0;
  }
  if (recurrent_ && length != committed_) {
    if (length != previous_) length = 0;
    current_ = 1 - current_;
    committed_ = length;
    previous_ = 0;
  }
  if (recurrent_ && length == 0) {
    cache.GiveStates(states_);
    recurrent_ = false;
    committed_ = previous_ = 0;
  }
  for (const KvPart part : kAllKvParts) {
    auto& blocks = blocks_[part];
    while (blocks.size() > KvBlockCount(length)) {
      // In a ring a block is held once, however often it was reused.
      if (part == KvPart::kFull || blocks.size() <= ring_) cache.Give(part, blocks.back());
      blocks.pop_back();
    }
  }
  if (length == 0) written_ = 0;
  return length;
}

KvTables KvSequence::tables() const {
  KvTables tables;
  for (const KvPart part : kAllKvParts) tables[part] = blocks_[part].data();
  return tables;
}

}  // namespace bantam
