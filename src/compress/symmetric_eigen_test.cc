#include "compress/symmetric_eigen.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/rng.h"

namespace bantam {
namespace {

double Random(Rng& rng) { return static_cast<double>(rng.Next() >> 11) / 9007199254740992.0 - 0.5; }

// Largest element of A v_i - value_i v_i and of V V^T - I.
void ExpectDecomposed(const std::vector<double>& a, size_t n, size_t count, int threads) {
  const auto pool = ThreadPool::Make(threads).value();
  const auto eigen = DecomposeSymmetric(a, n, count, *pool);
  ASSERT_TRUE(eigen.ok()) << eigen.error().message();
  ASSERT_EQ(eigen->values.size(), n);
  ASSERT_EQ(eigen->vectors.size(), count * n);
  double norm = 0, trace = 0, sum = 0;
  for (size_t i = 0; i < n; ++i) {
    norm = std::max(norm, std::abs(eigen->values[i]));
    trace += a[i * n + i];
    sum += eigen->values[i];
    EXPECT_GE(eigen->values[i == 0 ? 0 : i - 1], eigen->values[i]);
  }
  EXPECT_NEAR(trace, sum, 1e-12 * norm * static_cast<double>(n));
  for (size_t v = 0; v < count; ++v) {
    const double* x = &eigen->vectors[v * n];
    for (size_t i = 0; i < n; ++i) {
      double product = 0;
      for (size_t j = 0; j < n; ++j) product += a[i * n + j] * x[j];
      ASSERT_NEAR(product, eigen->values[v] * x[i], 1e-12 * (norm + 1e-300)) << "vector " << v << " of " << n;
    }
    for (size_t w = 0; w <= v; ++w) {
      double dot = 0;
      for (size_t i = 0; i < n; ++i) dot += x[i] * eigen->vectors[w * n + i];
      ASSERT_NEAR(dot, v == w ? 1 : 0, 1e-12) << v << " and " << w << " of " << n;
    }
  }
}

std::vector<double> RandomSymmetric(size_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<double> a(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) a[i * n + j] = a[j * n + i] = Random(rng);
  }
  return a;
}

TEST(SymmetricEigen, VectorsAreAtRightAnglesAndMakeTheMatrix) {
  for (const size_t n : {1u, 2u, 3u, 7u, 31u, 32u, 33u, 65u, 200u}) ExpectDecomposed(RandomSymmetric(n, n), n, n, 2);
  ExpectDecomposed(RandomSymmetric(90, 4), 90, 5, 3);
  ExpectDecomposed(RandomSymmetric(90, 4), 90, 0, 3);
}

// What is hard: nothing at all, values that occur many times, few dimensions, and values over many orders of magnitude.
TEST(SymmetricEigen, ValuesMayBeEqualOrTinyOrHuge) {
  constexpr size_t kN = 48;
  ExpectDecomposed(std::vector<double>(kN * kN), kN, kN, 2);
  std::vector<double> same(kN * kN, 1.0);
  ExpectDecomposed(same, kN, kN, 2);
  for (size_t i = 0; i < kN; ++i) same[i * kN + i] = 3;
  ExpectDecomposed(same, kN, kN, 2);
  const std::vector<double> random = RandomSymmetric(kN, 9);
  for (const double scale : {1e-200, 1e200}) {
    std::vector<double> scaled = random;
    for (double& value : scaled) value *= scale;
    ExpectDecomposed(scaled, kN, kN, 2);
  }
  std::vector<double> graded = random;
  for (size_t i = 0; i < kN; ++i) {
    for (size_t j = 0; j < kN; ++j) graded[i * kN + j] *= std::exp2(-static_cast<double>(i + j));
  }
  ExpectDecomposed(graded, kN, kN, 2);
  std::vector<double> gram(kN * kN);  // of 5 rows
  for (size_t i = 0; i < kN; ++i) {
    for (size_t j = 0; j < kN; ++j) {
      for (size_t r = 0; r < 5; ++r) gram[i * kN + j] += random[r * kN + i] * random[r * kN + j];
    }
  }
  ExpectDecomposed(gram, kN, kN, 2);
}

TEST(SymmetricEigen, ThreadsChangeNothing) {
  constexpr size_t kN = 200;  // large enough for more than one
  const std::vector<double> a = RandomSymmetric(kN, 3);
  const auto one = DecomposeSymmetric(a, kN, 60, *ThreadPool::Make(1).value()).value();
  const auto three = DecomposeSymmetric(a, kN, 60, *ThreadPool::Make(3).value()).value();
  EXPECT_EQ(one.values, three.values);
  EXPECT_EQ(one.vectors, three.vectors);
}

TEST(SymmetricEigen, RefusesWhatIsNoNumber) {
  std::vector<double> a = RandomSymmetric(4, 1);
  a[1] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(DecomposeSymmetric(a, 4, 1, *ThreadPool::Make(1).value()).error().code(), Code::kCorrupt);
}

}  // namespace
}  // namespace bantam
