#include "model/kv_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "program/memory_plan.h"

namespace bantam {

Result<KvCache> KvCache::Make(const KvLayout& layout, const PerKvPart<size_t>& blocks, const StateSizes& states, MemoryBudget& budget) {
  KvCache cache;
  for (const KvPart part : kAllKvParts) {
    const size_t n = blocks[part];
    const uint64_t bytes = n * layout.block_bytes(part);
    if (bytes == 0) continue;
    cache.block_bytes_[part] = layout.block_bytes(part);
    cache.holders_[part].resize(n);
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
  holders_[part][block] = 1;
  return block;
}

void KvCache::Give(KvPart part, uint32_t block) {
  CHECK(holders_[part][block] > 0);
  if (--holders_[part][block] == 0) free_[part].push_back(block);
}

uint64_t KvCache::ReleaseFree() {
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  uint64_t released = 0;
  for (const KvPart part : kAllKvParts) {
    for (const uint32_t block : free_[part]) {
      const uintptr_t begin = (reinterpret_cast<uintptr_t>(Block(part, block)) + page - 1) / page * page;
      const uintptr_t end = reinterpret_cast<uintptr_t>(Block(part, block) + block_bytes_[part]) / page * page;
      if (begin < end && ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED) == 0) released += end - begin;
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
