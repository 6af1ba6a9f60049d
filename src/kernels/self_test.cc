// Every vector kernel against the reference, on small random inputs: run at start, before a set is trusted.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <vector>

#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/input_column.h"
#include "kernels/kernels.h"
#include "kernels/ref/ref.h"
#include "kernels/tiles.h"
#include "tensor/half.h"
#include "tensor/panel.h"

namespace bantam {
namespace {

using kernels::ActivationBlock;
using kernels::kReference;
using kernels::kRows;

constexpr size_t kColumns = 512;
// Of the sum of |terms|: room for another order of summation and for an approximate exponential, far below a wrong term.
constexpr double kTolerance = 2e-5;

float Small(Rng& rng) { return static_cast<float>(rng.Uniform() * 2 - 1); }

std::vector<float> RandomFloats(Rng& rng, size_t n) {
  std::vector<float> values(n);
  for (float& value : values) value = Small(rng);
  return values;
}

std::vector<uint8_t> RandomPanel(Rng& rng, PanelKind kind) {
  const PanelInfo& info = Info(kind);
  std::vector<uint8_t> panel(PanelBytes(kind, kColumns));
  if (info.low_bits == 0) {
    const size_t element_bytes = info.group_bytes / kPanelRows;
    for (size_t i = 0; i < panel.size(); i += element_bytes) {
      const float value = Small(rng);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      if (kind == PanelKind::kBF16) bits >>= 16;
      if (kind == PanelKind::kF16) bits = F32ToF16(value);
      std::memcpy(panel.data() + i, &bits, element_bytes);
    }
    return panel;
  }
  BlockCodes codes;
  for (size_t group = 0; group < panel.size(); group += info.group_bytes) {
    for (size_t row = 0; row < kPanelRows; ++row) {
      codes.d = F32ToF16(Small(rng));
      codes.dmin = F32ToF16(Small(rng));
      for (int8_t& scale : codes.sub_scale) scale = static_cast<int8_t>(rng.Next());
      for (uint8_t& minimum : codes.sub_min) minimum = static_cast<uint8_t>(rng.Next() & 63);
      for (uint8_t& code : codes.code) code = static_cast<uint8_t>(rng.Next() & ((1u << (info.low_bits + info.high_bits)) - 1));
      WriteGroupRow(kind, codes, row, panel.data() + group);
    }
  }
  return panel;
}

Error Disagreement(const KernelSet& set, std::string_view kernel, double got, double expected) {
  return Error(Code::kInternal,
               fmt::format("kernel {} of the set {} gives {} where the reference gives {}", kernel, set.name, got, expected));
}

// max |got - expected| must stay within the tolerance times `magnitude`. NaN fails.
Status Compare(const KernelSet& set, std::string_view kernel, const std::vector<float>& got, const std::vector<float>& expected,
               double magnitude) {
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (!(difference <= kTolerance * magnitude)) {
      return Disagreement(set, kernel, static_cast<double>(got[i]), static_cast<double>(expected[i]));
    }
  }
  return Ok();
}

// A tile of the same columns, over and over, with any number of panels, against what each gave alone.
Status TestTiles(const KernelSet& set, PanelKind kind, const kernels::Panel& panel, std::span<const InputColumn> inputs,
                 const std::vector<float>& alone) {
  constexpr size_t kTileFloats = kernels::kTileColumns * kRows;
  std::vector<kernels::ActivationTile> tiles(kColumns / 32);
  for (size_t c = 0; c < kernels::kTileColumns; ++c) {
    for (size_t b = 0; b < tiles.size(); ++b) StoreColumn(inputs[c % inputs.size()].blocks()[b], c, &tiles[b]);
  }
  const std::vector<kernels::Panel> panels(kernels::kTilePanels, panel);
  std::vector<UnpackedChunk> chunks(panels.size());
  std::vector<float> sums(panels.size() * kTileFloats);
  for (size_t n = 1; n <= panels.size(); ++n) {
    MultiplyTiles(set.tiles[static_cast<size_t>(kind)], {{panels.data(), n}, PanelBytes(kind, kColumns), 0}, tiles, chunks.data(),
                  sums.data(), kTileFloats);
    for (size_t i = 0; i < n * kTileFloats; ++i) {
      const float expected = alone[i / kRows % kernels::kTileColumns % inputs.size() * kRows + i % kRows];
      if (sums[i] != expected) {
        return Disagreement(set, fmt::format("product of tiles of {}", Info(kind).name), static_cast<double>(sums[i]),
                            static_cast<double>(expected));
      }
    }
  }
  return Ok();
}

Status TestProduct(const KernelSet& set, PanelKind kind, Rng& rng) {
  constexpr size_t kN = 3;
  const std::vector<uint8_t> bytes = RandomPanel(rng, kind);
  PanelTable table;
  for (int8_t& value : table.value) value = static_cast<int8_t>(std::max(-127, static_cast<int>(rng.Next() % 256) - 128));
  const kernels::Panel panel = {bytes.data(), kColumns, table.value.data(), 0.125f};

  std::vector<InputColumn> columns;
  const void* inputs[kN];
  const void* exact_inputs[kN];
  for (size_t c = 0; c < kN; ++c) columns.emplace_back(set, kind, RandomFloats(rng, kColumns));
  for (size_t c = 0; c < kN; ++c) {
    // The same rounded values for both sides: what is compared is the product.
    inputs[c] = columns[c].data();
    exact_inputs[c] = columns[c].values().data();
  }
  std::vector<float> got(kN * kRows);
  std::vector<float> expected(kN * kRows);
  set.product[static_cast<size_t>(kind)](panel, inputs, kN, got.data());
  kReference.product[static_cast<size_t>(kind)](panel, exact_inputs, kN, expected.data());
  double magnitude = 0;
  std::vector<float> row(kColumns);
  table.multiplier = panel.multiplier;
  for (size_t r = 0; r < kRows; ++r) {
    UnpackPanelRow(kind, table, bytes.data(), r, kColumns, row.data());
    double sum = 0;
    for (const float weight : row) sum += std::fabs(static_cast<double>(weight));
    magnitude = std::max(magnitude, sum);
  }
  BANTAM_TRY(Compare(set, fmt::format("product of {}", Info(kind).name), got, expected, magnitude));
  if (set.tiles[static_cast<size_t>(kind)].chunk_blocks == 0) return Ok();
  return TestTiles(set, kind, panel, columns, got);
}

Status TestQuantize(const KernelSet& set, Rng& rng) {
  const std::vector<float> x = RandomFloats(rng, kColumns);
  std::vector<ActivationBlock> got(kColumns / 32);
  std::vector<ActivationBlock> expected(kColumns / 32);
  set.quantize(x.data(), kColumns, got.data());
  kReference.quantize(x.data(), kColumns, expected.data());
  if (std::memcmp(got.data(), expected.data(), got.size() * sizeof(ActivationBlock)) != 0) {
    return Disagreement(set, "quantize", static_cast<double>(got[0].scale), static_cast<double>(expected[0].scale));
  }
  return Ok();
}

Status TestToBf16(const KernelSet& set, Rng& rng) {
  if (set.to_bf16 == nullptr) return Ok();
  constexpr size_t kN = 133;  // odd, and no multiple of a register
  const std::vector<float> x = RandomFloats(rng, kN);
  std::vector<uint16_t> got(kN + 1, 1);
  set.to_bf16(x.data(), kN, got.data());
  for (size_t i = 0; i <= kN; ++i) {
    const uint16_t expected = i < kN ? F32ToBF16(x[i]) : uint16_t{0};
    if (got[i] != expected)
      return Disagreement(set, "to_bf16", static_cast<double>(BF16ToF32(got[i])), static_cast<double>(BF16ToF32(expected)));
  }
  return Ok();
}

Status TestVectors(const KernelSet& set, Rng& rng) {
  constexpr size_t kN = 133;  // no multiple of a register
  const std::vector<float> x = RandomFloats(rng, kN);
  const std::vector<float> y = RandomFloats(rng, kN);
  std::vector<float> got(kN);
  std::vector<float> expected(kN);
  set.rms_norm(x.data(), y.data(), kN, 1e-5f, got.data());
  kReference.rms_norm(x.data(), y.data(), kN, 1e-5f, expected.data());
  BANTAM_TRY(Compare(set, "rms_norm", got, expected, /*magnitude=*/1));
  for (size_t activation = 0; activation < kernels::kActivations; ++activation) {
    for (const float* factor : {static_cast<const float*>(nullptr), y.data()}) {
      set.activate[activation](x.data(), factor, kN, got.data());
      kReference.activate[activation](x.data(), factor, kN, expected.data());
      BANTAM_TRY(Compare(set, fmt::format("activation {}", activation), got, expected, /*magnitude=*/1));
    }
  }
  return Ok();
}

// Convolutions and state spaces, through a state.
Status TestRecurrence(const KernelSet& set, Rng& rng) {
  constexpr size_t kSteps = 3, kWidth = 37, kTaps = 4;
  const std::vector<float> in = RandomFloats(rng, kSteps * kWidth);
  const std::vector<float> weight = RandomFloats(rng, kWidth * kTaps);
  const std::vector<float> before = RandomFloats(rng, kWidth * kWidth);
  std::vector<float> got(kSteps * kWidth), expected(kSteps * kWidth), after(kWidth * kWidth);
  for (const bool silu : {false, true}) {
    kernels::Convolution convolution = {in.data(),     got.data(), kSteps,        kWidth,       kTaps, weight.data(),
                                        before.data(), silu,       before.data(), after.data(), 0,     kWidth};
    set.convolve(convolution);
    convolution.out = expected.data();
    kReference.convolve(convolution);
    BANTAM_TRY(Compare(set, "convolve", got, expected, /*magnitude=*/4));
  }
  const float steps[kSteps] = {0.5f, 1, 0.25f};
  const std::vector<float> rates(kWidth, -0.5f);
  for (const float* decays : {static_cast<const float*>(nullptr), steps}) {
    kernels::StateScan scan = {{in.data(), kWidth},
                               {weight.data(), kWidth},
                               {in.data(), kWidth},
                               steps,
                               decays,
                               rates.data(),
                               got.data(),
                               kWidth,
                               kSteps,
                               kWidth,
                               kWidth,
                               1,
                               before.data(),
                               after.data()};
    set.scan(scan);
    scan.out = expected.data();
    kReference.scan(scan);
    BANTAM_TRY(Compare(set, "scan", got, expected, /*magnitude=*/16));
  }
  kernels::DeltaScan delta = {{in.data(), kWidth},
                              {weight.data(), kWidth},
                              {in.data(), kWidth},
                              steps,
                              steps,
                              steps,
                              steps,
                              got.data(),
                              kWidth,
                              kSteps,
                              kWidth,
                              kWidth,
                              before.data(),
                              after.data()};
  set.delta(delta);
  delta.out = expected.data();
  kReference.delta(delta);
  BANTAM_TRY(Compare(set, "delta", got, expected, /*magnitude=*/16));
  return Ok();
}

struct AttentionShape {
  size_t head_dim;
  size_t group;
  size_t tokens;
  size_t window;
  size_t n_context;
  bool biased = false;  // with a cap, slopes and sinks
  size_t context_end = SIZE_MAX;
};

// Blocks in reverse order, the last partly filled.
Status TestAttention(const KernelSet& set, size_t kv_form, const AttentionShape& shape, Rng& rng) {
  constexpr size_t kElementBytes[kernels::kKvForms] = {4, 2, 1, 1};  // of keys
  const size_t queries = shape.tokens * shape.group;
  const size_t value_bytes = kv_form == 3 ? (shape.head_dim + 1) / 2 : shape.head_dim * kElementBytes[kv_form];
  const size_t block_bytes =
      kernels::kKvTokens * (shape.head_dim * kElementBytes[kv_form] + value_bytes) + 2 * kernels::kKvTokens * sizeof(float);
  const size_t n_blocks = (shape.n_context + shape.tokens - 1 + kernels::kKvTokens - 1) / kernels::kKvTokens;
  std::vector<uint8_t> kv(n_blocks * block_bytes);
  for (size_t at = 0; at < kv.size(); at += kElementBytes[kv_form]) {
    const float value = Small(rng);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (kv_form == 1) bits = F32ToF16(value);
    if (kv_form >= 2) bits = static_cast<uint32_t>(static_cast<int>(value * 127));
    std::memcpy(kv.data() + at, &bits, kElementBytes[kv_form]);
  }
  for (size_t block = 1; kv_form >= 2 && block <= n_blocks; ++block) {
    for (size_t i = 1; i <= 2 * kernels::kKvTokens; ++i) {
      const float scale = 0.01f * static_cast<float>(i % 7 + 1);
      std::memcpy(kv.data() + block * block_bytes - 4 * i, &scale, 4);
    }
  }
  const std::vector<float> query = RandomFloats(rng, queries * shape.head_dim);
  std::vector<float> scratch(2 * AttentionStatesFloats(queries, shape.head_dim));
  std::vector<float> got(query.size());
  std::vector<float> expected(query.size());
  std::vector<uint32_t> blocks(n_blocks);
  for (size_t b = 0; b < n_blocks; ++b) blocks[b] = static_cast<uint32_t>(n_blocks - 1 - b);
  std::vector<float> slopes(shape.group);
  for (size_t h = 0; h < shape.group; ++h) slopes[h] = std::exp2(-static_cast<float>(h + 1));
  const std::vector<float> sinks = RandomFloats(rng, shape.group);
  const kernels::Attention attention = {.query = query.data(),
                                        .kv_base = kv.data(),
                                        .blocks = blocks.data(),
                                        .block_bytes = block_bytes,
                                        .head_offset = 0,
                                        .head_dim = shape.head_dim,
                                        .group = shape.group,
                                        .tokens = shape.tokens,
                                        .row_stride = shape.group * shape.head_dim,
                                        .window = shape.window,
                                        .n_context = shape.n_context,
                                        .context_end = shape.context_end,
                                        .scale = 0.3f,
                                        .softcap = shape.biased ? 0.7f : 0,
                                        .slopes = shape.biased ? slopes.data() : nullptr,
                                        .sinks = shape.biased ? sinks.data() : nullptr};
  AttendAll(set.attention[kv_form], attention, scratch.data(), got.data());
  AttendAll(kReference.attention[kv_form], attention, scratch.data(), expected.data());
  return Compare(set, fmt::format("attention over KV form {}", kv_form), got, expected, /*magnitude=*/1);
}

}  // namespace

Status SelfTest(const KernelSet& set) {
  Rng rng(/*seed=*/20261120);
  for (size_t kind = 0; kind < kPanelKinds; ++kind) {
    BANTAM_TRY(TestProduct(set, static_cast<PanelKind>(kind), rng));
  }
  BANTAM_TRY(TestQuantize(set, rng));
  BANTAM_TRY(TestToBf16(set, rng));
  BANTAM_TRY(TestVectors(set, rng));
  BANTAM_TRY(TestRecurrence(set, rng));
  for (size_t kv_form = 0; kv_form < kernels::kKvForms; ++kv_form) {
    BANTAM_TRY(TestAttention(set, kv_form, {.head_dim = 40, .group = 5, .tokens = 3, .window = 24, .n_context = 27}, rng));
    BANTAM_TRY(TestAttention(
        set, kv_form, {.head_dim = 16, .group = 3, .tokens = 2, .window = 0, .n_context = kernels::kSegmentTokens + 2, .biased = true},
        rng));
    BANTAM_TRY(
        TestAttention(set, kv_form, {.head_dim = 24, .group = 1, .tokens = 5, .window = 21, .n_context = 32, .context_end = 33}, rng));
    // Over the end of a segment.
    BANTAM_TRY(
        TestAttention(set, kv_form, {.head_dim = 8, .group = 1, .tokens = 2, .window = 40, .n_context = kernels::kSegmentTokens + 3}, rng));
  }
  return Ok();
}

}  // namespace bantam
