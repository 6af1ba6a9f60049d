#include "model/kv_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "program/memory_plan.h"

namespace bantam {

void KvCache::Pool::AddBlocks(KvPart part, size_t count) {
  base[part] = reinterpret_cast<uint8_t*>(arena[part].Take(count * block_bytes[part]).data());
  holders[part].resize(count);
  touched[part].resize(count);
  free[part].reserve(count);
  for (size_t block = count; block > 0; --block) free[part].push_back(static_cast<uint32_t>(block - 1));
}

uint64_t KvCache::Pool::Release(KvPart part, uint32_t block) {
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  touched[part][block] = false;
  const uintptr_t address = reinterpret_cast<uintptr_t>(base[part] + block * block_bytes[part]);
  const uintptr_t begin = (address + page - 1) / page * page;
  const uintptr_t end = (address + block_bytes[part]) / page * page;
  if (begin >= end || ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED) != 0) return 0;
  return end - begin;
}

Result<KvCache> KvCache::Make(const KvLayout& layout, const PerKvPart<size_t>& blocks, const StateSizes& states, MemoryBudget& budget) {
  KvCache cache;
  cache.room_ = std::make_shared<Room>();
  Room& room = *cache.room_;
  cache.pool_ = room.pools.emplace_back(std::make_unique<Pool>()).get();
  for (const KvPart part : kAllKvParts) {
    room.bytes[part] = blocks[part] * layout.block_bytes(part);
    if (room.bytes[part] == 0) continue;
    cache.pool_->block_bytes[part] = layout.block_bytes(part);
    BANTAM_ASSIGN(cache.pool_->arena[part], Arena::Make(budget, room.bytes[part], "kv"));
    cache.pool_->AddBlocks(part, blocks[part]);
  }
  if (states.floats == 0) return cache;
  const uint64_t bytes = StateBytes(states.floats);
  BANTAM_ASSIGN(room.state_arena, Arena::Make(budget, states.sequences * bytes, "recurrent states"));
  room.states = room.state_arena.TakeArray<float>(states.sequences * bytes / sizeof(float));
  room.state_floats = bytes / 2 / sizeof(float);
  room.free_states.reserve(states.sequences);
  for (size_t pair = states.sequences; pair > 0; --pair) room.free_states.push_back(static_cast<uint32_t>(pair - 1));
  return cache;
}

Result<KvCache> KvCache::MakeBeside(const KvLayout& layout) {
  KvCache cache = *this;
  auto pool = std::make_unique<Pool>();
  for (const KvPart part : kAllKvParts) {
    pool_->arena[part].UseSmallPages();
    const size_t count = layout.block_bytes(part) == 0 ? 0 : room_->bytes[part] / layout.block_bytes(part);
    if (count == 0) continue;
    pool->block_bytes[part] = layout.block_bytes(part);
    BANTAM_ASSIGN(pool->arena[part], Arena::MakeUncounted(count * layout.block_bytes(part), "kv"));
    pool->AddBlocks(part, count);
  }
  cache.pool_ = room_->pools.emplace_back(std::move(pool)).get();
  return cache;
}

Result<uint32_t> KvCache::TakeStates() {
  if (room_->free_states.empty()) {
    return Error(Code::kExhausted, "all states of recurrent layers are in use; end another sequence first");
  }
  const uint32_t pair = room_->free_states.back();
  room_->free_states.pop_back();
  return pair;
}

size_t KvCache::free_blocks(KvPart part) const {
  if (pool_->base[part] == nullptr) return 0;
  return std::min<uint64_t>(pool_->free[part].size(), (room_->bytes[part] - room_->taken[part]) / pool_->block_bytes[part]);
}

void KvCache::MakeRoom(KvPart part, uint64_t bytes) {
  for (const auto& pool : room_->pools) {
    for (const uint32_t block : pool->free[part]) {
      if (room_->touched[part] + bytes <= room_->bytes[part]) return;
      if (!pool->touched[part][block]) continue;
      pool->Release(part, block);
      room_->touched[part] -= pool->block_bytes[part];
    }
  }
}

Result<uint32_t> KvCache::Take(KvPart part) {
  if (free_blocks(part) == 0) return Error(Code::kExhausted, "all KV blocks are in use; raise --context or --memory");
  const uint32_t block = pool_->free[part].back();
  pool_->free[part].pop_back();
  pool_->holders[part][block] = 1;
  room_->taken[part] += pool_->block_bytes[part];
  if (pool_->touched[part][block]) return block;
  MakeRoom(part, pool_->block_bytes[part]);
  pool_->touched[part][block] = true;
  room_->touched[part] += pool_->block_bytes[part];
  return block;
}

void KvCache::Give(KvPart part, uint32_t block) {
  CHECK(pool_->holders[part][block] > 0);
  if (--pool_->holders[part][block] > 0) return;
  pool_->free[part].push_back(block);
  room_->taken[part] -= pool_->block_bytes[part];
}

uint64_t KvCache::ReleaseFree() {
  uint64_t released = 0;
  for (const auto& pool : room_->pools) {
    for (const KvPart part : kAllKvParts) {
      for (const uint32_t block : pool->free[part]) {
        if (!pool->touched[part][block]) continue;
        released += pool->Release(part, block);
        room_->touched[part] -= pool->block_bytes[part];
      }
    }
  }
  return released;
}

KvSequence::KvSequence(size_t context, size_t ring, size_t window) : ring_(ring), window_(window) {
  for (const KvPart part : kAllKvParts) blocks_[part].reserve(KvBlockCount(context));
}

// Whether the next token goes into a block that others hold too.
bool KvSequence::Copies(const KvCache& cache, KvPart part) const {
  const size_t b = length_ / kKvBlockTokens;
  if (length_ % kKvBlockTokens == 0 || b >= blocks_[part].size()) return false;
  // A step that was cancelled may have moved the ring on.
  return blocks_[part][b] != kNoBlock && cache.holders(part, blocks_[part][b]) > 1;
}

PerKvPart<size_t> KvSequence::Needs(const KvCache& cache, size_t length) const {
  PerKvPart<size_t> needs;
  const size_t wanted = KvBlockCount(length);
  for (const KvPart part : kAllKvParts) {
    if (cache.base()[part] == nullptr) continue;
    const std::vector<uint32_t>& blocks = blocks_[part];
    needs[part] = (wanted > blocks.size() ? wanted - blocks.size() : 0) + (length > length_ && Copies(cache, part) ? 1 : 0);
    for (size_t b = blocks.size(); part == KvPart::kWindowed && b < wanted && b < blocks.size() + ring_; ++b) {
      if (b >= ring_ && blocks[b - ring_] != kNoBlock && cache.holders(part, blocks[b - ring_]) == 1) --needs[part];
    }
    // Further on it reuses what this extension takes.
    if (part == KvPart::kWindowed && wanted > blocks.size() + ring_) needs[part] -= wanted - blocks.size() - ring_;
  }
  return needs;
}

Status KvSequence::Extend(KvCache& cache, size_t length) {
  for (const KvPart part : kAllKvParts) {
    if (cache.base()[part] == nullptr) continue;
    std::vector<uint32_t>& blocks = blocks_[part];
    if (length > length_ && Copies(cache, part)) {
      uint32_t& tail = blocks[length_ / kKvBlockTokens];
      BANTAM_ASSIGN(const uint32_t copy, cache.Take(part));
      std::memcpy(cache.Block(part, copy), cache.Block(part, tail), cache.block_bytes(part));
      cache.Give(part, tail);
      tail = copy;
    }
    while (blocks.size() < KvBlockCount(length)) {
      uint32_t block = kNoBlock;
      if (part == KvPart::kWindowed && blocks.size() >= ring_) std::swap(block, blocks[blocks.size() - ring_]);
      if (block != kNoBlock && cache.holders(part, block) > 1) {
        cache.Give(part, block);
        block = kNoBlock;
      }
      if (block == kNoBlock) {
        BANTAM_ASSIGN(block, cache.Take(part));
      }
      blocks.push_back(block);
    }
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
  length_ = length;
  current_ = 1 - current_;
  previous_ = committed_;
  committed_ = length;
}

size_t KvSequence::Truncate(KvCache& cache, size_t length) {
  if (ring_ > 0 && length > 0 && length < written_) {
    // The next token sees `window - 1` tokens before it; the newest block overwrote the one a ring before it.
    const size_t first_seen = length > window_ - 1 ? length - (window_ - 1) : 0;
    if (first_seen / kKvBlockTokens + ring_ <= (written_ - 1) / kKvBlockTokens || length < adopted_) length = 0;
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
      if (blocks.back() != kNoBlock) cache.Give(part, blocks.back());
      blocks.pop_back();
    }
  }
  if (length == 0) written_ = adopted_ = 0;
  length_ = length;
  return length;
}

Status KvSequence::Adopt(KvCache& cache, const KvCheckpoint& from) {
  CHECK(length_ == 0 && !recurrent_);
  if (from.state != nullptr) {
    BANTAM_ASSIGN(states_, cache.TakeStates());
    std::memcpy(cache.State(states_, current_), from.state, cache.state_floats() * sizeof(float));
    recurrent_ = true;
  }
  CHECK(blocks_[KvPart::kFull].empty() && blocks_[KvPart::kWindowed].empty());
  const size_t count = KvBlockCount(from.length);
  if (cache.base()[KvPart::kWindowed] != nullptr) {
    CHECK(from.windowed.size() <= std::min(ring_, count));
    blocks_[KvPart::kWindowed].assign(count - from.windowed.size(), kNoBlock);
  }
  CHECK(cache.base()[KvPart::kFull] == nullptr || from.full.size() == count);
  for (const KvPart part : kAllKvParts) {
    for (const uint32_t block : part == KvPart::kFull ? from.full : from.windowed) {
      cache.Share(part, block);
      blocks_[part].push_back(block);
    }
  }
  length_ = written_ = adopted_ = committed_ = from.length;
  return Ok();
}

KvCheckpoint KvSequence::Checkpoint(const KvCache& cache, size_t length) const {
  CHECK(length > 0 && length <= length_ && (!recurrent_ || length == length_));
  const size_t count = KvBlockCount(length);
  KvCheckpoint checkpoint = {.length = length, .state = state(cache)};
  if (cache.base()[KvPart::kFull] != nullptr) checkpoint.full = std::span(blocks_[KvPart::kFull]).first(count);
  if (ring_ > 0) {
    const size_t first = (length > window_ - 1 ? length - (window_ - 1) : 0) / kKvBlockTokens;
    checkpoint.windowed = std::span(blocks_[KvPart::kWindowed]).subspan(first, count - first);
  }
  return checkpoint;
}

KvTables KvSequence::tables() const {
  KvTables tables;
  for (const KvPart part : kAllKvParts) tables[part] = blocks_[part].data();
  return tables;
}

}  // namespace bantam
