#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "base/rng.h"
#include "kernels/kernel_types.h"
#include "kernels/kernels.h"

namespace bantam {
namespace {

using kernels::Convolution;
using kernels::StateScan;

std::vector<float> Random(size_t n, Rng& rng, double around = 0, double spread = 2) {
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(around + spread * (rng.Uniform() - 0.5));
  return values;
}

class Recurrence : public ::testing::TestWithParam<const KernelSet*> {};

// The definition, in doubles, over the whole text at once; and in pieces of rows and columns, through the state, to the bit.
TEST_P(Recurrence, ConvolutionsSumOverTheTaps) {
  constexpr size_t kRows = 11, kColumns = 39;
  Rng rng(1);
  for (const size_t taps : {2, 3, 4, 9, 20, 64}) {
    const auto in = Random(kRows * kColumns, rng);
    const auto weight = Random(kColumns * taps, rng);
    const auto bias = Random(kColumns, rng);
    std::vector<float> out(in.size()), after((taps - 1) * kColumns);
    Convolution whole = {in.data(),   out.data(),    kRows,   kColumns,     taps, weight.data(),
                         bias.data(), /*silu=*/true, nullptr, after.data(), 0,    kColumns};
    GetParam()->convolve(whole);
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
    std::vector<float> pieces(in.size()), states[2] = {std::vector<float>(after.size()), std::vector<float>(after.size())};
    size_t current = 0;
    for (size_t begin = 0, n = 1; begin < kRows; begin += n, n = std::min<size_t>(n + 2, kRows - begin)) {
      Convolution part = whole;
      part.in += begin * kColumns;
      part.out = pieces.data() + begin * kColumns;
      part.rows = n;
      part.before = begin == 0 ? nullptr : states[current].data();
      part.after = states[1 - current].data();
      for (part.begin = 0; part.begin < kColumns; part.begin = part.end) {
        part.end = std::min<size_t>(kColumns, part.begin + 7);
        GetParam()->convolve(part);
      }
      current = 1 - current;
    }
    EXPECT_EQ(pieces, out) << taps;
    EXPECT_EQ(states[current], after) << taps;
    whole.bias = nullptr;
    whole.silu = false;
    GetParam()->convolve(whole);
    EXPECT_NEAR(out[0], weight[taps - 1] * in[0], 1e-6f);
  }
}

TEST_P(Recurrence, ScansFollowTheRecurrence) {
  constexpr size_t kRows = 16, kStride = 300;
  for (const auto& [head_dim, n, each] : {std::tuple(1, 16, true), std::tuple(1, 5, true), std::tuple(4, 16, false),
                                          std::tuple(3, 37, false), std::tuple(2, 128, true), std::tuple(64, 293, false)}) {
    const auto dim = static_cast<size_t>(head_dim);
    const auto size = static_cast<size_t>(n);
    Rng rng(2);
    const auto x = Random(kRows * kStride, rng);
    const auto b = Random(kRows * kStride, rng);
    const auto c = Random(kRows * kStride, rng);
    const auto steps = Random(kRows, rng, 1, 2);
    const auto decays = Random(kRows, rng, 0.5, 1);
    const auto rates = Random(size, rng, -1, 2);
    std::vector<float> out(kRows * dim), after(dim * size);
    const StateScan scan = {.x = {x.data(), kStride},
                            .b = {b.data(), kStride},
                            .c = {c.data(), kStride},
                            .steps = steps.data(),
                            .decays = each ? nullptr : decays.data(),
                            .rates = rates.data(),
                            .out = out.data(),
                            .out_stride = dim,
                            .rows = kRows,
                            .head_dim = dim,
                            .state_size = size,
                            .skip = 1.7f,
                            .before = nullptr,
                            .after = after.data()};
    GetParam()->scan(scan);
    std::vector<double> state(dim * size);
    for (size_t t = 0; t < kRows; ++t) {
      const auto d = static_cast<double>(steps[t]);
      for (size_t i = 0; i < dim; ++i) {
        const auto xi = static_cast<double>(x[t * kStride + i]);
        double sum = static_cast<double>(1.7f) * xi;
        for (size_t k = 0; k < size; ++k) {
          double& s = state[i * size + k];
          const double decay = each ? std::exp(d * static_cast<double>(rates[k])) : static_cast<double>(decays[t]);
          s = decay * s + d * xi * static_cast<double>(b[t * kStride + k]);
          sum += s * static_cast<double>(c[t * kStride + k]);
        }
        EXPECT_NEAR(static_cast<double>(out[t * dim + i]), sum, 1e-4 * (1 + std::fabs(sum))) << size;
      }
    }
    std::vector<float> pieces(out.size()), states[2] = {std::vector<float>(after.size()), std::vector<float>(after.size())};
    size_t current = 0;
    for (size_t begin = 0, rows = 1; begin < kRows; begin += rows, rows = std::min<size_t>(rows + 1, kRows - begin)) {
      StateScan part = scan;
      for (StateScan::Rows* operand : {&part.x, &part.b, &part.c}) operand->data += begin * kStride;
      part.steps += begin;
      if (!each) part.decays += begin;
      part.out = pieces.data() + begin * dim;
      part.rows = rows;
      part.before = begin == 0 ? nullptr : states[current].data();
      if (begin % 2 == 0) current = 1 - current;  // in place at times
      part.after = states[current].data();
      GetParam()->scan(part);
    }
    EXPECT_EQ(pieces, out) << size;
    EXPECT_EQ(states[current], after) << size;
  }
}

TEST_P(Recurrence, DeltaRulesFollowTheirRule) {
  constexpr size_t kRows = 16, kStride = 300, kValues = 5;
  for (const size_t keys : {16, 37, 128}) {
    Rng rng(3);
    const auto q = Random(kRows * kStride, rng);
    const auto k = Random(kRows * kStride, rng);
    const auto v = Random(kRows * kStride, rng);
    const auto q_scales = Random(kRows, rng, 0.2, 0.1);
    const auto k_scales = Random(kRows, rng, 0.2, 0.1);
    const auto betas = Random(kRows, rng, 0.5, 1);
    const auto decays = Random(kRows, rng, 0.8, 0.4);
    std::vector<float> out(kRows * kValues), after(kValues * keys);
    const kernels::DeltaScan scan = {.q = {q.data(), kStride},
                                     .k = {k.data(), kStride},
                                     .v = {v.data(), kStride},
                                     .q_scales = q_scales.data(),
                                     .k_scales = k_scales.data(),
                                     .betas = betas.data(),
                                     .decays = decays.data(),
                                     .out = out.data(),
                                     .out_stride = kValues,
                                     .rows = kRows,
                                     .value_dim = kValues,
                                     .key_dim = keys,
                                     .before = nullptr,
                                     .after = after.data()};
    GetParam()->delta(scan);
    std::vector<double> state(kValues * keys);
    for (size_t t = 0; t < kRows; ++t) {
      for (size_t i = 0; i < kValues; ++i) {
        double known = 0, sum = 0;
        for (size_t n = 0; n < keys; ++n) {
          state[i * keys + n] *= static_cast<double>(decays[t]);
          known += state[i * keys + n] * static_cast<double>(k[t * kStride + n]) * static_cast<double>(k_scales[t]);
        }
        const double change = static_cast<double>(betas[t]) * (static_cast<double>(v[t * kStride + i]) - known);
        for (size_t n = 0; n < keys; ++n) {
          state[i * keys + n] += change * static_cast<double>(k[t * kStride + n]) * static_cast<double>(k_scales[t]);
          sum += state[i * keys + n] * static_cast<double>(q[t * kStride + n]) * static_cast<double>(q_scales[t]);
        }
        EXPECT_NEAR(static_cast<double>(out[t * kValues + i]), sum, 1e-4 * (1 + std::fabs(sum))) << keys;
      }
    }
    std::vector<float> pieces(out.size()), states[2] = {std::vector<float>(after.size()), std::vector<float>(after.size())};
    size_t current = 0;
    for (size_t begin = 0, rows = 1; begin < kRows; begin += rows, rows = std::min<size_t>(rows + 1, kRows - begin)) {
      kernels::DeltaScan part = scan;
      for (StateScan::Rows* operand : {&part.q, &part.k, &part.v}) operand->data += begin * kStride;
      for (const float** list : {&part.q_scales, &part.k_scales, &part.betas, &part.decays}) *list += begin;
      part.out = pieces.data() + begin * kValues;
      part.rows = rows;
      part.before = begin == 0 ? nullptr : states[current].data();
      if (begin % 2 == 0) current = 1 - current;  // in place at times
      part.after = states[current].data();
      GetParam()->delta(part);
    }
    EXPECT_EQ(pieces, out) << keys;
    EXPECT_EQ(states[current], after) << keys;
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, Recurrence, ::testing::ValuesIn(RunnableKernels()), [](const auto& test) {
  std::string name = test.param->name;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace bantam
