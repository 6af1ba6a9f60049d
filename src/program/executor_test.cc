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

// Logits of a fixed text, with the program changed by `change` before it runs; `steps` tokens at a time, in turn.
template <typename Change>
std::vector<float> Logits(const testing::TinyModel& tiny, Change change, const KernelSet& kernels = *RunnableKernels().front(),
                          const PlanOptions& options = kOptions, const std::vector<uint32_t>& steps = {kTokens}) {
  const testing::TemporaryFolder folder;
  testing::BuildTinyModel(tiny).Write(folder.Path("m.gguf"));
  const auto files = MakeFileSystem();
  ModelFile file = OpenGguf(*files, folder.Path("m.gguf")).value();
  ModelOutline outline = OutlineModel(file, kernels).value();
  change(&outline.program);
  MemoryBudget budget(uint64_t{1} << 30);
  const auto threads_owner = ThreadPool::Make(options.threads).value();
  ThreadPool& pool = *threads_owner;
  const auto model = LoadModel(std::move(outline), file, {budget, pool}, nullptr).value();
  KvCache cache = KvCache::Make(KvLayout(options.kv_type, model->program.kv_layers), KvBlocks(model->program, options), {}, budget).value();
  KvSequence sequence(kTokens, /*ring=*/0, /*window=*/0);
  EXPECT_TRUE(sequence.Extend(cache, kTokens).ok());
  const auto executor = Executor::Make({model->program, model->weights, kernels, options}, {budget, pool}).value();
  std::vector<float> logits;
  for (uint32_t begin = 0, step = 0; begin < kTokens; ++step) {
    std::vector<StepRow> rows;
    std::vector<uint32_t> outputs;
    for (const uint32_t end = std::min<uint32_t>(kTokens, begin + steps[step % steps.size()]); begin < end; ++begin) {
      outputs.push_back(static_cast<uint32_t>(rows.size()));
      rows.push_back({begin * 13 % 300, begin, sequence.tables()});
    }
    executor->Run({rows, outputs, cache.base()});
    logits.insert(logits.end(), executor->logits(), executor->logits() + rows.size() * model->program.vocabulary);
  }
  return logits;
}

const std::vector<std::vector<uint32_t>> kSteps = {{kTokens}, {1}, {5, 1, 13}};

// Su et al. pair neighbours, others pair elements half a head apart. With the rows of the query and key matrices permuted to
// match, both are the same function.
TEST(Executor, BothRotaryLayoutsAreOneFunction) {
  const auto interleaved = Logits({}, [](Program*) {});
  const auto halves = Logits({.halves = true}, [](Program* program) { program->ropes[0].layout = RopeLayout::kHalves; });
  EXPECT_LT(testing::Nmse(halves, interleaved), 1e-11);
  const auto mismatched = Logits({.halves = true}, [](Program*) {});
  EXPECT_GT(testing::Nmse(mismatched, interleaved), 1e-3) << "the layout matters";
}

// Activations by fixed steps: on every set that rounds, however a text is cut, and only where all readers have the same step.
TEST(Executor, RoundsActivationsByFixedSteps) {
  const testing::TinyModel tiny = {.layers = 1, .width = 64, .heads = 4, .feed_forward = 96, .matrices = DType::kQ8_0};
  for (const KernelSet* kernels : RunnableKernels()) {
    if (!kernels->quantized[static_cast<size_t>(PanelKind::kQ8)]) continue;
    const auto with = [&](float q, float k, float down, const std::vector<uint32_t>& steps = {kTokens}) {
      const StaticSteps map = {
          {"blk.0.attn_q.weight", q}, {"blk.0.attn_k.weight", k}, {"blk.0.attn_v.weight", q}, {"blk.0.ffn_down.weight", down}};
      size_t count = 0;
      auto logits = Logits(
          tiny, [&](Program* program) { count = SetStaticSteps(map, program); }, *kernels, kOptions, steps);
      EXPECT_EQ(count, q == k ? 2u : 1u) << kernels->name;
      return logits;
    };
    const auto dynamic = Logits(
        tiny, [](Program*) {}, *kernels);
    const auto fine = with(0.04f, 0.04f, 0.04f);
    EXPECT_LT(testing::Nmse(fine, dynamic), 5e-3) << kernels->name;
    const auto coarse = with(2, 2, 2);
    EXPECT_GT(testing::Nmse(coarse, dynamic), 10 * testing::Nmse(fine, dynamic)) << kernels->name;
    EXPECT_EQ(with(2, 2, 2, {5, 1, 13}), coarse) << kernels->name;
    with(1, 2, 1);
  }
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

// In a model of one layer a token's logits depend on its own scores alone: those of a temperature at each position are those of a model
// whose scores are all scaled so.
TEST(Executor, ScoresGrowWithThePosition) {
  const AttentionTemperature temperature = {0.5f, 6};
  const auto attend = [](Program* program) {
    return std::get_if<AttendOp>(
        &*std::find_if(program->ops.begin(), program->ops.end(), [](const Op& op) { return std::holds_alternative<AttendOp>(op); }));
  };
  const testing::TinyModel tiny = {.layers = 1};
  const auto heated = [&](Program* program) { attend(program)->temperature = temperature; };
  const auto whole = Logits(tiny, heated);
  for (const std::vector<uint32_t>& steps : kSteps) EXPECT_EQ(Logits(tiny, heated, *RunnableKernels().front(), kOptions, steps), whole);
  const size_t width = whole.size() / kTokens;
  for (size_t interval = 0; interval * temperature.length < kTokens; ++interval) {
    const auto scale = static_cast<float>(1 + 0.5 * std::log(1.0 + static_cast<double>(interval)));
    const auto scaled = Logits(tiny, [&](Program* program) { attend(program)->scale *= scale; });
    for (size_t t = interval * temperature.length; t < std::min(kTokens, (interval + 1) * temperature.length); ++t) {
      EXPECT_EQ(std::vector(whole.begin() + static_cast<ptrdiff_t>(t * width), whole.begin() + static_cast<ptrdiff_t>((t + 1) * width)),
                std::vector(scaled.begin() + static_cast<ptrdiff_t>(t * width), scaled.begin() + static_cast<ptrdiff_t>((t + 1) * width)))
          << t;
    }
  }
  EXPECT_GT(testing::Nmse(whole, Logits(tiny, [](Program*) {})), 1e-4) << "the temperature matters";
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
  const auto keep = [](Program* program) {
    for (WeightSpec& spec : program->weights) {
      if (spec.storage == WeightStorage::kPanels) spec.storage = WeightStorage::kRows;
    }
  };
  for (const DType dtype : testing::AllDTypes()) {
    if (Info(dtype).block_elements == 1) continue;
    for (const testing::TinyModel& tiny :
         {testing::TinyModel{.tied = true, .matrices = dtype}, testing::TinyModel{.experts = 4, .experts_used = 2, .matrices = dtype}}) {
      const auto panels = Logits(tiny, [](Program*) {});
      for (const std::vector<uint32_t>& steps : kSteps) {
        EXPECT_EQ(Logits(tiny, keep, *RunnableKernels().front(), kOptions, steps), panels)
            << Info(dtype).name << (tiny.tied ? ", tied" : ", experts") << ", first " << steps[0];
      }
    }
  }
}

// Where threads meet while a layer of a Llama runs: in front of rope, attention, both quantisations and both norms.
TEST(Executor, BarriersOfALayer) {
  const testing::TemporaryFolder folder;
  testing::BuildTinyModel({.layers = 3, .matrices = DType::kQ4_K}).Write(folder.Path("m.gguf"));
  const auto files = MakeFileSystem();
  ModelFile file = OpenGguf(*files, folder.Path("m.gguf")).value();
  KernelSet kernels = kernels::kReference;
  std::fill(std::begin(kernels.quantized), std::end(kernels.quantized), true);
  Program program = OutlineModel(file, kernels).value().program;
  const auto count = [&](bool single) {
    const std::vector<bool> before = PlaceBarriers(program, single);
    size_t attentions = 0;
    size_t barriers = 0;
    for (size_t i = 0; i < program.ops.size(); ++i) {
      if (std::holds_alternative<AttendOp>(program.ops[i])) ++attentions;
      if (attentions == 1 && before[i]) ++barriers;  // from the first layer's attention to the second's
    }
    return barriers;
  };
  EXPECT_EQ(count(/*single=*/true), 6u);
  EXPECT_EQ(count(/*single=*/false), 10u);
  // Norms of heads are shared out as what turns them is; norms of whole rows are not.
  const auto normalized = [&](bool heads) {
    Program changed = program;
    for (size_t i = 0; i < changed.ops.size(); ++i) {
      const auto* rope = std::get_if<RopeOp>(&changed.ops[i]);
      if (rope == nullptr) continue;
      const NormOp norm = {.in = rope->in, .out = rope->in, .groups = heads ? rope->heads : 1};
      changed.ops.insert(changed.ops.begin() + static_cast<std::ptrdiff_t>(i++), norm);
    }
    return changed;
  };
  const Program turned_only = program;
  const Program of_rows = normalized(/*heads=*/false);
  program = normalized(/*heads=*/true);
  EXPECT_EQ(count(/*single=*/true), 6u);
  EXPECT_EQ(count(/*single=*/false), 10u);
  program = of_rows;
  EXPECT_GT(count(/*single=*/true), 6u);
  program = turned_only;
  // Keys that nobody turned come from the product of another thread.
  std::erase_if(program.ops, [](const Op& op) { return std::holds_alternative<RopeOp>(op); });
  EXPECT_EQ(count(/*single=*/true), 6u);
}

// Files with query, key and value in one tensor: parts of it give the bits of three, whatever the format, also where a part is no whole
// panel, and where rows stay as in the file.
TEST(Executor, PartsOfATensorAreMatricesOfTheirOwn) {
  const auto keep = [](Program* program) {
    for (WeightSpec& spec : program->weights) {
      if (spec.storage == WeightStorage::kPanels) spec.storage = WeightStorage::kRows;
    }
  };
  for (const DType dtype : testing::AllDTypes()) {
    testing::TinyModel tiny = {.layers = 1, .heads = 32, .kv_heads = 1, .biases = true, .matrices = dtype};
    const auto three = Logits(tiny, [](Program*) {});
    tiny.joined = true;
    EXPECT_EQ(Logits(tiny, [](Program*) {}), three) << Info(dtype).name;
    if (Info(dtype).block_elements == 1) continue;
    EXPECT_EQ(Logits(tiny, keep), three) << Info(dtype).name << " as in the file";
  }
}

// Activations of 8 bits for weights of 8 bits: as far from the reference as such rounding takes a small model, and no further.
TEST(Executor, Bf16UnitsRoundActivationsAlone) {
  const testing::TinyModel tiny = {.matrices = DType::kBF16};
  const auto exact = Logits(
      tiny, [](Program*) {}, kernels::kReference);
  for (const KernelSet* set : RunnableKernels()) {
    const double error = testing::Nmse(Logits(
                                           tiny, [](Program*) {}, *set),
                                       exact);
    EXPECT_LT(error, set->to_bf16 == nullptr ? 1e-10 : 1e-4) << set->name;
    EXPECT_EQ(error > 1e-8, set->to_bf16 != nullptr) << set->name;
  }
}

// What a machine is tuned to decides on time alone.
TEST(Executor, TuningChangesNoBit) {
  for (const KernelSet* kernels : RunnableKernels()) {
    for (const testing::TinyModel& tiny :
         {testing::TinyModel{.biases = true}, testing::TinyModel{.experts = 4, .experts_used = 2, .matrices = DType::kQ4_K},
          testing::TinyModel{.experts = 4, .experts_used = 2, .matrices = DType::kBF16}}) {
      const auto expected = Logits(
          tiny, [](Program*) {}, *kernels);
      PlanOptions options = kOptions;
      options.uneven_cores = true;
      for (const int threads : {1, 2, 3}) {
        options.threads = threads;
        for (const std::vector<uint32_t>& steps : kSteps) {
          EXPECT_EQ(Logits(
                        tiny, [](Program*) {}, *kernels, options, steps),
                    expected)
              << kernels->name << ": pieces dealt out to " << threads << ", first " << steps[0];
        }
      }
      options.threads = kOptions.threads;
      EXPECT_EQ(Logits(
                    tiny, [](Program*) {}, *kernels, options),
                expected)
          << kernels->name << ": pieces dealt out";
      options.token_tile = 16;
      EXPECT_EQ(Logits(
                    tiny, [](Program*) {}, *kernels, options),
                expected)
          << kernels->name << ": pieces of two tiles";
      options.prefetch = {4096, 2048};
      EXPECT_EQ(Logits(
                    tiny, [](Program*) {}, *kernels, options),
                expected)
          << kernels->name;
    }
  }
}

}  // namespace
}  // namespace bantam
