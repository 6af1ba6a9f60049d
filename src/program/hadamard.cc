#include "program/hadamard.h"

#include <cmath>

namespace bantam {

void HadamardRotate(float* x, size_t head_dim) {
  const size_t block = head_dim & (~head_dim + 1);  // the lowest bit that is set
  for (size_t half = 1; half < block; half *= 2) {
    for (size_t begin = 0; begin < head_dim; begin += 2 * half) {
      float* low = x + begin;
      float* high = low + half;
      for (size_t i = 0; i < half; ++i) {
        const float sum = low[i] + high[i];
        high[i] = low[i] - high[i];
        low[i] = sum;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(block));
  for (size_t i = 0; i < head_dim; ++i) x[i] *= scale;
}

}  // namespace bantam
