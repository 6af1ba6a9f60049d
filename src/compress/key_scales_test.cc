#include "compress/key_scales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <optional>

#include "base/rng.h"
#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/arch/registry.h"
#include "model/lowering.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

TEST(KeyScales, BalanceKeysAndQueries) {
  // A pair whose keys have 10,000 times the squares: the fourth root of that is 10, and the next power of two 8.
  EXPECT_EQ(EvenExponents(std::vector<double>{1, 1, 1e4, 1}, std::vector<double>{1, 1, 1, 1}), (std::vector<int>{0, 0, 3, 0}));
  EXPECT_EQ(EvenExponents(std::vector<double>{4, 4, 4}, std::vector<double>{4, 4e-4, 4e9}), (std::vector<int>{0, 3, -6}));
  // What all keys have is left to the scale that each of them has; nothing is said of zeros.
  EXPECT_EQ(EvenExponents(std::vector<double>{1e6, 0, 1e6}, std::vector<double>{1, 1, 1}), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(EvenExponents(std::vector<double>{0, 5}, std::vector<double>{1, 0}), (std::vector<int>{0, 0}));
  // However far: scales of weights stay numbers.
  EXPECT_EQ(EvenExponents(std::vector<double>{1, 1, 1e300}, std::vector<double>{1, 1, 1e-300}), (std::vector<int>{0, 0, 6}));
}

constexpr uint32_t kHeadDim = 32;

class EvenedModel : public ::testing::Test {
 protected:
  static testing::TinyModel Tiny() { return {.layers = 2, .width = 128, .heads = 4, .kv_heads = 2, .feed_forward = 96, .biases = true}; }

  // Keys with biases that are far larger than all else in the last pair of each head, which hardly turns.
  void Build(const testing::TinyModel& tiny) {
    testing::GgufBuilder builder = testing::BuildTinyModel(tiny);
    for (testing::GgufBuilder::Tensor& tensor : builder.tensors()) {
      const bool joined = tensor.name.ends_with("attn_qkv.bias");
      if (!joined && !tensor.name.ends_with("attn_k.bias")) continue;
      for (uint32_t head = 0; head < tiny.kv_heads; ++head) {
        const float large[2] = {70, -50};
        const size_t at = (joined ? tiny.width : 0) + head * kHeadDim + kHeadDim - 2;
        std::memcpy(tensor.bytes.data() + at * sizeof(float), large, sizeof(large));
      }
    }
    builder.Write(path_);
    file_.emplace(OpenGguf(*files_, path_).value());
    program_ = Lower(ReadConfig(*file_).value(), file_->directory).value();
  }
  EvenedKeys Even() {
    auto evened = EvenKeys(*file_, program_);
    EXPECT_TRUE(evened.ok()) << evened.error().message();
    return std::move(evened).value();
  }

  testing::TemporaryFolder folder_;
  const std::string path_ = folder_.Path("m.gguf");
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::optional<ModelFile> file_;
  Program program_;
};

// To the bit what the model says, and what keys of few bits cost it is a part of what it was.
TEST_F(EvenedModel, SaysTheSameAndBearsFewBits) {
  for (const bool joined : {false, true}) {
    testing::TinyModel tiny = Tiny();
    tiny.joined = joined;
    Build(tiny);
    const EvenedKeys evened = Even();
    EXPECT_EQ(evened.layers, 2u);
    EXPECT_EQ(evened.looked_at, 2u);
    EXPECT_LT(evened.error, 0.25);
    Rng rng(4);
    std::vector<uint32_t> tokens(40);
    for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % tiny.vocabulary);
    const auto whole = [&](KvType type) {
      const testing::RunSetup setup = {.kernels = &kernels::kReference, .kv_type = type};
      return testing::ModelRunner::Make(path_, setup, tokens.size()).value()->Logits(tokens);
    };
    const auto scaled = [&](KvType type) {
      const testing::RunSetup setup = {.kernels = &kernels::kReference, .kv_type = type};
      return testing::ModelRunner::Make(ScaleModel(*file_, evened.scales).value(), setup, tokens.size()).value()->Logits(tokens);
    };
    const std::vector<float> exact = whole(KvType::kF32);
    EXPECT_EQ(scaled(KvType::kF32), exact) << joined;
    for (const KvType type : {KvType::kInt8, KvType::kInt8Rotated}) {
      EXPECT_LT(testing::Nmse(scaled(type), exact), testing::Nmse(whole(type), exact) / 3) << KvTypeName(type) << joined;
    }
  }
}

// Both dimensions of a pair have one scale, in either layout, and the queries of all heads that share keys its reverse.
TEST_F(EvenedModel, KeepsPairsTogether) {
  Build(Tiny());
  for (const RopeLayout layout : {RopeLayout::kInterleaved, RopeLayout::kHalves}) {
    program_.ropes[0].layout = layout;
    const ModelScales scales = Even().scales;
    const std::vector<float>& keys = scales.at("blk.0.attn_k.weight").row_divisors;
    const std::vector<float>& queries = scales.at("blk.0.attn_q.weight").row_divisors;
    ASSERT_EQ(keys.size(), 2u * kHeadDim);
    ASSERT_EQ(queries.size(), 4u * kHeadDim);
    EXPECT_EQ(scales.at("blk.0.attn_k.bias").row_divisors, keys);
    EXPECT_EQ(scales.at("blk.0.attn_q.bias").row_divisors, queries);
    EXPECT_FALSE(scales.contains("blk.0.attn_v.weight"));
    for (size_t head = 0; head < 2; ++head) {
      const float* of = keys.data() + head * kHeadDim;
      const auto other = [&](size_t d) { return layout == RopeLayout::kInterleaved ? d ^ 1 : d ^ (kHeadDim / 2); };
      EXPECT_GE(of[kHeadDim - 1], 4.0f);
      for (size_t d = 0; d < kHeadDim; ++d) {
        EXPECT_EQ(of[d], of[other(d)]) << d;
        EXPECT_EQ(of[d], std::exp2(std::round(std::log2(of[d])))) << d;
        EXPECT_EQ(of[d] * queries[2 * head * kHeadDim + d], 1.0f) << d;
        EXPECT_EQ(of[d] * queries[(2 * head + 1) * kHeadDim + d], 1.0f) << d;
      }
    }
  }
  // Positions turn the first eight dimensions only: the others are by themselves.
  program_.ropes[0].rotated_dimensions = 8;
  const std::vector<float> keys = Even().scales.at("blk.0.attn_k.weight").row_divisors;
  EXPECT_EQ(keys[0], keys[4]);
  EXPECT_GE(keys[kHeadDim - 1], 4.0f);
}

// Of keys that are even already nothing is predicted to become worse.
TEST_F(EvenedModel, LeavesAloneWhatIsEven) {
  file_.emplace(OpenGguf(*files_, testing::DataPath("models/stories260K.gguf")).value());
  program_ = Lower(ReadConfig(*file_).value(), file_->directory).value();
  const EvenedKeys evened = Even();
  EXPECT_EQ(evened.looked_at, 5u);
  EXPECT_LE(evened.error, 1);
}

// Weights that other layers use too, and keys that have norms of their own or that others attend to, stay as they are.
TEST_F(EvenedModel, LeavesAloneWhatIsShared) {
  testing::TinyModel tiny = Tiny();
  tiny.layers = 1;
  tiny.layer_weights = {0, 0};
  Build(tiny);
  EXPECT_EQ(Even().looked_at, 0u);
  EXPECT_TRUE(Even().scales.empty());
  for (const char* data : {"archs/gemma3n.gguf", "archs/gemma4.gguf", "archs/qwen35.gguf", "archs/bert.gguf"}) {
    file_.emplace(OpenGguf(*files_, testing::DataPath(data)).value());
    program_ = Lower(ReadConfig(*file_).value(), file_->directory).value();
    EXPECT_TRUE(Even().scales.empty()) << data;
  }
}

TEST_F(EvenedModel, NamesWhatIsNoNumber) {
  testing::GgufBuilder builder = testing::BuildTinyModel(Tiny());
  for (testing::GgufBuilder::Tensor& tensor : builder.tensors()) {
    if (tensor.name != "blk.1.attn_q.weight") continue;
    const float none = std::nanf("");
    std::memcpy(tensor.bytes.data(), &none, sizeof(none));
  }
  builder.Write(path_);
  file_.emplace(OpenGguf(*files_, path_).value());
  program_ = Lower(ReadConfig(*file_).value(), file_->directory).value();
  const auto evened = EvenKeys(*file_, program_);
  ASSERT_FALSE(evened.ok());
  EXPECT_EQ(evened.error().code(), Code::kCorrupt);
  EXPECT_NE(evened.error().message().find("blk.1.attn_q.weight: row 0"), std::string::npos) << evened.error().message();
}

}  // namespace
}  // namespace bantam
