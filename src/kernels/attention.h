// Attention over a whole context, of segments.
#pragma once

#include <cstddef>

#include "kernels/kernel_types.h"

namespace bantam {

// Room for the states of `rows` queries.
inline constexpr size_t AttentionStatesFloats(size_t rows, size_t head_dim) { return rows * kernels::AttentionStateFloats(head_dim); }

// The segments that some query of the call sees: [begin, end).
struct AttentionSegments {
  size_t begin;
  size_t end;
};
AttentionSegments SegmentsOf(const kernels::Attention& attention);

// KV blocks that a kernel reads for one segment.
size_t BlocksRead(const kernels::Attention& attention, size_t segment);

// Adds what a later segment gave to the states of the ones before it.
void MergeAttention(const float* later, size_t rows, size_t head_dim, float* states);

// The states of all segments together to what attention gives: out is [tokens] of [group][head_dim], out_stride floats apart.
void FinishAttention(const kernels::Attention& attention, const float* states, float* out);

// All of it, on this thread. `scratch` is two times the states of tokens * group queries.
void AttendAll(kernels::AttentionFunction attend, const kernels::Attention& attention, float* scratch, float* out);

}  // namespace bantam
