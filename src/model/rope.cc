#include "model/rope.h"

#include <cmath>

#include "base/check.h"

namespace bantam {

std::vector<double> InverseFrequencies(const RopeScaling& scaling) {
  const size_t n = scaling.rotated_dimensions;
  CHECK(scaling.divisors.empty() || scaling.divisors.size() == n / 2);
  std::vector<double> frequencies(n / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(scaling.base, -2.0 * static_cast<double>(i) / static_cast<double>(n)) / scaling.linear_factor;
    if (!scaling.divisors.empty()) frequencies[i] /= static_cast<double>(scaling.divisors[i]);
  }
  return frequencies;
}

}  // namespace bantam
