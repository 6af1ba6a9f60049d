#include "engine/perplexity.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/vocabulary.h"
#include "testing/paths.h"

namespace bantam {
namespace {

class PerplexityTest : public ::testing::Test {
 protected:
  void Load(const std::string& path, size_t window, const KernelSet& kernels, KvType kv_type) {
    const auto files = MakeFileSystem();
    ModelFile file = OpenGguf(*files, path).value();
    tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    ModelOutline outline = OutlineModel(file, kernels).value();
    const PlanOptions options = {window, kv_type, 16, 16, pool_->size()};
    const MemoryPlan plan = PlanMemory(outline.program, options, {});
    model_ = LoadModel(std::move(outline), file, {budget_, *pool_}, nullptr).value();
    session_ = Session::Make(*model_, plan, {budget_, *pool_}).value();
  }
  Result<PerplexityEstimate> Measure(const std::string& text_path, size_t window, size_t windows) {
    std::ifstream file(text_path);
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<uint32_t> tokens = tokenizer_->Encode(text, /*special=*/false).value();
    const uint32_t bos = *tokenizer_->spec().bos;
    tokens.insert(tokens.begin(), bos);
    return MeasurePerplexity(*session_, tokens, {.window = window, .windows_max = windows, .bos = bos}, nullptr);
  }

  MemoryBudget budget_{uint64_t{4} << 30};
  std::unique_ptr<ThreadPool> pool_ = ThreadPool::Make(2).value();
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Session> session_;
};

// What llama.cpp's tool prints for the same file, windows and KV type (f32).
TEST_F(PerplexityTest, AsLlamaCpp) {
  struct Row {
    size_t window, windows;
    double perplexity, error;
  };
  for (const Row row : {Row{32, 15, 5.7711, 1.04840}, Row{64, 7, 4.3389, 0.65158}, Row{128, 3, 4.4843, 0.85499}}) {
    Load(testing::DataPath("models/stories260K.gguf"), row.window, kernels::kReference, KvType::kF32);
    const auto estimate = Measure(testing::DataPath("text/story.txt"), row.window, 0);
    ASSERT_TRUE(estimate.ok()) << estimate.error().message();
    EXPECT_EQ(estimate->windows, row.windows);
    EXPECT_EQ(estimate->scored, row.windows * (row.window / 2 - 1));
    EXPECT_NEAR(estimate->perplexity, row.perplexity, 1e-4) << row.window;
    EXPECT_NEAR(estimate->error, row.error, 1e-4) << row.window;
  }
}

TEST_F(PerplexityTest, ATextShorterThanAWindowIsRefused) {
  Load(testing::DataPath("models/stories260K.gguf"), 512, kernels::kReference, KvType::kF32);
  const auto estimate = Measure(testing::DataPath("text/story.txt"), 512, 0);
  ASSERT_FALSE(estimate.ok());
  EXPECT_NE(estimate.error().message().find("smaller --context"), std::string::npos) << estimate.error().message();
}

// 16.679 +- 0.947 there, with kernels that round activations in another way.
TEST_F(PerplexityTest, DemoModel) {
  const std::string text = testing::SharedPath("data/wikitext-2-test.txt");
  SKIP_WITHOUT(testing::DemoModelPath());
  SKIP_WITHOUT(text);
  Load(testing::DemoModelPath(), 512, *RunnableKernels().front(), KvType::kF16);
  const auto estimate = Measure(text, 512, 8);
  ASSERT_TRUE(estimate.ok()) << estimate.error().message();
  EXPECT_NEAR(estimate->perplexity, 16.679, 0.05);
  EXPECT_NEAR(estimate->error, 0.947, 0.005);
}

}  // namespace
}  // namespace bantam
