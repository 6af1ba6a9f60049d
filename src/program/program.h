// A Program: one model's forward pass as a flat list of operations over numbered buffers. No host pointers, no virtual
// calls: the CPU executes it, the planner sums it, and later a GPU captures it, training differentiates it, an emitter
// prints it. Lowering writes the plain form; Fuse() (fuse.h) rewrites it for a kernel set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "kernels/kernel_types.h"
#include "program/kv_layout.h"
#include "program/rope.h"
#include "tensor/dtype.h"

namespace bantam {

using BufferId = uint32_t;
using WeightId = uint32_t;
using RopeId = uint32_t;
inline constexpr uint32_t kNone = UINT32_MAX;

// How many rows a buffer has in one step.
enum class Rows : uint8_t {
  kTokens,      // one per token of the step
  kTokenSlots,  // one per token and chosen expert
  kOutputs,     // one per token whose logits are wanted
};

enum class BufferForm : uint8_t {
  kFloats,     // f32 [rows, width]
  kQuantized,  // ActivationBlock [rows, width / 32]
  kBf16,       // bf16 [rows, width, rounded up to an even number]
  kIntegers,   // int32 [rows, width]
};

// Written from floats for products to read.
inline bool IsRounded(BufferForm form) { return form == BufferForm::kQuantized || form == BufferForm::kBf16; }

struct BufferSpec {
  std::string name;
  size_t width = 0;  // elements per row
  Rows rows = Rows::kTokens;
  BufferForm form = BufferForm::kFloats;
};

enum class WeightStorage : uint8_t {
  kPanels,  // matrices [rows, columns] as panels
  kVector,  // f32 [columns]
  kRows,    // rows as the file stores them: for look-ups, and where memory is short for products, which pack a panel each time
  kOrder,   // uint32 [rows, columns], each below `columns`: where the columns of a product's input are taken from
};

struct WeightSpec {
  std::string name;  // of the tensor in the file
  DType dtype = DType::kF32;
  WeightStorage storage = WeightStorage::kPanels;
  size_t columns = 0;
  size_t rows = 1;
  size_t matrices = 1;  // experts
  size_t first = 0;     // row of the tensor that is row 0, or element of a vector: files put several matrices into one tensor
  size_t stride = 0;    // rows of the tensor from one matrix to the next; 0: rows

  bool operator==(const WeightSpec&) const = default;
};

// ---- The plain form ----

// out[t] = row token[t] of the table, times scale; zeros for tokens that it does not have.
struct EmbedOp {
  WeightId table;
  BufferId out;
  float scale = 1;
};
// out[t] += row position[t] of the table, or row type[t].
struct EmbedPositionsOp {
  WeightId table;
  BufferId out;
  bool types = false;
};
enum class NormKind : uint8_t {
  kRms,    // Zhang and Sennrich, "Root mean square layer normalization", 2019
  kLayer,  // Ba et al., "Layer normalization", 2016
};
// Normalises each of `groups` equal parts of a row by itself; in place is allowed. Weight and bias are kNone, as wide as a part, or as wide
// as the row.
struct NormOp {
  BufferId in;
  BufferId out;
  WeightId weight = kNone;
  WeightId bias = kNone;
  float epsilon = 0;
  NormKind kind = NormKind::kRms;
  size_t groups = 1;
};
// The cosines and sines of every token's position: out is [tokens, rotated dimensions] as pairs.
struct RopeAnglesOp {
  RopeId rope;
  BufferId out;
};
// Rotates the heads of `in` in place.
struct RopeOp {
  RopeId rope;
  BufferId angles;
  BufferId in;
  size_t heads;
  size_t head_dim;
};
// Appends keys and values to the sequence's KV blocks of `layer`.
struct KvAppendOp {
  BufferId keys;
  BufferId values;
  uint32_t layer;
};
// Scores of the query at a position are multiplied by 1 + scale * ln(1 + floor(position / length)) (Meta's reference code of Llama 4,
// 2025).
struct AttentionTemperature {
  float scale = 0;  // 0: they are not
  size_t length = 1;

  bool SameFor(size_t position, size_t other) const { return scale == 0 || position / length == other / length; }
  float At(size_t position) const;
};
// Attention of `in` (queries) over the KV blocks of `layer`: to a token itself and earlier ones, or with `later` to all of its sequence,
// where a window then has the token in its middle.
struct AttendOp {
  BufferId in;
  BufferId out;
  uint32_t layer;
  size_t heads;
  float scale;
  float softcap = 0;          // kernels::Attention
  std::vector<float> slopes;  // of every head, or empty
  WeightId sinks = kNone;     // a vector of an element per head
  bool later = false;
  AttentionTemperature temperature = {};
};
struct MatMulPart {
  WeightId weight;
  WeightId scale = kNone;  // one number, of formats that scale a whole matrix
  WeightId bias = kNone;
  bool scale_covers_bias = false;  // scale * (weight * in + bias) instead of scale * weight * in + bias
  BufferId out = kNone;
  bool accumulate = false;  // out += instead of out =
};
inline constexpr size_t kMatMulPartsMax = 3;  // query, key, value
// out[t] = weight * in[t] (* scale) (+ bias), for each part. The plain form has one part.
struct MatMulOp {
  BufferId in;
  std::vector<MatMulPart> parts;
};
using kernels::Activation;
// out = activation(in), or activation(in) * factor; divided by a vector where there is one (Lin et al., "AWQ", 2023: what the next matrix's
// columns were multiplied with).
struct ActivateOp {
  BufferId in;
  BufferId factor = kNone;
  BufferId out = kNone;
  Activation activation = Activation::kSilu;
  WeightId divisors = kNone;
};
// out += scale * in.
struct AddOp {
  BufferId in;
  BufferId out;
  float scale = 1;
};
enum class Pointwise : uint8_t {
  kScale,    // x * value
  kClamp,    // x limited to [-value, value]
  kSoftCap,  // value * tanh(x / value)
};
// Every element of a buffer, in place.
struct PointwiseOp {
  BufferId buffer;
  Pointwise function;
  float value;
};
// rows[t] *= 1 / (1 + exp(-gate[t])), gate being one number.
struct GateRowsOp {
  BufferId gate;
  BufferId rows;
};
enum class Gating : uint8_t {
  kSoftmax,          // over all experts' logits
  kSigmoid,          // each logit by itself
  kSoftmaxOfChosen,  // over the logits of those chosen
  kSparseMixer,      // of each over those not chosen before that are close to it (SparseMixerWeight)
};
// The `used` experts of the largest probabilities (Jiang et al., "Mixtral of experts", 2024). ids and weights are [tokens, used], the
// largest first; of equal ones the lower id.
struct RouteOp {
  BufferId logits;
  BufferId ids;
  BufferId weights;
  Gating gating = Gating::kSoftmax;
  WeightId selection_bias = kNone;  // a number per expert, added to probabilities for the choice alone (DeepSeek-AI, "DeepSeek-V3", 2024)
  bool normalize = true;            // weights sum to 1
  float scale = 1;                  // of the weights
  float jitter = 0;                 // SparseMixer's
};
// out[slot] = weight[ids[slot]] * in[slot] (* scale[ids[slot]]) (+ bias[ids[slot]]), or in[slot / used] when `in` has one row per token.
struct ExpertMatMulOp {
  BufferId in;
  BufferId ids;
  BufferId out;
  WeightId weight;
  WeightId scale = kNone;  // a number per expert
  WeightId bias = kNone;   // rows numbers per expert
};
// out[t] = sum over the token's slots of weights[slot] * in[slot].
struct CombineOp {
  BufferId in;
  BufferId weights;
  BufferId out;
};
// out = in * factor, or in / (1 + exp(-factor)).
struct MultiplyOp {
  BufferId in;
  BufferId factor;
  BufferId out;
  bool sigmoid = false;
};
// Columns of `in`: runs of `take`, `stride` apart, from `first` on.
struct SelectOp {
  BufferId in;
  BufferId out;
  size_t first;
  size_t take;
  size_t stride;
};
// Columns in another order, for weights whose columns a quantiser sorted: out[t][c] = in[t][order[c]]. With ids, a row per slot in the
// order of its expert, and in[slot / used] where `in` has one row per token.
struct PermuteOp {
  BufferId in;
  BufferId out;
  WeightId order;
  BufferId ids = kNone;
};
// Columns of a buffer, from one on.
struct Slice {
  BufferId buffer = kNone;
  size_t first = 0;
};
// Convolution of every column with weights of its own ([columns][taps]), and the rows before the step from the sequence's state
// (kernels::Convolution): taps - 1 rows, `state` floats from its start.
struct ConvolveOp {
  BufferId in;
  BufferId out;
  WeightId weight;
  WeightId bias = kNone;
  size_t taps = 0;
  bool silu = false;
  size_t state = 0;
};
// A selective state space (kernels::StateScan). Heads share b and c in groups. Weights are vectors: of each head, but decay, which may
// be of each element of its state.
struct ScanOp {
  Slice x = {};         // [heads][head_dim]
  Slice b = {};         // [groups][state_size]
  Slice c = {};         // [groups][state_size]
  BufferId dt = kNone;  // [heads]
  BufferId out = kNone;
  WeightId dt_bias = kNone;
  WeightId decay = kNone;
  WeightId skip = kNone;
  size_t heads = 0;
  size_t head_dim = 0;
  size_t groups = 1;
  size_t state_size = 0;
  size_t state = 0;  // [heads][head_dim][state_size], floats from the start of the sequence's state
};
// A gated delta rule (kernels::DeltaScan) whose keys and queries have unit length, queries over the root of it: decay = exp(a *
// softplus(alpha + dt_bias)), beta = 1 / (1 + exp(-beta)). Head h has the keys of key head h modulo their number.
struct DeltaOp {
  Slice q = {};            // [key_heads][head_dim]
  Slice k = {};            // [key_heads][head_dim]
  Slice v = {};            // [heads][head_dim]
  BufferId alpha = kNone;  // [heads]
  BufferId beta = kNone;   // [heads]
  BufferId out = kNone;
  WeightId dt_bias = kNone;  // a number per head, as the next
  WeightId decay = kNone;
  size_t heads = 0;
  size_t key_heads = 0;
  size_t head_dim = 0;
  float epsilon = 0;  // in the length of keys and queries
  size_t state = 0;   // [heads][head_dim][head_dim], floats from the start of the sequence's state
};
// Columns of `out` from `first` on = in.
struct PlaceOp {
  BufferId in;
  BufferId out;
  size_t first;
};
// Every row times a vector, or times its only element, in place.
struct WeighOp {
  BufferId buffer;
  WeightId weight;
};
// Every row becomes as long (in the Euclidean norm) as that of `in`; zeros stay.
struct MatchLengthOp {
  BufferId in;
  BufferId buffer;
};
// x = max(0, x - mean - deviations * standard deviation), both of the row, in place: of a normal distribution a part of known size is
// left (Gemma Team, "Gemma 3n", 2025).
struct CutBelowOp {
  BufferId buffer;
  float deviations;
};
// Of rows of `parts` equal parts: out[k] = in[k] + sum over i of coefficients[k * parts + i] * in[i].
struct MixPartsOp {
  BufferId in;
  BufferId coefficients;
  BufferId out;
  size_t parts;
};
// out[k] += (1 + coefficients[k]) * in, or += in, for the parts from `first` on.
struct AddToPartsOp {
  BufferId in;
  BufferId coefficients = kNone;
  BufferId out = kNone;
  size_t parts = 1;
  size_t first = 0;
};
// out = the rows of `in` whose logits are wanted.
struct GatherOutputsOp {
  BufferId in;
  BufferId out;
};
// out[i] = the mean of the rows of the sequence that begins with the i-th row whose output is wanted.
struct PoolOp {
  BufferId in;
  BufferId out;
};
// What stands for a whole text. The numbers are those of GGUF's pooling_type.
enum class Pooling : uint8_t {
  kEveryToken,  // for itself
  kMean,        // of all tokens
  kFirst,       // token, which BERT calls [CLS]
  kLast,
};

// ---- What fusion adds ----

// To integers or bf16, as the form of `out` says. Integers have a scale per block, or all of them `step` where it is not 0: what processors
// do that know one scale for all activations of a product (SetStaticSteps).
struct QuantizeOp {
  BufferId in;
  BufferId out;
  float step = 0;
};
// A norm of one group, to the form of norm.out.
struct NormQuantizeOp {
  NormOp norm;
  float step = 0;
};
// out = activation(gate * in) * (up * in).
struct GatedMatMulOp {
  BufferId in;
  MatMulPart gate;
  MatMulPart up;
  BufferId out;
  Activation activation = Activation::kSilu;
};

using Op = std::variant<EmbedOp, EmbedPositionsOp, NormOp, RopeAnglesOp, RopeOp, KvAppendOp, AttendOp, MatMulOp, ActivateOp, AddOp,
                        PointwiseOp, GateRowsOp, RouteOp, ExpertMatMulOp, CombineOp, MultiplyOp, SelectOp, PermuteOp, ConvolveOp, ScanOp,
                        DeltaOp, PlaceOp, WeighOp, MatchLengthOp, CutBelowOp, MixPartsOp, AddToPartsOp, GatherOutputsOp, PoolOp, QuantizeOp,
                        NormQuantizeOp, GatedMatMulOp>;

struct Program {
  std::vector<BufferSpec> buffers;
  std::vector<WeightSpec> weights;
  std::vector<RopeSpec> ropes;
  std::vector<KvHeads> kv_layers;  // per attention layer
  std::vector<Op> ops;
  BufferId logits = kNone;  // [outputs, vocabulary]; of programs that read whole texts [outputs, what they say of a text]
  size_t vocabulary = 0;
  size_t context_max = 0;    // positions the model was trained for
  size_t context_limit = 0;  // more positions are not run; 0: any
  std::string_view context_limit_reason = "the model has embeddings for so many positions";
  size_t experts_used = 1;  // slots per token
  size_t state_floats = 0;  // of a sequence, in recurrent layers
  // Attention sees later tokens: a step has all rows of its sequences, and what is kept of keys and values is over with the step.
  bool whole_texts = false;
  size_t token_types = 1;
  Pooling pooling = Pooling::kEveryToken;  // of programs that read whole texts; which rows' outputs are to be wanted

  size_t RowWidthBytes(BufferId buffer) const;
};

// The widest window of its attention layers; 0 when none has one.
size_t WindowMax(const Program& program);

// Has activations rounded by fixed steps where all products that read them have the same, by the name of their matrix; others keep a scale
// per block. Of a fused program. Returns how many operations round so.
using StaticSteps = std::map<std::string, float, std::less<>>;
size_t SetStaticSteps(const StaticSteps& steps, Program* program);

// Short name of an operation's kind, for listings and profiles.
const char* OpName(const Op& op);

// The buffers an operation reads and writes, in that order of duty; in-place ones are in both.
struct OpBuffers {
  std::vector<BufferId> reads;
  std::vector<BufferId> writes;
};
OpBuffers BuffersOf(const Op& op);

}  // namespace bantam
