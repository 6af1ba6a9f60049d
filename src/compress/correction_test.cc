#include "compress/correction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/rng.h"
#include "compress/compare.h"
#include "compress/error_feedback.h"
#include "compress/layer_errors.h"
#include "compress/quantize.h"
#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "testing/paths.h"
#include "testing/reference_layer.h"
#include "testing/tiny_model.h"
#include "testing/windowed.h"

namespace bantam {
namespace {

using Layer = testing::ReferenceLayer;
constexpr size_t kWindow = 12;  // a step of testing::Windowed

void AddProduct(const Factors& factors, size_t rank, std::vector<float>* values) {
  const size_t n = factors.a.size() / rank;
  for (size_t i = 0; i < values->size() / n; ++i) {
    for (size_t k = 0; k < rank; ++k) {
      for (size_t j = 0; j < n; ++j) (*values)[i * n + j] += factors.b[i * rank + k] * factors.a[k * n + j];
    }
  }
}

// What is found by iteration is what the whole decomposition finds, and takes off more where activations are known.
TEST(CorrectError, TakesOffWhatADecompositionWould) {
  constexpr size_t kRank = 16;
  Layer layer;
  const auto pool = ThreadPool::Make(2).value();
  const std::vector<float> means = layer.Means();
  std::vector<float> packed(layer.weights.size());
  std::vector<uint8_t> blocks(RowBytes(DType::kQ4_0, Layer::kColumns));
  for (size_t row = 0; row < Layer::kRows; ++row) {
    const std::span<const float> values = std::span(layer.weights).subspan(row * Layer::kColumns, Layer::kColumns);
    ASSERT_TRUE(PackRow(DType::kQ4_0, values, means, blocks.data()).ok());
    Unpack(DType::kQ4_0, blocks.data(), Layer::kColumns, packed.data() + row * Layer::kColumns);
  }
  std::vector<float> errors(packed.size());
  for (size_t i = 0; i < errors.size(); ++i) errors[i] = layer.weights[i] - packed[i];
  const GramFactor ordered = FactorGram(layer.Gram(kernels::kReference), kernels::kReference, *pool).value();
  const GramFactor plain =
      FactorGram(layer.Gram(kernels::kReference), kernels::kReference, *pool, {.order = ColumnOrder::kAsTheyStand}).value();
  const auto error_with = [&](const Factors& factors) {
    std::vector<float> corrected = packed;
    AddProduct(factors, kRank, &corrected);
    return layer.Error(corrected);
  };
  const auto correct = [&](const GramFactor* factor, std::span<const float> weights) {
    return CorrectError({errors, Layer::kRows, Layer::kColumns, factor, weights}, kRank, kernels::kReference, *pool).value();
  };
  const double without = layer.Error(packed);
  const double best = error_with(FactorMatrix({errors, Layer::kRows, plain.r}, kRank, kernels::kReference, *pool).value());
  const double whitened = error_with(correct(&ordered, {}));
  const double weighted = error_with(correct(nullptr, means));
  const double unweighted = error_with(correct(nullptr, {}));
  EXPECT_NEAR(whitened / best, 1, 0.01);
  EXPECT_LT(whitened, 0.75 * without);
  EXPECT_LT(whitened, weighted);
  EXPECT_LT(weighted, unweighted);
  EXPECT_LT(unweighted, without);
}

TEST(CorrectError, ThreadsChangeNothing) {
  Layer layer;
  const auto run = [&](int threads) {
    const auto pool = ThreadPool::Make(threads).value();
    return CorrectError({layer.weights, Layer::kRows, Layer::kColumns, nullptr, {}}, /*rank=*/8, kernels::kReference, *pool).value();
  };
  EXPECT_EQ(run(1).a, run(3).a);
  EXPECT_EQ(run(1).b, run(3).b);
}

class Corrected : public ::testing::Test {
 protected:
  void Build(const testing::TinyModel& tiny) {
    testing::BuildTinyModel(tiny).Write(in_);
    model_.emplace(in_, /*threads=*/2, "auto", kWindow);
    Rng rng(7);
    tokens_.resize(32 * kWindow);
    for (uint32_t& token : tokens_) token = static_cast<uint32_t>(rng.Next() % tiny.vocabulary);
    windows_ = CutWindows(tokens_, {kWindow}).value();
    calibrator_.emplace(*model_->model, *model_->runner, windows_, *model_->pool, nullptr);
    importance_ = calibrator_->MeasureImportance().value();
  }
  Result<QuantizeReport> Run(const std::string& out, size_t rank, bool feedback, int steps = 1 << 30) {
    ModelFile file = OpenGguf(*files_, in_).value();
    const auto correctable = CorrectableMatrices(file).value();
    Recipe recipe = *Recipe::Make("Q4_0");
    recipe.MakePure();
    recipe.Set("token_embd.weight", DType::kF32);  // which no product beside it makes better
    QuantizeOptions options = {recipe};
    options.importance = &importance_;
    options.feedback = feedback ? &*calibrator_ : nullptr;
    options.kernels = model_->model->kernels;
    options.correct_rank = rank;
    options.correctable = &correctable;
    options.sync_bytes = 1;
    int asked = 0;
    return QuantizeModel(*files_, *MakeDisk(), file, out, options, *model_->pool,
                         [&](std::string_view, uint64_t, uint64_t) { return ++asked <= steps; });
  }
  double Divergence(const std::string& path) {
    testing::Windowed candidate(path, 2, "auto", kWindow);
    return Compare(*model_->runner, *candidate.runner, tokens_, {}, *model_->pool, nullptr)->divergence.value;
  }

  testing::TemporaryFolder folder_;
  const std::string in_ = folder_.Path("in.gguf");
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::optional<testing::Windowed> model_;
  std::vector<uint32_t> tokens_;
  CalibrationWindows windows_;
  std::optional<Calibrator> calibrator_;
  Importance importance_;
};

// Of models with biases, and with queries, keys and values in one tensor, too: what is added is added once, and without the bias.
TEST_F(Corrected, SidePathsMakeModelsBetter) {
  for (int kind = 0; kind < 3; ++kind) {
    Build({.layers = 2, .width = 128, .heads = 4, .kv_heads = 4, .feed_forward = 256, .biases = kind == 1, .joined = kind == 2});
    for (const bool feedback : {false, true}) {
      if (kind > 0 && !feedback) continue;
      const std::string plain = folder_.Path("plain"), corrected = folder_.Path("corrected");
      ASSERT_TRUE(Run(plain, /*rank=*/0, feedback).ok());
      const auto report = Run(corrected, /*rank=*/32, feedback);
      ASSERT_TRUE(report.ok()) << report.error().message();
      EXPECT_LT(Divergence(corrected), 0.8 * Divergence(plain)) << kind << feedback;
      uint64_t bytes = 0;
      const ModelFile file = OpenGguf(*files_, corrected).value();
      for (const TensorInfo& tensor : file.directory.tensors()) bytes += tensor.size_bytes;
      EXPECT_EQ(bytes, report->bytes);
      for (const TensorReport& tensor : report->tensors) {
        EXPECT_EQ(tensor.correction_rank, tensor.error ? 32u : 0u) << tensor.name;
      }
      for (const std::string& path : {plain, corrected}) std::filesystem::remove(path);
    }
  }
}

TEST_F(Corrected, GoesOnWhereItWas) {
  Build({.layers = 2, .width = 128, .heads = 4, .feed_forward = 256});
  const auto read = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  };
  ASSERT_TRUE(Run(folder_.Path("whole"), /*rank=*/8, /*feedback=*/true).ok());
  for (const int steps : {5, 12}) {
    const std::string parts = folder_.Path("parts" + std::to_string(steps));
    EXPECT_EQ(Run(parts, 8, true, steps).error().code(), Code::kCancelled);
    const auto rest = Run(parts, 8, true);
    ASSERT_TRUE(rest.ok()) << rest.error().message();
    EXPECT_TRUE(read(folder_.Path("whole")) == read(parts));
  }
}

// How far activations are: none from the model itself, and the more the coarser the weights.
TEST_F(Corrected, LayerErrorsGrowWithTheWeights) {
  Build({.layers = 2, .width = 128, .heads = 4, .feed_forward = 256});
  ASSERT_TRUE(Run(folder_.Path("plain"), 0, false).ok());
  ASSERT_TRUE(Run(folder_.Path("corrected"), 32, false).ok());
  const auto errors = [&](const std::string& path) {
    testing::Windowed candidate(path, 2, "auto", kWindow);
    return MeasureLayerErrors({*model_->model, *model_->runner}, {*candidate.model, *candidate.runner}, tokens_).value();
  };
  const auto same = errors(in_);
  ASSERT_EQ(same.size(), 9u) << "four products of each layer, and the output matrix";
  for (const auto& [name, error] : same) EXPECT_EQ(error, 0) << name;
  const auto plain = errors(folder_.Path("plain"));
  const auto corrected = errors(folder_.Path("corrected"));
  ASSERT_EQ(plain.size(), same.size());
  ASSERT_EQ(corrected.size(), same.size());
  for (size_t i = 1; i < plain.size(); ++i) {
    EXPECT_EQ(corrected[i].first, same[i].first);
    EXPECT_GT(plain[i].second, corrected[i].second) << same[i].first;
    EXPECT_GT(corrected[i].second, 0);
  }
}

}  // namespace
}  // namespace bantam
