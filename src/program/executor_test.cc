#include "program/executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/arch/registry.h"
#include "model/kv_cache.h"
#include "model/load.h"
#include "model/lowering.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

constexpr size_t kTokens = 20;

Program PlainProgram(const testing::TinyModel& tiny) {
  const testing::TemporaryFolder folder;
  testing::BuildTinyModel(tiny).Write(folder.Path("m.gguf"));
  const auto files = MakeFileSystem();
  ModelFile file = OpenGguf(*files, folder.Path("m.gguf")).value();
  const Config config = ReadConfig(file).value();
  return Lower(config, file.directory).value();
}

constexpr PlanOptions kOptions = {kTokens, KvType::kF32, kTokens, kTokens, 2};

// Logits of a fixed text, with the program changed by `change` before it runs.
template <typename Change>
std::vector<float> Logits(const testing::TinyModel& tiny, Change change, const KernelSet& kernels = *RunnableKernels().front(),
                          const PlanOptions& options = kOptions) {
  const testing::TemporaryFolder folder;
  testing::BuildTinyModel(tiny).Write(folder.Path("m.gguf"));
  const auto files = MakeFileSystem();
  ModelFile file = OpenGguf(*files, folder.Path("m.gguf")).value();
  ModelOutline outline = OutlineModel(file, kernels).value();
  change(&outline.program);
  MemoryBudget budget(uint64_t{1} << 30);
  const auto threads_owner = ThreadPool::Make(2).value();
  ThreadPool& pool = *threads_owner;
  const auto model = LoadModel(std::move(outline), file, {budget, pool}, nullptr).value();
  KvCache cache = KvCache::Make(KvLayout(options.kv_type, model->program.kv_layers), KvBlocks(model->program, options), budget).value();
  KvSequence sequence(kTokens, /*ring=*/0, /*window=*/0);
  EXPECT_TRUE(sequence.Extend(cache, kTokens).ok());
  const auto executor = Executor::Make({model->program, model->weights, kernels, options}, {budget, pool}).value();
  std::vector<StepRow> rows;
  std::vector<uint32_t> outputs;
  for (uint32_t i = 0; i < kTokens; ++i) {
    rows.push_back({i * 13 % 300, i, sequence.tables()});
    outputs.push_back(i);
  }
  executor->Run({rows, outputs, cache.base()});
  return {executor->logits(), executor->logits() + kTokens * model->program.vocabulary};
}

// Su et al. pair neighbours, others pair elements half a head apart. With the rows of the query and key matrices permuted to
// match, both are the same function.
TEST(Executor, BothRotaryLayoutsAreOneFunction) {
  const auto interleaved = Logits({}, [](Program*) {});
  const auto halves = Logits({.halves = true}, [](Program* program) { program->ropes[0].layout = RopeLayout::kHalves; });
  EXPECT_LT(testing::Nmse(halves, interleaved), 1e-11);
  const auto mismatched = Logits({.halves = true}, [](Program*) {});
  EXPECT_GT(testing::Nmse(mismatched, interleaved), 1e-3) << "the layout matters";
}

// Dimensions past the rotated pairs pass unchanged: a pair that turns by nothing and a pair that is not there are the same.
TEST(Executor, RotatesOnlyTheGivenPairs) {
  // Frequencies of 5 pairs, as a rotation of 10 dimensions makes them and as divisors of all pairs do.
  const auto fewer = Logits({}, [](Program* program) { program->ropes[0].rotated_dimensions = 10; });
  const auto still = Logits({}, [](Program* program) {
    RopeSpec& rope = program->ropes[0];
    const RopeAngles all = ResolveRope(rope, kTokens);
    for (size_t i = 0; i < rope.pairs(); ++i) {
      const double wanted = i < 5 ? std::pow(rope.base, -2.0 * static_cast<double>(i) / 10) : 0;
      rope.divisors.push_back(wanted == 0 ? INFINITY : static_cast<float>(all.inverse_frequency[i] / wanted));
    }
  });
  EXPECT_LT(testing::Nmse(fewer, still), 1e-10);
  EXPECT_GT(testing::Nmse(fewer, Logits({}, [](Program*) {})), 1e-6) << "the other pairs matter";
}

// Fusion changes what is done together, not one bit of the result.
TEST(Executor, PlainAndFusedProgramsGiveTheSameBits) {
  for (const testing::TinyModel& tiny : {testing::TinyModel{.biases = true}, testing::TinyModel{.experts = 4, .experts_used = 2},
                                         testing::TinyModel{.tied = true, .matrices = DType::kQ4_K}}) {
    const auto fused = Logits(
        tiny, [](Program*) {}, kernels::kReference);
    const auto plain = Logits(
        tiny, [&](Program* program) { *program = PlainProgram(tiny); }, kernels::kReference);
    EXPECT_EQ(plain, fused);
  }
}

// Weights that are kept as in the file are packed for every step, to the same bits: for prompts, tokens of no whole tile, experts, and the
// tied output matrix.
TEST(Executor, RowsGiveTheBitsOfPanels) {
  for (const DType dtype : testing::AllDTypes()) {
    if (Info(dtype).block_elements == 1) continue;
    for (const testing::TinyModel& tiny :
         {testing::TinyModel{.tied = true, .matrices = dtype}, testing::TinyModel{.experts = 4, .experts_used = 2, .matrices = dtype}}) {
      const auto panels = Logits(tiny, [](Program*) {});
      const auto rows = Logits(tiny, [](Program* program) {
        for (WeightSpec& spec : program->weights) {
          if (spec.storage == WeightStorage::kPanels) spec.storage = WeightStorage::kRows;
        }
      });
      EXPECT_EQ(rows, panels) << Info(dtype).name << (tiny.tied ? ", tied" : ", experts");
    }
  }
}

// What a machine is tuned to decides on time alone.
TEST(Executor, TuningChangesNoBit) {
  for (const KernelSet* kernels : RunnableKernels()) {
    for (const testing::TinyModel& tiny : {testing::TinyModel{.biases = true}, testing::TinyModel{.matrices = DType::kQ4_K}}) {
      const auto expected = Logits(
          tiny, [](Program*) {}, *kernels);
      PlanOptions options = kOptions;
      options.uneven_cores = true;
      EXPECT_EQ(Logits(
                    tiny, [](Program*) {}, *kernels, options),
                expected)
          << kernels->name << ": pieces dealt out";
      options.token_tile = 16;
      EXPECT_EQ(Logits(
                    tiny, [](Program*) {}, *kernels, options),
                expected)
          << kernels->name << ": pieces of two tiles";
      options.prefetch = 4096;
      EXPECT_EQ(Logits(
                    tiny, [](Program*) {}, *kernels, options),
                expected)
          << kernels->name;
    }
  }
}

}  // namespace
}  // namespace bantam
