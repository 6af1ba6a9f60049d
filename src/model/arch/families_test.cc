// What families say of themselves where the reference models do not show it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "formats/gguf.h"
#include "model/arch/registry.h"
#include "testing/gguf_builder.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using testing::GgufBuilder;

const std::map<std::string, uint32_t> kStateSpaceKeys = {
    {"ssm.inner_size", 128}, {"ssm.time_step_rank", 8}, {"ssm.state_size", 16}, {"ssm.conv_kernel", 4}, {"ssm.group_count", 2}};

void AddStateSpace(const std::string& prefix, GgufBuilder* builder) {
  for (const auto& [key, value] : kStateSpaceKeys) builder->U32(prefix + key, value);
}

class FamiliesTest : public ::testing::Test {
 protected:
  static GgufBuilder Of(const std::string& architecture, uint32_t layers = 4) {
    GgufBuilder builder;
    builder.Text("general.architecture", architecture);
    builder.U32(architecture + ".block_count", layers).U32(architecture + ".embedding_length", 256);
    builder.U32(architecture + ".context_length", 8192).U32(architecture + ".feed_forward_length", 512);
    builder.U32(architecture + ".attention.head_count", 8);
    builder.F32(architecture + ".attention.layer_norm_rms_epsilon", 1e-6f).F32(architecture + ".attention.layer_norm_epsilon", 1e-6f);
    return builder;
  }
  Result<Config> Read(const GgufBuilder& builder) {
    builder.Write(folder_.Path("m.gguf"));
    BANTAM_ASSIGN(file_, OpenGguf(*files_, folder_.Path("m.gguf")));
    return ReadConfig(file_);
  }
  static std::string Windows(const Config& config) {
    std::string text;
    for (const LayerPlan& layer : config.layers) text += layer.window == 0 ? 'f' : 'w';
    return text;
  }
  static std::string Turned(const Config& config) {
    std::string text;
    for (const LayerPlan& layer : config.layers) text += layer.rope == kNone ? '-' : static_cast<char>('0' + layer.rope);
    return text;
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
};

// No number is taken for one that the file leaves out, and none that makes no norm.
TEST_F(FamiliesTest, NormsWithoutANumber) {
  GgufBuilder builder;
  builder.Text("general.architecture", "mamba").U32("mamba.block_count", 2).U32("mamba.embedding_length", 64);
  builder.U32("mamba.context_length", 8192);
  Result<Config> missing = Read(builder);
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.error().message(),
              ::testing::HasSubstr("metadata key mamba.attention.layer_norm_rms_epsilon: missing, expected a number "
                                   "from 0 to 1; convert the model again"));
  builder.F32("mamba.attention.layer_norm_rms_epsilon", -1);
  Result<Config> negative = Read(builder);
  ASSERT_FALSE(negative.ok());
  EXPECT_THAT(negative.error().message(), ::testing::HasSubstr("layer_norm_rms_epsilon: -1, expected a number from 0 to 1"));
}

TEST_F(FamiliesTest, WindowsByPatternAndByList) {
  GgufBuilder builder = Of("gemma3", 13);
  EXPECT_EQ(Windows(*Read(builder)), "fffffffffffff") << "no window named";
  builder.U32("gemma3.attention.sliding_window", 512);
  EXPECT_EQ(Windows(*Read(builder)), "wwwwwfwwwwwfw");
  EXPECT_EQ(Turned(*Read(builder)), "1111101111101") << "layers with a window turn by a base of their own";
  EXPECT_EQ(Read(builder)->ropes[1].base, 10000);
  EXPECT_EQ(Read(builder)->layers[0].window, 512u);
  builder.U32("gemma3.attention.sliding_window_pattern", 3);
  EXPECT_EQ(Windows(*Read(builder)), "wwfwwfwwfwwfw");
  GgufBuilder listed = Of("gemma3", 3);
  listed.U32("gemma3.attention.sliding_window", 512).I32s("gemma3.attention.sliding_window_pattern", {0, 1, 0});
  EXPECT_EQ(Windows(*Read(listed)), "fwf");
  GgufBuilder short_list = Of("gemma3", 3);
  short_list.U32("gemma3.attention.sliding_window", 512).I32s("gemma3.attention.sliding_window_pattern", {0, 1});
  EXPECT_EQ(Read(short_list).error().code(), Code::kCorrupt);
  EXPECT_NE(Read(short_list).error().message().find("for 3 layers"), std::string::npos);
  GgufBuilder wrong = Of("gemma3", 2);
  wrong.U32("gemma3.attention.sliding_window", 512).I32s("gemma3.attention.sliding_window_pattern", {7, 0, 1});
  EXPECT_EQ(Read(wrong).error().code(), Code::kCorrupt) << "the first entries count";
}

TEST_F(FamiliesTest, LayersThatTurnNothing) {
  EXPECT_EQ(Turned(*Read(Of("smollm3", 9))), "000-000-0");
  GgufBuilder cohere = Of("cohere2", 5);
  cohere.U32("cohere2.attention.sliding_window", 128);
  EXPECT_EQ(Turned(*Read(cohere)), "000-0");
  GgufBuilder thinker = Of("smallthinker", 5);
  thinker.U32("smallthinker.expert_count", 4).U32("smallthinker.expert_used_count", 2).U32("smallthinker.expert_gating_func", 2);
  thinker.U32("smallthinker.expert_feed_forward_length", 64);
  EXPECT_EQ(Turned(*Read(thinker)), "00000") << "without windows all layers turn";
  thinker.U32("smallthinker.attention.sliding_window", 4096);
  EXPECT_EQ(Turned(*Read(thinker)), "-000-");
  EXPECT_EQ(Windows(*Read(thinker)), "fwwwf");
  EXPECT_EQ(Turned(*Read(Of("baichuan", 32))), std::string(32, '0'));
  EXPECT_EQ(Read(Of("baichuan", 32))->alibi_max_bias, 0);
  EXPECT_EQ(Turned(*Read(Of("baichuan", 40))), std::string(40, '-'));
  EXPECT_TRUE(Read(Of("baichuan", 40))->ropes.empty()) << "nothing to stretch";
  EXPECT_EQ(Read(Of("baichuan", 40))->alibi_max_bias, 8);
  GgufBuilder granite = Of("granite");
  EXPECT_EQ(Turned(*Read(granite)), "0000");
  granite.Bool("granite.rope.scaling.finetuned", false);
  EXPECT_EQ(Turned(*Read(granite)), "----");
  GgufBuilder experts = Of("granitemoe");
  experts.Bool("granitemoe.rope.scaling.finetuned", false);
  EXPECT_EQ(Turned(*Read(experts)), "0000") << "the key means something else there";
  EXPECT_EQ(Read(Of("cohere2", 5)).error().code(), Code::kCorrupt) << "without a window no layer would turn";
}

TEST_F(FamiliesTest, BlocksThatPredictFurtherTokensAreNotLayers) {
  GgufBuilder builder = Of("exaone4", 65);
  builder.U32("exaone4.nextn_predict_layers", 1);
  const auto config = Read(builder);
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(config->layers.size(), 64u);
  EXPECT_EQ(Windows(*config).substr(0, 8), "wwwfwwwf");
  EXPECT_EQ(Turned(*config).substr(0, 8), "000-000-");
  GgufBuilder all = Of("exaone4", 2);
  all.U32("exaone4.nextn_predict_layers", 2);
  EXPECT_EQ(Read(all).error().code(), Code::kCorrupt);
  GgufBuilder listed = Of("qwen35", 3);
  AddStateSpace("qwen35.", &listed);
  listed.U32("qwen35.nextn_predict_layers", 1).I32s("qwen35.attention.recurrent_layers", {1, 0, 0});
  const auto of_blocks = Read(listed);
  ASSERT_TRUE(of_blocks.ok()) << of_blocks.error().message();
  EXPECT_EQ(of_blocks->layers.size(), 2u) << "the list has a number for the last block too";
  // Elsewhere they would be layers that are left out.
  GgufBuilder none = Of("llama", 3);
  none.U32("llama.nextn_predict_layers", 0);
  EXPECT_TRUE(Read(none).ok());
  none = Of("llama", 3);
  none.U32("llama.nextn_predict_layers", 1);
  EXPECT_EQ(Read(none).error().code(), Code::kUnsupported);
  EXPECT_THAT(Read(none).error().message(), ::testing::HasSubstr("(nextn_predict_layers) are not supported in this family"));
}

// A list that is longer than the model is another model's.
TEST_F(FamiliesTest, ListsOfOtherLengths) {
  for (const std::vector<int32_t>& heads : {std::vector<int32_t>{8, 8, 8, 8, 8}, {8, 8, 8}}) {
    GgufBuilder builder = Of("llama", 4);
    builder.I32s("llama.attention.head_count_kv", heads);
    const auto config = Read(builder);
    ASSERT_FALSE(config.ok()) << heads.size();
    EXPECT_THAT(config.error().message(), ::testing::HasSubstr("numbers, expected integers from 1 to 1024 for 4 layers"));
  }
}

// What is said of layers with a window alone, in a family that turns and cuts all layers alike.
TEST_F(FamiliesTest, WindowsOfAnotherShape) {
  const auto error = [&](const std::string& key, uint32_t value, const std::string& name = "cohere2") {
    GgufBuilder builder = Of(name);
    builder.U32(name + ".attention.sliding_window", 64).U32(name + "." + key, value);
    const auto config = Read(builder);
    return config.ok() ? std::string() : config.error().message();
  };
  EXPECT_EQ(error("attention.key_length_swa", 32), "") << "256 wide, 8 heads";
  EXPECT_THAT(error("attention.key_length_swa", 64),
              ::testing::HasSubstr("attention.key_length_swa 64 of layers with a window: this family is run with 32"));
  EXPECT_THAT(error("attention.value_length_swa", 16), ::testing::HasSubstr("attention.value_length_swa 16"));
  EXPECT_THAT(error("rope.dimension_count_swa", 16), ::testing::HasSubstr("rope.dimension_count_swa 16"));
  EXPECT_THAT(error("rope.freq_base_swa", 20000), ::testing::HasSubstr("rope.freq_base_swa 20000"));
  EXPECT_EQ(error("rope.freq_base_swa", 20000, "gemma2"), "") << "followed";
  EXPECT_EQ(error("rope.dimension_count_swa", 16, "gemma4"), "") << "followed";
  EXPECT_EQ(error("rope.dimension_count_swa", 16, "phi3"), "") << "run without windows, as in the reference";
}

TEST_F(FamiliesTest, WhatIsNotFollowedIsRefused) {
  GgufBuilder groups = Of("qwen3moe");
  groups.U32("qwen3moe.expert_count", 8).U32("qwen3moe.expert_used_count", 2).U32("qwen3moe.expert_group_count", 4);
  EXPECT_EQ(Read(groups).error().code(), Code::kUnsupported);
  GgufBuilder negative = Of("mpt");
  negative.F32("mpt.attention.clamp_kqv", -8);
  EXPECT_EQ(Read(negative).error().code(), Code::kCorrupt);
}

// Decoders that were trained on to see later tokens; EmbeddingGemma's files need not say so.
TEST_F(FamiliesTest, LaterTokens) {
  GgufBuilder both_ways = Of("gemma3");
  both_ways.Bool("gemma3.attention.causal", false);
  EXPECT_TRUE(Read(both_ways)->whole_texts);
  EXPECT_FALSE(Read(Of("gemma3"))->whole_texts);
  EXPECT_TRUE(Read(Of("gemma-embedding"))->later_tokens);
  EXPECT_TRUE(Read(Of("gemma-embedding"))->whole_texts);
  EXPECT_EQ(Read(Of("gemma-embedding"))->pooling, Pooling::kMean);
  EXPECT_EQ(Read(Of("gemma3"))->pooling, Pooling::kLast);
}

TEST_F(FamiliesTest, HeadsAndWidthsOfEachLayer) {
  GgufBuilder builder;
  builder.Text("general.architecture", "llama").U32("llama.block_count", 2).U32("llama.embedding_length", 256);
  builder.U32("llama.context_length", 128).I32s("llama.attention.head_count", {8, 4}).I32s("llama.attention.head_count_kv", {2, 4});
  builder.I32s("llama.feed_forward_length", {512, 256}).U32("llama.attention.key_length", 32).U32("llama.attention.value_length", 32);
  builder.F32("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  const auto config = Read(builder);
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(config->layers[1].heads, 4u);
  EXPECT_EQ(config->layers[1].kv_heads, 4u);
  EXPECT_EQ(config->layers[1].feed_forward_width, 256u);
  GgufBuilder alone;
  alone.Text("general.architecture", "llama").U32("llama.block_count", 2).U32("llama.embedding_length", 256);
  alone.U32("llama.context_length", 128).I32s("llama.attention.head_count", {8, 4}).U32("llama.feed_forward_length", 512);
  alone.U32("llama.attention.key_length", 32).U32("llama.attention.value_length", 32);
  alone.F32("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  EXPECT_EQ(Read(alone)->layers[1].kv_heads, 4u) << "as many as heads, in each layer";
}

TEST_F(FamiliesTest, Experts) {
  const auto with = [](const std::string& name) {
    GgufBuilder builder = Of(name);
    builder.U32(name + ".expert_count", 8).U32(name + ".expert_used_count", 4);
    return builder;
  };
  EXPECT_EQ(Read(with("qwen3moe"))->layers[0].feed_forward_width, 128u) << "experts divide the width where no other is named";
  EXPECT_TRUE(Read(with("qwen3moe"))->normalize_experts);
  EXPECT_FALSE(Read(with("qwen2moe"))->normalize_experts);
  EXPECT_EQ(Read(with("qwen2moe"))->shared_width, 512u);
  EXPECT_EQ(Read(with("granitemoe"))->layers[3].feed_forward, FeedForward::kExperts);
  GgufBuilder deepseek = with("deepseek");
  deepseek.U32("deepseek.expert_shared_count", 2)
      .U32("deepseek.expert_feed_forward_length", 96)
      .U32("deepseek.leading_dense_block_count", 1);
  const auto config = Read(deepseek);
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(config->layers[0].feed_forward, FeedForward::kGated);
  EXPECT_EQ(config->layers[0].feed_forward_width, 512u);
  EXPECT_EQ(config->layers[1].feed_forward_width, 96u);
  EXPECT_EQ(config->shared_width, 192u);
  GgufBuilder ernie = with("ernie4_5-moe");
  ernie.U32("ernie4_5-moe.interleave_moe_layer_step", 2).U32("ernie4_5-moe.expert_feed_forward_length", 64);
  EXPECT_EQ(Read(ernie)->layers[0].feed_forward, FeedForward::kGated);
  EXPECT_EQ(Read(ernie)->layers[1].feed_forward, FeedForward::kExperts);
  EXPECT_EQ(Read(Of("gpt-oss")).error().code(), Code::kCorrupt) << "a mixture without experts";
}

TEST_F(FamiliesTest, FactorsOfZeroAreNotSet) {
  GgufBuilder granite = Of("granite");
  granite.F32("granite.embedding_scale", 0).F32("granite.logit_scale", 8).F32("granite.attention.scale", 0.5f);
  const auto config = Read(granite);
  EXPECT_EQ(config->embedding_scale, 1);
  EXPECT_EQ(config->residual_scale, 1);
  EXPECT_EQ(config->logit_scale, 0.125f);
  EXPECT_EQ(config->attention_scale, 0.5f);
  EXPECT_FLOAT_EQ(Read(Of("minicpm"))->residual_scale, 0.7f);
  EXPECT_EQ(Read(Of("minicpm"))->embedding_scale, 12);
  EXPECT_EQ(Read(Of("minicpm"))->logit_scale, 1) << "256 wide";
  GgufBuilder infinite = Of("granite");
  infinite.F32("granite.logit_scale", INFINITY);
  EXPECT_EQ(Read(infinite).error().code(), Code::kCorrupt);
  GgufBuilder alpha = Of("hunyuan-dense");
  alpha.F32("hunyuan-dense.rope.scaling.alpha", 1000);
  EXPECT_NEAR(Read(alpha)->ropes[0].base, 10000 * std::pow(1000, 32.0 / 30), 1);
  alpha.U32("hunyuan-dense.attention.key_length", 2).U32("hunyuan-dense.attention.value_length", 2);
  EXPECT_EQ(Read(alpha).error().code(), Code::kCorrupt) << "nothing is left to divide by";
  GgufBuilder denormal = Of("granite");
  denormal.F32("granite.logit_scale", 1e-40f);
  EXPECT_EQ(Read(denormal).error().code(), Code::kCorrupt) << "its inverse is infinite";
  GgufBuilder vanishing = Of("granite");
  const double tiny = 1e-60;
  vanishing.Raw("granite.logit_scale", 12, {reinterpret_cast<const char*>(&tiny), sizeof(tiny)});
  EXPECT_EQ(Read(vanishing).error().code(), Code::kCorrupt) << "0 as a float";
}

TEST_F(FamiliesTest, TablesOfLongRopeCountWithoutAName) {
  GgufBuilder builder = Of("phi3");
  for (const char* name : {"rope_factors_short.weight", "rope_factors_long.weight"}) {
    builder.Add({name, {16}, 0, std::string("\0\0\x80\x3f", 4) + std::string("\0\0\x80\x3f", 4), -1});
  }
  EXPECT_EQ(Read(builder).error().code(), Code::kCorrupt) << "8 bytes of 64";
  builder = Of("phi3");
  std::string ones;
  for (int i = 0; i < 16; ++i) ones += std::string("\0\0\x80\x3f", 4);
  builder.Add({"rope_factors_short.weight", {16}, 0, ones, -1}).Add({"rope_factors_long.weight", {16}, 0, ones, -1});
  const auto config = Read(builder);
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(config->ropes[0].scaling, RopeScaling::kLongRope);
}

// The last layers of Gemma 3n and 4 attend to keys and values of the last in front of them that see as much.
TEST_F(FamiliesTest, KeysAndValuesOfOtherLayers) {
  GgufBuilder builder = Of("gemma3n", 30);
  builder.U32("gemma3n.attention.sliding_window", 512);
  const auto config = Read(builder);
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(Windows(*config), "wwwwfwwwwfwwwwfwwwwfwwwwfwwwwf");
  EXPECT_EQ(config->layers[19].kv_of, kNone) << "20 layers keep their own where the file does not say";
  EXPECT_EQ(config->layers[20].kv_of, 18u);
  EXPECT_EQ(config->layers[24].kv_of, 19u);
  EXPECT_TRUE(config->layers[9].sparse_gate.has_value());
  EXPECT_FALSE(config->layers[10].sparse_gate.has_value());
  GgufBuilder four = Of("gemma4", 6);
  four.U32("gemma4.attention.sliding_window", 512).I32s("gemma4.attention.sliding_window_pattern", {1, 1, 0, 1, 1, 0});
  four.U32("gemma4.attention.key_length", 64).U32("gemma4.attention.value_length", 64);
  four.U32("gemma4.attention.key_length_swa", 32).U32("gemma4.attention.value_length_swa", 32);
  EXPECT_EQ(Read(four)->layers[0].head_dim, 32u);
  EXPECT_EQ(Read(four)->layers[5].head_dim, 64u);
  EXPECT_EQ(Read(four)->ropes[1].rotated_dimensions, 32u);
  four.U32("gemma4.attention.shared_kv_layers", 3);
  EXPECT_EQ(Read(four)->layers[3].kv_of, 1u);
  EXPECT_EQ(Read(four)->layers[5].kv_of, 2u);
  GgufBuilder all = Of("gemma4", 6);
  all.U32("gemma4.attention.sliding_window", 512).U32("gemma4.attention.shared_kv_layers", 5);
  EXPECT_EQ(Read(all).error().code(), Code::kCorrupt);
  GgufBuilder experts = Of("gemma4", 6);
  experts.U32("gemma4.attention.sliding_window", 512).U32("gemma4.expert_count", 8);
  EXPECT_EQ(Read(experts).error().code(), Code::kUnsupported);
}

TEST_F(FamiliesTest, EveryNameIsRead) {
  for (const std::string_view name : KnownArchitectures()) {
    GgufBuilder builder = Of(std::string(name));
    const std::string prefix = std::string(name) + ".";
    // Gemma 4 with experts is refused.
    if (name != "gemma4") builder.U32(prefix + "expert_count", 8).U32(prefix + "expert_used_count", 2);
    builder.U32(prefix + "expert_feed_forward_length", 64);
    builder.U32(prefix + "expert_shared_feed_forward_length", 64)
        .U32(prefix + "expert_shared_count", 1)
        .U32(prefix + "interleave_moe_layer_step", 1)
        .U32(prefix + "expert_gating_func", 1);
    builder.Bool(prefix + "use_parallel_residual", true).U32(prefix + "attention.sliding_window", 64);
    AddStateSpace(prefix, &builder);
    builder.U32(prefix + "shortconv.l_cache", 3);
    const auto config = Read(builder);
    ASSERT_TRUE(config.ok()) << config.error().message();
    EXPECT_EQ(config->architecture, name);
  }
}

// Files of models whose every layer has experts need not say how wide a layer without is.
TEST_F(FamiliesTest, ExpertsAlone) {
  GgufBuilder builder;
  builder.Text("general.architecture", "qwen35moe").U32("qwen35moe.block_count", 4).U32("qwen35moe.embedding_length", 256);
  builder.U32("qwen35moe.context_length", 8192).U32("qwen35moe.attention.head_count", 8);
  builder.F32("qwen35moe.attention.layer_norm_rms_epsilon", 1e-6f);
  builder.U32("qwen35moe.expert_count", 8).U32("qwen35moe.expert_used_count", 2).U32("qwen35moe.expert_feed_forward_length", 64);
  AddStateSpace("qwen35moe.", &builder);
  EXPECT_NE(Read(builder).error().message().find("expert_shared_feed_forward_length"), std::string::npos);
  builder.U32("qwen35moe.expert_shared_feed_forward_length", 96);
  const auto config = Read(builder);
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(config->layers[0].feed_forward_width, 64u);
  EXPECT_EQ(config->shared_width, 96u);
}

// Layers without kv heads are recurrent, in families that have such; elsewhere they are an error.
TEST_F(FamiliesTest, LayersWithoutHeads) {
  const auto mixers = [&](const std::string& name) {
    GgufBuilder builder;
    builder.Text("general.architecture", name).U32(name + ".block_count", 4).U32(name + ".embedding_length", 256);
    builder.U32(name + ".context_length", 8192).U32(name + ".feed_forward_length", 512).U32(name + ".shortconv.l_cache", 3);
    builder.F32(name + ".attention.layer_norm_rms_epsilon", 1e-6f);
    builder.I32s(name + ".attention.head_count", {0, 8, 0, 8}).I32s(name + ".attention.head_count_kv", {0, 2, 0, 2});
    AddStateSpace(name + ".", &builder);
    const auto config = Read(builder);
    std::string text;
    for (const LayerPlan& layer : config.ok() ? config->layers : std::vector<LayerPlan>())
      text += "asbcd"[static_cast<size_t>(layer.mixer)];
    EXPECT_TRUE(!config.ok() || name == "mamba2" || config->layers[0].head_dim == 32);
    return text;
  };
  EXPECT_EQ(mixers("granitehybrid"), "sasa");
  EXPECT_EQ(mixers("lfm2"), "caca");
  EXPECT_EQ(mixers("llama"), "");
  EXPECT_EQ(mixers("mamba2"), "ssss");
  GgufBuilder qwen = Of("qwen35", 9);
  qwen.U32("qwen35.attention.key_length", 64).U32("qwen35.attention.value_length", 64);
  for (const auto& [key, value] : kStateSpaceKeys) qwen.U32("qwen35." + key, key == "ssm.state_size" ? 16 : value);
  const auto mixer_of = [&](size_t layer) { return Read(qwen)->layers[layer].mixer; };
  EXPECT_EQ(mixer_of(0), Mixer::kDeltaRule);
  EXPECT_EQ(mixer_of(3), Mixer::kAttention) << "each fourth";
  qwen.U32("qwen35.full_attention_interval", 2);
  EXPECT_EQ(mixer_of(1), Mixer::kAttention);
  EXPECT_EQ(mixer_of(8), Mixer::kDeltaRule);
}

TEST_F(FamiliesTest, StateSpacesThatDoNotDivide) {
  for (const auto& [key, value] : std::map<std::string, uint32_t>{{"ssm.time_step_rank", 7},
                                                                  {"ssm.group_count", 3},
                                                                  {"ssm.group_count", 0},
                                                                  {"ssm.state_size", 0},
                                                                  {"ssm.conv_kernel", 1},
                                                                  {"ssm.conv_kernel", 65},
                                                                  {"ssm.inner_size", 1u << 30}}) {
    GgufBuilder builder = Of("mamba2");
    for (const auto& [name, number] : kStateSpaceKeys) builder.U32("mamba2." + name, name == key ? value : number);
    const auto config = Read(builder);
    ASSERT_FALSE(config.ok()) << key;
    EXPECT_EQ(config.error().code(), Code::kCorrupt) << key;
  }
}

}  // namespace
}  // namespace bantam
