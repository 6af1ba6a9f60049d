#include "program/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "base/rng.h"

namespace bantam {
namespace {

std::vector<float> RandomHead(Rng& rng, size_t n) {
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(rng.Uniform() * 2 - 1);
  return x;
}

// Row i of Sylvester's matrix has the sign of the parity of i & j in column j.
TEST(Hadamard, IsSylvestersMatrixInBlocks) {
  Rng rng(1);
  for (const auto& [head_dim, block] :
       {std::pair<size_t, size_t>(64, 64), {128, 128}, {80, 16}, {96, 32}, {24, 8}, {6, 2}, {7, 1}, {1, 1}}) {
    const std::vector<float> x = RandomHead(rng, head_dim);
    std::vector<float> got = x;
    HadamardRotate(got.data(), head_dim);
    for (size_t i = 0; i < head_dim; ++i) {
      double expected = 0;
      for (size_t j = 0; j < block; ++j) {
        const double value = static_cast<double>(x[i / block * block + j]);
        expected += std::popcount(i % block & j) % 2 == 0 ? value : -value;
      }
      ASSERT_NEAR(static_cast<double>(got[i]), expected / std::sqrt(static_cast<double>(block)), 1e-5) << head_dim << ": " << i;
    }
  }
}

TEST(Hadamard, KeepsProductsAndTurnsBack) {
  Rng rng(2);
  for (const size_t head_dim : {64, 96, 5}) {
    const std::vector<float> x = RandomHead(rng, head_dim);
    const std::vector<float> y = RandomHead(rng, head_dim);
    std::vector<float> rotated_x = x, rotated_y = y;
    HadamardRotate(rotated_x.data(), head_dim);
    HadamardRotate(rotated_y.data(), head_dim);
    double product = 0, rotated_product = 0;
    for (size_t i = 0; i < head_dim; ++i) {
      product += static_cast<double>(x[i]) * static_cast<double>(y[i]);
      rotated_product += static_cast<double>(rotated_x[i]) * static_cast<double>(rotated_y[i]);
    }
    EXPECT_NEAR(product, rotated_product, 1e-5);
    HadamardRotate(rotated_x.data(), head_dim);
    for (size_t i = 0; i < head_dim; ++i) EXPECT_NEAR(rotated_x[i], x[i], 1e-6f);
  }
}

}  // namespace
}  // namespace bantam
