#include "program/recurrence.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace bantam {
namespace {

std::vector<float> Random(size_t n, Rng& rng, double around = 0, double spread = 2) {
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(around + spread * (rng.Uniform() - 0.5));
  return values;
}

// The definition, in doubles, over the whole text at once.
TEST(Convolve, IsTheSumOverTheTaps) {
  Rng rng(1);
  constexpr size_t kRows = 11, kColumns = 7;
  for (const size_t taps : {2, 3, 4, 9, 20}) {
    const auto in = Random(kRows * kColumns, rng);
    const auto weight = Random(kColumns * taps, rng);
    const auto bias = Random(kColumns, rng);
    std::vector<float> out(in.size()), after((taps - 1) * kColumns);
    Convolve({in.data(), out.data(), kRows, kColumns, taps, weight.data(), bias.data(), /*silu=*/true, nullptr, after.data()}, 0, 3);
    Convolve({in.data(), out.data(), kRows, kColumns, taps, weight.data(), bias.data(), /*silu=*/true, nullptr, after.data()}, 3, kColumns);
    for (size_t t = 0; t < kRows; ++t) {
      for (size_t c = 0; c < kColumns; ++c) {
        double sum = static_cast<double>(bias[c]);
        for (size_t k = 0; k < taps; ++k) {
          if (t + k + 1 >= taps)
            sum += static_cast<double>(weight[c * taps + k]) * static_cast<double>(in[(t + k + 1 - taps) * kColumns + c]);
        }
        EXPECT_NEAR(static_cast<double>(out[t * kColumns + c]), sum / (1 + std::exp(-sum)), 1e-5) << taps;
      }
    }
    // In pieces, through the state: the same bits, and the same state at the end.
    std::vector<float> pieces(in.size()), states[2] = {std::vector<float>(after.size()), std::vector<float>(after.size())};
    size_t current = 0;
    for (size_t begin = 0, n = 1; begin < kRows; begin += n, n = std::min<size_t>(n + 2, kRows - begin)) {
      const float* before = begin == 0 ? nullptr : states[current].data();
      Convolve({in.data() + begin * kColumns, pieces.data() + begin * kColumns, n, kColumns, taps, weight.data(), bias.data(), true, before,
                states[1 - current].data()},
               0, kColumns);
      current = 1 - current;
    }
    EXPECT_EQ(pieces, out) << taps;
    EXPECT_EQ(states[current], after) << taps;
  }
}

class ScanTest : public ::testing::TestWithParam<std::tuple<size_t, size_t, bool>> {};

TEST_P(ScanTest, IsTheRecurrence) {
  const auto [head_dim, n, each] = GetParam();
  constexpr size_t kRows = 13, kStride = 100;
  Rng rng(2);
  const auto x = Random(kRows * kStride, rng);
  const auto b = Random(kRows * kStride, rng);
  const auto c = Random(kRows * kStride, rng);
  const auto dt = Random(kRows * kStride, rng, 0, 60);  // both sides of where softplus is the number itself
  const auto decay = Random(each ? n : 1, rng, -1, 1);
  constexpr float kBias = 0.3f, kSkip = 1.7f;
  std::vector<float> out(kRows * head_dim), after(head_dim * n);
  const Scan scan = {{x.data(), kStride},
                     {b.data(), kStride},
                     {c.data(), kStride},
                     {dt.data(), kStride},
                     out.data(),
                     head_dim,
                     kRows,
                     head_dim,
                     decay,
                     n,
                     kBias,
                     kSkip,
                     nullptr,
                     after.data()};
  ScanHead(scan);
  std::vector<double> state(head_dim * n);
  for (size_t t = 0; t < kRows; ++t) {
    const double d = std::log1p(std::exp(static_cast<double>(dt[t * kStride] + kBias)));
    for (size_t i = 0; i < head_dim; ++i) {
      const auto xi = static_cast<double>(x[t * kStride + i]);
      double sum = static_cast<double>(kSkip) * xi;
      for (size_t k = 0; k < n; ++k) {
        double& s = state[i * n + k];
        s = std::exp(d * static_cast<double>(decay[each ? k : 0])) * s + d * xi * static_cast<double>(b[t * kStride + k]);
        sum += s * static_cast<double>(c[t * kStride + k]);
      }
      EXPECT_NEAR(static_cast<double>(out[t * head_dim + i]), sum, 1e-4 * (1 + std::fabs(sum)));
    }
  }
  std::vector<float> pieces(out.size()), states[2] = {std::vector<float>(after.size()), std::vector<float>(after.size())};
  size_t current = 0;
  for (size_t begin = 0, rows = 1; begin < kRows; begin += rows, rows = std::min<size_t>(rows + 1, kRows - begin)) {
    const size_t at = begin * kStride;
    ScanHead({{x.data() + at, kStride},
              {b.data() + at, kStride},
              {c.data() + at, kStride},
              {dt.data() + at, kStride},
              pieces.data() + begin * head_dim,
              head_dim,
              rows,
              head_dim,
              decay,
              n,
              kBias,
              kSkip,
              begin == 0 ? nullptr : states[current].data(),
              states[1 - current].data()});
    current = 1 - current;
  }
  EXPECT_EQ(pieces, out);
  EXPECT_EQ(states[current], after);
}

INSTANTIATE_TEST_SUITE_P(All, ScanTest,
                         ::testing::Values(std::tuple(1, 16, true), std::tuple(1, 5, true), std::tuple(4, 16, false),
                                           std::tuple(3, 37, false), std::tuple(64, 100, false)));

}  // namespace
}  // namespace bantam
