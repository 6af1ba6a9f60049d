#include "program/memory_plan.h"

#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/load.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class MemoryPlanTest : public ::testing::Test {
 protected:
  MemoryPlanTest() {
    testing::BuildTinyModel({.matrices = DType::kQ8_0}).Write(folder_.Path("m.gguf"));
    file_ = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    program_ = OutlineModel(file_, kernels::kReference).value().program;
  }
  FitRequest Request(uint64_t limit) const {
    FitRequest request;
    request.wanted.context = 4096;
    request.wanted.step_tokens = 16;
    request.limit_bytes = limit;
    return request;
  }
  uint64_t Need(size_t context, KvType type) const {
    PlanOptions options = Request(0).wanted;
    options.context = context;
    options.kv_type = type;
    return PlanMemory(program_, options, {}).total_bytes();
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
  Program program_;
};

TEST_F(MemoryPlanTest, WeightsByHand) {
  // Q8_0: 544 bytes per 16 rows x 32 columns. Rows of the output matrix are padded from 300 to 304.
  const auto matrix = [](uint64_t rows, uint64_t columns) { return (rows + 15) / 16 * (columns / 32) * 544; };
  const uint64_t layer = 2 * matrix(256, 256) + 2 * matrix(64, 256) + 2 * matrix(512, 256) + matrix(256, 512) + 2 * 1024;
  const uint64_t embedding = (uint64_t{300} * 256 / 32 * 34 + 63) / 64 * 64;
  EXPECT_EQ(PlanMemory(program_, Request(0).wanted, {}).weights_bytes, 2 * layer + embedding + matrix(300, 256) + 1024);
}

TEST_F(MemoryPlanTest, KvByHand) {
  PlanOptions options = Request(0).wanted;
  options.context = 33;  // three blocks
  options.kv_type = KvType::kF16;
  EXPECT_EQ(PlanMemory(program_, options, {}).kv_bytes, 3u * 16 * 2 * 2 * 2 * 32 * 2) << "tokens, K and V, layers, heads, width, bytes";
}

TEST_F(MemoryPlanTest, WindowedLayersNeedAWindowAndAStep) {
  PlanOptions options = Request(0).wanted;
  const uint64_t full = PlanMemory(program_, options, {}).kv_bytes;
  program_.kv_layers[1].window = 100;
  // 99 tokens before the step, 16 of it: 8 blocks, and one more since they need not begin with a block.
  EXPECT_EQ(KvBlocks(program_, options)[KvPart::kWindowed], 9u);
  EXPECT_EQ(PlanMemory(program_, options, {}).kv_bytes, full / 2 + full / 2 / 256 * 9);
  options.context = 64;
  EXPECT_EQ(KvBlocks(program_, options)[KvPart::kWindowed], 4u) << "never more than the context";
}

// An engine's sequences share tokens' keys and values; each has a window's ring and states of its own.
TEST_F(MemoryPlanTest, PoolsOfAnEngine) {
  PlanOptions options = Request(0).wanted;
  options.sequences = 4;
  options.checkpoints = 2;
  const MemoryPlan alone = PlanMemory(program_, Request(0).wanted, {});
  EXPECT_EQ(PlanMemory(program_, options, {}).kv_bytes, alone.kv_bytes) << "at least one context";
  options.kv_tokens = 2 * options.context;
  EXPECT_EQ(PoolBlocks(program_, options)[KvPart::kFull], 2 * options.context / 16 + 3) << "each may fill a block in part";
  program_.state_floats = 10;
  program_.kv_layers[0].window = 100;
  EXPECT_EQ(PoolBlocks(program_, options)[KvPart::kWindowed], 6 * KvBlocks(program_, options)[KvPart::kWindowed]);
  EXPECT_EQ(PlanMemory(program_, options, {}).state_bytes, 6 * StateBytes(10));
}

TEST_F(MemoryPlanTest, AdaptersAreHeldBesideTheModel) {
  const PlanOptions options = Request(0).wanted;
  const MemoryPlan with = PlanMemory(program_, options, {.adapters = 12345});
  EXPECT_EQ(with.total_bytes(), PlanMemory(program_, options, {}).total_bytes() + 12345);
  EXPECT_NE(Describe(with).find("adapters"), std::string::npos);
}

TEST_F(MemoryPlanTest, PoolsGrowToTheLimit) {
  PlanOptions options = Request(0).wanted;
  options.sequences = 4;
  const MemoryPlan least = PlanMemory(program_, options, {});
  for (const uint64_t more : {uint64_t{0}, least.kv_bytes / 3, least.kv_bytes, 2 * least.kv_bytes, 10 * least.kv_bytes}) {
    MemoryPlan plan = least;
    const uint64_t limit = least.total_bytes() + more;
    GrowPool(program_, limit, &plan);
    EXPECT_LE(plan.total_bytes(), limit);
    EXPECT_EQ(plan.total_bytes(), PlanMemory(program_, plan.options, {}).total_bytes()) << "to the byte";
    EXPECT_LE(plan.options.kv_tokens, 4 * options.context);
    if (more == 10 * least.kv_bytes) {
      EXPECT_EQ(plan.options.kv_tokens, 4 * options.context);
    } else if (plan.options.kv_tokens > 0) {
      EXPECT_GT(plan.total_bytes() + 2 * KvLayout(options.kv_type, program_.kv_layers).block_bytes(KvPart::kFull), limit)
          << "as many as fit";
    }
  }
}

TEST_F(MemoryPlanTest, EightBitKvComesFirstThenASmallerContext) {
  const auto roomy = FitMemory(&program_, Request(Need(4096, KvType::kF16)));
  ASSERT_TRUE(roomy.ok());
  EXPECT_EQ(roomy->options.kv_type, KvType::kF16);
  EXPECT_EQ(roomy->options.context, 4096u);
  const auto tight = FitMemory(&program_, Request(Need(4096, KvType::kF16) - 1));
  ASSERT_TRUE(tight.ok());
  EXPECT_EQ(tight->options.kv_type, KvType::kInt8);
  EXPECT_EQ(tight->options.context, 4096u);
  const auto tighter = FitMemory(&program_, Request(Need(1024, KvType::kInt8)));
  ASSERT_TRUE(tighter.ok());
  EXPECT_EQ(tighter->options.context, 1024u);
  EXPECT_LE(tighter->total_bytes(), Need(1024, KvType::kInt8));
}

TEST_F(MemoryPlanTest, RefusesWithTheNumbers) {
  const auto refused = FitMemory(&program_, Request(Need(kContextMin, KvType::kInt8) - 1));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kExhausted);
  EXPECT_NE(refused.error().message().find("weights"), std::string::npos);
  EXPECT_NE(refused.error().message().find("128 tokens"), std::string::npos);
  EXPECT_EQ(refused.error().message().find("--context"), std::string::npos) << "it is the least already";
}

TEST_F(MemoryPlanTest, WhatTheUserFixedStays) {
  FitRequest request = Request(Need(4096, KvType::kInt8));
  request.fixed_kv = true;
  const auto smaller = FitMemory(&program_, request);
  ASSERT_TRUE(smaller.ok());
  EXPECT_EQ(smaller->options.kv_type, KvType::kF16);
  EXPECT_LT(smaller->options.context, 4096u);
  request.fixed_context = true;
  EXPECT_EQ(FitMemory(&program_, request).error().code(), Code::kExhausted);
  EXPECT_NE(FitMemory(&program_, request).error().message().find("raise --memory, lower --context or"), std::string::npos);
}

// Panels of IQ2_XXS are twice the file's blocks. While they leave room for a useful context they are taken; then rows, with all that is
// wanted.
TEST_F(MemoryPlanTest, WeightsStayAsInTheFileWherePanelsDoNotFit) {
  testing::BuildTinyModel({.matrices = DType::kIQ2_XXS}).Write(folder_.Path("iq2.gguf"));
  file_ = OpenGguf(*files_, folder_.Path("iq2.gguf")).value();
  program_ = OutlineModel(file_, kernels::kReference).value().program;
  const Program panels = program_;
  const uint64_t least = Need(kContextUseful, KvType::kInt8);
  ASSERT_TRUE(KeepRows(&program_));
  const Program rows = program_;
  const uint64_t all = Need(4096, KvType::kF16);
  // 66 bytes per 256 weights of a row instead of 2,240 per 16 rows; the embedding and the output matrix are aligned up.
  EXPECT_EQ(WeightsBytes(rows), 2u * (2 * 256 + 2 * 64 + 2 * 512 + 2 * 256) * 66 + 2 * 19840 + 5 * 1024);

  const auto fit = [&](uint64_t limit, std::optional<WeightForm> form) {
    program_ = panels;
    FitRequest request = Request(limit);
    request.weight_form = form;
    return FitMemory(&program_, request);
  };
  const auto some = fit(least, std::nullopt);
  ASSERT_TRUE(some.ok());
  EXPECT_EQ(some->weight_form, WeightForm::kPanels);
  EXPECT_EQ(some->options.context, kContextUseful);
  const auto less = fit(least - 1, std::nullopt);
  ASSERT_TRUE(less.ok());
  EXPECT_EQ(less->weight_form, WeightForm::kRows);
  EXPECT_EQ(program_.weights[2].storage, WeightStorage::kRows);
  EXPECT_GE(less->options.context, kContextUseful);
  EXPECT_NE(Describe(*less).find("as in the file"), std::string::npos);
  const auto forced = fit(all, WeightForm::kRows);
  ASSERT_TRUE(forced.ok());
  EXPECT_EQ(forced->options.context, 4096u);
  EXPECT_EQ(forced->total_bytes(), all);
  const auto refused = fit(1000, WeightForm::kPanels);
  EXPECT_NE(refused.error().message().find("leave --weights away"), std::string::npos);
  EXPECT_NE(fit(1000, std::nullopt).error().message().find("weights as in the file"), std::string::npos);
  const auto fixed = fit(least - 1, WeightForm::kPanels);
  ASSERT_TRUE(fixed.ok());
  EXPECT_EQ(fixed->weight_form, WeightForm::kPanels);
  EXPECT_LT(fixed->options.context, kContextUseful);
  program_ = panels;
}

// The room in which threads pack panels counts: with one small matrix and many threads, rows would take more.
TEST_F(MemoryPlanTest, RowsAreTakenOnlyWhereTheyAreSmaller) {
  for (WeightSpec& spec : program_.weights) {
    if (spec.name == "blk.0.attn_k.weight") spec.dtype = DType::kIQ2_XXS;
  }
  FitRequest request = Request(0);
  request.wanted.threads = 64;
  PlanOptions least = request.wanted;
  least.context = kContextMin;
  least.kv_type = KvType::kInt8;
  request.limit_bytes = PlanMemory(program_, least, {}).total_bytes();
  const auto plan = FitMemory(&program_, request);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->weight_form, WeightForm::kPanels);
  EXPECT_EQ(plan->options.context, kContextMin);
}

TEST_F(MemoryPlanTest, OnlyFormatsWithLargePanelsAreKeptAsRows) {
  for (const DType dtype :
       {DType::kF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ3_K, DType::kQ2_K, DType::kQ2_0, DType::kIQ4_XS}) {
    for (WeightSpec& spec : program_.weights) spec.dtype = dtype;
    EXPECT_FALSE(KeepRows(&program_)) << Info(dtype).name;
  }
  for (const DType dtype : {DType::kIQ1_S, DType::kIQ1_M, DType::kIQ2_XXS, DType::kIQ2_XS, DType::kIQ2_S, DType::kIQ3_XXS, DType::kIQ3_S,
                            DType::kTQ1_0, DType::kTQ2_0, DType::kQ1_0}) {
    Program program = program_;
    for (WeightSpec& spec : program.weights) spec.dtype = dtype;
    EXPECT_TRUE(KeepRows(&program)) << Info(dtype).name;
  }
}

TEST_F(MemoryPlanTest, ReadBytesAreTheMatricesOfAToken) {
  const MemoryPlan plan = PlanMemory(program_, Request(0).wanted, {});
  const uint64_t embedding = (uint64_t{300} * 256 / 32 * 34 + 63) / 64 * 64;
  EXPECT_EQ(DecodeReadBytes(program_), plan.weights_bytes - embedding - 5 * 1024) << "all but look-ups and norms";
}

TEST_F(MemoryPlanTest, MultipliesByHand) {
  const Multiplies count = CountMultiplies(program_);
  EXPECT_EQ(count.per_token, 2u * (2 * 256 * 256 + 2 * 64 * 256 + 3 * 512 * 256));
  EXPECT_EQ(count.per_output, 300u * 256);
}

TEST_F(MemoryPlanTest, DescribesEveryPart) {
  const std::string text = Describe(PlanMemory(program_, Request(0).wanted, {.vocabulary = 77, .header = 5}));
  for (const char* part : {"weights", "kv", "activations", "vocabulary", "metadata", "program", "total"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }
}

TEST_F(MemoryPlanTest, NoContextBeyondTheTableOfPositions) {
  program_.context_limit = 4095;
  FitRequest request = Request(uint64_t{1} << 40);
  const auto refused = FitMemory(&program_, request);
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_NE(refused.error().message().find("at most 4095 are run: the model has embeddings for so many positions; use a shorter one"),
            std::string::npos);
  request.wanted.context = 4095;
  EXPECT_TRUE(FitMemory(&program_, request).ok());
}

}  // namespace
}  // namespace bantam
