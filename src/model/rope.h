// Rotary frequencies and their scaling.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace bantam {

struct RopeScaling {
  double base = 10000;
  size_t rotated_dimensions = 0;
  // Linear scaling (Chen et al., "Extending context window via position interpolation", 2023): positions are divided by it.
  double linear_factor = 1;
  // Divisors per pair, or empty. Llama 3's scaling comes as such a table in the file (rope_freqs.weight).
  std::span<const float> divisors;
};

// base^(-2 i / n) / linear_factor / divisors[i] for i < n / 2: radians per position.
std::vector<double> InverseFrequencies(const RopeScaling& scaling);

}  // namespace bantam
