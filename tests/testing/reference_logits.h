// Reference logits: little-endian int32 n, int32 V, n token ids, n x V f32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

namespace bantam::testing {

struct ReferenceLogits {
  std::vector<uint32_t> tokens;
  std::vector<float> logits;
};

inline ReferenceLogits ReadReferenceLogits(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  uint32_t sizes[2] = {0, 0};
  std::memcpy(sizes, bytes.data(), sizeof(sizes));
  ReferenceLogits reference;
  reference.tokens.resize(sizes[0]);
  // A score of a whole text is one, whatever the number of its tokens.
  const size_t held = (bytes.size() - 8 - 4 * reference.tokens.size()) / sizeof(float);
  reference.logits.resize(std::min(size_t{sizes[0]} * sizes[1], held));
  std::memcpy(reference.tokens.data(), bytes.data() + 8, 4 * reference.tokens.size());
  std::memcpy(reference.logits.data(), bytes.data() + 8 + 4 * reference.tokens.size(), 4 * reference.logits.size());
  return reference;
}

// Sum of squared differences over sum of squares of the reference.
inline double Nmse(std::span<const float> got, std::span<const float> reference) {
  double difference = 0;
  double square = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double r = static_cast<double>(reference[i]);
    const double d = static_cast<double>(got[i]) - r;
    difference += d * d;
    square += r * r;
  }
  return difference / square;
}

}  // namespace bantam::testing
