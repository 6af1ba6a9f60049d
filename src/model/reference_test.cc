// Whole models against logits that another implementation computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/ref/ref.h"
#include "testing/gguf_variant.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using testing::DataPath;
using testing::DemoModelPath;
using testing::ModelRunner;
using testing::RunSetup;
using testing::SharedPath;

std::vector<float> RunModel(const std::string& model, const RunSetup& setup, std::span<const uint32_t> tokens) {
  auto runner = ModelRunner::Make(model, setup, tokens.size());
  EXPECT_TRUE(runner.ok()) << runner.error().message();
  return runner.ok() ? (*runner)->Logits(tokens) : std::vector<float>();
}

double ErrorOf(const std::string& model, const std::string& logits, const RunSetup& setup) {
  const auto reference = testing::ReadReferenceLogits(logits);
  const auto got = RunModel(model, setup, reference.tokens);
  return got.size() == reference.logits.size() ? testing::Nmse(got, reference.logits) : HUGE_VAL;
}

// F32 weights and F32 KV: in one piece, token by token and in ragged chunks, on one to three threads, with every kernel set.
void CheckExact(const std::string& model, const std::string& logits, double* largest) {
  const auto reference = testing::ReadReferenceLogits(logits);
  struct Way {
    int threads;
    std::vector<size_t> chunks;
  };
  for (const KernelSet* kernels : RunnableKernels()) {
    std::vector<float> first;
    for (const Way& way : {Way{1, {1000}}, Way{2, {1000}}, Way{2, {1}}, Way{3, {7, 1, 16, 3}}}) {
      const auto got = RunModel(model, {kernels, KvType::kF32, way.threads, way.chunks}, reference.tokens);
      ASSERT_EQ(got.size(), reference.logits.size());
      const double error = testing::Nmse(got, reference.logits);
      EXPECT_LT(error, 1e-9) << kernels->name << ", " << way.threads << " threads, chunks of " << way.chunks[0];
      *largest = std::max(*largest, error);
      // Neither threads nor steps change a bit.
      if (first.empty()) first = got;
      EXPECT_EQ(std::memcmp(got.data(), first.data(), got.size() * sizeof(float)), 0) << kernels->name << ", chunks of " << way.chunks[0];
    }
  }
}

TEST(Reference, LlamaDense) {
  double error = 0;
  CheckExact(DataPath("archs/llama-dense.gguf"), DataPath("archs/llama-dense.logits"), &error);
}

TEST(Reference, SmallOnes) {
  for (const char* name : {"archs/bitnet", "archs/gemma3n", "archs/gemma4", "archs/qwen35"}) {
    double error = 0;
    CheckExact(DataPath(std::string(name) + ".gguf"), DataPath(std::string(name) + ".logits"), &error);
    std::printf("%s: %.1e\n", name, error);  // docs/families.md
  }
}

class Families : public ::testing::TestWithParam<const char*> {};

TEST_P(Families, MatchTheReference) {
  const std::string path = SharedPath("golden/archs/") + GetParam();
  SKIP_WITHOUT(path + ".gguf");
  double error = 0;
  CheckExact(path + ".gguf", path + ".logits", &error);
  std::printf("%s: %.1e\n", GetParam(), error);  // docs/families.md
}

INSTANTIATE_TEST_SUITE_P(All, Families,
                         ::testing::Values("arcee-dense", "baichuan-dense", "bloom-dense", "codeshell-dense", "cohere2-dense",
                                           "deepseek-moe", "ernie4_5-moe", "exaone4-dense", "falcon-dense", "falcon-h1-dense",
                                           "gemma-dense", "gemma2-dense", "gemma3-dense", "gpt-oss-moe", "gpt2-dense", "gptneox-dense",
                                           "granite-dense", "granite-moe", "granitehybrid-dense", "hunyuan-dense-dense", "internlm2-dense",
                                           "lfm2-dense", "lfm2moe-moe", "llama-moe", "mamba-dense", "mamba2-dense", "minicpm-dense",
                                           "minicpm-moe", "mistral3-dense", "mpt-dense", "nemotron-dense", "olmo-dense", "olmo2-dense",
                                           "orion-dense", "phi2-dense", "phi3-dense", "phimoe-moe", "qwen2-dense", "qwen2moe-moe",
                                           "qwen3-dense", "qwen3moe-moe", "smallthinker-moe", "smollm3-dense", "stablelm-dense",
                                           "starcoder2-dense"),
                         [](const auto& row) {
                           std::string name = row.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Ways to stretch the rotary embedding, against the same implementation.
TEST(Reference, RopeScaling) {
  const testing::TemporaryFolder folder;
  const RunSetup setup = {&kernels::kReference, KvType::kF32, 2, {1000}};
  for (const std::string name : {"linear", "yarn", "longrope-short", "longrope-long"}) {
    const std::string model = folder.Path(name);
    const Status written = testing::WriteVariant(DataPath("models/stories260K.gguf"), model, testing::RopeVariant(name));
    ASSERT_TRUE(written.ok()) << written.error().message();
    const std::string logits = DataPath("models/stories260K-" + name + ".logits");
    EXPECT_LT(ErrorOf(model, logits, setup), 1e-8) << name;
    EXPECT_GT(ErrorOf(DataPath("models/stories260K.gguf"), logits, setup), 1e-3) << name << " makes a difference";
  }
}

TEST(Reference, Stories260K) {
  const RunSetup setup = {&kernels::kReference, KvType::kF32, 2, {1000}};
  EXPECT_LT(ErrorOf(DataPath("models/stories260K.gguf"), DataPath("models/stories260K.logits"), setup), 1e-8);
}

// Sliding windows in every second layer: blocks that are reused as a ring give the bits of blocks that are kept, for any cut into steps,
// and the window changes the result.
TEST(Reference, WindowsAsARing) {
  const auto tokens = testing::ReadReferenceLogits(DataPath("archs/llama-dense.logits")).tokens;
  const std::string model = DataPath("archs/llama-dense.gguf");
  for (const KernelSet* kernels : RunnableKernels()) {
    for (const KvType type : {KvType::kF32, KvType::kInt8Int4Rotated}) {
      for (const size_t window : {size_t{1}, size_t{5}, size_t{16}, size_t{33}}) {
        const auto kept = RunModel(model, {kernels, type, 1, {1000}, window, /*ring=*/false}, tokens);
        for (const std::vector<size_t>& chunks : {std::vector<size_t>{1}, std::vector<size_t>{7, 1, 16, 3}}) {
          const auto ring = RunModel(model, {kernels, type, 2, chunks, window, /*ring=*/true}, tokens);
          ASSERT_EQ(ring.size(), kept.size());
          EXPECT_EQ(std::memcmp(ring.data(), kept.data(), 4 * kept.size()), 0) << kernels->name << ", window " << window;
        }
        EXPECT_NE(kept, RunModel(model, {kernels, type, 1, {1000}}, tokens));
      }
    }
  }
}

// What rounding keys and values may cost (README states these limits).
TEST(Reference, KvTypes) {
  for (const char* name : {"llama-dense", "llama-moe", "mistral3-dense"}) {
    const std::string path = std::string(name) == "llama-dense" ? DataPath("archs/llama-dense") : SharedPath("golden/archs/") + name;
    if (!std::filesystem::exists(path + ".gguf")) continue;
    for (const KernelSet* kernels : RunnableKernels()) {
      for (const auto& [type, limit] :
           {std::pair(KvType::kF16, 1e-5), std::pair(KvType::kInt8, 1e-3), std::pair(KvType::kInt8Rotated, 1e-3),
            std::pair(KvType::kInt8Int4, 3e-2), std::pair(KvType::kInt8Int4Rotated, 3e-2)}) {
        EXPECT_LT(ErrorOf(path + ".gguf", path + ".logits", {kernels, type, 2, {1000}}), limit) << name << ", " << KvTypeName(type);
      }
    }
  }
}

TEST(Reference, Stories15M) {
  const std::string model = SharedPath("models/stories15M-f16.gguf");
  SKIP_WITHOUT(model);
  const std::string logits = SharedPath("golden/real/stories15M.logits");
  EXPECT_LT(ErrorOf(model, logits, {&kernels::kReference, KvType::kF32, 2, {1000}}), 1e-8);
  for (const KernelSet* kernels : RunnableKernels()) EXPECT_LT(ErrorOf(model, logits, {kernels, KvType::kF32, 2, {1000}}), 1e-6);
}

TEST(Reference, DemoModel) {
  SKIP_WITHOUT(DemoModelPath());
  const std::string logits = SharedPath("golden/real/tinyllama.logits");
  SKIP_WITHOUT(logits);
  for (const KernelSet* kernels : RunnableKernels()) {
    const double limit = kernels == &kernels::kReference ? 1e-8 : 4e-3;
    EXPECT_LT(ErrorOf(DemoModelPath(), logits, {kernels, KvType::kF32, 2, {1000}}), limit) << kernels->name;
  }
}

// Every block format through a whole model: integer kernels stay near the exact reference, and results are the same bits
// for any thread count and any cut into steps.
TEST(Reference, EveryFormatOnATinyModel) {
  const testing::TemporaryFolder folder;
  std::vector<uint32_t> tokens(24);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint32_t>(i * 37 % 300);
  for (const DType dtype : testing::AllDTypes()) {
    // Experts take the same products one by one: three kinds of panel show it.
    const bool also_experts = dtype == DType::kF32 || dtype == DType::kQ8_0 || dtype == DType::kQ4_K;
    for (const uint32_t experts : also_experts ? std::vector<uint32_t>{0, 4} : std::vector<uint32_t>{0}) {
      const std::string path = folder.Path("tiny.gguf");
      // All experts are used: no near-tie of the router can fall the other way.
      testing::BuildTinyModel({.layers = 1,
                               .feed_forward = 256,
                               .experts = experts,
                               .experts_used = experts,
                               .tied = experts != 0,
                               .biases = experts == 0,
                               .matrices = dtype})
          .Write(path);
      const auto exact = RunModel(path, {&kernels::kReference, KvType::kF32, 1, {1000}}, tokens);
      for (const KernelSet* kernels : RunnableKernels()) {
        const auto whole = RunModel(path, {kernels, KvType::kF32, 1, {1000}}, tokens);
        // Rounding activations to 8 bits costs 1e-4 to 8e-4; a wrong scale, plane or expert costs everything.
        EXPECT_LT(testing::Nmse(whole, exact), 1e-3) << Info(dtype).name << " " << kernels->name << " " << experts;
        for (const int threads : {2, 3}) {
          const auto cut = RunModel(path, {kernels, KvType::kF32, threads, {5, 1, 13}}, tokens);
          ASSERT_EQ(cut.size(), whole.size());
          EXPECT_EQ(std::memcmp(cut.data(), whole.data(), 4 * whole.size()), 0)
              << Info(dtype).name << " " << kernels->name << " " << threads;
        }
      }
    }
  }
}

}  // namespace
}  // namespace bantam
