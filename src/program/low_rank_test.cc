// Adapters in the executor, against weights that were merged with them in double precision.
#include "program/low_rank.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/rng.h"
#include "formats/gguf.h"
#include "kernels/kernels.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "program/executor.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

constexpr uint32_t kTokens = 20;
constexpr uint32_t kSequences = 3;

// A model in memory whose steps may mix adapters.
class Runner {
 public:
  Runner(const testing::GgufBuilder& builder, const KernelSet& kernels, int threads)
      : pool_owner_(ThreadPool::Make(threads).value()), options_{kTokens, KvType::kF32, 64, 64, threads} {
    builder.Write(folder_.Path("m.gguf"));
    ModelFile file = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    model_ = LoadModel(OutlineModel(file, kernels).value(), file, {budget_, *pool_owner_}, nullptr).value();
    options_.sequences = kSequences;
    options_.kv_tokens = kSequences * kTokens;
    executor_ = Executor::Make({model_->program, model_->weights, kernels, options_}, {budget_, *pool_owner_}).value();
    EXPECT_TRUE(executor_->RoomForRank(40, budget_).ok());
  }
  const Program& program() const { return model_->program; }
  MemoryBudget& budget() { return budget_; }
  Status RoomForRank(size_t rank) { return executor_->RoomForRank(rank, budget_); }

  // Logits of sequences [kTokens, vocabulary], each with an adapter or without, all in the same steps of so many tokens of each.
  std::vector<std::vector<float>> Logits(const std::vector<const LowRankUpdates*>& adapters, const std::vector<uint32_t>& steps) {
    KvCache cache = KvCache::Make(KvLayout(KvType::kF32, program().kv_layers), PoolBlocks(program(), options_),
                                  {program().state_floats, kSequences}, budget_)
                        .value();
    std::vector<KvSequence> sequences;
    for (size_t i = 0; i < adapters.size(); ++i) sequences.emplace_back(kTokens, /*ring=*/0, /*window=*/0);
    std::vector<std::vector<float>> logits(adapters.size());
    for (uint32_t begin = 0, step = 0; begin < kTokens; ++step) {
      const uint32_t end = std::min(kTokens, begin + steps[step % steps.size()]);
      std::vector<StepRow> rows;
      std::vector<uint32_t> outputs;
      for (uint32_t s = 0; s < adapters.size(); ++s) {
        EXPECT_TRUE(sequences[s].Extend(cache, end).ok());
        for (uint32_t t = begin; t < end; ++t) {
          outputs.push_back(static_cast<uint32_t>(rows.size()));
          rows.push_back({t * 13 % 300, t, sequences[s].tables(), sequences[s].state(cache), sequences[s].next_state(cache)});
          rows.back().adapter = adapters[s];
        }
      }
      EXPECT_TRUE(executor_->Run({rows, outputs, cache.base()}));
      const size_t each = (end - begin) * program().vocabulary;
      for (uint32_t s = 0; s < adapters.size(); ++s) {
        logits[s].insert(logits[s].end(), executor_->logits() + s * each, executor_->logits() + (s + 1) * each);
        sequences[s].Commit(end);
      }
      begin = end;
    }
    for (KvSequence& sequence : sequences) sequence.Truncate(cache, 0);
    return logits;
  }

 private:
  const testing::TemporaryFolder folder_;
  const std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  MemoryBudget budget_{uint64_t{1} << 30};
  std::unique_ptr<ThreadPool> pool_owner_;
  PlanOptions options_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Executor> executor_;
};

// Random numbers for some weights, as floats, and what they make of a runner's program.
struct Adapter {
  struct Matrix {
    size_t rank;
    float scale;
    std::vector<float> a;
    std::vector<float> b;
  };
  using Key = std::pair<std::string, size_t>;
  std::map<Key, Matrix> matrices;  // by the weight's name and first row

  static Key NameOf(const WeightSpec& spec) { return {spec.name, spec.first}; }

  static Adapter Random(const Program& program, uint64_t seed, size_t rank) {
    Adapter adapter;
    Rng rng(seed);
    for (const Op& op : program.ops) {
      std::vector<WeightId> weights;
      if (const auto* product = std::get_if<MatMulOp>(&op)) {
        for (const MatMulPart& part : product->parts) weights.push_back(part.weight);
      }
      if (const auto* gated = std::get_if<GatedMatMulOp>(&op)) weights = {gated->gate.weight, gated->up.weight};
      for (const WeightId id : weights) {
        if (rng.Next() % 4 == 0) continue;
        const WeightSpec& spec = program.weights[id];
        Matrix matrix = {rank + rng.Next() % 5, 0.25f, {}, {}};
        for (size_t i = 0; i < matrix.rank * spec.columns; ++i) matrix.a.push_back(static_cast<float>(rng.Uniform() - 0.5) * 0.2f);
        for (size_t i = 0; i < matrix.rank * spec.rows; ++i) matrix.b.push_back(static_cast<float>(rng.Uniform() - 0.5));
        adapter.matrices.emplace(NameOf(spec), std::move(matrix));
      }
    }
    return adapter;
  }

  LowRankUpdates Build(Runner& runner) const {
    std::vector<LowRankShape> shapes;
    std::vector<const Matrix*> of;
    for (WeightId id = 0; id < runner.program().weights.size(); ++id) {
      const auto found = matrices.find(NameOf(runner.program().weights[id]));
      if (found == matrices.end()) continue;
      shapes.push_back({.weight = id, .rank = found->second.rank, .scale = found->second.scale});
      of.push_back(&found->second);
    }
    LowRankUpdates updates = LowRankUpdates::Make(runner.program(), shapes, runner.budget()).value();
    for (size_t i = 0; i < shapes.size(); ++i) {
      const size_t columns = runner.program().weights[shapes[i].weight].columns;
      for (size_t row = 0; row < shapes[i].rank; row += kPanelRows) {
        const size_t count = std::min(kPanelRows, shapes[i].rank - row);
        updates.SetA(i, row / kPanelRows, std::span(of[i]->a).subspan(row * columns, count * columns));
      }
      const size_t rows = runner.program().weights[shapes[i].weight].rows;
      for (size_t row = 0; row < rows; row += kPanelRows) {
        const size_t count = std::min(kPanelRows, rows - row);
        updates.SetB(i, row / kPanelRows, std::span(of[i]->b).subspan(row * shapes[i].rank, count * shapes[i].rank));
      }
    }
    return updates;
  }

  // The file with its F32 matrices merged: W + scale * B A, in double.
  void MergeInto(testing::GgufBuilder* builder) const {
    for (testing::GgufBuilder::Tensor& tensor : builder->tensors()) {
      for (const auto& [key, matrix] : matrices) {
        if (key.first == tensor.name) Merge(matrix, key.second, &tensor);
      }
    }
  }
  // Into rows from `first` on.
  static void Merge(const Matrix& matrix, size_t first, testing::GgufBuilder::Tensor* tensor) {
    const size_t columns = tensor->dimensions[0];
    const size_t rows = matrix.b.size() / matrix.rank;
    for (size_t i = 0; i < rows * columns; ++i) {
      char* place = &tensor->bytes[4 * (first * columns + i)];
      float weight = 0;
      std::memcpy(&weight, place, 4);
      double sum = 0;
      for (size_t k = 0; k < matrix.rank; ++k) {
        sum += static_cast<double>(matrix.b[i / columns * matrix.rank + k]) * static_cast<double>(matrix.a[k * columns + i % columns]);
      }
      weight = static_cast<float>(static_cast<double>(weight) + static_cast<double>(matrix.scale) * sum);
      std::memcpy(place, &weight, 4);
    }
  }
};

struct Kind {
  const char* name;
  testing::TinyModel tiny;
};
const Kind kKinds[] = {
    {"Plain", {.width = 64, .heads = 4, .feed_forward = 96}},
    {"Biased", {.width = 64, .heads = 4, .feed_forward = 96, .biases = true}},
    {"Tied", {.width = 64, .heads = 4, .feed_forward = 96, .tied = true}},
    {"Joined", {.width = 64, .heads = 4, .feed_forward = 96, .joined = true}},
    {"Experts", {.width = 64, .heads = 4, .feed_forward = 96, .experts = 4, .experts_used = 2}},
    {"Hybrid", {.width = 64, .heads = 4, .feed_forward = 96, .hybrid = true}},
};

class LowRank : public ::testing::TestWithParam<Kind> {};

// In every operation that a model has, plain kernels, F32 weights.
TEST_P(LowRank, IsTheMergedModel) {
  testing::GgufBuilder builder = testing::BuildTinyModel(GetParam().tiny);
  Runner runner(builder, *ChooseKernels("ref").value(), /*threads=*/1);
  // What the embeddings are too cannot be merged for the output alone.
  Adapter adapter = Adapter::Random(runner.program(), /*seed=*/5, /*rank=*/7);
  adapter.matrices.erase({"token_embd.weight", 0});
  const LowRankUpdates updates = adapter.Build(runner);
  const auto adapted = runner.Logits({&updates}, {kTokens})[0];
  const auto base = runner.Logits({nullptr}, {kTokens})[0];
  adapter.MergeInto(&builder);
  Runner merged(builder, *ChooseKernels("ref").value(), /*threads=*/1);
  EXPECT_LT(testing::Nmse(adapted, merged.Logits({nullptr}, {kTokens})[0]), 1e-10);
  EXPECT_GT(testing::Nmse(adapted, base), 1e-3) << "the adapter matters";
}

// Whoever else is in a step, however it is cut, on any number of threads: each sequence has the bits of its own run, and those without an
// adapter have the bits of a program that knows none.
TEST_P(LowRank, RowsDependOnTheirOwnAdapter) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
    testing::TinyModel tiny = GetParam().tiny;
    tiny.matrices = dtype;
    const testing::GgufBuilder builder = testing::BuildTinyModel(tiny);
    for (const KernelSet* kernels : {RunnableKernels().front(), ChooseKernels("ref").value()}) {
      Runner one(builder, *kernels, /*threads=*/1);
      const Adapter first = Adapter::Random(one.program(), /*seed=*/1, /*rank=*/3);
      const Adapter second = Adapter::Random(one.program(), /*seed=*/2, /*rank=*/30);
      const LowRankUpdates a = first.Build(one);
      const LowRankUpdates b = second.Build(one);
      const std::vector<std::vector<float>> alone = {one.Logits({&a}, {kTokens})[0], one.Logits({nullptr}, {kTokens})[0],
                                                     one.Logits({&b}, {kTokens})[0]};
      EXPECT_EQ(one.Logits({&a, nullptr, &b}, {kTokens}), alone) << Info(dtype).name << " " << kernels->name;
      Runner three(builder, *kernels, /*threads=*/3);
      const LowRankUpdates a3 = first.Build(three);
      const LowRankUpdates b3 = second.Build(three);
      for (const std::vector<uint32_t>& steps : {std::vector<uint32_t>{kTokens}, {1}, {5, 1, 13}}) {
        EXPECT_EQ(three.Logits({&a3, nullptr, &b3}, steps), alone) << Info(dtype).name << " " << kernels->name << " " << steps[0];
      }
      EXPECT_EQ(three.Logits({&b3}, {1})[0], alone[2]) << Info(dtype).name << " " << kernels->name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, LowRank, ::testing::ValuesIn(kKinds), [](const auto& test) { return test.param.name; });

// With weights and rows that are rounded, the update is that of what the product reads: an update that takes the weights away leaves next
// to nothing, though the rounding of rows alone is a hundred times larger.
TEST(LowRankRounding, UpdatesReadWhatProductsRead) {
  testing::TinyModel tiny = {.layers = 1, .width = 64, .heads = 4, .feed_forward = 96, .vocabulary = 300};
  tiny.matrices = DType::kQ8_0;
  testing::GgufBuilder builder = testing::BuildTinyModel(tiny);
  Runner runner(builder, *RunnableKernels().front(), /*threads=*/2);
  // Of the output matrix [300, 64]: A is the identity, and B minus the weights.
  Adapter adapter;
  Adapter::Matrix output = {64, 1, std::vector<float>(64 * 64), std::vector<float>(300 * 64)};
  for (size_t i = 0; i < 64; ++i) output.a[i * 64 + i] = 1;
  for (const testing::GgufBuilder::Tensor& tensor : builder.tensors()) {
    if (tensor.name != "output.weight") continue;
    Unpack(DType::kQ8_0, reinterpret_cast<const uint8_t*>(tensor.bytes.data()), output.b.size(), output.b.data());
  }
  for (float& value : output.b) value = -value;
  adapter.matrices.emplace(Adapter::Key("output.weight", 0), std::move(output));
  const LowRankUpdates updates = adapter.Build(runner);
  EXPECT_TRUE(runner.RoomForRank(64).ok());
  const auto base = runner.Logits({nullptr}, {kTokens})[0];
  const auto nothing = runner.Logits({&updates}, {kTokens})[0];
  double of_base = 0;
  double left = 0;
  for (const float value : base) of_base += static_cast<double>(value) * static_cast<double>(value);
  for (const float value : nothing) left += static_cast<double>(value) * static_cast<double>(value);
  EXPECT_LT(left, 1e-10 * of_base);
}

TEST(LowRankBudget, GivesItsMemoryBack) {
  Runner runner(testing::BuildTinyModel({.width = 64, .heads = 4, .feed_forward = 96}), *ChooseKernels("ref").value(), /*threads=*/1);
  const uint64_t before = runner.budget().used_bytes();
  {
    const LowRankUpdates updates = Adapter::Random(runner.program(), 1, 8).Build(runner);
    EXPECT_EQ(runner.budget().used_bytes(), before + updates.bytes());
  }
  EXPECT_EQ(runner.budget().used_bytes(), before);
  MemoryBudget small(1000);
  const std::vector<LowRankShape> shapes = {{.weight = 0, .rank = 8}};
  const auto refused = LowRankUpdates::Make(runner.program(), shapes, small);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kExhausted);
}

}  // namespace
}  // namespace bantam
