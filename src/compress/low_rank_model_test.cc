#include "compress/low_rank_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/rng.h"
#include "compress/compare.h"
#include "compress/made_source.h"
#include "compress/quantize.h"
#include "compress/rank_choice.h"
#include "compress/whitened_svd.h"
#include "formats/gguf.h"
#include "kernels/ref/ref.h"
#include "testing/model_runner.h"
#include "testing/paths.h"
#include "testing/reference_layer.h"
#include "testing/tiny_model.h"
#include "testing/windowed.h"

namespace bantam {
namespace {

constexpr size_t kWindow = 12;  // a step of testing::Windowed

std::vector<float> Product(const Factors& factors, size_t rows, size_t rank) {
  const size_t n = factors.a.size() / rank;
  std::vector<float> product(rows * n);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t k = 0; k < rank; ++k) {
      for (size_t j = 0; j < n; ++j) product[i * n + j] += factors.b[i * rank + k] * factors.a[k * n + j];
    }
  }
  return product;
}

// The reference layer at 80 % of its weights: 0.0317, and 0.189 where nothing is known of the activations (research notes, section 3).
TEST(WhitenedSvd, ReferenceLayerLosesWhatOthersMeasured) {
  using Layer = testing::ReferenceLayer;
  Layer layer;
  const auto pool = ThreadPool::Make(2).value();
  const size_t rank = Layer::kRows * Layer::kColumns * 8 / 10 / (Layer::kRows + Layer::kColumns);
  UpperPanels identity(Layer::kColumns);
  for (size_t i = 0; i < Layer::kColumns; ++i) identity.At(i, i) = 1;
  const GramFactor measured =
      FactorGram(layer.Gram(kernels::kReference), kernels::kReference, *pool, {.order = ColumnOrder::kAsTheyStand, .damping = 1e-6})
          .value();
  for (const auto& [r, expected] : {std::pair(&measured.r, 0.0317), std::pair<const UpperPanels*, double>(&identity, 0.189)}) {
    const WhitenedRows matrix = {layer.weights, Layer::kRows, *r};
    const Factors factors = FactorMatrix(matrix, rank, kernels::kReference, *pool).value();
    const double error = layer.Error(Product(factors, Layer::kRows, rank));
    EXPECT_NEAR(error / expected, 1, 0.02);
    if (r != &measured.r) continue;
    const std::vector<double> losses = LossesOf(WhitenedSpectrum(matrix, kernels::kReference, *pool).value());
    EXPECT_NEAR(losses[rank] / error, 1, 1e-3) << "what is predicted is what is lost";
    EXPECT_EQ(losses.front(), 1);
    EXPECT_EQ(losses.back(), 0);
  }
}

// More rows than columns, and a product that has fewer dimensions than that.
TEST(WhitenedSvd, FindsAMatrixOfLowRankAgain) {
  constexpr size_t kRows = 70, kColumns = 40, kRank = 9;
  Rng rng(5);
  const auto random = [&] { return static_cast<float>(rng.Next() % 2001) / 1000 - 1; };
  Factors made = {std::vector<float>(kRank * kColumns), std::vector<float>(kRows * kRank)};
  for (std::vector<float>* values : {&made.a, &made.b}) {
    for (float& value : *values) value = random();
  }
  const std::vector<float> whole = Product(made, kRows, kRank);
  UpperPanels r(kColumns);
  for (size_t j = 0; j < kColumns; ++j) {
    for (size_t i = 0; i <= j; ++i) r.At(i, j) = i == j ? 1 + static_cast<float>(j) : random();
  }
  const auto pool = ThreadPool::Make(3).value();
  const WhitenedRows matrix = {whole, kRows, r};
  const std::vector<double> losses = LossesOf(WhitenedSpectrum(matrix, kernels::kReference, *pool).value());
  EXPECT_LT(losses[kRank], 1e-6);
  EXPECT_GT(losses[kRank - 1], 1e-4);
  for (const size_t rank : {kRank, kColumns}) {
    const Factors factors = FactorMatrix(matrix, rank, kernels::kReference, *pool).value();
    const std::vector<float> product = Product(factors, kRows, rank);
    for (size_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(product[i], whole[i], 1e-4) << i;
  }
}

// Against all choices there are.
TEST(ChooseRanks, SpendsWeightsWhereTheyCountMost) {
  Rng rng(3);
  std::vector<RankedMatrix> matrices;
  for (const auto& [rows, columns] : {std::pair<size_t, size_t>(12, 12), {30, 12}, {12, 20}}) {
    std::vector<double> spectrum(std::min(rows, columns));
    double value = 1;
    for (double& one : spectrum) one = value *= 0.3 + 0.6 * static_cast<double>(rng.Next() % 100) / 100;
    matrices.push_back({rows, columns, LossesOf(spectrum)});
  }
  const auto sums = [&](const std::vector<size_t>& ranks) {
    std::pair<size_t, double> sum = {0, 0};
    for (size_t i = 0; i < ranks.size(); ++i) {
      sum.first += ranks[i] == 0 ? matrices[i].weights() : matrices[i].weights(ranks[i]);
      sum.second += ranks[i] == 0 ? 0 : matrices[i].losses[ranks[i]];
    }
    return sum;
  };
  const size_t all = sums({0, 0, 0}).first;
  bool whole = false;
  for (const double keep : {0.3, 0.5, 0.7, 0.8, 0.9, 0.95}) {
    const std::vector<size_t> ranks = ChooseRanks(matrices, keep).value();
    const auto [weights, loss] = sums(ranks);
    EXPECT_LE(static_cast<double>(weights), keep * static_cast<double>(all));
    double best = 3;
    for (size_t a = 0; a <= 12; ++a) {
      for (size_t b = 0; b <= 12; ++b) {
        for (size_t c = 0; c <= 12; ++c) {
          const auto other = sums({a, b, c});
          if (static_cast<double>(other.first) <= keep * static_cast<double>(all)) best = std::min(best, other.second);
        }
      }
    }
    EXPECT_LE(loss, best + 0.03) << keep;
    for (size_t i = 0; i < 3; ++i) {
      whole = whole || ranks[i] == 0;
      EXPECT_LT(matrices[i].weights(ranks[i]), matrices[i].weights()) << "factors that are no smaller";
    }
  }
  EXPECT_TRUE(whole);
  EXPECT_EQ(ChooseRanks(matrices, 0.05).error().code(), Code::kInvalidArgument);
  for (const RankedMatrix& matrix : matrices) {
    const size_t rank = RankOfLoss(matrix, 0.1);
    EXPECT_LE(matrix.losses[rank], 0.1);
    EXPECT_GT(matrix.losses[rank - 1], 0.1);
    EXPECT_EQ(RankOfLoss(matrix, 1e-9), 0u);
  }
  EXPECT_EQ(RankUnit(64, 172), 4u);
  EXPECT_EQ(RankUnit(288, 768), 32u);
  EXPECT_EQ(RankUnit(5632, 2048), 256u);
}

// The products written out: what the file with factors is to compute.
class WrittenOut : public MadeSource {
 public:
  explicit WrittenOut(ModelFile& file) : MadeSource(*file.source), file_(file) {
    for (const TensorInfo& tensor : file.directory.tensors()) {
      const std::string name(tensor.name);
      if (name.ends_with(".low_rank_b.weight")) continue;
      TensorInfo info = tensor;
      info.name = Keep(name.ends_with(".low_rank_a.weight") ? name.substr(0, name.rfind(".low_rank_a")) + ".weight" : name);
      const std::string second = name.substr(0, name.rfind(".low_rank_a")) + ".low_rank_b.weight";
      const TensorInfo* b = file.directory.Find(second);
      if (info.name != name) info.dimensions[1] = b->rows();
      Add(info, info.name == name ? &tensor : nullptr);
      factors_.emplace_back(&tensor, b);
    }
  }

 private:
  Status Make(size_t index, std::span<std::byte> bytes) override {
    const auto [a, b] = factors_[index];
    const Factors factors = {ReadValues(*a, *file_.source).value(), ReadValues(*b, *file_.source).value()};
    return PackRow(DType::kF32, Product(factors, b->rows(), a->rows()), {}, reinterpret_cast<uint8_t*>(bytes.data()));
  }
  ModelFile& file_;
  std::vector<std::pair<const TensorInfo*, const TensorInfo*>> factors_;
};

// A tiny model, calibrated on random tokens.
class LowRank : public ::testing::Test {
 protected:
  void Build(const testing::TinyModel& tiny) {
    tiny_ = tiny;
    testing::BuildTinyModel(tiny).Write(in_);
    model_.emplace(in_, /*threads=*/2, "auto", kWindow);
    Rng rng(7);
    tokens_.resize(32 * kWindow);
    for (uint32_t& token : tokens_) token = static_cast<uint32_t>(rng.Next() % tiny.vocabulary);
    windows_ = CutWindows(tokens_, {kWindow}).value();
    calibrator_.emplace(*model_->model, *model_->runner, windows_, *model_->pool, nullptr);
    file_.emplace(OpenGguf(*files_, in_).value());
  }
  Result<LowRankModel> Make(double keep, double loss_max = 0) {
    LowRankOptions options;
    options.keep = keep;
    options.loss_max = loss_max;
    options.calibrator = &*calibrator_;
    options.kernels = model_->model->kernels;
    options.pool = model_->pool.get();
    return MakeLowRank(*file_, options);
  }
  Result<QuantizeReport> Write(const std::string& out, int steps = 1 << 30) {
    LowRankModel made = Make(0.7).value();
    Recipe recipe = *Recipe::Make("F16");
    for (const TensorInfo& tensor : made.file.directory.tensors()) recipe.Set(std::string(tensor.name), tensor.dtype);
    QuantizeOptions options = {recipe};
    options.sync_bytes = 1;
    int asked = 0;
    return QuantizeModel(*files_, *MakeDisk(), made.file, out, options, *model_->pool,
                         [&](std::string_view, uint64_t, uint64_t) { return ++asked <= steps; });
  }
  // Mean divergence of a model in a file from the whole one.
  double Divergence(ModelFile file) {
    testing::Windowed candidate(std::move(file), 2, "auto", kWindow);
    return Compare(*model_->runner, *candidate.runner, tokens_, {}, *model_->pool, nullptr)->divergence.value;
  }

  testing::TemporaryFolder folder_;
  testing::TinyModel tiny_;
  const std::string in_ = folder_.Path("in.gguf");
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::optional<testing::Windowed> model_;
  std::vector<uint32_t> tokens_;
  CalibrationWindows windows_;
  std::optional<Calibrator> calibrator_;
  std::optional<ModelFile> file_;
};

std::vector<float> LogitsOf(ModelFile file, std::span<const uint32_t> tokens) {
  return testing::ModelRunner::Make(std::move(file), {.kernels = &kernels::kReference}, kWindow).value()->Logits(tokens);
}

// Plain, with biases, with queries, keys and values in one tensor, and with layers that share weights.
TEST_F(LowRank, TwoProductsGiveWhatOneWould) {
  for (int kind = 0; kind < 4; ++kind) {
    testing::TinyModel tiny = {.layers = 2, .width = 64, .heads = 4, .feed_forward = 128};
    tiny.biases = kind == 1;
    tiny.joined = kind == 2;
    if (kind == 3) tiny.layer_weights = {0, 1, 0};
    Build(tiny);
    LowRankModel made = Make(0.7).value();
    const std::span<const uint32_t> tokens = std::span(tokens_).first(kWindow);
    ModelFile written;
    auto source = std::make_unique<WrittenOut>(made.file);
    written.path = "written";
    written.metadata = Metadata::Make(made.file.metadata.entries()).value();
    written.directory = TensorDirectory::Make(source->tensors()).value();
    written.source = std::move(source);
    EXPECT_EQ(written.directory.tensors().size(), file_->directory.tensors().size());
    const std::vector<float> expected = LogitsOf(std::move(written), tokens);
    const std::vector<float> logits = LogitsOf(std::move(made.file), tokens);
    ASSERT_EQ(logits.size(), expected.size());
    for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected[i], 1e-3) << kind;
  }
}

TEST_F(LowRank, KeepsWhatItIsAllowedTo) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128});
  double last = 0;
  for (const double keep : {0.9, 0.7, 0.4}) {
    LowRankModel made = Make(keep).value();
    uint64_t weights = 0, all = 0;
    for (const TensorInfo& tensor : made.file.directory.tensors()) {
      if (tensor.name.starts_with("blk.") && tensor.n_dimensions == 2) weights += tensor.elements();
    }
    for (const LowRankMatrix& matrix : made.matrices) all += matrix.rows * matrix.columns;
    EXPECT_LE(static_cast<double>(weights), keep * static_cast<double>(all));
    EXPECT_GT(static_cast<double>(weights), 0.9 * keep * static_cast<double>(all));
    const double divergence = Divergence(std::move(made.file));
    EXPECT_GT(divergence, last);
    last = divergence;
  }
  const LowRankModel made = Make(0, 0.2).value();
  for (const LowRankMatrix& matrix : made.matrices) EXPECT_LE(matrix.loss, 0.2);
}

// The factors' first products are one operation, as those of whole matrices are.
TEST_F(LowRank, ProductsOfOneInputStayTogether) {
  Build({.layers = 1, .width = 64, .heads = 4, .kv_heads = 4, .feed_forward = 128});
  LowRankModel made = Make(0.4).value();
  ASSERT_TRUE(std::all_of(made.matrices.begin(), made.matrices.end(), [](const LowRankMatrix& matrix) { return matrix.rank > 0; }));
  const Program program = OutlineModel(made.file, kernels::kReference).value().program;
  std::vector<size_t> parts;
  for (const Op& op : program.ops) {
    if (const auto* product = std::get_if<MatMulOp>(&op)) parts.push_back(product->parts.size());
  }
  EXPECT_EQ(parts, (std::vector<size_t>{3, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1})) << "q k v, o, gate up, down, output";
}

// What was interrupted becomes the same file, which opens, and whose factors are quantised like other matrices.
TEST_F(LowRank, GoesOnWhereItWas) {
  Build({.layers = 2, .width = 64, .heads = 4, .feed_forward = 128});
  const auto read = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  };
  ASSERT_TRUE(Write(folder_.Path("whole")).ok());
  EXPECT_EQ(Write(folder_.Path("parts"), 8).error().code(), Code::kCancelled);
  EXPECT_FALSE(files_->Exists(folder_.Path("parts")));
  const auto rest = Write(folder_.Path("parts"));
  ASSERT_TRUE(rest.ok()) << rest.error().message();
  EXPECT_GT(rest->resumed_bytes, 0u);
  EXPECT_TRUE(read(folder_.Path("whole")) == read(folder_.Path("parts")));
  ModelFile made = OpenGguf(*files_, folder_.Path("whole")).value();
  const Recipe recipe = *Recipe::Make("Q8_0");
  ASSERT_TRUE(QuantizeModel(*files_, *MakeDisk(), made, folder_.Path("small"), {recipe}, *model_->pool, /*progress=*/nullptr).ok());
  const double whole = Divergence(OpenGguf(*files_, folder_.Path("whole")).value());
  const double small = Divergence(OpenGguf(*files_, folder_.Path("small")).value());
  EXPECT_NEAR(small / whole, 1, 0.1);
}

TEST_F(LowRank, RefusesWhatCannotBe) {
  Build({.layers = 1, .width = 64, .heads = 4, .feed_forward = 128});
  EXPECT_EQ(Make(0.01).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(Make(0, 1e-9).error().code(), Code::kInvalidArgument);
  // Factors stay as they are.
  ASSERT_TRUE(Write(folder_.Path("once")).ok());
  model_.emplace(folder_.Path("once"), 2, "auto", kWindow);
  calibrator_.emplace(*model_->model, *model_->runner, windows_, *model_->pool, nullptr);
  file_.emplace(OpenGguf(*files_, folder_.Path("once")).value());
  const auto again = Make(0.5);
  if (!again.ok()) return;
  for (const LowRankMatrix& matrix : again->matrices) EXPECT_EQ(matrix.name.find("low_rank"), std::string::npos);
}

}  // namespace
}  // namespace bantam
