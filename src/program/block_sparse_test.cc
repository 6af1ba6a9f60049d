// Block-sparse attention against dense attention with the explicit mask, which is worked out here in doubles.
#include "program/block_sparse.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/kv_cache.h"
#include "program/executor.h"
#include "testing/gguf_builder.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"

namespace bantam {
namespace {

struct Case {
  BlockSparse sparse;
  size_t window = 0;
  size_t tokens = 150;
  size_t heads = 4;
  size_t kv_heads = 2;
  bool slopes = false;
  float softcap = 0;
  KvType kv_type = KvType::kF32;

  std::string Name() const {
    return fmt::format("blocks of {}, {} local, stride {}, window {}, {} heads over {}{}, kv {}", sparse.block_tokens, sparse.local_blocks,
                       sparse.global_stride, window, heads, kv_heads, slopes ? ", slopes" : "", KvTypeName(kv_type));
  }
};

constexpr size_t kHeadDim = 24;

// Whether the query at position p sees the key at position t, as the publisher's mask has it.
bool Sees(const Case& c, size_t p, size_t t) {
  if (t > p || (c.window != 0 && p - t >= c.window)) return false;
  if (c.sparse.block_tokens == 0) return true;
  const size_t i = p / c.sparse.block_tokens;
  const size_t j = t / c.sparse.block_tokens;
  return i - j < c.sparse.local_blocks || (c.sparse.global_stride != 0 && (j + 1) % c.sparse.global_stride == 0);
}

// A program of attention alone: token id p has the query, key and value of position p in three tables.
class Attention {
 public:
  explicit Attention(const Case& c) : case_(c) {
    Rng rng(7);
    const auto table = [&](size_t width) {
      std::vector<float> values(c.tokens * width);
      for (float& value : values) value = static_cast<float>(4 * rng.Uniform() - 2);
      return values;
    };
    query_ = table(c.heads * kHeadDim);
    key_ = table(c.kv_heads * kHeadDim);
    value_ = table(c.kv_heads * kHeadDim);
    for (size_t h = 0; c.slopes && h < c.heads; ++h) slopes_.push_back(0.01f * static_cast<float>(h + 1));
    Write();
    Describe();
  }

  // softmax over what the mask shows, in doubles: [tokens][heads][head_dim].
  std::vector<float> Masked() const {
    std::vector<float> out(case_.tokens * case_.heads * kHeadDim);
    for (size_t p = 0; p < case_.tokens; ++p) {
      for (size_t h = 0; h < case_.heads; ++h) Attend(p, h, out.data() + (p * case_.heads + h) * kHeadDim);
    }
    return out;
  }

  struct Way {
    const KernelSet* kernels = &kernels::kReference;
    int threads = 1;
    std::vector<size_t> chunks = {10000};
    bool poison = false;  // what a step of one token must not read becomes NaN before it
  };
  struct Result {
    std::vector<float> out;
    std::vector<uint64_t> blocks_read;  // per step
  };
  Result Run(const Way& way) const {
    const auto files = MakeFileSystem();
    ModelFile file = OpenGguf(*files, folder_.Path("m.gguf")).value();
    MemoryBudget budget(uint64_t{1} << 30);
    const auto pool = ThreadPool::Make(way.threads).value();
    const Weights weights = Weights::Load(program_, file, {budget, *pool}, nullptr).value();
    const size_t step_tokens = std::min(case_.tokens, *std::max_element(way.chunks.begin(), way.chunks.end()));
    const PlanOptions options = {case_.tokens, case_.kv_type, step_tokens, step_tokens, way.threads};
    const PerKvPart<size_t> blocks = KvBlocks(program_, options);
    const KvLayout layout(case_.kv_type, program_.kv_layers);
    KvCache cache = KvCache::Make(layout, blocks, {}, budget).value();
    KvSequence sequence(case_.tokens, blocks[KvPart::kWindowed], WindowMax(program_));
    const auto executor = Executor::Make({program_, weights, *way.kernels, options}, {budget, *pool}).value();
    const MonotonicClock clock;
    Result result;
    for (size_t begin = 0, chunk = 0; begin < case_.tokens; ++chunk) {
      const size_t end = std::min(case_.tokens, begin + way.chunks[chunk % way.chunks.size()]);
      EXPECT_TRUE(sequence.Extend(cache, end).ok());
      if (way.poison && end == begin + 1) Poison(begin, sequence, layout, cache);
      std::vector<StepRow> rows;
      std::vector<uint32_t> outputs;
      for (; begin < end; ++begin) {
        outputs.push_back(static_cast<uint32_t>(rows.size()));
        rows.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(begin), sequence.tables()});
      }
      StepProfile profile = {clock, {}};
      EXPECT_TRUE(executor->Run({rows, outputs, cache.base(), nullptr, &profile}));
      result.out.insert(result.out.end(), executor->logits(), executor->logits() + rows.size() * program_.vocabulary);
      result.blocks_read.push_back(profile.kv_blocks);
    }
    return result;
  }

  bool SeesAny(size_t p, size_t kv_block) const {
    bool any = false;
    for (size_t t = kv_block * kKvBlockTokens; t < (kv_block + 1) * kKvBlockTokens; ++t) any = any || Sees(case_, p, t);
    return any;
  }

 private:
  void Write() const {
    testing::GgufBuilder builder;
    const auto add = [&](const char* name, const std::vector<float>& values) {
      builder.Add(
          {name, {values.size() / case_.tokens, case_.tokens}, 0, {reinterpret_cast<const char*>(values.data()), 4 * values.size()}});
    };
    add("query", query_);
    add("key", key_);
    add("value", value_);
    builder.Write(folder_.Path("m.gguf"));
  }

  void Describe() {
    const size_t width = case_.heads * kHeadDim;
    const size_t kv_width = case_.kv_heads * kHeadDim;
    program_.buffers = {{"query", width}, {"key", kv_width}, {"value", kv_width}, {"mixed", width}, {"out", width, Rows::kOutputs}};
    const char* names[] = {"query", "key", "value"};
    for (uint32_t i = 0; i < 3; ++i) {
      program_.weights.push_back({names[i], DType::kF32, WeightStorage::kRows, program_.buffers[i].width, case_.tokens});
      program_.ops.push_back(EmbedOp{i, i});
    }
    program_.kv_layers = {{case_.kv_heads, kHeadDim, case_.window, case_.sparse}};
    program_.ops.push_back(KvAppendOp{1, 2, 0});
    program_.ops.push_back(AttendOp{0, 3, 0, case_.heads, kScale, case_.softcap, slopes_, kNone});
    program_.ops.push_back(GatherOutputsOp{3, 4});
    program_.logits = 4;
    program_.vocabulary = width;
  }

  void Attend(size_t p, size_t head, float* out) const {
    const size_t kv_head = head / (case_.heads / case_.kv_heads);
    std::vector<double> sums(kHeadDim);
    double total = 0;
    for (size_t t = 0; t <= p; ++t) {
      if (!Sees(case_, p, t)) continue;
      double score = 0;
      for (size_t d = 0; d < kHeadDim; ++d) {
        score += static_cast<double>(query_[(p * case_.heads + head) * kHeadDim + d]) *
                 static_cast<double>(key_[(t * case_.kv_heads + kv_head) * kHeadDim + d]);
      }
      score *= static_cast<double>(kScale);
      if (case_.softcap != 0) score = static_cast<double>(case_.softcap) * std::tanh(score / static_cast<double>(case_.softcap));
      if (case_.slopes) score -= static_cast<double>(slopes_[head]) * static_cast<double>(p - t);
      const double weight = std::exp(score);
      total += weight;
      for (size_t d = 0; d < kHeadDim; ++d) sums[d] += weight * static_cast<double>(value_[(t * case_.kv_heads + kv_head) * kHeadDim + d]);
    }
    for (size_t d = 0; d < kHeadDim; ++d) out[d] = static_cast<float>(sums[d] / total);
  }

  void Poison(size_t p, const KvSequence& sequence, const KvLayout& layout, const KvCache& cache) const {
    const KvPart part = layout.part(0);
    for (size_t b = 0; b < p / kKvBlockTokens; ++b) {
      if (SeesAny(p, b)) continue;
      std::memset(cache.base()[part] + sequence.tables()[part][b] * layout.block_bytes(part), 0xff, layout.block_bytes(part));
    }
  }

  static constexpr float kScale = 0.4f;
  Case case_;
  testing::TemporaryFolder folder_;
  std::vector<float> query_, key_, value_, slopes_;
  Program program_;
};

std::vector<Case> Cases() {
  return {
      {.sparse = {16, 1, 2}},
      {.sparse = {16, 2, 0}},
      {.sparse = {16, 2, 0}, .window = 32},  // what the lowering makes of the former: blocks are a ring
      {.sparse = {32, 2, 3}, .slopes = true},
      {.sparse = {16, 1, 3}, .window = 70, .softcap = 5},
      {.sparse = {48, 1, 0}, .window = 20, .slopes = true},
      {.sparse = {64, 1, 1}},
      {.sparse = {16, 100, 5}, .heads = 3, .kv_heads = 3},
      {.sparse = {16, 3, 4}, .tokens = 300, .heads = 6, .kv_heads = 1, .kv_type = KvType::kF16},
      {.sparse = {32, 1, 2}, .kv_type = KvType::kInt8},
      {.sparse = {32, 1, 2}, .heads = 6, .kv_heads = 1, .kv_type = KvType::kInt8Rotated},
  };
}

TEST(BlockSparse, IsDenseAttentionWithTheMask) {
  for (const Case& c : Cases()) {
    const Attention attention(c);
    const auto masked = attention.Masked();
    const double limit = c.kv_type == KvType::kF32 ? 1e-10 : c.kv_type == KvType::kF16 ? 1e-5 : 1e-3;
    for (const KernelSet* kernels : RunnableKernels()) {
      const auto whole = attention.Run({kernels}).out;
      ASSERT_EQ(whole.size(), masked.size());
      EXPECT_LT(testing::Nmse(whole, masked), limit) << c.Name() << ", " << kernels->name;
      for (const Attention::Way& way : {Attention::Way{kernels, 1, {1}}, {kernels, 2, {7, 1, 16, 30}}, {kernels, 3, {41, 3}}}) {
        const auto cut = attention.Run(way).out;
        EXPECT_EQ(std::memcmp(cut.data(), whole.data(), 4 * whole.size()), 0)
            << c.Name() << ", " << kernels->name << ", " << way.threads << " threads";
      }
    }
  }
}

// Contexts of several segments of what is seen, which threads share.
TEST(BlockSparse, Segments) {
  const Case c = {.sparse = {16, 2, 2}, .tokens = 1300, .heads = 2, .kv_heads = 1};
  const Attention attention(c);
  const auto masked = attention.Masked();
  const KernelSet* kernels = RunnableKernels().front();
  const auto whole = attention.Run({kernels}).out;
  EXPECT_LT(testing::Nmse(whole, masked), 1e-10);
  const auto cut = attention.Run({kernels, 2, {1, 1, 1, 200}}).out;
  EXPECT_EQ(std::memcmp(cut.data(), whole.data(), 4 * whole.size()), 0);
}

// A step of one token reads what it sees and nothing else: the rest may be anything. The counter says how many blocks those are.
TEST(BlockSparse, BlocksThatNobodySeesAreNotRead) {
  for (const Case& c : Cases()) {
    const Attention attention(c);
    for (const KernelSet* kernels : RunnableKernels()) {
      const std::vector<size_t> once = {c.tokens - 1, 1};
      const auto clean = attention.Run({kernels, 1, once});
      const auto poisoned = attention.Run({kernels, 1, once, /*poison=*/true});
      EXPECT_EQ(std::memcmp(clean.out.data(), poisoned.out.data(), 4 * clean.out.size()), 0) << c.Name() << ", " << kernels->name;
    }
    const auto single = attention.Run({RunnableKernels().front(), 1, {1}});
    for (size_t p = 0; p < c.tokens; ++p) {
      size_t blocks = 0;
      for (size_t b = 0; b <= p / kKvBlockTokens; ++b) blocks += attention.SeesAny(p, b) ? 1 : 0;
      ASSERT_EQ(single.blocks_read[p], blocks * c.kv_heads) << c.Name() << ", position " << p;
    }
  }
}

// With local blocks alone, what a token reads does not grow with the context.
TEST(BlockSparse, WhatIsReadStaysFlat) {
  EXPECT_EQ(SeenTokens({64, 4, 0}, 1023), 256u);
  EXPECT_EQ(SeenTokens({64, 4, 0}, 1'000'000 * 64 - 1), 256u);
  EXPECT_EQ(SeenTokens({64, 4, 16}, 16383), 256u + 15 * 64u);
  EXPECT_EQ(SeenTokens({}, 16383), 16384u);
  EXPECT_EQ(KvLayout(KvType::kF32, {{1, 32, 0, {64, 4, 0}}}).ReadBytes(1 << 20), 256u * 32 * 2 * 4);
}

}  // namespace
}  // namespace bantam
