#include "model/kv_cache.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "base/rng.h"

namespace bantam {
namespace {

PerKvPart<size_t> Blocks(size_t full, size_t windowed) {
  PerKvPart<size_t> blocks;
  blocks[KvPart::kFull] = full;
  blocks[KvPart::kWindowed] = windowed;
  return blocks;
}

// Of a pool's blocks, which are whole pages: bytes that have memory.
uint64_t ResidentBytes(const KvCache& cache, KvPart part) {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t bytes = cache.blocks(part) * cache.block_bytes(part);
  EXPECT_EQ(cache.block_bytes(part) % page, 0u);
  std::vector<unsigned char> pages(bytes / page);
  EXPECT_EQ(::mincore(cache.Block(part, 0), bytes, pages.data()), 0);
  return page * static_cast<uint64_t>(std::count_if(pages.begin(), pages.end(), [](unsigned char one) { return (one & 1) != 0; }));
}

TEST(KvCache, HandsOutEveryBlockOnce) {
  const KvLayout layout(KvType::kF16, {{2, 32}});
  MemoryBudget budget(uint64_t{1} << 20);
  KvCache cache = KvCache::Make(layout, Blocks(3, 0), {}, budget).value();
  EXPECT_EQ(budget.used_bytes(), 3 * layout.block_bytes(KvPart::kFull));
  std::set<uint32_t> blocks;
  for (int i = 0; i < 3; ++i) blocks.insert(*cache.Take(KvPart::kFull));
  EXPECT_EQ(blocks, (std::set<uint32_t>{0, 1, 2}));
  EXPECT_EQ(cache.Take(KvPart::kFull).error().code(), Code::kExhausted);
  cache.Give(KvPart::kFull, 1);
  EXPECT_EQ(*cache.Take(KvPart::kFull), 1u);
}

// Blocks of both layouts are taken and given back at random: together they never have more memory than the one pool had, and what is in a
// block that somebody holds stays.
TEST(KvCache, TwoPoolsShareTheirMemory) {
  const std::vector<KvHeads> layers = {{4, 64}, {4, 64, 40}};
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  MemoryBudget budget(uint64_t{1} << 24);
  KvCache wide = KvCache::Make(KvLayout(KvType::kF32, layers, page), Blocks(30, 11), {16, 2}, budget).value();
  const uint64_t used = budget.used_bytes();
  KvCache narrow = wide.MakeBeside(KvLayout(KvType::kInt8, layers, page)).value();
  EXPECT_EQ(budget.used_bytes(), used);
  EXPECT_EQ(narrow.free_states(), 2u);
  ASSERT_TRUE(narrow.TakeStates().ok());
  EXPECT_EQ(wide.free_states(), 1u) << "states are those of both";
  struct Held {
    KvCache* cache;
    KvPart part;
    uint32_t block;
    uint8_t mark;
  };
  std::vector<Held> held;
  Rng rng(1);
  PerKvPart<uint64_t> taken;
  size_t refused = 0;
  for (int round = 0; round < 5000; ++round) {
    KvCache& cache = rng.Next() % 2 == 0 ? wide : narrow;
    const KvPart part = kAllKvParts[rng.Next() % 2];
    const uint64_t room = wide.blocks(part) * wide.block_bytes(part);
    // Waves, so that each pool is at times the larger one.
    if (rng.Next() % 100 < (round / 500 % 2 == 0 ? 60u : 40u)) {
      const bool fits = taken[part] + cache.block_bytes(part) <= room;
      EXPECT_EQ(cache.free_blocks(part) > 0, fits);
      const Result<uint32_t> block = cache.Take(part);
      ASSERT_EQ(block.ok(), fits);
      refused += fits ? 0 : 1;
      if (!fits) continue;
      taken[part] += cache.block_bytes(part);
      held.push_back({&cache, part, *block, static_cast<uint8_t>(rng.Next())});
      std::memset(cache.Block(part, *block), held.back().mark, cache.block_bytes(part));
    } else if (!held.empty()) {
      std::swap(held[rng.Next() % held.size()], held.back());
      const Held one = held.back();
      held.pop_back();
      const uint8_t* bytes = one.cache->Block(one.part, one.block);
      EXPECT_TRUE(std::all_of(bytes, bytes + one.cache->block_bytes(one.part), [&](uint8_t byte) { return byte == one.mark; }));
      one.cache->Give(one.part, one.block);
      taken[one.part] -= one.cache->block_bytes(one.part);
    }
    if (round % 50 != 0) continue;
    for (const KvPart each : kAllKvParts) {
      EXPECT_LE(ResidentBytes(wide, each) + ResidentBytes(narrow, each), wide.blocks(each) * wide.block_bytes(each));
    }
  }
  EXPECT_GT(refused, 50u);
}

class RingTest : public ::testing::Test {
 protected:
  // A window of 20 tokens in a ring of 3 blocks: steps of up to 13 tokens.
  RingTest() : cache_(KvCache::Make(KvLayout(KvType::kF32, {{1, 8, 0}, {1, 8, 20}}), Blocks(10, 3), {}, budget_).value()) {}
  MemoryBudget budget_{uint64_t{1} << 20};
  KvCache cache_;
  KvSequence sequence_{160, 3, 20};
};

TEST_F(RingTest, BlocksAreReused) {
  ASSERT_TRUE(sequence_.Extend(cache_, 160).ok());
  const KvTables tables = sequence_.tables();
  std::set<uint32_t> full(tables[KvPart::kFull], tables[KvPart::kFull] + 10);
  EXPECT_EQ(full.size(), 10u);
  std::set<uint32_t> ring(tables[KvPart::kWindowed] + 7, tables[KvPart::kWindowed] + 10);
  EXPECT_EQ(ring, (std::set<uint32_t>{0, 1, 2}));
  for (size_t b = 0; b < 7; ++b) EXPECT_EQ(tables[KvPart::kWindowed][b], KvSequence::kNoBlock) << "its memory is block b + 3's";
  EXPECT_EQ(sequence_.Truncate(cache_, 0), 0u);
  ASSERT_TRUE(sequence_.Extend(cache_, 160).ok()) << "everything was given back, once";
}

// Against a plain record of which token each slot of the ring holds.
TEST_F(RingTest, TruncateKeepsOnlyWhatIsStillThere) {
  Rng rng(4);
  std::vector<size_t> holds(3 * 16, SIZE_MAX);
  size_t length = 0;
  size_t dropped = 0;
  for (int round = 0; round < 2000; ++round) {
    if (rng.Next() % 3 != 0 && length < 147) {
      const size_t more = 1 + rng.Next() % 13;
      ASSERT_TRUE(sequence_.Extend(cache_, length + more).ok());
      const uint32_t* table = sequence_.tables()[KvPart::kWindowed];
      for (size_t t = length; t < length + more; ++t) holds[table[t / 16] * 16 + t % 16] = t;
      length += more;
      for (size_t t = length > 20 ? length - 20 : 0; t < length; ++t) ASSERT_EQ(holds[table[t / 16] * 16 + t % 16], t);
    } else {
      const size_t wanted = length - rng.Next() % std::min<size_t>(length + 1, 40);
      const size_t kept = sequence_.Truncate(cache_, wanted);
      ASSERT_TRUE(kept == wanted || kept == 0);
      const uint32_t* table = sequence_.tables()[KvPart::kWindowed];
      for (size_t t = kept > 19 ? kept - 19 : 0; t < kept; ++t) ASSERT_EQ(holds[table[t / 16] * 16 + t % 16], t) << "kept " << kept;
      dropped += kept < wanted ? 1 : 0;
      length = kept;
    }
  }
  EXPECT_GT(dropped, 10u);
}

TEST(KvSequenceStates, TurnAboutAndGoBackOnce) {
  MemoryBudget budget(uint64_t{1} << 20);
  KvCache cache = KvCache::Make(KvLayout(KvType::kF16, {}), Blocks(0, 0), {/*floats=*/10, /*sequences=*/2}, budget).value();
  EXPECT_EQ(budget.used_bytes(), 4 * 64u);
  KvSequence one(64, 0, 0);
  KvSequence other(64, 0, 0);
  KvSequence third(64, 0, 0);
  ASSERT_TRUE(one.Extend(cache, 5).ok());
  ASSERT_TRUE(other.Extend(cache, 5).ok());
  EXPECT_EQ(third.Extend(cache, 1).error().code(), Code::kExhausted);
  const std::set<const float*> places = {one.state(cache), one.next_state(cache), other.state(cache), other.next_state(cache)};
  EXPECT_EQ(places.size(), 4u);
  const float* first = one.next_state(cache);
  one.Commit(5);
  EXPECT_EQ(one.state(cache), first) << "what the step wrote is what the next one reads";
  ASSERT_TRUE(one.Extend(cache, 6).ok());
  one.Commit(6);
  EXPECT_NE(one.state(cache), first);
  EXPECT_EQ(one.Truncate(cache, 5), 5u);
  EXPECT_EQ(one.state(cache), first);
  one.Commit(6);
  ASSERT_TRUE(one.Extend(cache, 7).ok()) << "a step begins, and writes over the older state";
  EXPECT_EQ(one.Truncate(cache, 6), 6u);
  EXPECT_EQ(one.Truncate(cache, 5), 0u);
  ASSERT_TRUE(third.Extend(cache, 1).ok()) << "an empty sequence holds no states";
}

}  // namespace
}  // namespace bantam
