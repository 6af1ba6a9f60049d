#include "compress/recipe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace bantam {
namespace {

TensorInfo Matrix(std::string_view name, uint64_t columns = 256) { return {name, DType::kF16, 2, {columns, 64, 1, 1}, 0, 0}; }

constexpr MixFacts kFacts = {.layers = 16, .queries_per_kv = 4, .tied = false, .measured = false};

DType Of(std::string_view type, std::string_view tensor, const MixFacts& facts = kFacts) {
  return Recipe::Make(type)->Of(Matrix(tensor), facts);
}

TEST(Recipe, KnowsItsNamesInAnyCase) {
  for (const std::string_view name : Recipe::Names()) {
    std::string lower(name);
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    ASSERT_TRUE(Recipe::Make(lower).ok()) << lower;
    const bool short_name = name == "Q3_K" || name == "Q4_K" || name == "Q5_K";
    EXPECT_EQ(Recipe::Make(lower)->type().name, std::string(name) + (short_name ? "_M" : ""));
  }
  const auto unknown = Recipe::Make("q8_o");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code(), Code::kInvalidArgument);
  EXPECT_NE(unknown.error().message().find("did you mean Q8_0?"), std::string::npos) << unknown.error().message();
}

// What files of these names have in llama.cpp, tensor by tensor.
TEST(Recipe, MixesAreTheUsualOnes) {
  for (const char* name : {"q3_k", "Q4_K", "Q5_K"})
    EXPECT_EQ(Recipe::Make(name)->type().name, Recipe::Make(std::string(name) + "_M")->type().name);
  EXPECT_EQ(Of("Q4_K_M", "blk.0.attn_q.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q4_K_M", "blk.0.attn_v.weight"), DType::kQ6_K);
  EXPECT_EQ(Of("Q4_K_M", "blk.2.attn_v.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q4_K_M", "blk.4.ffn_down.weight"), DType::kQ6_K);
  EXPECT_EQ(Of("Q4_K_M", "blk.5.ffn_down.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q4_K_M", "blk.15.ffn_down.weight"), DType::kQ6_K);
  EXPECT_EQ(Of("Q4_K_M", "blk.9.attn_qkv.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q4_K_M", "blk.10.attn_qkv.weight"), DType::kQ6_K);
  EXPECT_EQ(Of("Q4_K_S", "blk.3.attn_v.weight"), DType::kQ5_K);
  EXPECT_EQ(Of("Q4_K_S", "blk.4.attn_v.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q4_K_S", "blk.1.ffn_down.weight"), DType::kQ5_K);
  EXPECT_EQ(Of("Q4_K_S", "blk.2.ffn_down.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q3_K_M", "blk.1.attn_v.weight"), DType::kQ5_K);
  EXPECT_EQ(Of("Q3_K_M", "blk.2.attn_v.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q3_K_M", "blk.0.ffn_down.weight"), DType::kQ5_K);
  EXPECT_EQ(Of("Q3_K_M", "blk.1.ffn_down.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q3_K_L", "blk.9.attn_output.weight"), DType::kQ5_K);
  EXPECT_EQ(Of("Q3_K_S", "blk.0.attn_v.weight"), DType::kQ3_K);
  EXPECT_EQ(Of("Q2_K", "blk.9.attn_v.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q2_K", "blk.9.attn_v.weight", {.layers = 16, .queries_per_kv = 1}), DType::kQ3_K);
  EXPECT_EQ(Of("Q5_K_M", "blk.0.attn_v.weight"), DType::kQ6_K);
  EXPECT_EQ(Of("IQ4_XS", "blk.0.ffn_down.weight"), DType::kQ5_K);
  EXPECT_EQ(Of("Q4_0", "blk.0.ffn_down.weight"), DType::kQ4_0);
  const MixFacts measured = {.layers = 16, .measured = true};
  EXPECT_EQ(Of("Q4_0", "blk.0.ffn_down.weight", measured), DType::kQ4_1);
  EXPECT_EQ(Of("IQ4_XS", "blk.0.ffn_down.weight", measured), DType::kIQ4_XS);
  EXPECT_EQ(Of("Q4_0", "output.weight"), DType::kQ6_K);
  EXPECT_EQ(Of("Q4_0", "token_embd.weight"), DType::kQ4_0);
  EXPECT_EQ(Of("Q4_0", "token_embd.weight", {.tied = true}), DType::kQ6_K);
  EXPECT_EQ(Of("TQ2_0", "token_embd.weight"), DType::kQ4_K);
  EXPECT_EQ(Of("Q8_0", "output.weight"), DType::kQ8_0);
  EXPECT_EQ(Recipe::Make("Q4_0")->Of(Matrix("output.weight", 288), kFacts), DType::kQ8_0);
}

TEST(Recipe, LinesComeBeforeTheMix) {
  Recipe recipe = *Recipe::Make("Q4_K_M");
  ASSERT_TRUE(recipe.Override("# widest first\nblk.*.ffn_down.weight\tq5_k # all\n\r\n  blk.?.attn_*  Q8_0\nblk.3.attn_q.weight F16").ok());
  EXPECT_EQ(recipe.Of(Matrix("blk.12.ffn_down.weight"), kFacts), DType::kQ5_K);
  EXPECT_EQ(recipe.Of(Matrix("blk.3.attn_q.weight"), kFacts), DType::kQ8_0);
  EXPECT_EQ(recipe.Of(Matrix("blk.13.attn_q.weight"), kFacts), DType::kQ4_K);
  const Status three = recipe.Override("a b c");
  EXPECT_EQ(three.error().code(), Code::kCorrupt);
  EXPECT_NE(three.error().message().find("line 1"), std::string::npos);
  const Status unknown = recipe.Override("\n* Q5K");
  EXPECT_NE(unknown.error().message().find("line 2"), std::string::npos) << unknown.error().message();
  EXPECT_FALSE(recipe.Override("* IQ2_XXS").ok()) << "is only read";
}

TEST(Recipe, RowsThatDoNotDivideGetSmallerBlocks) {
  EXPECT_EQ(FittingType(DType::kQ4_K, 512), DType::kQ4_K);
  EXPECT_EQ(FittingType(DType::kQ4_K, 288), DType::kQ5_0);
  EXPECT_EQ(FittingType(DType::kQ5_K, 288), DType::kQ5_1);
  EXPECT_EQ(FittingType(DType::kQ6_K, 288), DType::kQ8_0);
  EXPECT_EQ(FittingType(DType::kQ3_K, 288), DType::kIQ4_NL);
  EXPECT_EQ(FittingType(DType::kTQ1_0, 288), DType::kQ4_0);
  EXPECT_EQ(FittingType(DType::kQ4_0, 90), DType::kF16);
  EXPECT_EQ(FittingType(DType::kQ6_K, 90), DType::kF16);
  const Recipe groups = *Recipe::Make("int4-g128");
  EXPECT_EQ(groups.GroupOf(DType::kQ4_0, 512), 128u);
  EXPECT_EQ(groups.GroupOf(DType::kQ4_0, 448), 64u) << "of a row that groups of 128 do not divide";
  EXPECT_EQ(groups.GroupOf(DType::kQ4_0, 96), 32u);
  EXPECT_EQ(groups.GroupOf(DType::kQ8_0, 96), 96u) << "a scale for each row";
  EXPECT_EQ(groups.GroupOf(DType::kQ4_K, 512), 0u);
  EXPECT_EQ(Recipe::Make("Q4_0")->GroupOf(DType::kQ4_0, 512), 0u);
  EXPECT_EQ(Recipe::Make("INT8")->GroupOf(DType::kQ8_0, 512), 512u);
}

TEST(Recipe, SmallTensorsStay) {
  EXPECT_TRUE(IsCompressible(Matrix("blk.0.attn_q.weight")));
  EXPECT_TRUE(IsCompressible(Matrix("token_embd.weight")));
  for (const char* name : {"blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight", "position_embd.weight", "blk.0.ssm_conv1d.weight",
                           "blk.0.attn_q.bias", "rope_freqs.weight"}) {
    EXPECT_FALSE(IsCompressible(Matrix(name))) << name;
  }
  EXPECT_FALSE(IsCompressible({"blk.0.attn_q.weight", DType::kF32, 1, {256, 1, 1, 1}, 0, 0}));
}

}  // namespace
}  // namespace bantam
