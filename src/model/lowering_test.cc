#include "model/lowering.h"

#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "model/arch/registry.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class LoweringTest : public ::testing::Test {
 protected:
  Result<Program> LowerFile(const testing::GgufBuilder& builder) {
    builder.Write(folder_.Path("m.gguf"));
    BANTAM_ASSIGN(file_, OpenGguf(*files_, folder_.Path("m.gguf")));
    BANTAM_ASSIGN(const Config config, ReadConfig(file_));
    return Lower(config, file_.directory);
  }
  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
};

TEST_F(LoweringTest, LayersShareBuffersAndCountKv) {
  const auto two = LowerFile(testing::BuildTinyModel({.layers = 2}));
  const size_t buffers = two->buffers.size();
  const auto five = LowerFile(testing::BuildTinyModel({.layers = 5}));
  EXPECT_EQ(five->buffers.size(), buffers);
  EXPECT_EQ(five->kv_layers.size(), 5u);
  EXPECT_EQ(five->vocabulary, 300u);
  EXPECT_EQ(five->context_max, 512u);
}

TEST_F(LoweringTest, TiedEmbeddingsAreOneWeight) {
  const auto tied = LowerFile(testing::BuildTinyModel({.tied = true}));
  const auto untied = LowerFile(testing::BuildTinyModel({}));
  EXPECT_EQ(tied->weights.size() + 1, untied->weights.size());
  EXPECT_EQ(tied->weights[0].storage, WeightStorage::kPanels);
  EXPECT_EQ(untied->weights[0].storage, WeightStorage::kRows);
}

// What is left over would change what the model computes: other readers refuse it too.
TEST_F(LoweringTest, TensorsThatNobodyReadsAreRefused) {
  const auto error = [&](const std::string& name) {
    testing::GgufBuilder builder = testing::BuildTinyModel({});
    builder.Add({name, {64}, 0, std::string(64 * 4, '\0'), -1});
    const auto program = LowerFile(builder);
    return program.ok() ? std::string() : program.error().message();
  };
  for (const char* name :
       {"blk.0.attn_sinks.weight", "blk.7.attn_norm.weight", "blk.0.ffn_norm.bias.old", "banana", "blk.x.attn_norm.weight"}) {
    EXPECT_NE(error(name).find(std::string("tensor ") + name + ": no part of this llama model"), std::string::npos) << error(name);
  }
  for (const char* name : {"blk.0.attn_norm.scale", "blk.0.attn_q.input_scale", "blk.0.attn_rot_embd"}) EXPECT_EQ(error(name), "");
}

// Two factors stand for a matrix, or beside it; others are refused by name.
TEST_F(LoweringTest, FactorsStandForMatricesOrBesideThem) {
  constexpr uint64_t kWidth = 256, kRank = 8;
  const auto lower = [&](bool whole, std::vector<uint64_t> a, std::vector<uint64_t> b) {
    testing::GgufBuilder builder = testing::BuildTinyModel({.layers = 1});
    if (!whole) std::erase_if(builder.tensors(), [](const auto& tensor) { return tensor.name == "blk.0.attn_q.weight"; });
    for (const auto& [name, dimensions] : {std::pair("blk.0.attn_q.low_rank_a.weight", a), {"blk.0.attn_q.low_rank_b.weight", b}}) {
      if (!dimensions.empty()) builder.Add({name, dimensions, 0, std::string(dimensions[0] * dimensions[1] * 4, '\0'), -1});
    }
    return LowerFile(builder);
  };
  const std::vector<uint64_t> a = {kWidth, kRank}, b = {kRank, kWidth};
  const size_t ops = LowerFile(testing::BuildTinyModel({.layers = 1}))->ops.size();
  const auto factored = lower(/*whole=*/false, a, b);
  ASSERT_TRUE(factored.ok()) << factored.error().message();
  EXPECT_EQ(factored->ops.size(), ops + 1);
  const auto beside = lower(/*whole=*/true, a, b);
  ASSERT_TRUE(beside.ok()) << beside.error().message();
  EXPECT_EQ(beside->ops.size(), ops + 3) << "two products, and their sum";
  const auto message = [](const Result<Program>& program) { return program.ok() ? std::string("lowered") : program.error().message(); };
  EXPECT_NE(message(lower(false, {}, b)).find("low_rank_a.weight is missing"), std::string::npos);
  EXPECT_NE(message(lower(false, a, {})).find("attn_q.weight is missing"), std::string::npos);
  EXPECT_NE(message(lower(true, a, {})).find("low_rank_a.weight: no part"), std::string::npos);
  EXPECT_NE(message(lower(true, {kWidth, 4}, b)).find("low_rank_b.weight: expected [256, 4] (8 heads x 32), found [256, 8]"),
            std::string::npos);
  EXPECT_NE(message(lower(false, {128, kRank}, b)).find("low_rank_a.weight: expected [8, 256], found [8, 128]"), std::string::npos);
}

TEST_F(LoweringTest, MissingAndMisshapenTensorsAreNamed) {
  testing::GgufBuilder vocabulary_only;
  vocabulary_only.Text("general.architecture", "llama").U32("llama.block_count", 1).U32("llama.embedding_length", 64);
  vocabulary_only.U32("llama.context_length", 64).U32("llama.feed_forward_length", 64).U32("llama.attention.head_count", 2);
  vocabulary_only.F32("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  EXPECT_NE(LowerFile(vocabulary_only).error().message().find("token_embd.weight is missing"), std::string::npos);
  testing::GgufBuilder misshapen = vocabulary_only;
  misshapen.Add({"token_embd.weight", {32, 10}, 0, std::string(32 * 10 * 4, '\0'), -1});
  const auto error = LowerFile(misshapen).error();
  EXPECT_EQ(error.code(), Code::kCorrupt);
  EXPECT_NE(error.message().find("tensor token_embd.weight: expected [10, 64], found [10, 32]"), std::string::npos) << error.message();
  testing::GgufBuilder incomplete = vocabulary_only;
  incomplete.Add({"token_embd.weight", {64, 10}, 0, std::string(64 * 10 * 4, '\0'), -1});
  EXPECT_NE(LowerFile(incomplete).error().message().find("blk.0.attn_norm.weight is missing"), std::string::npos);
  // Of heads, what their rows should be.
  for (const bool joined : {false, true}) {
    ASSERT_TRUE(LowerFile(testing::BuildTinyModel({.kv_heads = 2, .joined = joined})).ok());
    Config config = ReadConfig(file_).value();
    config.layers[1].kv_heads = 4;
    const auto refused = Lower(config, file_.directory);
    ASSERT_FALSE(refused.ok());
    const char* expected =
        joined ? "tensor blk.1.attn_qkv.weight: expected [512, 256] (8 heads x 32 and twice 4 kv heads x 32), found [384, 256]"
               : "tensor blk.1.attn_k.weight: expected [128, 256] (4 kv heads x 32), found [64, 256]";
    EXPECT_NE(refused.error().message().find(expected), std::string::npos) << refused.error().message();
  }
}

}  // namespace
}  // namespace bantam
