#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

namespace bantam {
namespace {

TEST(KvCache, HandsOutEveryBlockOnce) {
  const KvLayout layout(KvType::kF16, {{2, 32}});
  MemoryBudget budget(uint64_t{1} << 20);
  KvCache cache = KvCache::Make(layout, 3, budget).value();
  EXPECT_EQ(budget.used_bytes(), 3 * layout.block_bytes());
  std::set<uint32_t> blocks;
  for (int i = 0; i < 3; ++i) blocks.insert(*cache.Take());
  EXPECT_EQ(blocks, (std::set<uint32_t>{0, 1, 2}));
  EXPECT_EQ(cache.Take().error().code(), Code::kExhausted);
  cache.Give(1);
  EXPECT_EQ(*cache.Take(), 1u);
}

}  // namespace
}  // namespace bantam
