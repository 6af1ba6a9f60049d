// Attention of every vector set: a template over its registers, in an anonymous namespace, included by the set's file.
//
// Keys and values are gone through in chunks of 64 tokens at the same places for every query, so that what a token gives depends neither on
// the tokens beside it nor on how a prompt was cut. What is loaded of a chunk serves several queries: neighbours in time and the heads of a
// group.
//
// A set's `V` has: F, a register of kLanes (4, 8 or 16) floats; kQueries (4) that share what is loaded; kScoreBlocks KV blocks whose scores
// are summed side by side; kValueVectors registers of values; Zero, Set, Load, Store, Add, Subtract, Multiply, Divide, MultiplyAdd(a, b,
// c) = a b + c, Max (of a NaN in the first place the second stays), Exp, Largest, Total, Prefetch. What keys (`K`) and values (`U`) are
// stored as has Bytes(n) of n elements, kScaled, Load(data, i) of kLanes elements from i on (a multiple of kLanes), and Load1.
#pragma once

#include "kernels/kernel_types.h"

namespace bantam::kernels {
namespace {

// What the codes of 4-bit values mean, in multiples of their scale: the table of IQ4_NL.
[[maybe_unused]] constexpr int8_t kInt4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

constexpr size_t kChunkBlocks = 4;
constexpr size_t kChunkTokens = kChunkBlocks * kKvTokens;

// A query of the tile, its running state, and what it sees of a chunk.
struct Query {
  const float* vector;
  float* sums;  // [head_dim]
  float* largest;
  float* total;
  size_t first;  // of the visible tokens
  size_t end;
  size_t from;  // the same within the chunk
  size_t to;
  float slope;  // of the head; 0: none
};
inline Query QueryAt(const Attention& a, size_t row, float* states) {
  float* state = states + row * AttentionStateFloats(a.head_dim);
  const size_t reach = a.n_context + row / a.group;
  return {a.query + row / a.group * a.row_stride + row % a.group * a.head_dim,
          state,
          state + a.head_dim,
          state + a.head_dim + 1,
          a.window == 0 || reach < a.window ? 0 : reach - a.window,
          reach < a.context_end ? reach : a.context_end,
          0,
          0,
          a.slopes == nullptr ? 0 : a.slopes[row % a.group]};
}

// The blocks of a chunk that some query of the call sees: [begin, end). Of others nothing is read.
struct Chunk {
  const uint8_t* keys[kChunkBlocks];
  const uint8_t* ahead[kChunkBlocks];  // those of the chunk behind it: heads of a block lie apart, so no prefetcher guesses them
  size_t begin;
  size_t end;
  size_t first_token;
};

// In the sequence, of a token counted through the blocks that are there.
inline size_t PositionOf(const Attention& a, size_t token) {
  return a.numbers == nullptr ? token : a.numbers[token / kKvTokens] * kKvTokens + token % kKvTokens;
}

// c tanh(s / c) = c - 2 c / (exp(2 s / c) + 1).
template <typename V>
inline typename V::F Cap(typename V::F score, float cap) {
  const auto grown = V::Add(V::Exp(V::Multiply(score, V::Set(2 / cap))), V::Set(1));
  return V::Subtract(V::Set(cap), V::Divide(V::Set(2 * cap), grown));
}

// scores[q][16 b + t]: products of kQ queries with the tokens of kB blocks.
template <typename V, typename K, size_t kQ, size_t kB>
inline void Score(const Attention& a, const Query* queries, const uint8_t* const* keys, const uint8_t* const* ahead,
                  float (*scores)[kChunkTokens]) {
  constexpr size_t kPerBlock = kKvTokens / V::kLanes;
  typename V::F sums[kQ][kB * kPerBlock];
  for (size_t q = 0; q < kQ; ++q) {
    for (auto& sum : sums[q]) sum = V::Zero();
  }
  for (size_t d = 0; d < a.head_dim; ++d) {
    typename V::F key[kB * kPerBlock];
    for (size_t b = 0; b < kB; ++b) {
      for (size_t v = 0; v < kPerBlock; ++v) key[b * kPerBlock + v] = K::Load(keys[b], d * kKvTokens + v * V::kLanes);
      V::Prefetch(ahead[b] + K::Bytes(d * kKvTokens));
    }
    for (size_t q = 0; q < kQ; ++q) {
      const auto x = V::Set(queries[q].vector[d]);
      for (size_t b = 0; b < kB * kPerBlock; ++b) sums[q][b] = V::MultiplyAdd(key[b], x, sums[q][b]);
    }
  }
  for (size_t q = 0; q < kQ; ++q) {
    for (size_t b = 0; b < kB * kPerBlock; ++b) V::Store(scores[q] + V::kLanes * b, sums[q][b]);
  }
}

// Scores to the softmax's weights, relative to the largest score so far. Returns how much of the earlier sums to keep.
template <typename V, typename K, typename U>
inline float Weigh(const Attention& a, const Query& query, const Chunk& chunk, float* scores) {
  if (query.from == query.to) return 1.0f;
  const float lowest = -__builtin_huge_valf();
  const size_t begin = query.from / kKvTokens * kKvTokens;
  const size_t end = (query.to + kKvTokens - 1) / kKvTokens * kKvTokens;
  const auto scales_of = [&](size_t t) {
    return reinterpret_cast<const float*>(chunk.keys[t / kKvTokens] + K::Bytes(kKvTokens * a.head_dim) + kKvTokens * U::Bytes(a.head_dim)) +
           t % kKvTokens;
  };
  for (size_t t = begin; t < end; t += V::kLanes) {
    auto score = V::Multiply(V::Load(scores + t), V::Set(a.scale));
    if (K::kScaled) score = V::Multiply(score, V::Load(scales_of(t)));
    if (a.softcap != 0) score = Cap<V>(score, a.softcap);
    V::Store(scores + t, score);
  }
  for (size_t first = begin; query.slope != 0 && first < end; first += kKvTokens) {
    const auto distance = static_cast<float>(PositionOf(a, query.end - 1)) - static_cast<float>(PositionOf(a, chunk.first_token + first));
    for (size_t t = 0; t < kKvTokens; ++t) scores[first + t] += query.slope * (static_cast<float>(t) - distance);
  }
  for (size_t t = begin; t < query.from; ++t) scores[t] = lowest;
  for (size_t t = query.to; t < end; ++t) scores[t] = lowest;
  auto most = V::Set(lowest);
  for (size_t t = begin; t < end; t += V::kLanes) most = V::Max(V::Load(scores + t), most);
  const float chunk_largest = V::Largest(most);
  const float raised = *query.largest > chunk_largest ? *query.largest : chunk_largest;
  float keep[V::kLanes];
  V::Store(keep, V::Exp(V::Set(*query.largest - raised)));
  auto total = V::Zero();
  for (size_t t = begin; t < end; t += V::kLanes) {
    auto weight = V::Exp(V::Subtract(V::Load(scores + t), V::Set(raised)));
    total = V::Add(total, weight);
    if (U::kScaled) weight = V::Multiply(weight, V::Load(scales_of(t) + kKvTokens));
    V::Store(scores + t, weight);
  }
  *query.total = *query.total * keep[0] + V::Total(total);
  *query.largest = raised;
  return keep[0];
}

// Adds the weighted values of tokens [from, to) to kV registers of dimensions from d on of kQ queries, after scaling what is there.
template <typename V, typename K, typename U, size_t kQ, size_t kV>
inline void AddRange(const Attention& a, const Query* queries, const Chunk& chunk, const float (*weights)[kChunkTokens], const float* keep,
                     size_t d, size_t from, size_t to) {
  const size_t value_offset = K::Bytes(kKvTokens * a.head_dim);
  typename V::F sums[kQ][kV];
  for (size_t q = 0; q < kQ; ++q) {
    for (size_t v = 0; v < kV; ++v) sums[q][v] = V::Multiply(V::Load(queries[q].sums + d + V::kLanes * v), V::Set(keep[q]));
  }
  for (size_t t = from; t < to; ++t) {
    const size_t at = value_offset + t % kKvTokens * U::Bytes(a.head_dim);
    const uint8_t* values = chunk.keys[t / kKvTokens] + at;
    const uint8_t* ahead = chunk.ahead[t / kKvTokens] + at + U::Bytes(d);
    for (size_t byte = 0; byte < U::Bytes(V::kLanes * kV); byte += 64) V::Prefetch(ahead + byte);
    typename V::F value[kV];
    for (size_t v = 0; v < kV; ++v) value[v] = U::Load(values, d + V::kLanes * v);
    for (size_t q = 0; q < kQ; ++q) {
      const auto weight = V::Set(weights[q][t]);
      for (size_t v = 0; v < kV; ++v) sums[q][v] = V::MultiplyAdd(value[v], weight, sums[q][v]);
    }
  }
  for (size_t q = 0; q < kQ; ++q) {
    for (size_t v = 0; v < kV; ++v) V::Store(queries[q].sums + d + V::kLanes * v, sums[q][v]);
  }
}

template <typename V, typename K, typename U, size_t kQ>
inline void AddAll(const Attention& a, const Query* queries, const Chunk& chunk, const float (*weights)[kChunkTokens], const float* keep,
                   size_t from, size_t to) {
  constexpr size_t kWide = V::kLanes * V::kValueVectors;
  size_t d = 0;
  for (; d + kWide <= a.head_dim; d += kWide) AddRange<V, K, U, kQ, V::kValueVectors>(a, queries, chunk, weights, keep, d, from, to);
  for (; d + V::kLanes <= a.head_dim; d += V::kLanes) AddRange<V, K, U, kQ, 1>(a, queries, chunk, weights, keep, d, from, to);
  for (; d < a.head_dim; ++d) {
    for (size_t q = 0; q < kQ; ++q) {
      float sum = queries[q].sums[d] * keep[q];
      for (size_t t = from; t < to; ++t) {
        const uint8_t* values = chunk.keys[t / kKvTokens] + K::Bytes(kKvTokens * a.head_dim) + t % kKvTokens * U::Bytes(a.head_dim);
        sum += U::Load1(values, d) * weights[q][t];
      }
      queries[q].sums[d] = sum;
    }
  }
}

// Tokens that only some of the queries see are added to those alone, each query's tokens in order: what is not visible is not
// multiplied with zero, for it need not be a number.
template <typename V, typename K, typename U, size_t kQ>
inline void AddValues(const Attention& a, const Query* queries, const Chunk& chunk, const float (*weights)[kChunkTokens], float* keep) {
  size_t from = 0;
  size_t to = kChunkTokens;
  for (size_t q = 0; q < kQ; ++q) {
    from = queries[q].from > from ? queries[q].from : from;
    to = queries[q].to < to ? queries[q].to : to;
  }
  if (from >= to) from = to = kChunkTokens;
  for (size_t q = 0; q < kQ; ++q) {
    const size_t end = queries[q].to < from ? queries[q].to : from;
    if (queries[q].from >= end) continue;
    AddAll<V, K, U, 1>(a, queries + q, chunk, weights + q, keep + q, queries[q].from, end);
    keep[q] = 1.0f;
  }
  if (from < to) {
    AddAll<V, K, U, kQ>(a, queries, chunk, weights, keep, from, to);
    for (size_t q = 0; q < kQ; ++q) keep[q] = 1.0f;
  }
  for (size_t q = 0; q < kQ; ++q) {
    const size_t begin = queries[q].from > to ? queries[q].from : to;
    if (begin < queries[q].to) AddAll<V, K, U, 1>(a, queries + q, chunk, weights + q, keep + q, begin, queries[q].to);
  }
}

template <typename V, typename K, typename U, size_t kQ>
void AttendChunk(const Attention& a, Query* queries, const Chunk& chunk) {
  alignas(64) float weights[kQ][kChunkTokens];
  for (size_t b = chunk.begin; b < chunk.end;) {
    auto* scores = reinterpret_cast<float(*)[kChunkTokens]>(weights[0] + b * kKvTokens);
    if (b % V::kScoreBlocks == 0 && b + V::kScoreBlocks <= chunk.end) {
      Score<V, K, kQ, V::kScoreBlocks>(a, queries, chunk.keys + b, chunk.ahead + b, scores);
      b += V::kScoreBlocks;
    } else {
      Score<V, K, kQ, 1>(a, queries, chunk.keys + b, chunk.ahead + b, scores);
      ++b;
    }
  }
  float keep[kQ];
  for (size_t q = 0; q < kQ; ++q) keep[q] = Weigh<V, K, U>(a, queries[q], chunk, weights[q]);
  AddValues<V, K, U, kQ>(a, queries, chunk, weights, keep);
}

// Tiles of queries over one chunk, which stays in the cache nearest.
template <typename V, typename K, typename U>
void AttendTiles(const Attention& a, float* states, size_t chunk_begin, const Chunk& chunk) {
  static_assert(V::kQueries == 4);
  const size_t rows = a.tokens * a.group;
  for (size_t row = 0; row < rows; row += V::kQueries) {
    const size_t n = rows - row < V::kQueries ? rows - row : V::kQueries;
    Query queries[V::kQueries];
    bool any = false;
    for (size_t q = 0; q < n; ++q) {
      Query& query = queries[q] = QueryAt(a, row + q, states);
      const size_t from = query.first > chunk_begin ? query.first - chunk_begin : 0;
      const size_t to = query.end < chunk_begin ? 0 : query.end - chunk_begin < kChunkTokens ? query.end - chunk_begin : kChunkTokens;
      query.from = from < to ? from : 0;
      query.to = from < to ? to : 0;
      any = any || from < to;
    }
    if (!any) continue;
    if (n == 4) AttendChunk<V, K, U, 4>(a, queries, chunk);
    if (n == 3) AttendChunk<V, K, U, 3>(a, queries, chunk);
    if (n == 2) AttendChunk<V, K, U, 2>(a, queries, chunk);
    if (n == 1) AttendChunk<V, K, U, 1>(a, queries, chunk);
  }
}

// Softmax with a running maximum (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
template <typename V, typename K, typename U>
void Attend(const Attention& a, size_t segment, float* states) {
  static_assert(kSegmentTokens % kChunkTokens == 0);
  const size_t rows = a.tokens * a.group;
  for (size_t row = 0; row < rows; ++row) {
    const Query query = QueryAt(a, row, states);
    for (size_t d = 0; d < a.head_dim; ++d) query.sums[d] = 0;
    *query.largest = -__builtin_huge_valf();
    *query.total = 0;
  }
  const size_t first = QueryAt(a, 0, states).first;
  const size_t context_end = QueryAt(a, rows - 1, states).end;
  const size_t segment_begin = segment * kSegmentTokens;
  const size_t end = context_end < segment_begin + kSegmentTokens ? context_end : segment_begin + kSegmentTokens;
  for (size_t begin = first > segment_begin ? first / kChunkTokens * kChunkTokens : segment_begin; begin < end; begin += kChunkTokens) {
    Chunk chunk = {{},
                   {},
                   first > begin ? (first - begin) / kKvTokens : 0,
                   end - begin < kChunkTokens ? (end - begin + kKvTokens - 1) / kKvTokens : kChunkBlocks,
                   begin};
    for (size_t b = chunk.begin; b < chunk.end; ++b) {
      const size_t block = begin / kKvTokens + b;
      // Into the next segment too, which most often comes next.
      const size_t ahead = (block + kChunkBlocks) * kKvTokens < context_end ? block + kChunkBlocks : block;
      chunk.keys[b] = a.kv_base + a.blocks[block] * a.block_bytes + a.head_offset;
      chunk.ahead[b] = a.kv_base + a.blocks[ahead] * a.block_bytes + a.head_offset;
    }
    AttendTiles<V, K, U>(a, states, begin, chunk);
  }
}

}  // namespace
}  // namespace bantam::kernels
