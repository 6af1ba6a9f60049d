#include "program/executor.h"

#include <gtest/gtest.h>

#include <algorithm>

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

// Logits of a fixed text, with the program changed by `change` before it runs.
template <typename Change>
std::vector<float> Logits(const testing::TinyModel& tiny, Change change, const KernelSet& kernels = *RunnableKernels().front()) {
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
  const PlanOptions options = {kTokens, KvType::kF32, kTokens, kTokens, 2};
  const KvCache cache = KvCache::Make(KvLayout(options.kv_type, model->program.kv_layers), KvBlockCount(kTokens), budget).value();
  const auto executor = Executor::Make({model->program, model->weights, kernels, options}, {budget, pool}).value();
  const uint32_t blocks[2] = {1, 0};
  std::vector<StepRow> rows;
  std::vector<uint32_t> outputs;
  for (uint32_t i = 0; i < kTokens; ++i) {
    rows.push_back({i * 13 % 300, i, blocks});
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
  const auto still = Logits({}, [](Program* program) {
    auto& frequency = program->ropes[0].inverse_frequency;
    std::fill(frequency.begin() + 5, frequency.end(), 0.0);
  });
  const auto fewer = Logits({}, [](Program* program) { program->ropes[0].inverse_frequency.resize(5); });
  EXPECT_EQ(fewer, still);
  EXPECT_NE(fewer, Logits({}, [](Program*) {})) << "the other pairs matter";
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

}  // namespace
}  // namespace bantam
