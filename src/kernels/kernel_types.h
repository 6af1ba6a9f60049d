// What kernels are given. Kernel files include only this, <cstddef>, <cstdint> and intrinsics: code built for a wide
// instruction set must never leak, as a shared inline function, into the portable path.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bantam::kernels {

inline constexpr size_t kRows = 16;            // rows of a panel
inline constexpr size_t kKinds = 20;           // panel kinds, in the order of PanelKind
inline constexpr size_t kColumnsMax = 8;       // activation vectors of one product call
inline constexpr size_t kKvTokens = 16;        // tokens of a KV block
inline constexpr size_t kAttentionTokens = 8;  // query positions of one attention call
inline constexpr float kQuantizedMin = 1e-30f;
inline constexpr size_t kKvForms = 4;  // F32, F16, int8, int8 keys with 4-bit values (KvFormOf)

// 32 activations as integers: x[i] is about scale * q[i].
struct ActivationBlock {
  float scale;
  int16_t sum16[2];  // sums of q[0..15] and q[16..31]
  int8_t q[32];      // -127..127
};
static_assert(sizeof(ActivationBlock) == 40);

// The same of 16 columns side by side, so that a product of all of them reads one stream.
inline constexpr size_t kTileColumns = 16;
struct ActivationTile {
  int8_t q[kTileColumns][32];
  float scale[kTileColumns];
  int16_t sum16[2][kTileColumns];
};
static_assert(sizeof(ActivationTile) == kTileColumns * sizeof(ActivationBlock));

// How many bytes ahead products ask memory for weights; 0: the processor's own guesses are better.
struct PrefetchDistances {
  size_t one = 0;  // with one column
  size_t few = 0;  // with 2 to kColumnsMax
  size_t Of(size_t columns) const { return columns > 1 ? few : one; }
};

// One panel of 16 rows x columns (docs/formats/panels.md).
struct Panel {
  const uint8_t* data;
  size_t columns;
  const int8_t* table;  // 16 values, for kinds whose codes index one
  float multiplier;     // of the sub-scales
  PrefetchDistances prefetch = {};
};

// out[c][r] = sum over k of panel[r][k] * column c [k]; out is [n][16], n in 1..kColumnsMax.
// Column pointers are const float* [columns], const ActivationBlock* [columns / 32] or const uint16_t* [columns] of bf16 with a zero behind
// an odd number of them, as InputOf (kernels.h) says.
using ProductFunction = void (*)(const Panel& panel, const void* const* columns, size_t n, float* out);

// Products of whole tiles with up to kTilePanels panels at once, and to the same bits. Weights are unpacked in chunks of a few blocks of 32
// columns, which stay in the first-level cache while tile after tile is multiplied with them.
inline constexpr size_t kTilePanels = 6;
inline constexpr size_t kChunkBytesMax = 6144;
struct TileProduct {
  const uint8_t* weights;  // [panels] chunks, kChunkBytesMax apart
  size_t panels;
  size_t blocks;                // of the chunk
  const ActivationTile* tiles;  // [blocks]
  float* sums;                  // sums[panel] is [16 columns][16 rows], to which is added; sums_stride floats from one to the next
  size_t sums_stride;
};
struct TileKernels {
  size_t chunk_blocks;  // 0: this set takes columns one by one
  // Blocks [first, first + n) of a panel, n at most chunk_blocks, to what the set's own product takes.
  void (*unpack)(const Panel& panel, size_t first, size_t n, uint8_t* out);
  void (*multiply)(const TileProduct& product);
};

// x [n] to n / 32 blocks: scale = max |x| / 127, round to nearest even; NaN gives 0, and so does a block whose largest
// magnitude is below kQuantizedMin (or is no number).
using QuantizeFunction = void (*)(const float* x, size_t n, ActivationBlock* out);

// x [n] to bf16: nearest even; what is below the normal range may become zero. A zero behind an odd number.
using ToBf16Function = void (*)(const float* x, size_t n, uint16_t* out);

// out[i] = x[i] / sqrt(mean(x^2) + epsilon) * weight[i]  (Zhang and Sennrich, "Root mean square layer normalization", 2019).
using RmsNormFunction = void (*)(const float* x, const float* weight, size_t n, float epsilon, float* out);

// What feed-forward layers do to an element x of their hidden rows.
enum class Activation : uint8_t {
  kSilu,         // x / (1 + exp(-x))
  kGelu,         // x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2  (Hendrycks and Gimpel, "Gaussian error linear units", 2016)
  kRelu,         // max(x, 0)
  kReluSquared,  // max(x, 0)^2  (So et al., "Primer", 2021)
  kErfGelu,      // x (1 + erf(x / sqrt(2))) / 2: the form that the tanh of kGelu approximates
  kClampedSilu,  // x' / (1 + exp(-1.702 x')), x' = min(x, 7); a factor is taken as clamp(factor, -7, 7) + 1 (gpt-oss)
};
inline constexpr size_t kActivations = 6;

// out[i] = activation(x[i]) * factor[i]; factor is null or another row, which makes it a gated unit (Shazeer, "GLU variants improve
// transformer", 2020). In place is allowed.
using ActivateFunction = void (*)(const float* x, const float* factor, size_t n, float* out);

// Consecutive query positions of one kv head: `group` query heads that share its keys and values. Token t sees the tokens in front of
// n_context + t, or the last `window` of them; what a token gives does not depend on the others.
// A KV block of one head: K as [head_dim][16 tokens], then V as [16 tokens][head_dim], then for integers the scales of K [16]
// and V [16] as f32. Values of 4 bits are codes into the table of IQ4_NL, two in a byte, the first in the low half; a token's begin with a
// byte.
struct Attention {
  const float* query;      // [tokens] of [group][head_dim], row_stride floats apart
  const uint8_t* kv_base;  // block b of the sequence starts at kv_base + blocks[b] * block_bytes
  const uint32_t* blocks;
  // Where some blocks are left out of the sequence, for none of the tokens sees them: the numbers of those that are there, in the sequence,
  // which linear biases count by; all other positions here count what is there. Or null.
  const uint32_t* numbers = nullptr;
  size_t block_bytes;
  size_t head_offset;  // of this layer and kv head in a block
  size_t head_dim;
  size_t group;
  size_t tokens;          // 1..kAttentionTokens
  size_t row_stride;      // of the query
  size_t out_stride = 0;  // of what FinishAttention gives; 0: the query's
  size_t window;          // 0: all tokens. Of blocks in front of it nothing is read
  size_t n_context;       // end of what the first token sees, at least 1
  // Of the sequence, where it ends before what a token could see: a token in the middle of its window sees later ones too.
  size_t context_end = SIZE_MAX;
  float scale;        // of the scores, usually 1 / sqrt(head_dim)
  float softcap = 0;  // c: scores s, after scaling, become c tanh(s / c) (Gemma Team, "Gemma 2", 2024); 0: they stay
  // Of the group's heads, or null: a score grows by slope * (key position - query position) (Press et al., "Train short, test long:
  // attention with linear biases", 2022). The query's position is that of the last token it may see.
  const float* slopes = nullptr;
  // Of the group's heads, or null: a score that takes its part of the softmax and has no value (Xiao et al., "Efficient streaming language
  // models with attention sinks", 2023). It counts once, when the segments are together.
  const float* sinks = nullptr;
};

// A context is attended to in segments that begin at multiples of this, which are merged in their order: different threads may take
// different segments, and the bits are the same.
inline constexpr size_t kSegmentTokens = 512;

// What one segment gives for each of [tokens * group] queries, AttentionStateFloats(head_dim) apart: sums [head_dim] of values times
// exp(score - largest), largest, and the total of those factors. A query that sees nothing of the segment has a total of 0.
inline constexpr size_t AttentionStateFloats(size_t head_dim) { return head_dim + 2; }
using AttentionFunction = void (*)(const Attention& attention, size_t segment, float* states);

// Depthwise causal convolution of columns [begin, end): out[t][c] = sum over k of weight[c][k] * in[t - taps + 1 + k][c] (+ bias[c]),
// through SiLU where wanted. Rows before the first are `before` [taps - 1][columns], or zeros where that is null; `after` gets the last
// taps - 1 rows. Neither the bounds nor how rows are cut change a bit.
inline constexpr size_t kTapsMax = 64;
struct Convolution {
  const float* in;  // [rows][columns]
  float* out;       // [rows][columns]
  size_t rows;
  size_t columns;
  size_t taps;          // 2..kTapsMax
  const float* weight;  // [columns][taps]
  const float* bias;    // or null
  bool silu;
  const float* before;
  float* after;
  size_t begin;
  size_t end;
};
using ConvolveFunction = void (*)(const Convolution& convolution);

// One head of a selective state space: for each of at most kScanRows rows
//   state[i][n] = decay * state[i][n] + step * x[i] * b[n], out[i] = sum over n of state[i][n] * c[n] + skip * x[i].
// With one decay for the whole state: Dao and Gu, "Transformers are SSMs", 2024; with exp(step * rates[n]) for each of its elements: Gu and
// Dao, "Mamba: linear-time sequence modeling with selective state spaces", 2023. How rows are cut changes no bit.
inline constexpr size_t kScanRows = 16;
struct StateScan {
  struct Rows {
    const float* data;
    size_t stride;  // floats from a row to the next
  };
  Rows x;               // [head_dim]
  Rows b;               // [state_size]
  Rows c;               // [state_size]
  const float* steps;   // one per row
  const float* decays;  // one per row, or null: rates
  const float* rates;   // [state_size]
  float* out;           // [head_dim]
  size_t out_stride;
  size_t rows;
  size_t head_dim;
  size_t state_size;
  float skip;
  const float* before;  // [head_dim][state_size], or null: zeros
  float* after;         // may be `before`
};
using ScanFunction = void (*)(const StateScan& scan);

// One head of a gated delta rule (Yang, Kautz and Hatamizadeh, "Gated delta networks", 2025): for each of at most kScanRows rows
//   state[i] = decay * state[i];  state[i] += beta * (v[i] - state[i] . k) * k;  out[i] = state[i] . q
// with k and q multiplied by numbers of their own. How rows are cut changes no bit.
struct DeltaScan {
  StateScan::Rows q;      // [key_dim]
  StateScan::Rows k;      // [key_dim]
  StateScan::Rows v;      // [value_dim]
  const float* q_scales;  // one per row, as the next three
  const float* k_scales;
  const float* betas;
  const float* decays;
  float* out;  // [value_dim]
  size_t out_stride;
  size_t rows;
  size_t value_dim;
  size_t key_dim;
  const float* before;  // [value_dim][key_dim], or null: zeros
  float* after;         // may be `before`
};
using DeltaFunction = void (*)(const DeltaScan& scan);

// A checksum of `bytes` bytes, read as fast as the set can: measures the memory, not the arithmetic.
using ReadFunction = uint64_t (*)(const uint8_t* data, size_t bytes);

// Arithmetic without memory: `rounds` rounds of multiply-adds on registers. Returns something that depends on them. Measures what
// the units can do at most.
struct Peak {
  uint64_t (*run)(uint64_t rounds);
  uint64_t multiplies_per_round;
};

struct KernelSet {
  const char* name;
  bool quantized[kKinds];  // the product of this kind takes ActivationBlocks
  ProductFunction product[kKinds];
  TileKernels tiles[kKinds];
  QuantizeFunction quantize;
  ToBf16Function to_bf16 = nullptr;  // null: the product of bf16 panels takes floats
  RmsNormFunction rms_norm;
  ActivateFunction activate[kActivations];  // in the order of Activation
  AttentionFunction attention[kKvForms];
  ConvolveFunction convolve;
  ScanFunction scan;
  DeltaFunction delta;
  ReadFunction read;
  Peak int8_peak;
  Peak float_peak;
};

}  // namespace bantam::kernels
