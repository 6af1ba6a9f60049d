// The layer on which the figures of other implementations were measured.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "compress/gram.h"

namespace bantam::testing {

// The generator of the reference layer: sums of four 16-bit halves, which need no library.
class Clt4 {
 public:
  explicit Clt4(uint64_t seed) : state_(seed) {}
  float Next() {
    const uint32_t a = Word();
    const uint32_t b = Word();
    const auto sum = static_cast<int64_t>((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16)) - 131070;
    return static_cast<float>(sum) / 65536.0f;
  }

 private:
  uint32_t Word() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }
  uint64_t state_;
};

// One layer that another implementation was measured on: random weights, and activations whose neighbours are alike and eight columns of
// which are large.
struct ReferenceLayer {
  static constexpr size_t kRows = 256, kColumns = 512, kTokens = 1024;
  std::vector<float> weights, activations;

  ReferenceLayer() : weights(kRows * kColumns), activations(kTokens * kColumns) {
    Clt4 of_weights(1);
    for (float& value : weights) value = of_weights.Next() / 16;
    Clt4 of_activations(2);
    std::vector<float> independent(activations.size());
    for (float& value : independent) value = of_activations.Next();
    for (size_t t = 0; t < kTokens; ++t) {
      for (size_t j = 0; j < kColumns; ++j) {
        double sum = 0;
        double factor = j % 64 == 7 ? 8 : 1;
        for (size_t k = 0; k < 6; ++k, factor *= 0.75) sum += factor * static_cast<double>(independent[t * kColumns + (j + k) % kColumns]);
        activations[t * kColumns + j] = static_cast<float>(sum);
      }
    }
  }

  // |X (W - Q)^T|^2 / |X W^T|^2, by way of X^T X.
  double Error(const std::vector<float>& packed) {
    if (gram_.empty()) {
      gram_.resize(kColumns * kColumns);
      for (size_t t = 0; t < kTokens; ++t) {
        const float* x = activations.data() + t * kColumns;
        for (size_t i = 0; i < kColumns; ++i) {
          for (size_t j = 0; j < kColumns; ++j) gram_[i * kColumns + j] += static_cast<double>(x[i]) * static_cast<double>(x[j]);
        }
      }
    }
    std::vector<float> zeros(packed.size());
    return Distance(packed) / Distance(zeros);
  }

  std::vector<float> Means() const {
    std::vector<double> sums(kColumns);
    for (size_t i = 0; i < activations.size(); ++i) sums[i % kColumns] += std::pow(static_cast<double>(activations[i]), 2) / kTokens;
    return {sums.begin(), sums.end()};
  }

  UpperPanels Gram(const KernelSet& kernels) const {
    UpperPanels gram(kColumns);
    std::vector<float> turned(activations.size());
    for (size_t i = 0; i < activations.size(); ++i) turned[i % kColumns * kTokens + i / kColumns] = activations[i];
    for (int thread = 0; thread < 3; ++thread) AddGram({activations.data(), turned.data(), kTokens}, kernels, thread, /*team=*/3, &gram);
    return gram;
  }

 private:
  double Distance(const std::vector<float>& packed) const {
    double distance = 0;
    std::vector<double> d(kColumns);
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t j = 0; j < kColumns; ++j)
        d[j] = static_cast<double>(weights[r * kColumns + j]) - static_cast<double>(packed[r * kColumns + j]);
      for (size_t i = 0; i < kColumns; ++i) {
        double sum = 0;
        for (size_t j = 0; j < kColumns; ++j) sum += gram_[i * kColumns + j] * d[j];
        distance += d[i] * sum;
      }
    }
    return distance;
  }
  std::vector<double> gram_;
};

}  // namespace bantam::testing
