// Options that layers of any family may have: block-sparse attention, and the weights of another layer.
#include "model/arch/layer_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/lowering.h"
#include "program/memory_plan.h"
#include "program/weights.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using testing::BuildTinyModel;
using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::TinyModel;

constexpr const char* kBlockSize = "llama.attention.block_sparse.block_size";
constexpr const char* kLocalBlocks = "llama.attention.block_sparse.local_blocks";
constexpr const char* kGlobalStride = "llama.attention.block_sparse.global_stride";

class LayerOptionsTest : public ::testing::Test {
 protected:
  Result<Program> Plain(const GgufBuilder& builder) {
    builder.Write(folder_.Path("m.gguf"));
    BANTAM_ASSIGN(file_, OpenGguf(*files_, folder_.Path("m.gguf")));
    BANTAM_ASSIGN(const Config config, ReadConfig(file_));
    return Lower(config, file_.directory);
  }
  std::string Error(const GgufBuilder& builder) {
    const auto program = Plain(builder);
    return program.ok() ? "" : program.error().message();
  }
  std::vector<float> Run(const GgufBuilder& builder, const testing::RunSetup& setup) {
    builder.Write(folder_.Path("m.gguf"));
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < 90; ++i) tokens.push_back(i * 37 % 300);
    auto runner = testing::ModelRunner::Make(folder_.Path("m.gguf"), setup, tokens.size());
    EXPECT_TRUE(runner.ok()) << runner.error().message();
    return runner.ok() ? (*runner)->Logits(tokens) : std::vector<float>();
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
};

TEST_F(LayerOptionsTest, BlockSparseKeys) {
  const auto sparse_of = [&](const GgufBuilder& builder) {
    const auto program = Plain(builder);
    EXPECT_TRUE(program.ok()) << program.error().message();
    return program.ok() ? program->kv_layers : std::vector<KvHeads>(3);
  };
  GgufBuilder none = BuildTinyModel({.layers = 3});
  EXPECT_EQ(sparse_of(none)[0].sparse, BlockSparse{});
  GgufBuilder all = none;
  all.U32(kBlockSize, 64).U32(kLocalBlocks, 4).U32(kGlobalStride, 8);
  EXPECT_EQ(sparse_of(all)[2].sparse, (BlockSparse{64, 4, 8}));
  EXPECT_EQ(sparse_of(all)[2].window, 0u);
  GgufBuilder some = none;
  some.I32s(kBlockSize, {0, 64, 32}).U32(kLocalBlocks, 4).I32s(kGlobalStride, {0, 8, 0});
  EXPECT_EQ(sparse_of(some)[0].sparse, BlockSparse{});
  EXPECT_EQ(sparse_of(some)[1].sparse, (BlockSparse{64, 4, 8}));
  EXPECT_EQ(sparse_of(some)[2].sparse, (BlockSparse{32, 4, 0}));
  EXPECT_EQ(sparse_of(some)[2].window, 128u) << "no more is kept of a layer that sees local blocks alone";
  GgufBuilder odd = none;
  odd.U32(kBlockSize, 24).U32(kLocalBlocks, 4);
  EXPECT_THAT(Error(odd), HasSubstr("layer 0: block-sparse attention in blocks of 24 tokens, expected a multiple of 16"));
  GgufBuilder blind = none;
  blind.I32s(kBlockSize, {0, 0, 32}).U32(kLocalBlocks, 0);
  EXPECT_THAT(Error(blind), HasSubstr("layer 2: block-sparse attention to 0 local blocks"));
  GgufBuilder half = none;
  half.U32(kBlockSize, 64);
  EXPECT_THAT(Error(half), HasSubstr(kLocalBlocks));
  GgufBuilder few = none;
  few.I32s(kBlockSize, {64, 64}).U32(kLocalBlocks, 4);
  EXPECT_THAT(Error(few), HasSubstr("for 3 layers"));
}

TEST_F(LayerOptionsTest, BlockSparseModels) {
  const TinyModel tiny = {.width = 64, .heads = 4, .feed_forward = 64};
  const GgufBuilder dense = BuildTinyModel(tiny);
  GgufBuilder wide = dense;  // everything is local
  wide.U32(kBlockSize, 16).U32(kLocalBlocks, 1000);
  GgufBuilder sparse = dense;
  sparse.U32(kBlockSize, 16).U32(kLocalBlocks, 1).I32s(kGlobalStride, {2, 0});
  for (const KernelSet* kernels : RunnableKernels()) {
    for (const KvType type : {KvType::kF32, KvType::kInt8}) {
      const auto whole = Run(dense, {kernels, type, 1});
      EXPECT_EQ(Run(wide, {kernels, type, 1}), whole) << kernels->name;
      const auto some = Run(sparse, {kernels, type, 1});
      EXPECT_GT(testing::Nmse(some, whole), 1e-4);
      EXPECT_EQ(Run(sparse, {kernels, type, 2, {7, 1, 30}}), some) << kernels->name;
    }
  }
}

TEST_F(LayerOptionsTest, LayersShareWeights) {
  const auto with = [](std::vector<int32_t> layer_weights) {
    return BuildTinyModel(
        {.layers = 2, .layer_weights = std::move(layer_weights), .width = 64, .heads = 4, .feed_forward = 64, .biases = true});
  };
  const GgufBuilder shared = with({0, 1, 0, 1});
  GgufBuilder own = with({0, 1, 2, 3});
  own.CopyLayer(0, 2).CopyLayer(1, 3);
  for (const KernelSet* kernels : RunnableKernels()) {
    EXPECT_EQ(Run(shared, {kernels, KvType::kF32, 2, {7, 1, 30}}), Run(own, {kernels, KvType::kF32, 1})) << kernels->name;
  }
  const Program of_two = *Plain(with({0, 1}));
  const Program of_four = *Plain(shared);
  EXPECT_EQ(WeightsBytes(of_four), WeightsBytes(of_two)) << "loaded once";
  EXPECT_EQ(DecodeReadBytes(of_four), DecodeReadBytes(*Plain(own))) << "and read for every layer";
  EXPECT_EQ(of_four.kv_layers.size(), 4u) << "keys and values are each layer's own";
}

TEST_F(LayerOptionsTest, SharedWeightsThatAreNotThere) {
  EXPECT_THAT(Error(BuildTinyModel({.layers = 1, .layer_weights = {0, 3}})), HasSubstr("tensor blk.3.attn_norm.weight is missing"));
  EXPECT_THAT(Error(BuildTinyModel({.layers = 1, .layer_weights = {0, 100000}})), HasSubstr("layer_weights"));
  EXPECT_EQ(Error(BuildTinyModel({.layers = 1, .layer_weights = {0, 0}, .experts = 4, .experts_used = 2})), "");
}

}  // namespace
}  // namespace bantam
