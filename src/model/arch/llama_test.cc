#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "formats/gguf.h"
#include "model/arch/registry.h"
#include "testing/gguf_builder.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using testing::GgufBuilder;

class LlamaConfigTest : public ::testing::Test {
 protected:
  // The keys of a small model, without those in `except`.
  static GgufBuilder Base(const std::string& except = "") {
    GgufBuilder builder;
    const auto u32 = [&](const std::string& key, uint32_t value) {
      if (key != except) builder.U32("llama." + key, value);
    };
    if (except != "general.architecture") builder.Text("general.architecture", "llama");
    u32("block_count", 3);
    u32("embedding_length", 256);
    u32("context_length", 2048);
    u32("feed_forward_length", 512);
    u32("attention.head_count", 8);
    u32("attention.head_count_kv", 2);
    if (except != "attention.layer_norm_rms_epsilon") builder.F32("llama.attention.layer_norm_rms_epsilon", 1e-6f);
    return builder;
  }
  Result<Config> Read(const GgufBuilder& builder) {
    builder.Write(folder_.Path("m.gguf"));
    BANTAM_ASSIGN(file_, OpenGguf(*files_, folder_.Path("m.gguf")));
    return ReadConfig(file_);
  }
  void Refused(const GgufBuilder& builder, Code code, const std::string& words) {
    const auto config = Read(builder);
    ASSERT_FALSE(config.ok()) << words;
    EXPECT_EQ(config.error().code(), code) << config.error().message();
    EXPECT_NE(config.error().message().find(words), std::string::npos) << config.error().message();
  }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  ModelFile file_;
};

TEST_F(LlamaConfigTest, ReadsItsKeysAndNoOthers) {
  GgufBuilder builder = Base();
  builder.U32("llama.attention.sliding_window", 32).F32("llama.final_logit_softcapping", 30);
  const auto config = Read(builder);
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->layers.size(), 3u);
  EXPECT_EQ(config->layers[2].kv_heads, 2u);
  EXPECT_EQ(config->layers[2].head_dim, 32u);
  EXPECT_EQ(config->ropes[0].pairs(), 16u);
  EXPECT_EQ(config->ropes[0].scaling, RopeScaling::kNone);
  EXPECT_EQ(config->ropes[0].layout, RopeLayout::kInterleaved);
  EXPECT_FLOAT_EQ(config->norm_epsilon, 1e-6f);
  EXPECT_FLOAT_EQ(config->attention_scale, 1 / std::sqrt(32.0f));
}

TEST_F(LlamaConfigTest, HyperParametersThatWouldDivideByZeroOrAllocateWithoutBound) {
  for (const char* key : {"block_count", "embedding_length", "context_length", "feed_forward_length", "attention.head_count"}) {
    Refused(Base(key), Code::kCorrupt, "missing");
    for (const uint32_t value : {0u, 0xffffffffu}) {
      GgufBuilder builder = Base(key);
      builder.U32("llama." + std::string(key), value);
      Refused(builder, Code::kCorrupt, key);
    }
  }
  Refused(Base("attention.layer_norm_rms_epsilon"), Code::kCorrupt, "missing");
  GgufBuilder heads = Base("attention.head_count_kv");
  heads.U32("llama.attention.head_count_kv", 0);
  Refused(heads, Code::kCorrupt, "attention.head_count_kv");
  heads = Base("attention.head_count_kv");
  heads.U32("llama.attention.head_count_kv", 3);
  Refused(heads, Code::kCorrupt, "whole number of heads");
  GgufBuilder experts = Base();
  experts.U32("llama.expert_count", 4).U32("llama.expert_used_count", 5);
  Refused(experts, Code::kCorrupt, "expert_used_count");
  GgufBuilder narrow = Base("embedding_length");
  narrow.U32("llama.embedding_length", 4);
  Refused(narrow, Code::kCorrupt, "expected");
}

TEST_F(LlamaConfigTest, Rope) {
  GgufBuilder odd = Base();
  odd.U32("llama.rope.dimension_count", 7);
  Refused(odd, Code::kCorrupt, "even number");
  GgufBuilder linear = Base();
  linear.Text("llama.rope.scaling.type", "linear").F32("llama.rope.scaling.factor", 2);
  EXPECT_EQ(Read(linear)->ropes[0].scaling, RopeScaling::kLinear);
  EXPECT_DOUBLE_EQ(Read(linear)->ropes[0].factor, 2);
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    GgufBuilder factor_alone = Base();
    factor_alone.F32(key, 4);
    EXPECT_EQ(Read(factor_alone)->ropes[0].scaling, RopeScaling::kLinear) << key;
    EXPECT_DOUBLE_EQ(Read(factor_alone)->ropes[0].factor, 4) << key;
  }
  GgufBuilder none = Base();
  none.Text("llama.rope.scaling.type", "linear").F32("llama.rope.scaling.factor", 0);
  EXPECT_EQ(Read(none)->ropes[0].scaling, RopeScaling::kNone);
  GgufBuilder yarn = Base();
  yarn.Text("llama.rope.scaling.type", "yarn").F32("llama.rope.scaling.factor", 4).F32("llama.rope.scaling.yarn_beta_fast", 16);
  EXPECT_EQ(Read(yarn)->ropes[0].scaling, RopeScaling::kYarn);
  EXPECT_EQ(Read(yarn)->ropes[0].original_context, 2048u) << "the trained context when the file names no other";
  EXPECT_DOUBLE_EQ(Read(yarn)->ropes[0].beta_fast, 16);
  yarn.F32("llama.rope.scaling.yarn_beta_slow", 0);
  Refused(yarn, Code::kCorrupt, "positive values");
  GgufBuilder unknown = Base();
  unknown.Text("llama.rope.scaling.type", "spiral");
  Refused(unknown, Code::kUnsupported, "type spiral is not supported");
  GgufBuilder tables_missing = Base();
  tables_missing.Text("llama.rope.scaling.type", "longrope");
  Refused(tables_missing, Code::kCorrupt, "rope_factors_short.weight");
}

TEST_F(LlamaConfigTest, RopeTable) {
  const auto with = [](uint64_t count, uint32_t type, float value) {
    GgufBuilder builder = Base();
    std::string bytes;
    for (uint64_t i = 0; i < count; ++i) {
      char raw[4];
      std::memcpy(raw, &value, 4);
      bytes.append(raw, 4);
    }
    builder.Add({"rope_freqs.weight", {count}, type, bytes, -1});
    return builder;
  };
  EXPECT_EQ(Read(with(16, 0, 4))->ropes[0].divisors, std::vector<float>(16, 4.0f));
  Refused(with(15, 0, 4), Code::kCorrupt, "expected 16");
  Refused(with(16, 0, 0), Code::kCorrupt, "element 0");
  Refused(with(16, 0, INFINITY), Code::kCorrupt, "element 0");
  Refused(with(16, 1, 4), Code::kCorrupt, "expected 16 of F32");
}

TEST_F(LlamaConfigTest, OtherArchitectures) {
  GgufBuilder other = Base("general.architecture");
  other.Text("general.architecture", "rwkv6");
  Refused(other, Code::kUnsupported, "rwkv6 is not supported; of the ");
  Refused(Base("general.architecture"), Code::kCorrupt, "general.architecture is missing");
}

}  // namespace
}  // namespace bantam
