#include "compress/sparsify.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"
#include "compress/refit.h"
#include "testing/reference_layer.h"

namespace bantam {
namespace {

using Layer = testing::ReferenceLayer;

class OnTheReferenceLayer : public ::testing::Test {
 protected:
  std::vector<float> Sparse(SparseMethod method, std::string_view sparsity, int threads = 2, const char* kernels = "auto") const {
    const KernelSet& set = *ChooseKernels(kernels).value();
    const auto pool = ThreadPool::Make(threads).value();
    std::vector<float> values = layer_.weights;
    const SparseRows matrix = {values.data(), Layer::kRows, Layer::kColumns};
    const Sparsity wanted = ParseSparsity(sparsity).value();
    if (method == SparseMethod::kMagnitude) SparsifyByMagnitude(matrix, wanted);
    if (method == SparseMethod::kWanda) SparsifyByWanda(matrix, wanted, layer_.Means());
    if (method == SparseMethod::kSparseGpt) {
      const GramFactor factor = FactorGram(layer_.Gram(set), set, *pool, {.order = ColumnOrder::kAsTheyStand}).value();
      SparsifyBySparseGpt(matrix, wanted, factor, set, *pool);
    }
    return values;
  }
  double Error(const std::vector<float>& values) { return layer_.Error(values); }

  Layer layer_;
};

// What the published implementations leave of the same layer.
TEST_F(OnTheReferenceLayer, ErrorsAreThoseOfThePublishedMethods) {
  struct Row {
    const char* sparsity;
    double magnitude, wanda, sparsegpt;
  };
  constexpr Row kRows[] = {{"25%", 0.0093, 0.0047, 0.0019},
                           {"50%", 0.0756, 0.0393, 0.0204},
                           {"70%", 0.228, 0.118, 0.080},
                           {"2:4", 0.140, 0.072, 0.031},
                           {"4:8", 0.107, 0.056, 0.026}};
  // 2 %, and half of the last digit that is given.
  const auto tolerance = [](double expected) { return 0.02 * expected + (expected < 0.02 ? 0.00005 : 0.0005); };
  for (const Row& row : kRows) {
    EXPECT_NEAR(Error(Sparse(SparseMethod::kMagnitude, row.sparsity)), row.magnitude, tolerance(row.magnitude)) << row.sparsity;
    EXPECT_NEAR(Error(Sparse(SparseMethod::kWanda, row.sparsity)), row.wanda, tolerance(row.wanda)) << row.sparsity;
    EXPECT_LE(Error(Sparse(SparseMethod::kSparseGpt, row.sparsity)), row.sparsegpt + tolerance(row.sparsegpt)) << row.sparsity;
  }
}

TEST_F(OnTheReferenceLayer, AsManyAreZeroAsWasSaid) {
  for (const SparseMethod method : {SparseMethod::kMagnitude, SparseMethod::kWanda, SparseMethod::kSparseGpt}) {
    const std::vector<float> half = Sparse(method, "50%");
    EXPECT_EQ(std::count(half.begin(), half.end(), 0.0f), static_cast<std::ptrdiff_t>(half.size() / 2));
    const std::vector<float> groups = Sparse(method, "2:4");
    for (size_t i = 0; i < groups.size(); i += 4) {
      EXPECT_EQ(std::count(groups.begin() + static_cast<std::ptrdiff_t>(i), groups.begin() + static_cast<std::ptrdiff_t>(i + 4), 0.0f), 2)
          << i;
    }
  }
}

TEST_F(OnTheReferenceLayer, ThreadsDoNotChangeIt) {
  EXPECT_EQ(Sparse(SparseMethod::kSparseGpt, "50%", 1), Sparse(SparseMethod::kSparseGpt, "50%", 3));
  EXPECT_EQ(Sparse(SparseMethod::kSparseGpt, "2:4", 1), Sparse(SparseMethod::kSparseGpt, "2:4", 3));
}

// With all but some columns gone, the rest is the least-squares solution: no small change of it is better.
TEST_F(OnTheReferenceLayer, RefittedColumnsAreTheBestOnes) {
  const KernelSet& kernels = *ChooseKernels("auto").value();
  const auto pool = ThreadPool::Make(2).value();
  std::vector<uint32_t> kept;
  for (uint32_t j = 0; j < Layer::kColumns; ++j) {
    if (j % 5 != 2) kept.push_back(j);
  }
  const UpperPanels gram = layer_.Gram(kernels);
  const auto refitted = RefitColumns({layer_.weights, Layer::kRows, gram, kept}, kernels, *pool);
  ASSERT_TRUE(refitted.ok()) << refitted.error().message();
  std::vector<float> plain(layer_.weights.size()), fitted(layer_.weights.size());
  for (size_t row = 0; row < Layer::kRows; ++row) {
    for (size_t k = 0; k < kept.size(); ++k) {
      plain[row * Layer::kColumns + kept[k]] = layer_.weights[row * Layer::kColumns + kept[k]];
      fitted[row * Layer::kColumns + kept[k]] = (*refitted)[row * kept.size() + k];
    }
  }
  const double error = Error(fitted);
  EXPECT_LT(error, 0.25 * Error(plain));
  // X^T X (W - W') is what the damping asks for in the columns that are kept, and without it 0.
  double damping = 0;
  for (const uint32_t j : kept) damping += kDamping * static_cast<double>(gram.At(j, j)) / static_cast<double>(kept.size());
  double largest = 0, scale = 0;
  for (size_t row = 0; row < 4; ++row) {
    for (const uint32_t j : kept) {
      double sum = 0, all = 0;
      for (uint32_t i = 0; i < Layer::kColumns; ++i) {
        const size_t at = row * Layer::kColumns + i;
        const double h = static_cast<double>(gram.At(std::min(i, j), std::max(i, j)));
        sum += h * (static_cast<double>(layer_.weights[at]) - static_cast<double>(fitted[at]));
        all += h * static_cast<double>(layer_.weights[at]);
      }
      const size_t at = row * Layer::kColumns + j;
      sum -= damping * (static_cast<double>(fitted[at]) - static_cast<double>(layer_.weights[at]));
      largest = std::max(largest, std::fabs(sum));
      scale = std::max(scale, std::fabs(all));
    }
  }
  EXPECT_LT(largest, 1e-3 * scale);
}

TEST(Sparsity, IsReadStrictly) {
  EXPECT_EQ(ParseSparsity("50%")->part, 0.5);
  EXPECT_EQ(ParseSparsity("2:4")->zeros, 2u);
  EXPECT_EQ(ParseSparsity("4:8")->group, 8u);
  for (const char* text : {"", "50", "0%", "100%", "%", "4:4", "0:4", "2:", ":4", "1:3", "2:999999999999999999999", "-1%", "2:4:8"}) {
    EXPECT_EQ(ParseSparsity(text).error().code(), Code::kInvalidArgument) << text;
  }
  EXPECT_EQ(SparseMethodFromName("random").error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace bantam
