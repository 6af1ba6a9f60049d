#include "compress/error_feedback.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "tensor/group_pack.h"
#include "tensor/half.h"
#include "tensor/half_quadratic.h"
#include "testing/reference_layer.h"

namespace bantam {
namespace {

using Layer = testing::ReferenceLayer;

std::vector<uint8_t> Pack(const Layer& layer, DType type, const std::vector<float>& importance) {
  const size_t row_bytes = RowBytes(type, Layer::kColumns);
  std::vector<uint8_t> blocks(Layer::kRows * row_bytes);
  for (size_t r = 0; r < Layer::kRows; ++r) {
    const std::span<const float> row = std::span(layer.weights).subspan(r * Layer::kColumns, Layer::kColumns);
    EXPECT_TRUE(PackRow(type, row, importance, blocks.data() + r * row_bytes).ok());
  }
  return blocks;
}

std::vector<float> Unpacked(DType type, const std::vector<uint8_t>& blocks) {
  std::vector<float> values(Layer::kRows * Layer::kColumns);
  Unpack(type, blocks.data(), values.size(), values.data());
  return values;
}

// What plain rules, ggml's searches with importance, and those with the published error feedback behind them leave of the same layer.
TEST(ErrorFeedback, ReachesTheReferenceLayer) {
  struct Row {
    DType type;
    double plain, weighted, feedback;  // 0: not known
  };
  constexpr Row kRows[] = {{DType::kQ8_0, 2.6e-5, 2.6e-5, 7e-6},      {DType::kQ4_K, 0.00458, 0.00248, 0.00119},
                           {DType::kQ4_0, 0.00664, 0.00398, 0.00152}, {DType::kIQ4_NL, 0.00538, 0.00321, 0.00131},
                           {DType::kQ3_K, 0.0210, 0.0125, 0.0054},    {DType::kIQ4_XS, 0.00547, 0.00333, 0},
                           {DType::kQ2_K, 0.0805, 0.0343, 0},         {DType::kMXFP4, 0.0122, 0, 0}};
  constexpr double kTolerance = 1.02;
  Layer layer;
  const KernelSet& kernels = *ChooseKernels("auto").value();
  const auto pool = ThreadPool::Make(2).value();
  const GramFactor factor = FactorGram(layer.Gram(kernels), kernels, *pool).value();
  for (const Row& row : kRows) {
    const std::string name(Info(row.type).name);
    EXPECT_LE(layer.Error(Unpacked(row.type, Pack(layer, row.type, {}))), kTolerance * row.plain) << name;
    std::vector<uint8_t> blocks = Pack(layer, row.type, layer.Means());
    const double weighted = layer.Error(Unpacked(row.type, blocks));
    if (row.weighted > 0) {
      EXPECT_LE(weighted, kTolerance * row.weighted) << name;
    }
    ChooseCodes({row.type, layer.weights.data(), Layer::kRows, blocks.data()}, factor, kernels);
    const double fed = layer.Error(Unpacked(row.type, blocks));
    EXPECT_LT(fed, 0.65 * weighted) << name;
    if (row.feedback > 0) {
      EXPECT_LE(fed, kTolerance * row.feedback) << name;
    }
  }
}

// Integers in groups: what round to nearest and published GPTQ (activation order, static groups) leave of the same layer.
TEST(ErrorFeedback, GroupsReachTheReferenceLayer) {
  struct Row {
    DType type;
    size_t group;
    double plain, feedback;  // 0: not known
  };
  constexpr Row kRows[] = {{DType::kQ4_0, 128, 0.010092, 0},       {DType::kQ4_0, 64, 0.008980, 0},
                           {DType::kInt3, 128, 0.047445, 0},       {DType::kQ4_1, 128, 0.008798, 0.002400},
                           {DType::kQ4_1, 64, 0.007478, 0.002062}, {DType::kInt3M, 128, 0.040819, 0.011032}};
  Layer layer;
  const KernelSet& kernels = *ChooseKernels("auto").value();
  const auto pool = ThreadPool::Make(2).value();
  const GramFactor factor = FactorGram(layer.Gram(kernels), kernels, *pool).value();
  const std::vector<float> means = layer.Means();
  for (const Row& row : kRows) {
    const std::string name = std::string(Info(row.type).name) + " " + std::to_string(row.group);
    const auto pack = [&](const std::vector<float>& importance) {
      const size_t row_bytes = RowBytes(row.type, Layer::kColumns);
      std::vector<uint8_t> blocks(Layer::kRows * row_bytes);
      for (size_t r = 0; r < Layer::kRows; ++r) {
        const std::span<const float> values = std::span(layer.weights).subspan(r * Layer::kColumns, Layer::kColumns);
        EXPECT_TRUE(PackGroups(row.type, row.group, values, importance, blocks.data() + r * row_bytes).ok());
      }
      return blocks;
    };
    const auto feed = [&](std::vector<uint8_t> blocks) {
      ChooseCodes({row.type, layer.weights.data(), Layer::kRows, blocks.data()}, factor, kernels);
      return layer.Error(Unpacked(row.type, blocks));
    };
    const std::vector<uint8_t> plain = pack({});
    EXPECT_NEAR(layer.Error(Unpacked(row.type, plain)) / row.plain, 1, 0.02) << name;
    if (row.feedback > 0) {
      EXPECT_NEAR(feed(plain) / row.feedback, 1, 0.02) << name;
    }
    // Scales that are searched for with importance are better still.
    EXPECT_LT(feed(pack(means)), feed(plain)) << name;
  }
}

// The published form of the algorithm: the inverse of the Gram matrix, from which each column that is done is eliminated, in doubles.
std::vector<float> PublishedFeedback(const Layer& layer, DType type, const std::vector<uint8_t>& blocks, const UpperPanels& gram) {
  constexpr size_t n = Layer::kColumns;
  double mean = 0;
  for (size_t i = 0; i < n; ++i) mean += static_cast<double>(gram.At(i, i)) / n;
  std::vector<double> inverse(n * n);
  std::vector<double> h(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j)
      h[i * n + j] = static_cast<double>(gram.At(std::min(i, j), std::max(i, j))) + (i == j ? kDamping * mean : 0);
    inverse[i * n + i] = 1;
  }
  for (size_t p = 0; p < n; ++p) {  // Gauss and Jordan's elimination; positive definite, so no pivots are looked for
    const double scale = 1 / h[p * n + p];
    for (size_t j = 0; j < n; ++j) h[p * n + j] *= scale;
    for (size_t j = 0; j < n; ++j) inverse[p * n + j] *= scale;
    for (size_t i = 0; i < n; ++i) {
      const double factor = h[i * n + p];
      if (i == p || factor == 0) continue;
      for (size_t j = 0; j < n; ++j) h[i * n + j] -= factor * h[p * n + j];
      for (size_t j = 0; j < n; ++j) inverse[i * n + j] -= factor * inverse[p * n + j];
    }
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return gram.At(a, a) > gram.At(b, b); });
  std::vector<double> w(layer.weights.begin(), layer.weights.end());
  std::vector<float> out(w.size());
  const std::vector<float> grid = Unpacked(type, blocks);
  for (size_t done = 0; done < n; ++done) {
    const size_t c = order[done];
    const double pivot = inverse[c * n + c];
    for (size_t r = 0; r < Layer::kRows; ++r) {
      // Q4_0: the scale of a block, levels -8 to 7.
      uint16_t bits;
      std::memcpy(&bits, blocks.data() + r * RowBytes(type, n) + c / 32 * 18, 2);
      const double step = static_cast<double>(F16ToF32(bits));
      const double q = step * std::clamp(std::nearbyint(w[r * n + c] / step), -8.0, 7.0);
      out[r * n + c] = static_cast<float>(q);
      const double error = (w[r * n + c] - q) / pivot;
      for (size_t i = done; i < n; ++i) w[r * n + order[i]] -= error * inverse[c * n + order[i]];
    }
    for (size_t i = done + 1; i < n; ++i) {
      const double factor = inverse[order[i] * n + c] / pivot;
      for (size_t j = done + 1; j < n; ++j) inverse[order[i] * n + order[j]] -= factor * inverse[c * n + order[j]];
    }
  }
  return out;
}

TEST(ErrorFeedback, IsThePublishedAlgorithm) {
  Layer layer;
  const KernelSet& kernels = *ChooseKernels("ref").value();
  const auto pool = ThreadPool::Make(1).value();
  std::vector<uint8_t> blocks = Pack(layer, DType::kQ4_0, layer.Means());
  const UpperPanels gram = layer.Gram(kernels);
  const std::vector<float> published = PublishedFeedback(layer, DType::kQ4_0, blocks, gram);
  const GramFactor factor = FactorGram(gram, kernels, *pool).value();
  ChooseCodes({DType::kQ4_0, layer.weights.data(), Layer::kRows, blocks.data()}, factor, kernels);
  const std::vector<float> ours = Unpacked(DType::kQ4_0, blocks);
  size_t same = 0;
  for (size_t i = 0; i < ours.size(); ++i) same += std::fabs(ours[i] - published[i]) < 1e-6f ? 1 : 0;
  // Where a value lies in the middle of two, single precision may choose the other, and what follows differs.
  EXPECT_GT(static_cast<double>(same), 0.98 * static_cast<double>(ours.size()));
  EXPECT_NEAR(layer.Error(ours) / layer.Error(published), 1, 0.005);
}

TEST(ErrorFeedback, NeitherThreadsNorRowsTogetherChangeIt) {
  Layer layer;
  const KernelSet& kernels = *ChooseKernels("auto").value();
  const std::vector<uint8_t> packed = Pack(layer, DType::kQ3_K, layer.Means());
  std::vector<std::vector<uint8_t>> results;
  for (const int threads : {1, 3}) {
    const auto pool = ThreadPool::Make(threads).value();
    const GramFactor factor = FactorGram(layer.Gram(kernels), kernels, *pool).value();
    std::vector<uint8_t> blocks = packed;
    const size_t row_bytes = RowBytes(DType::kQ3_K, Layer::kColumns);
    for (size_t r = 0; r < Layer::kRows; r += static_cast<size_t>(5 * threads)) {
      const size_t count = std::min(static_cast<size_t>(5 * threads), Layer::kRows - r);
      ChooseCodes({DType::kQ3_K, layer.weights.data() + r * Layer::kColumns, count, blocks.data() + r * row_bytes}, factor, kernels);
    }
    results.push_back(blocks);
  }
  EXPECT_EQ(results[0], results[1]);
}

// R R^T is the damped matrix again, in the factor's order, for sizes that are no whole panels too.
TEST(FactorGram, GivesTheMatrixBack) {
  const KernelSet& kernels = *ChooseKernels("auto").value();
  const auto pool = ThreadPool::Make(2).value();
  for (const size_t n : {1u, 7u, 16u, 33u, 127u}) {
    Rng rng(n);
    const size_t rows = n + 20;
    std::vector<float> x(rows * n), xt(rows * n);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = i % n == n / 2 && n > 2 ? 0 : static_cast<float>(rng.Uniform() - 0.3);  // of one column nothing is seen
      xt[i % n * rows + i / n] = x[i];
    }
    UpperPanels gram(n);
    AddGram({x.data(), xt.data(), rows}, kernels, /*thread=*/0, /*team=*/1, &gram);
    double mean = 0;
    for (size_t i = 0; i < n; ++i) mean += static_cast<double>(gram.At(i, i)) / static_cast<double>(n);
    const GramFactor factor = FactorGram(gram, kernels, *pool).value();
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = i; j < n; ++j) {
        double sum = 0;
        for (size_t k = j; k < n; ++k) sum += static_cast<double>(factor.r.At(i, k)) * static_cast<double>(factor.r.At(j, k));
        const size_t a = std::min(factor.order[i], factor.order[j]);
        const size_t b = std::max(factor.order[i], factor.order[j]);
        double expected = 0;
        for (size_t r = 0; r < rows; ++r) expected += static_cast<double>(x[r * n + a]) * static_cast<double>(x[r * n + b]);
        if (i == j) expected = expected == 0 ? 1 : expected + kDamping * mean;
        EXPECT_NEAR(sum, expected, 1e-4 * std::max(mean, 1.0)) << n << ": " << i << ", " << j;
      }
    }
  }
}

TEST(FactorGram, RefusesNumbersThatAreNone) {
  const auto pool = ThreadPool::Make(1).value();
  UpperPanels gram(4);
  gram.At(1, 1) = NAN;
  EXPECT_EQ(FactorGram(std::move(gram), *ChooseKernels("auto").value(), *pool).error().code(), Code::kCorrupt);
}

// Groups of floats with a scale and a minimum of their own, as others measured them (research notes, section 1.3).
TEST(HalfQuadratic, ReachesTheReferenceLayer) {
  Layer layer;
  struct Row {
    size_t group;
    int high;
    double plain, searched;
  };
  for (const auto& [group, high, plain, searched] :
       {Row{64, 15, 0.007478, 0.00647}, {128, 15, 0.008798, 0.00817}, {128, 7, 0.040819, 0.0364}}) {
    std::vector<float> packed[2];
    for (size_t at = 0; at < layer.weights.size(); at += group) {
      const std::span<const float> x = std::span(layer.weights).subspan(at, group);
      const auto [low, top] = std::minmax_element(x.begin(), x.end());
      // The plain rule of those figures has whole numbers for zeros, and 0 in its range.
      const float step = (std::max(*top, 0.0f) - std::min(*low, 0.0f)) / static_cast<float>(high);
      const ScaleAndMin pairs[] = {{step, step * std::nearbyint(-std::min(*low, 0.0f) / step)},
                                   SearchHalfQuadratic(x, high, /*positive_min=*/false)};
      for (size_t i = 0; i < 2; ++i) {
        const auto [d, m] = pairs[i];
        for (const float value : x)
          packed[i].push_back(d * std::clamp(std::nearbyint((value + m) / d), 0.0f, static_cast<float>(high)) - m);
      }
    }
    EXPECT_NEAR(layer.Error(packed[0]) / plain, 1, 0.02) << group;
    EXPECT_LE(layer.Error(packed[1]), 1.02 * searched) << group << " " << high;
  }
}

}  // namespace
}  // namespace bantam
