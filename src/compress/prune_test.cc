#include "compress/prune.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include "base/rng.h"
#include "compress/compare.h"
#include "compress/layer_choice.h"
#include "compress/quantize.h"
#include "formats/gguf.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"
#include "testing/windowed.h"

namespace bantam {
namespace {

constexpr size_t kWindow = 12;  // a step of testing::Windowed

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A tiny model, calibrated on random tokens.
class Pruning : public ::testing::Test {
 protected:
  void Build(const testing::TinyModel& tiny) {
    tiny_ = tiny;
    Build(testing::BuildTinyModel(tiny), tiny.vocabulary);
  }
  void Build(const testing::GgufBuilder& builder, uint32_t vocabulary) {
    builder.Write(in_);
    model_.emplace(in_, /*threads=*/2, "auto", kWindow);
    Rng rng(7);
    tokens_.resize(64 * kWindow);
    for (uint32_t& token : tokens_) token = static_cast<uint32_t>(rng.Next() % vocabulary);
    windows_ = CutWindows(tokens_, {kWindow}).value();
    calibrator_.emplace(*model_->model, *model_->runner, windows_, *model_->pool, nullptr);
    importance_ = calibrator_->MeasureImportance().value();
    file_.emplace(OpenGguf(*files_, in_).value());
  }
  PruneOptions Options(PruneWhat what, double part = 0) {
    PruneOptions options;
    options.what = what;
    options.part = part;
    options.importance = &importance_;
    options.calibrator = &*calibrator_;
    options.kernels = model_->model->kernels;
    options.pool = model_->pool.get();
    return options;
  }
  // Mean divergence of the pruned model from the whole one.
  double Divergence(const PruneOptions& options) {
    auto pruned = PruneModel(*file_, options);
    EXPECT_TRUE(pruned.ok()) << pruned.error().message();
    testing::Windowed candidate(std::move(pruned->file), 2, "auto", kWindow);
    return Compare(*model_->runner, *candidate.runner, tokens_, {}, *model_->pool, nullptr)->divergence.value;
  }
  Error Refusal(const PruneOptions& options) {
    auto pruned = PruneModel(*file_, options);
    EXPECT_FALSE(pruned.ok());
    return pruned.ok() ? Error(Code::kInternal, "") : pruned.error();
  }

  testing::TemporaryFolder folder_;
  testing::TinyModel tiny_;
  const std::string in_ = folder_.Path("in.gguf");
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::optional<testing::Windowed> model_;
  std::vector<uint32_t> tokens_;
  CalibrationWindows windows_;
  std::optional<Calibrator> calibrator_;
  Importance importance_;
  std::optional<ModelFile> file_;
};

// What is measured by leaving operations out is what the smaller model says.
TEST_F(Pruning, LayersAreChosenByWhatTheSmallerModelSays) {
  Build({.layers = 4, .width = 64, .heads = 4, .feed_forward = 128});
  const auto choice = ChooseLayers(*model_->model, *model_->runner, windows_, /*count=*/2, *model_->pool, nullptr);
  ASSERT_TRUE(choice.ok()) << choice.error().message();
  ASSERT_EQ(choice->dropped.size(), 2u);
  EXPECT_NE(choice->dropped[0], choice->dropped[1]);
  const auto logits = [&](ModelFile file, std::span<const uint32_t> tokens) {
    return testing::ModelRunner::Make(std::move(file), {.kernels = model_->model->kernels}, kWindow).value()->Logits(tokens);
  };
  const auto divergence = [&](std::vector<size_t> layers) {
    PruneOptions options = Options(PruneWhat::kLayers);
    options.layers = std::move(layers);
    double sum = 0;
    for (const auto& window : windows_.windows) {
      const std::vector<float> whole = logits(OpenGguf(*files_, in_).value(), window);
      const std::vector<float> without = logits(PruneModel(*file_, options).value().file, window);
      for (size_t t = kWindow / 2; t < kWindow; ++t) {
        const float* p = whole.data() + t * tiny_.vocabulary;
        const float* q = without.data() + t * tiny_.vocabulary;
        double p_total = 0, q_total = 0;
        for (size_t i = 0; i < tiny_.vocabulary; ++i) p_total += std::exp(static_cast<double>(p[i]));
        for (size_t i = 0; i < tiny_.vocabulary; ++i) q_total += std::exp(static_cast<double>(q[i]));
        for (size_t i = 0; i < tiny_.vocabulary; ++i) {
          const double log_p = static_cast<double>(p[i]) - std::log(p_total);
          sum += std::exp(log_p) * (log_p - static_cast<double>(q[i]) + std::log(q_total));
        }
      }
    }
    return sum / static_cast<double>(windows_.windows.size() * (kWindow / 2));
  };
  for (size_t layer = 0; layer < 4; ++layer) EXPECT_NEAR(choice->alone[layer] / divergence({layer}), 1, 1e-2) << layer;
  EXPECT_EQ(choice->dropped[0], static_cast<size_t>(std::min_element(choice->alone.begin(), choice->alone.end()) - choice->alone.begin()));
  EXPECT_NEAR(choice->divergence[1] / divergence(choice->dropped), 1, 1e-2);
}

TEST_F(Pruning, FeedForwardsBecomeNarrower) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 512});
  PruneOptions options = Options(PruneWhat::kFeedForward, 0.3);
  const auto pruned = PruneModel(*file_, options);
  ASSERT_TRUE(pruned.ok()) << pruned.error().message();
  EXPECT_EQ(pruned->file.metadata.U32("llama.feed_forward_length").value(), 352u) << "a multiple of 32";
  EXPECT_EQ(pruned->file.directory.Find("blk.1.ffn_down.weight")->columns(), 352u);
  EXPECT_EQ(pruned->file.directory.Find("blk.1.ffn_gate.weight")->rows(), 352u);
  const double refitted = Divergence(options);
  options.refit = false;
  EXPECT_LT(refitted, 0.9 * Divergence(options));
  EXPECT_LT(Divergence(Options(PruneWhat::kFeedForward, 0.1)), refitted);
}

// Heads with keys of their own lose those too; of groups each loses as many.
TEST_F(Pruning, HeadsGoWithTheirKeysOrEvenlyFromGroups) {
  for (const uint32_t kv_heads : {8u, 2u}) {
    Build({.layers = 2, .width = 256, .heads = 8, .kv_heads = kv_heads, .feed_forward = 256, .biases = true});
    PruneOptions options = Options(PruneWhat::kHeads, 0.25);
    const auto pruned = PruneModel(*file_, options);
    ASSERT_TRUE(pruned.ok()) << pruned.error().message();
    EXPECT_EQ(pruned->file.metadata.U32("llama.attention.head_count").value(), 6u);
    EXPECT_EQ(pruned->file.metadata.U32("llama.attention.head_count_kv").value(), kv_heads == 8 ? 6u : 2u);
    EXPECT_EQ(pruned->file.metadata.U32("llama.attention.key_length").value(), 32u);
    const double refitted = Divergence(options);
    options.refit = false;
    EXPECT_LT(refitted, Divergence(options));
  }
}

// StableLM 2: a norm for each head, which goes with it.
testing::GgufBuilder StableLm() {
  constexpr uint64_t kWidth = 64, kHeads = 8, kKvHeads = 8, kHead = 8, kInner = 96, kTokens = 300;
  testing::GgufBuilder builder;
  builder.Text("general.architecture", "stablelm").U32("stablelm.block_count", 2).U32("stablelm.embedding_length", kWidth);
  builder.U32("stablelm.context_length", 64).U32("stablelm.feed_forward_length", kInner).U32("stablelm.attention.head_count", kHeads);
  builder.U32("stablelm.attention.head_count_kv", kKvHeads).F32("stablelm.attention.layer_norm_epsilon", 1e-5f);
  builder.U32("stablelm.rope.dimension_count", 4);
  testing::AddTinyVocabulary(builder, kTokens);
  Rng rng(11);
  const auto add = [&](const std::string& name, std::vector<uint64_t> dimensions) {
    uint64_t elements = 1;
    for (const uint64_t dimension : dimensions) elements *= dimension;
    builder.Add({name, dimensions, 0, testing::RandomBlocks(DType::kF32, elements, dimensions[0], rng), -1});
  };
  add("token_embd.weight", {kWidth, kTokens});
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    for (const char* norm : {"attn_norm.weight", "attn_norm.bias"}) add(layer + norm, {kWidth});
    for (const char* matrix : {"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"})
      add(layer + matrix, {kWidth, kWidth});
    for (const char* norm : {"attn_q_norm.weight", "attn_k_norm.weight"}) add(layer + norm, {kHead, kHeads});
    for (const char* matrix : {"ffn_gate.weight", "ffn_up.weight"}) add(layer + matrix, {kWidth, kInner});
    add(layer + "ffn_down.weight", {kInner, kWidth});
  }
  for (const char* norm : {"output_norm.weight", "output_norm.bias"}) add(norm, {kWidth});
  add("output.weight", {kWidth, kTokens});
  return builder;
}

TEST_F(Pruning, HeadsGoWithNormsOfTheirOwn) {
  Build(StableLm(), /*vocabulary=*/300);
  const auto pruned = PruneModel(*file_, Options(PruneWhat::kHeads, 0.25));
  ASSERT_TRUE(pruned.ok()) << pruned.error().message();
  for (const char* norm : {"blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"}) {
    EXPECT_EQ(pruned->file.directory.Find(norm)->rows(), 6u) << norm;
  }
  EXPECT_LT(Divergence(Options(PruneWhat::kHeads, 0.25)), Divergence(Options(PruneWhat::kHeads, 0.75)));
}

// Nothing is measured for what cannot be done.
TEST_F(Pruning, IsRefusedBeforeAnythingIsMeasured) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128});
  PruneOptions options;
  options.what = PruneWhat::kHeads;
  for (const auto& [part, possible] : {std::pair(0.5, true), {0.01, false}}) {
    options.part = part;
    EXPECT_EQ(CheckPrunable(*file_, options).ok(), possible) << part;
  }
  options.what = PruneWhat::kLayers;
  options.layers = {1};
  EXPECT_TRUE(CheckPrunable(*file_, options).ok());
  options.layers = {0, 1};
  EXPECT_FALSE(CheckPrunable(*file_, options).ok());
  options.what = PruneWhat::kWeights;
  EXPECT_TRUE(CheckPrunable(*file_, options).ok());
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128, .experts = 4, .experts_used = 2});
  EXPECT_EQ(CheckPrunable(*file_, options).error().code(), Code::kUnsupported);
}

// What most weights are in is what the file says of itself.
TEST_F(Pruning, TheFileTypeFollowsTheWeights) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128});
  for (const auto& [to, expected] : {std::pair(DType::kF32, 0u), {DType::kQ8_0, 7u}}) {
    auto pruned = PruneModel(*file_, Options(PruneWhat::kFeedForward, 0.25)).value();
    Recipe recipe = *Recipe::Make("F16");
    for (const TensorInfo& tensor : pruned.file.directory.tensors()) recipe.Set(std::string(tensor.name), to);
    QuantizeOptions options = {recipe};
    options.keep_file_type = true;
    const std::string out = folder_.Path("out" + std::to_string(expected));
    ASSERT_TRUE(QuantizeModel(*files_, *MakeDisk(), pruned.file, out, options, *model_->pool, nullptr).ok());
    EXPECT_EQ(OpenGguf(*files_, out).value().metadata.U32("general.file_type").value(), expected);
  }
}

TEST_F(Pruning, WeightsBecomeZeroInLayersOnly) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128});
  std::map<SparseMethod, double> divergence;
  for (const SparseMethod method : {SparseMethod::kMagnitude, SparseMethod::kWanda, SparseMethod::kSparseGpt}) {
    PruneOptions options = Options(PruneWhat::kWeights);
    options.method = method;
    auto pruned = PruneModel(*file_, options);
    ASSERT_TRUE(pruned.ok()) << pruned.error().message();
    for (const TensorInfo& tensor : pruned->file.directory.tensors()) {
      const auto bytes = pruned->file.source->View(tensor.offset_bytes, tensor.size_bytes).value();
      std::vector<float> values(tensor.elements());
      Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(bytes.data()), values.size(), values.data());
      const auto zeros = static_cast<size_t>(std::count(values.begin(), values.end(), 0.0f));
      const bool cut = tensor.n_dimensions == 2 && tensor.name.starts_with("blk.");
      EXPECT_EQ(zeros, cut ? values.size() / 2 : 0) << tensor.name;
    }
    divergence[method] = Divergence(options);
  }
  EXPECT_LT(divergence[SparseMethod::kSparseGpt], divergence[SparseMethod::kMagnitude]);
}

// What was interrupted becomes the same file.
TEST_F(Pruning, GoesOnWhereItWas) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 512});
  const auto disk = MakeDisk();
  const auto run = [&](const std::string& out, int steps) {
    auto pruned = PruneModel(*file_, Options(PruneWhat::kFeedForward, 0.25)).value();
    Recipe recipe = *Recipe::Make("F16");
    for (const TensorInfo& tensor : pruned.file.directory.tensors()) recipe.Set(std::string(tensor.name), tensor.dtype);
    QuantizeOptions options = {recipe};
    options.sync_bytes = 1;
    int asked = 0;
    return QuantizeModel(*files_, *disk, pruned.file, out, options, *model_->pool,
                         [&](std::string_view, uint64_t, uint64_t) { return ++asked <= steps; });
  };
  ASSERT_TRUE(run(folder_.Path("whole"), 1 << 30).ok());
  EXPECT_EQ(run(folder_.Path("parts"), 8).error().code(), Code::kCancelled);
  EXPECT_FALSE(files_->Exists(folder_.Path("parts")));
  const auto rest = run(folder_.Path("parts"), 1 << 30);
  ASSERT_TRUE(rest.ok()) << rest.error().message();
  EXPECT_GT(rest->resumed_bytes, 0u);
  EXPECT_TRUE(ReadAll(folder_.Path("whole")) == ReadAll(folder_.Path("parts")));
}

TEST_F(Pruning, RefusesWhatItDoesNotKnowByName) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128, .experts = 4, .experts_used = 2});
  EXPECT_EQ(Refusal(Options(PruneWhat::kFeedForward, 0.5)).code(), Code::kUnsupported);
  EXPECT_NE(Refusal(Options(PruneWhat::kWeights)).message().find("experts"), std::string::npos);
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128, .joined = true});
  EXPECT_EQ(Refusal(Options(PruneWhat::kHeads, 0.5)).code(), Code::kUnsupported);
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128, .matrices = DType::kQ8_0});
  EXPECT_NE(Refusal(Options(PruneWhat::kWeights)).message().find("before it is quantised"), std::string::npos);
  EXPECT_EQ(Refusal(Options(PruneWhat::kHeads, 0.01)).code(), Code::kInvalidArgument);
  PruneOptions all = Options(PruneWhat::kLayers);
  all.layers = {0, 1};
  EXPECT_EQ(Refusal(all).code(), Code::kInvalidArgument);
  Build({.layers = 4, .hybrid = true});
  EXPECT_EQ(Refusal(Options(PruneWhat::kHeads, 0.5)).code(), Code::kUnsupported);
  EXPECT_EQ(ChooseLayers(*model_->model, *model_->runner, windows_, 1, *model_->pool, nullptr).error().code(), Code::kUnsupported);
}

TEST(RoundedWidth, IsWhatBlocksLike) {
  EXPECT_EQ(RoundedWidth(768, 0.1), 704u);
  EXPECT_EQ(RoundedWidth(5632, 0.25), 4352u);
  EXPECT_EQ(RoundedWidth(172, 0.25), 128u);
  EXPECT_EQ(RoundedWidth(7, 0.99), 1u);
}

}  // namespace
}  // namespace bantam
