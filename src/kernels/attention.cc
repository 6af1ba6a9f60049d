#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

namespace bantam {

using kernels::Attention;
using kernels::AttentionStateFloats;
using kernels::kSegmentTokens;

namespace {

// The first token that some query of the call sees, and the end of what the last one sees.
struct Tokens {
  size_t first;
  size_t end;
};
Tokens TokensOf(const Attention& a) {
  return {a.window == 0 || a.n_context < a.window ? 0 : a.n_context - a.window, std::min(a.n_context + a.tokens - 1, a.context_end)};
}

}  // namespace

AttentionSegments SegmentsOf(const Attention& a) {
  const Tokens tokens = TokensOf(a);
  return {tokens.first / kSegmentTokens, (tokens.end + kSegmentTokens - 1) / kSegmentTokens};
}

size_t BlocksRead(const Attention& a, size_t segment) {
  const Tokens tokens = TokensOf(a);
  const size_t first = std::max(tokens.first, segment * kSegmentTokens);
  const size_t end = std::min(tokens.end, (segment + 1) * kSegmentTokens);
  return first >= end ? 0 : (end + kernels::kKvTokens - 1) / kernels::kKvTokens - first / kernels::kKvTokens;
}

// As softmax sums are merged anywhere: relative to the larger of both maxima.
void MergeAttention(const float* later, size_t rows, size_t head_dim, float* states) {
  const size_t stride = AttentionStateFloats(head_dim);
  for (size_t row = 0; row < rows; ++row, later += stride, states += stride) {
    float* largest = states + head_dim;
    float* total = states + head_dim + 1;
    const float later_largest = later[head_dim];
    const float later_total = later[head_dim + 1];
    // With no token seen there is no maximum to be relative to.
    if (later_total == 0) continue;
    if (*total == 0) {
      std::copy_n(later, stride, states);
      continue;
    }
    const float raised = std::max(*largest, later_largest);
    const float keep = std::exp(*largest - raised);
    const float add = std::exp(later_largest - raised);
    for (size_t d = 0; d < head_dim; ++d) states[d] = states[d] * keep + later[d] * add;
    *largest = raised;
    *total = *total * keep + later_total * add;
  }
}

void FinishAttention(const Attention& a, const float* states, float* out) {
  for (size_t row = 0; row < a.tokens * a.group; ++row, states += AttentionStateFloats(a.head_dim)) {
    float* to = out + row / a.group * (a.out_stride == 0 ? a.row_stride : a.out_stride) + row % a.group * a.head_dim;
    const float total = states[a.head_dim + 1];
    if (a.sinks == nullptr) {
      for (size_t d = 0; d < a.head_dim; ++d) to[d] = states[d] / total;
      continue;
    }
    const float sink = a.sinks[row % a.group];
    const float raised = std::max(states[a.head_dim], sink);
    const float keep = std::exp(states[a.head_dim] - raised);
    const float sum = total * keep + std::exp(sink - raised);
    for (size_t d = 0; d < a.head_dim; ++d) to[d] = states[d] * keep / sum;
  }
}

void AttendAll(kernels::AttentionFunction attend, const Attention& attention, float* scratch, float* out) {
  const size_t rows = attention.tokens * attention.group;
  float* later = scratch + rows * AttentionStateFloats(attention.head_dim);
  const AttentionSegments segments = SegmentsOf(attention);
  attend(attention, segments.begin, scratch);
  for (size_t segment = segments.begin + 1; segment < segments.end; ++segment) {
    attend(attention, segment, later);
    MergeAttention(later, rows, attention.head_dim, scratch);
  }
  FinishAttention(attention, scratch, out);
}

}  // namespace bantam
