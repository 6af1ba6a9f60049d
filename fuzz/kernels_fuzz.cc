// Every kernel of every set against the reference, on arbitrary bytes, shapes and sizes. Where numbers are finite they must agree;
// elsewhere the kernels must only survive.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

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
using kernels::kColumnsMax;
using kernels::kReference;
using kernels::kRows;

// Of the sum of |terms| for each addition in floats: another order of summation, never another term.
constexpr double kRounding = 1e-7;

[[noreturn]] void Disagree(const KernelSet& set, const char* kernel, double got, double expected) {
  std::fprintf(stderr, "set %s, kernel %s: %.9g, the reference %.9g\n", set.name, kernel, got, expected);
  std::abort();
}

// The input, over and over: short inputs make large shapes too.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t Byte() { return data_[at_++ % size_]; }
  size_t Below(size_t n) { return (Byte() | static_cast<size_t>(Byte()) << 8) % n; }
  void Fill(void* target, size_t size) {
    for (size_t i = 0; i < size; ++i) static_cast<uint8_t*>(target)[i] = Byte();
  }
  // Any bits, or moderate numbers: the latter are those that can be compared.
  std::vector<float> Floats(size_t n) {
    const bool any = Byte() % 4 == 0;
    std::vector<float> values(n);
    for (float& value : values) {
      if (any) {
        Fill(&value, sizeof(value));
      } else {
        value = static_cast<float>(static_cast<int>(Below(65536)) - 32768) * 0x1p-12f;
      }
    }
    return values;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

// Compares where the sum of magnitudes is finite and no product in between can have left the range of floats.
void Compare(const KernelSet& set, const char* kernel, float got, double expected, double magnitude, size_t additions) {
  if (!(magnitude < 1e30)) return;
  const double difference = std::fabs(static_cast<double>(got) - expected);
  if (!(difference <= kRounding * static_cast<double>(additions) * magnitude + 1e-30))
    Disagree(set, kernel, static_cast<double>(got), expected);
}

// A panel whose scales, or whose minima, are zeros: magnitudes of the two parts of a weight.
std::vector<uint8_t> Without(const PanelInfo& info, std::vector<uint8_t> panel, size_t field) {
  for (size_t group = 0; group < panel.size(); group += info.group_bytes)
    std::fill_n(panel.begin() + static_cast<std::ptrdiff_t>(group + field), 32, uint8_t{0});
  return panel;
}

// Tiles of the same columns, over and over: the bits that each gave alone.
void TestTiles(const KernelSet& set, PanelKind kind, const kernels::Panel& panel, const std::vector<InputColumn>& inputs,
               const std::vector<float>& alone) {
  const kernels::TileKernels& kernels = set.tiles[static_cast<size_t>(kind)];
  if (kernels.chunk_blocks == 0) return;
  const size_t n = inputs.size();
  std::vector<kernels::ActivationTile> tiles(panel.columns / 32);
  for (size_t c = 0; c < kernels::kTileColumns; ++c) {
    for (size_t b = 0; b < tiles.size(); ++b) StoreColumn(inputs[c % n].blocks()[b], c, &tiles[b]);
  }
  constexpr size_t kTileFloats = kernels::kTileColumns * kRows;
  for (size_t count = 1; count <= kernels::kTilePanels; ++count) {
    const std::vector<kernels::Panel> panels(count, panel);
    std::vector<UnpackedChunk> chunks(count);
    std::vector<float> sums(count * kTileFloats);
    MultiplyTiles(kernels, {panels, PanelBytes(kind, panel.columns), 0}, tiles, chunks.data(), sums.data(), kTileFloats);
    for (size_t i = 0; i < sums.size(); ++i) {
      const float expected = alone[i / kRows % kernels::kTileColumns % n * kRows + i % kRows];
      const bool same = sums[i] == expected || (std::isnan(sums[i]) && std::isnan(expected));
      if (!same) Disagree(set, "product of tiles", static_cast<double>(sums[i]), static_cast<double>(expected));
    }
  }
}

void TestProduct(const KernelSet& set, Bytes& in) {
  const auto kind = static_cast<PanelKind>(in.Below(kPanelKinds));
  const PanelInfo& info = Info(kind);
  const size_t columns = info.group_columns * (1 + in.Below(info.group_columns == 256 ? 4 : 40));
  const size_t n = 1 + in.Below(kColumnsMax);
  std::vector<uint8_t> panel(PanelBytes(kind, columns));
  in.Fill(panel.data(), panel.size());
  PanelTable table;
  for (int8_t& value : table.value) value = static_cast<int8_t>(std::max(-127, static_cast<int>(in.Byte()) - 128));
  table.multiplier = 0.125f;
  std::vector<InputColumn> x;
  const void* inputs[kColumnsMax];
  for (size_t c = 0; c < n; ++c) x.emplace_back(set, kind, in.Floats(columns));
  for (size_t c = 0; c < n; ++c) inputs[c] = x[c].data();
  const bool quantized = InputOf(set, kind) == InputForm::kBlocks;
  std::vector<float> out(n * kRows);
  set.product[static_cast<size_t>(kind)]({panel.data(), columns, table.value.data(), table.multiplier}, inputs, n, out.data());

  TestTiles(set, kind, {panel.data(), columns, table.value.data(), table.multiplier}, x, out);
  const std::vector<uint8_t> values_only = info.has_min ? Without(info, panel, 32) : panel;
  const std::vector<uint8_t> minima_only = info.has_min ? Without(info, panel, 0) : std::vector<uint8_t>();
  std::vector<float> row(columns);
  std::vector<float> part(columns);
  std::vector<double> magnitude(columns);
  for (size_t r = 0; r < kRows; ++r) {
    UnpackPanelRow(kind, table, panel.data(), r, columns, row.data());
    UnpackPanelRow(kind, table, values_only.data(), r, columns, part.data());
    for (size_t k = 0; k < columns; ++k) magnitude[k] = std::fabs(static_cast<double>(part[k]));
    if (info.has_min) {
      UnpackPanelRow(kind, table, minima_only.data(), r, columns, part.data());
      for (size_t k = 0; k < columns; ++k) magnitude[k] += std::fabs(static_cast<double>(part[k]));
    }
    for (size_t c = 0; c < n; ++c) {
      double sum = 0;
      // Activations near the end of the range overflow when they are summed, whatever they are multiplied with.
      const std::vector<float>& values = x[c].values();
      const bool huge = std::any_of(values.begin(), values.end(), [](float value) { return !(std::fabs(value) < 1e30f); });
      double total = huge ? HUGE_VAL : 0;
      for (size_t k = 0; k < columns; ++k) {
        sum += static_cast<double>(row[k]) * static_cast<double>(values[k]);
        total += magnitude[k] * static_cast<double>(x[c].Magnitude(k));
      }
      // Integer kinds add once or twice per 32 columns, and once more for a minimum.
      Compare(set, info.name.data(), out[c * kRows + r], sum, total, quantized ? columns / 8 + 8 : columns + 8);
    }
  }
}

void TestQuantize(const KernelSet& set, Bytes& in) {
  const size_t n = 32 * (1 + in.Below(8));
  const std::vector<float> x = in.Floats(n);
  std::vector<ActivationBlock> got(n / 32);
  std::vector<ActivationBlock> expected(n / 32);
  set.quantize(x.data(), n, got.data());
  kReference.quantize(x.data(), n, expected.data());
  if (std::memcmp(got.data(), expected.data(), got.size() * sizeof(ActivationBlock)) != 0) {
    Disagree(set, "quantize", static_cast<double>(got[0].scale), static_cast<double>(expected[0].scale));
  }
}

void TestVectors(const KernelSet& set, Bytes& in) {
  const size_t n = 1 + in.Below(300);
  const std::vector<float> x = in.Floats(n);
  const std::vector<float> y = in.Floats(n);
  std::vector<float> got(n);
  std::vector<float> expected(n);
  set.rms_norm(x.data(), y.data(), n, 1e-5f, got.data());
  kReference.rms_norm(x.data(), y.data(), n, 1e-5f, expected.data());
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
  for (size_t i = 0; squares < 1e30 && i < n; ++i) {
    Compare(set, "rms_norm", got[i], static_cast<double>(expected[i]), std::fabs(static_cast<double>(expected[i])), n + 8);
  }
  const size_t activation = in.Below(kernels::kActivations);
  set.activate[activation](x.data(), y.data(), n, got.data());
  kReference.activate[activation](x.data(), y.data(), n, expected.data());
  for (size_t i = 0; i < n; ++i) {
    // Far from zero the gate is 0 or the value itself, up to what the exponential's range leaves.
    if (!(std::fabs(x[i]) < 80)) continue;
    const double magnitude = std::max(1.0, std::fabs(static_cast<double>(x[i]))) * std::fabs(static_cast<double>(x[i]));
    Compare(set, "activation", got[i], static_cast<double>(expected[i]), magnitude * (std::fabs(static_cast<double>(y[i])) + 1), 40);
  }
}

void TestAttention(const KernelSet& set, Bytes& in) {
  constexpr size_t kElementBytes[kernels::kKvForms] = {4, 2, 1, 1};  // of keys
  const size_t type = in.Below(kernels::kKvForms);
  const size_t head_dim = 1 + in.Below(80);
  const size_t group = 1 + in.Below(9);
  // Some go over the end of a segment.
  const size_t n_context = 1 + (in.Byte() % 4 == 0 ? kernels::kSegmentTokens - 100 : 0) + in.Below(200);
  const size_t window = in.Below(n_context + 1);
  const size_t tokens = 1 + in.Below(kernels::kAttentionTokens);
  const size_t n_blocks = (n_context + tokens - 1 + 15) / 16;
  const size_t value_bytes = type == 3 ? (head_dim + 1) / 2 : head_dim * kElementBytes[type];
  const size_t data_bytes = kernels::kKvTokens * (head_dim * kElementBytes[type] + value_bytes);
  const size_t block_bytes = data_bytes + 2 * kernels::kKvTokens * sizeof(float);
  std::vector<uint8_t> kv(n_blocks * block_bytes);
  const bool any = in.Byte() % 4 == 0;
  for (size_t b = 0; b < n_blocks; ++b) {
    uint8_t* block = kv.data() + b * block_bytes;
    if (any) {
      in.Fill(block, block_bytes);
      continue;
    }
    for (size_t i = 0; i < data_bytes / kElementBytes[type]; ++i) {
      const float value = static_cast<float>(in.Byte()) / 64 - 2;
      const uint16_t half = F32ToF16(value);
      const auto byte = static_cast<int8_t>(value * 60);
      const void* source = type == 0 ? static_cast<const void*>(&value) : type == 1 ? static_cast<const void*>(&half) : &byte;
      std::memcpy(block + i * kElementBytes[type], source, kElementBytes[type]);
    }
    for (size_t i = 0; i < 2 * kernels::kKvTokens; ++i) {
      const float scale = static_cast<float>(1 + in.Byte() % 16) / 512;
      std::memcpy(block + data_bytes + 4 * i, &scale, 4);
    }
  }
  std::vector<uint32_t> blocks(n_blocks);
  for (size_t b = 0; b < n_blocks; ++b) blocks[b] = static_cast<uint32_t>(n_blocks - 1 - b);
  std::vector<float> query(tokens * group * head_dim);
  for (float& value : query) value = static_cast<float>(in.Byte()) / 128 - 1;
  const uint8_t extras = in.Byte();
  // Some see less than they could: the sequence ends before.
  const size_t shorter = (extras & 8) != 0 && (window == 0 || window > tokens) ? in.Below(std::min(tokens, n_context)) : 0;
  std::vector<float> slopes(group);
  for (size_t h = 0; h < group; ++h) slopes[h] = std::exp2(-static_cast<float>(h + 1));
  const std::vector<float> sinks(group, 0.5f);
  std::vector<float> scratch(2 * AttentionStatesFloats(tokens * group, head_dim));
  std::vector<float> got(query.size());
  std::vector<float> expected(query.size());
  const kernels::Attention attention = {.query = query.data(),
                                        .kv_base = kv.data(),
                                        .blocks = blocks.data(),
                                        .block_bytes = block_bytes,
                                        .head_offset = 0,
                                        .head_dim = head_dim,
                                        .group = group,
                                        .tokens = tokens,
                                        .row_stride = group * head_dim,
                                        .window = window,
                                        .n_context = n_context,
                                        .context_end = n_context + tokens - 1 - shorter,
                                        .scale = 0.25f,
                                        .softcap = (extras & 1) != 0 ? 5.0f : 0.0f,
                                        .slopes = (extras & 2) != 0 ? slopes.data() : nullptr,
                                        .sinks = (extras & 4) != 0 ? sinks.data() : nullptr};
  AttendAll(set.attention[type], attention, scratch.data(), got.data());
  if (any) return;
  AttendAll(kReference.attention[type], attention, scratch.data(), expected.data());
  // Scores of up to some hundreds go through the exponential: their rounding counts as much as the values'.
  for (size_t i = 0; i < got.size(); ++i) Compare(set, "attention", got[i], static_cast<double>(expected[i]), 20, 40 + n_context);
}

}  // namespace
}  // namespace bantam

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  static const std::vector<const bantam::KernelSet*> sets = bantam::RunnableKernels();
  bantam::Bytes in(data, size);
  const bantam::KernelSet& set = *sets[in.Below(sets.size())];
  switch (in.Below(8)) {
    case 0:
      bantam::TestQuantize(set, in);
      break;
    case 1:
      bantam::TestVectors(set, in);
      break;
    case 2:
    case 3:
      bantam::TestAttention(set, in);
      break;
    default:
      bantam::TestProduct(set, in);
  }
  return 0;
}
