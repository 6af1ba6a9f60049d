#include "compress/awq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "compress/smooth.h"
#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "model/arch/registry.h"
#include "model/load.h"
#include "model/lowering.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_layer.h"
#include "testing/reference_logits.h"
#include "testing/tiny_model.h"
#include "testing/windowed.h"

namespace bantam {
namespace {

using Layer = testing::ReferenceLayer;

// What another implementation finds on the same layer: round to nearest with a zero point, behind the best scales of the grid.
TEST(Awq, ReachesTheReferenceLayer) {
  struct Row {
    DType type;
    size_t group;
    double plain, scaled;
  };
  constexpr Row kRows[] = {
      {DType::kQ4_1, 128, 0.008798, 0.006413}, {DType::kQ4_1, 64, 0.007478, 0.005305}, {DType::kInt3M, 128, 0.040819, 0.029549}};
  const Layer layer;
  const KernelSet& kernels = *ChooseKernels("auto").value();
  const auto pool = ThreadPool::Make(2).value();
  const UpperPanels gram = layer.Gram(kernels);
  std::vector<float> magnitudes(Layer::kColumns);
  for (size_t i = 0; i < layer.activations.size(); ++i) magnitudes[i % Layer::kColumns] += std::fabs(layer.activations[i]) / Layer::kTokens;
  // Of nothing: what the products come to.
  double square = 0;
  for (size_t r = 0; r < Layer::kRows; ++r) {
    const float* row = layer.weights.data() + r * Layer::kColumns;
    for (size_t j = 0; j < Layer::kColumns; ++j) {
      for (size_t i = 0; i <= j; ++i) {
        square += (i == j ? 1 : 2) * static_cast<double>(row[i]) * static_cast<double>(row[j]) * static_cast<double>(gram.At(i, j));
      }
    }
  }
  for (const Row& row : kRows) {
    double best = HUGE_VAL;
    for (size_t step = 0; step < kAwqSteps; ++step) {
      const std::vector<float> scales = AwqScales(magnitudes, AwqAlpha(step));
      const double error = OutputError({layer.weights, scales, {}}, {row.type, row.group}, gram, kernels, *pool).value() / square;
      if (step == 0) {
        EXPECT_NEAR(error / row.plain, 1, 0.02) << Info(row.type).name << row.group;
      }
      best = std::min(best, error);
    }
    EXPECT_NEAR(best / row.scaled, 1, 0.02) << Info(row.type).name << row.group;
  }
}

class Scaling : public ::testing::Test {
 protected:
  std::vector<ScalePoint> PointsOf(const testing::TinyModel& tiny) {
    testing::BuildTinyModel(tiny).Write(path_);
    file_.emplace(OpenGguf(*files_, path_).value());
    const Config config = ReadConfig(*file_).value();
    program_ = Lower(config, file_->directory).value();
    return FindScalePoints(program_, file_->directory);
  }

  testing::TemporaryFolder folder_;
  const std::string path_ = folder_.Path("m.gguf");
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::optional<ModelFile> file_;
  Program program_;
};

TEST_F(Scaling, FindsNormsFactorsAndValues) {
  const auto names = [&](const testing::TinyModel& tiny) {
    std::vector<std::string> divided;
    for (const ScalePoint& point : PointsOf(tiny)) divided.push_back(point.divided.front());
    return divided;
  };
  using Names = std::vector<std::string>;
  const Names all = {"blk.0.attn_norm.weight", "blk.0.attn_v.weight", "blk.0.ffn_norm.weight", "blk.0.ffn_up.weight"};
  // What the last norm gives is what vectors of texts are made of, too.
  EXPECT_EQ(names({.layers = 1}), all);
  // The table of tokens is the output matrix, too, and of a joined tensor values are only a part.
  EXPECT_EQ(names({.layers = 1, .tied = true}), all);
  EXPECT_EQ(names({.layers = 1, .tied = true, .joined = true}), (Names{"blk.0.ffn_norm.weight", "blk.0.ffn_up.weight"}));
  // A router reads the norm too.
  EXPECT_EQ(names({.layers = 1, .experts = 4, .experts_used = 2, .tied = true}), (Names{"blk.0.attn_norm.weight", "blk.0.attn_v.weight"}));
  // Layers that share weights.
  EXPECT_EQ(names({.layers = 1, .layer_weights = {0, 0}, .tied = true}), Names{});
}

// Any scales: the model says what it said.
TEST_F(Scaling, ChangesNothingThatTheModelSays) {
  for (const bool biases : {false, true}) {
    const testing::TinyModel tiny = {.layers = 2, .width = 64, .heads = 4, .kv_heads = 2, .feed_forward = 96, .biases = biases};
    const std::vector<ScalePoint> points = PointsOf(tiny);
    ASSERT_EQ(points.size(), 8u);
    Rng rng(3);
    ModelScales scales;
    for (const ScalePoint& point : points) {
      std::vector<float> some(point.scales);
      for (float& scale : some) scale = static_cast<float>(std::exp2(4 * rng.Uniform() - 2));
      AddScales(point, some, &scales);
    }
    std::vector<uint32_t> tokens(20);
    for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % tiny.vocabulary);
    const testing::RunSetup setup = {.kernels = &kernels::kReference};
    const auto plain = testing::ModelRunner::Make(path_, setup, tokens.size()).value()->Logits(tokens);
    auto scaled = testing::ModelRunner::Make(ScaleModel(*file_, scales).value(), setup, tokens.size());
    ASSERT_TRUE(scaled.ok()) << scaled.error().message();
    EXPECT_LT(testing::Nmse((*scaled)->Logits(tokens), plain), 1e-10) << biases;
  }
}

// What activations lose weights get: both reach as far, and steps are those of what is divided.
TEST_F(Scaling, SmoothsActivations) {
  EXPECT_EQ(SmoothScales({4, 0, 9, 5}, {1, 2, 4, 0}, 0.5), (std::vector<float>{2, 1, 1.5f, 1}));
  const testing::TinyModel tiny = {.layers = 1, .width = 64, .heads = 4, .kv_heads = 2, .feed_forward = 96, .tied = true};
  PointsOf(tiny);
  testing::Windowed model(path_, /*threads=*/2, "ref", /*window=*/12);
  Rng rng(6);
  std::vector<uint32_t> tokens(300);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % tiny.vocabulary);
  const CalibrationWindows windows = CutWindows(tokens, {12}).value();
  Calibrator calibrator(*model.model, *model.runner, windows, *model.pool, nullptr);
  const Calibrator::Ranges ranges = calibrator.MeasureRanges().value();
  const ModelScales scales = SmoothModel(*file_, program_, ranges, kSmoothAlpha).value();
  ASSERT_EQ(scales.size(), 9u);  // two norms, and seven matrices
  testing::Windowed scaled(ScaleModel(*file_, scales).value(), /*threads=*/2, "ref", /*window=*/12);
  Calibrator of_scaled(*scaled.model, *scaled.runner, windows, *scaled.pool, nullptr);
  const StaticSteps predicted = StepsOf(ranges, scales);
  const StaticSteps measured = StepsOf(of_scaled.MeasureRanges().value(), {});
  for (const auto& [name, step] : predicted) EXPECT_NEAR(step / measured.at(name), 1, 1e-3) << name;
  EXPECT_EQ(predicted.at("blk.0.attn_q.weight"), predicted.at("blk.0.attn_k.weight"));
}

// Products of weights that kernels multiply as floats round nothing, whatever steps are known.
TEST_F(Scaling, CountsProductsThatAreRounded) {
  for (const DType matrices : {DType::kF32, DType::kQ8_0}) {
    const testing::TinyModel tiny = {.layers = 2, .width = 64, .heads = 4, .kv_heads = 2, .feed_forward = 96, .matrices = matrices};
    PointsOf(tiny);
    for (const KernelSet* kernels : RunnableKernels()) {
      Program program = OutlineModel(*file_, *kernels).value().program;
      EXPECT_EQ(CountRounded(program), 0u) << kernels->name;
      StaticSteps steps;
      for (const TensorInfo& tensor : file_->directory.tensors()) steps[std::string(tensor.name)] = 0.1f;
      SetStaticSteps(steps, &program);
      const bool rounds = matrices == DType::kQ8_0 && kernels->quantized[static_cast<size_t>(PanelKind::kQ8)];
      EXPECT_EQ(CountRounded(program), rounds ? 15u : 0u) << kernels->name << Info(matrices).name;
    }
  }
}

// Of a model with large activations: outputs lose less, and what is predicted of divided inputs is what is measured of the scaled model.
TEST_F(Scaling, SearchesForLessError) {
  const testing::TinyModel tiny = {.layers = 2, .width = 64, .heads = 4, .kv_heads = 2, .feed_forward = 96};
  PointsOf(tiny);
  testing::Windowed model(path_, /*threads=*/2, "auto", /*window=*/12);
  Rng rng(5);
  std::vector<uint32_t> tokens(600);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(rng.Next() % tiny.vocabulary);
  const CalibrationWindows windows = CutWindows(tokens, {12}).value();
  Calibrator calibrator(*model.model, *model.runner, windows, *model.pool, nullptr);
  const Importance importance = calibrator.MeasureImportance().value();
  const Recipe recipe = Recipe::Make("int4-g32").value();
  QuantizeOptions options = {recipe};
  options.importance = &importance;
  const QuantizeReport plan = PlanQuantize(*file_, options).value();
  const AwqSetup setup = {*file_, program_, plan, importance, calibrator, *model.model->kernels, *model.pool, uint64_t{1} << 30};
  const auto found = SearchAwq(setup, nullptr);
  ASSERT_TRUE(found.ok()) << found.error().message();
  EXPECT_EQ(found->looked_at, 8u);
  EXPECT_LE(found->error, 1);
  ASSERT_GT(found->points, 0u);

  ModelScales scales = found->scales;
  std::map<std::string, std::vector<float>, std::less<>> divisors;
  for (const auto& [name, of] : scales) {
    if (!of.column_factors.empty()) divisors[name] = of.column_factors;
  }
  const std::string name = divisors.begin()->first;
  testing::Windowed scaled(ScaleModel(*file_, scales).value(), /*threads=*/2, "auto", /*window=*/12);
  Calibrator of_scaled(*scaled.model, *scaled.runner, windows, *scaled.pool, nullptr);
  const auto measured = of_scaled.MeasureGrams({name}).value().at(name);
  calibrator.Divide(divisors);
  const auto divided = calibrator.MeasureGrams({name}).value().at(name);
  const std::vector<float> means = ScaleImportance(importance, scales).Find(name)->Means(/*matrix=*/0);
  for (size_t j = 0; j < measured->n(); ++j) {
    EXPECT_NEAR(divided->At(j, j) / measured->At(j, j), 1, 1e-3) << j;
    EXPECT_NEAR(means[j] * static_cast<float>(windows.tokens()) / measured->At(j, j), 1, 1e-3) << j;
  }
}

}  // namespace
}  // namespace bantam
