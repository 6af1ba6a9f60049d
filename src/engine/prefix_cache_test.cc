#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "testing/memory_file.h"

namespace bantam {
namespace {

struct Shape {
  const char* name;
  bool full;
  size_t window;
  size_t state_floats;
};
std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.name; }

// Sequences without a model: a block's memory says which tokens it holds, a state what was read so far.
class PrefixCacheTest : public ::testing::TestWithParam<Shape> {
 protected:
  static constexpr size_t kContext = 256;
  static constexpr size_t kBlocksFull = 40;
  static constexpr size_t kStep = 24;

  PrefixCacheTest() : budget_(uint64_t{1} << 26), cache_(Make()) { prefixes_ = std::make_unique<PrefixCache>(cache_, GetParam().window); }
  size_t ring() const { return GetParam().window == 0 ? 0 : KvBlocksOf(GetParam().window - 1 + kStep) + 1; }
  static size_t KvBlocksOf(size_t tokens) { return (tokens + 15) / 16; }
  KvCache Make() {
    std::vector<KvHeads> layers;
    if (GetParam().full) layers.push_back({1, 8, 0});
    if (GetParam().window > 0) layers.push_back({1, 8, GetParam().window});
    PerKvPart<size_t> blocks;
    blocks[KvPart::kFull] = GetParam().full ? kBlocksFull : 0;
    blocks[KvPart::kWindowed] = 6 * ring();
    return KvCache::Make(KvLayout(KvType::kF32, layers), blocks, {GetParam().state_floats, 6}, budget_).value();
  }

  // A pretended step: writes each token where its KV would be, and the sum of all into the state.
  bool Compute(KvSequence& sequence, std::span<const uint32_t> tokens, size_t end) {
    while (sequence.length() < end) {
      const size_t begin = sequence.length();
      const size_t length = std::min(end, begin + kStep);
      const PerKvPart<size_t> needs = sequence.Needs(cache_, length);
      for (const KvPart part : kAllKvParts) {
        while (cache_.free_blocks(part) < needs[part]) {
          if (!prefixes_->Free(part)) return false;
        }
      }
      if (cache_.recurrent() && sequence.state(cache_) == nullptr && cache_.free_states() == 0 && !prefixes_->FreeStates()) return false;
      EXPECT_TRUE(sequence.Extend(cache_, length).ok()) << "what Needs says is enough";
      for (const KvPart part : kAllKvParts) {
        for (size_t t = begin; t < length && cache_.base()[part] != nullptr; ++t) {
          const uint32_t block = sequence.blocks(part)[t / 16];
          EXPECT_EQ(cache_.holders(part, block), 1u) << "what others hold is never written";
          std::memcpy(cache_.Block(part, block) + t % 16 * sizeof(uint32_t), &tokens[t], sizeof(uint32_t));
        }
      }
      if (cache_.recurrent()) {
        float sum = begin == 0 ? 0 : *sequence.state(cache_);
        for (size_t t = begin; t < length; ++t) sum += static_cast<float>(tokens[t] * (t + 1));
        *sequence.next_state(cache_) = sum;
      }
      sequence.Commit(length);
    }
    return true;
  }
  // Whether the sequence holds what the next token sees.
  void ExpectHolds(const KvSequence& sequence, std::span<const uint32_t> tokens) {
    for (const KvPart part : kAllKvParts) {
      if (cache_.base()[part] == nullptr) continue;
      const size_t window = part == KvPart::kFull ? SIZE_MAX : GetParam().window - 1;
      for (size_t t = sequence.length() - std::min(sequence.length(), window); t < sequence.length(); ++t) {
        const uint32_t block = sequence.blocks(part)[t / 16];
        ASSERT_NE(block, KvSequence::kNoBlock);
        ASSERT_EQ(std::memcmp(cache_.Block(part, block) + t % 16 * sizeof(uint32_t), &tokens[t], sizeof(uint32_t)), 0) << t;
      }
    }
    if (!cache_.recurrent() || sequence.length() == 0) return;
    float sum = 0;
    for (size_t t = 0; t < sequence.length(); ++t) sum += static_cast<float>(tokens[t] * (t + 1));
    EXPECT_EQ(*sequence.state(cache_), sum);
  }
  KvSequence Sequence() const { return KvSequence(kContext, ring(), GetParam().window); }

  MemoryBudget budget_;
  KvCache cache_;
  std::unique_ptr<PrefixCache> prefixes_;
};

std::vector<uint32_t> Tokens(size_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<uint32_t> tokens(n);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % 50);
  return tokens;
}

TEST_P(PrefixCacheTest, BeginsWithTheLongestPrefixInWholeBlocks) {
  const Digest root = PrefixCache::RootOf({.tenant = "a"});
  const std::vector<uint32_t> tokens = Tokens(100, 1);
  KvSequence first = Sequence();
  ASSERT_TRUE(Compute(first, tokens, 96));
  prefixes_->Keep(root, std::span(tokens).first(96), first);
  EXPECT_EQ(prefixes_->nodes(), 6u);
  EXPECT_EQ(prefixes_->Find(root, std::span(tokens).first(97)), 96u);
  EXPECT_EQ(prefixes_->Find(root, std::span(tokens).first(10)), 0u);
  EXPECT_EQ(prefixes_->Find(PrefixCache::RootOf({.tenant = "b"}), tokens), 0u) << "another tenant's";
  EXPECT_EQ(prefixes_->Find(PrefixCache::RootOf({.kv_type = KvType::kInt8, .tenant = "a"}), tokens), 0u);
  std::vector<uint32_t> other = tokens;
  other[50] += 1;
  const size_t common = GetParam().window > 0 || GetParam().state_floats > 0 ? 0 : 48;
  EXPECT_EQ(prefixes_->Find(root, other), common) << "only a checkpoint can be gone on from";
  first.Truncate(cache_, 0);
  KvSequence second = Sequence();
  EXPECT_EQ(*prefixes_->Adopt(root, tokens, &second), 96u);
  ExpectHolds(second, tokens);
  ASSERT_TRUE(Compute(second, tokens, 100));
  ExpectHolds(second, tokens);
  second.Truncate(cache_, 0);
  prefixes_->Clear();
  for (const KvPart part : kAllKvParts) EXPECT_EQ(cache_.free_blocks(part), cache_.blocks(part));
  EXPECT_EQ(cache_.free_states(), GetParam().state_floats > 0 ? 6u : 0u);
}

// A last token that is kept has no logits: it is computed again.
TEST_P(PrefixCacheTest, KeepsATokenToCompute) {
  const Digest root = PrefixCache::RootOf({});
  const std::vector<uint32_t> tokens = Tokens(32, 1);
  KvSequence first = Sequence();
  ASSERT_TRUE(Compute(first, tokens, 16));
  prefixes_->Keep(root, std::span(tokens).first(16), first);
  ASSERT_TRUE(Compute(first, tokens, 32));
  prefixes_->Keep(root, tokens, first);
  EXPECT_EQ(prefixes_->Find(root, tokens), 16u);
}

// Two sequences that computed the same, each for itself: what the second one goes on behind are the first one's blocks, and when memory is
// short these are given up, though the second one holds what stands behind them.
TEST_P(PrefixCacheTest, NothingIsKeptForASequenceThatDoesNotUseIt) {
  const Digest root = PrefixCache::RootOf({});
  const std::vector<uint32_t> tokens = Tokens(256, 1);
  KvSequence first = Sequence();
  KvSequence second = Sequence();
  ASSERT_TRUE(Compute(first, tokens, 96));
  ASSERT_TRUE(Compute(second, tokens, 112));
  prefixes_->Keep(root, std::span(tokens).first(96), first);
  prefixes_->Keep(root, std::span(tokens).first(112), second);
  first.Truncate(cache_, 0);
  std::vector<std::pair<KvPart, uint32_t>> taken;
  for (const KvPart part : kAllKvParts) {
    while (cache_.free_blocks(part) > 3) taken.push_back({part, cache_.Take(part).value()});
  }
  EXPECT_TRUE(Compute(second, tokens, 112 + 9 * 16)) << "three blocks are free, and six are only kept";
  ExpectHolds(second, tokens);
  second.Truncate(cache_, 0);
  for (const auto& [part, block] : taken) cache_.Give(part, block);
}

// Sequences fork, share tails and write: each still holds its own.
TEST_P(PrefixCacheTest, ForksCopyWhatTheyWrite) {
  const std::vector<uint32_t> prompt = Tokens(37, 1);
  KvSequence first = Sequence();
  ASSERT_TRUE(Compute(first, prompt, 37));
  KvSequence second = Sequence();
  ASSERT_TRUE(second.Adopt(cache_, first.Checkpoint(cache_, 37)).ok());
  std::vector<uint32_t> one = prompt;
  std::vector<uint32_t> two = prompt;
  for (uint32_t t = 0; t < 40; ++t) {
    one.push_back(100 + t);
    two.push_back(200 + t);
  }
  for (size_t end = 38; end <= 77; ++end) {
    ASSERT_TRUE(Compute(first, one, end));
    ASSERT_TRUE(Compute(second, two, end));
    ExpectHolds(first, one);
    ExpectHolds(second, two);
  }
}

// Against a plain record of what was kept: nothing is found that was not, and what is adopted is what was computed. Blocks run out often.
TEST_P(PrefixCacheTest, RandomUse) {
  Rng rng(7);
  const Digest root = PrefixCache::RootOf({});
  size_t hits = 0;
  size_t failures = 0;
  for (int round = 0; round < 400; ++round) {
    // Of a tree of texts: a few beginnings, of each a few continuations.
    std::vector<uint32_t> tokens = Tokens(16 + rng.Next() % 64, rng.Next() % 4);
    const std::vector<uint32_t> more = Tokens(1 + rng.Next() % 100, 10 + rng.Next() % 6);
    tokens.insert(tokens.end(), more.begin(), more.end());
    KvSequence sequence = Sequence();
    if (cache_.recurrent() && cache_.free_states() == 0) {
      EXPECT_TRUE(prefixes_->FreeStates());
    }
    const size_t found = prefixes_->Find(root, tokens);
    const size_t cached = prefixes_->Adopt(root, tokens, &sequence).value();
    ASSERT_EQ(cached, sequence.length());
    ASSERT_EQ(cached, found);
    ASSERT_LT(cached, tokens.size());
    ExpectHolds(sequence, tokens);
    hits += cached > 0 ? 1 : 0;
    const size_t end = rng.Next() % 2 == 0 ? tokens.size() : std::max(cached, tokens.size() / 16 * 16);
    if (!Compute(sequence, tokens, end)) ++failures;
    ExpectHolds(sequence, tokens);
    if (sequence.length() > 0) prefixes_->Keep(root, std::span(tokens).first(sequence.length()), sequence);
    sequence.Truncate(cache_, 0);
    for (const KvPart part : kAllKvParts) {
      const std::vector<uint32_t> held = prefixes_->Held(part);
      size_t free = 0;
      for (uint32_t b = 0; b < held.size(); ++b) {
        ASSERT_EQ(held[b], cache_.holders(part, b));
        free += held[b] == 0 ? 1 : 0;
      }
      ASSERT_EQ(free, cache_.free_blocks(part));
    }
  }
  EXPECT_GT(hits, 50u);
  EXPECT_EQ(failures, 0u) << "one sequence always fits: all else can be freed";
}

// A tree of prefixes goes to a file and comes back, into an empty cache, and what is adopted is what was computed.
TEST_P(PrefixCacheTest, SavedAndLoaded) {
  const Digest root = PrefixCache::RootOf({});
  const PrefixCache::FileOf of = {.model = Sha256Of({}), .kv_type = KvType::kF32};
  std::vector<std::vector<uint32_t>> texts;
  for (uint64_t i = 0; i < 4; ++i) {
    std::vector<uint32_t> tokens = Tokens(48, /*seed=*/1);
    const std::vector<uint32_t> more = Tokens(33, 10 + i);
    tokens.insert(tokens.end(), more.begin(), more.end());
    texts.push_back(tokens);
    KvSequence sequence = Sequence();
    (void)prefixes_->Adopt(root, tokens, &sequence).value();
    ASSERT_TRUE(Compute(sequence, tokens, 80));
    prefixes_->Keep(root, std::span(tokens).first(80), sequence);
    sequence.Truncate(cache_, 0);
  }
  testing::MemoryFile file;
  ASSERT_TRUE(prefixes_->Save(file, of).ok());
  std::vector<size_t> found;
  for (const auto& text : texts) found.push_back(prefixes_->Find(root, text));
  const size_t nodes = prefixes_->nodes();
  prefixes_->Clear();
  file.most_at_once_ = 1000;
  EXPECT_EQ(prefixes_->Load(file, of).value(), nodes);
  EXPECT_EQ(prefixes_->Load(file, of).value(), 0u) << "what is there stays";
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(prefixes_->Find(root, texts[i]), found[i]);
    KvSequence sequence = Sequence();
    if (cache_.recurrent() && cache_.free_states() == 0) break;
    EXPECT_EQ(prefixes_->Adopt(root, texts[i], &sequence).value(), found[i]);
    ExpectHolds(sequence, texts[i]);
    sequence.Truncate(cache_, 0);
  }
  testing::MemoryFile again;
  prefixes_->Clear();
  ASSERT_TRUE(prefixes_->Load(file, of).ok());
  ASSERT_TRUE(prefixes_->Save(again, of).ok());
  EXPECT_EQ(again.bytes_.size(), file.bytes_.size());
  for (const PrefixCache::FileOf& other :
       {PrefixCache::FileOf{.model = {}, .kv_type = KvType::kF32}, {.model = of.model, .kv_type = KvType::kF16}}) {
    EXPECT_EQ(prefixes_->Load(file, other).error().code(), Code::kNotFound);
  }
}

// Whatever is wrong with a file: an error, and nothing of it stays.
TEST_P(PrefixCacheTest, DamagedFiles) {
  const Digest root = PrefixCache::RootOf({});
  const std::vector<uint32_t> tokens = Tokens(50, 1);
  KvSequence sequence = Sequence();
  ASSERT_TRUE(Compute(sequence, tokens, 48));
  prefixes_->Keep(root, std::span(tokens).first(48), sequence);
  sequence.Truncate(cache_, 0);
  testing::MemoryFile file;
  ASSERT_TRUE(prefixes_->Save(file, {}).ok());
  prefixes_->Clear();
  const auto empty = [&] {
    EXPECT_EQ(prefixes_->nodes(), 0u);
    for (const KvPart part : kAllKvParts) EXPECT_EQ(cache_.free_blocks(part), cache_.blocks(part));
    return !cache_.recurrent() || cache_.free_states() == 6;
  };
  Rng rng(3);
  for (size_t at = 0; at < file.bytes_.size(); at += at < 200 ? 1 : 1 + rng.Next() % 97) {
    testing::MemoryFile damaged(file.bytes_);
    damaged.bytes_[at] = static_cast<char>(damaged.bytes_[at] ^ (1 << rng.Next() % 8));
    ASSERT_FALSE(prefixes_->Load(damaged, {}).ok()) << at;
    ASSERT_TRUE(empty()) << at;
    testing::MemoryFile cut(file.bytes_.substr(0, at));
    ASSERT_FALSE(prefixes_->Load(cut, {}).ok()) << at;
    ASSERT_TRUE(empty()) << at;
  }
  testing::MemoryFile longer(file.bytes_ + "x");
  EXPECT_EQ(prefixes_->Load(longer, {}).error().code(), Code::kCorrupt);
  EXPECT_TRUE(empty());
  for (size_t full = 0; full < file.bytes_.size(); full += 1 + file.bytes_.size() / 20) {
    testing::MemoryFile disk;
    disk.full_ = full;
    EXPECT_EQ(prefixes_->Load(file, {}).value(), 3u);
    EXPECT_EQ(prefixes_->Save(disk, {}).error().code(), Code::kExhausted);
    prefixes_->Clear();
  }
}

// Into a cache that has less room goes what fits, and it is as good.
TEST_P(PrefixCacheTest, LessRoomThanTheFile) {
  const Digest root = PrefixCache::RootOf({});
  const std::vector<uint32_t> tokens = Tokens(100, 1);
  KvSequence sequence = Sequence();
  for (const size_t end : {32, 96}) {
    ASSERT_TRUE(Compute(sequence, tokens, end));
    prefixes_->Keep(root, std::span(tokens).first(end), sequence);
  }
  sequence.Truncate(cache_, 0);
  testing::MemoryFile file;
  ASSERT_TRUE(prefixes_->Save(file, {}).ok());
  prefixes_->Clear();
  for (size_t left = 0; left <= 6; ++left) {
    std::vector<std::pair<KvPart, uint32_t>> taken;
    for (const KvPart part : kAllKvParts) {
      while (cache_.free_blocks(part) > left) taken.push_back({part, cache_.Take(part).value()});
    }
    ASSERT_TRUE(prefixes_->Load(file, {}).ok());
    const size_t found = prefixes_->Find(root, tokens);
    if (GetParam().full) {
      EXPECT_LE(found, 16 * left);
    }
    KvSequence adopted = Sequence();
    EXPECT_EQ(prefixes_->Adopt(root, tokens, &adopted).value(), found);
    ExpectHolds(adopted, tokens);
    adopted.Truncate(cache_, 0);
    prefixes_->Clear();
    for (const auto& [part, block] : taken) cache_.Give(part, block);
    for (const KvPart part : kAllKvParts) ASSERT_EQ(cache_.free_blocks(part), cache_.blocks(part));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PrefixCacheTest,
                         ::testing::Values(Shape{"Full", true, 0, 0}, Shape{"Windowed", false, 20, 0}, Shape{"Alternating", true, 33, 0},
                                           Shape{"Recurrent", false, 0, 4}, Shape{"Hybrid", true, 0, 4}, Shape{"All", true, 20, 4}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace bantam
