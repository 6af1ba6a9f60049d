#include "kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/input_column.h"
#include "kernels/ref/ref.h"
#include "kernels/tiles.h"
#include "tensor/dtype.h"
#include "tensor/half.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

using kernels::ActivationBlock;
using kernels::kColumnsMax;
using kernels::kReference;
using kernels::kRows;

std::vector<float> RandomFloats(Rng& rng, size_t n) {
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(rng.Uniform() * 4 - 2);
  return values;
}

// A matrix of 16 rows: as panel, as exact floats, and what its kernels need.
struct TestPanel {
  TestPanel(DType dtype_in, size_t columns_in, Rng& rng) : dtype(dtype_in), columns(columns_in) {
    const std::string blocks = testing::RandomBlocks(dtype, kRows * columns, columns, rng);
    const uint8_t* rows[kPanelRows];
    exact.resize(kRows * columns);
    for (size_t r = 0; r < kRows; ++r) {
      rows[r] = reinterpret_cast<const uint8_t*>(blocks.data()) + r * RowBytes(dtype, columns);
      Unpack(dtype, rows[r], columns, exact.data() + r * columns);
    }
    bytes.resize(PanelBytes(Info(dtype).panel, columns));
    PackPanel(dtype, rows, columns, bytes.data());
  }
  kernels::Panel View() const {
    return {bytes.data(), columns, TableOf(dtype).value.data(), TableOf(dtype).multiplier, /*prefetch=*/{4096, 2048}};
  }
  PanelKind panel_kind() const { return Info(dtype).panel; }
  size_t kind() const { return static_cast<size_t>(panel_kind()); }

  DType dtype;
  size_t columns;
  std::vector<float> exact;  // [rows][columns]
  std::vector<uint8_t> bytes;
};

struct Case {
  const KernelSet* set;
  DType dtype;
};

// What ctest shows; the default would print addresses, which differ from run to run.
void PrintTo(const Case& row, std::ostream* out) { *out << row.set->name << " " << Info(row.dtype).name; }

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const KernelSet* set : RunnableKernels()) {
    for (const DType dtype : testing::AllDTypes()) cases.push_back({set, dtype});
  }
  return cases;
}

class Products : public ::testing::TestWithParam<Case> {};

// Against sums in double over exact weights and the very integers that the kernel was given.
TEST_P(Products, MatchDoubleSums) {
  const auto [set, dtype] = GetParam();
  const size_t block = Info(dtype).block_elements;
  for (const size_t blocks : {1, 2, 3, 7, 31, 33, 127}) {
    Rng rng(blocks);
    const TestPanel panel(dtype, block * std::min<size_t>(blocks, block >= 128 ? 7 : 127), rng);
    for (size_t n = 1; n <= kColumnsMax; ++n) {
      std::vector<InputColumn> x;
      const void* inputs[kColumnsMax];
      for (size_t c = 0; c < n; ++c) x.emplace_back(*set, panel.panel_kind(), RandomFloats(rng, panel.columns));
      for (size_t c = 0; c < n; ++c) inputs[c] = x[c].data();
      std::vector<float> out(n * kRows, std::numeric_limits<float>::quiet_NaN());
      set->product[panel.kind()](panel.View(), inputs, n, out.data());
      for (size_t c = 0; c < n; ++c) {
        for (size_t r = 0; r < kRows; ++r) {
          double sum = 0;
          double magnitude = 0;
          for (size_t k = 0; k < panel.columns; ++k) {
            const double term = static_cast<double>(panel.exact[r * panel.columns + k]) * static_cast<double>(x[c].values()[k]);
            sum += term;
            magnitude += std::fabs(term);
          }
          // Integer sums are exact; what remains is float rounding of at most one addition per 32 columns, twice.
          ASSERT_NEAR(static_cast<double>(out[c * kRows + r]), sum, 4e-6 * magnitude + 1e-30)
              << "columns " << panel.columns << " n " << n << " column " << c << " row " << r;
        }
      }
    }
  }
}

// A token's result must not depend on what else is in the batch.
TEST_P(Products, DoNotDependOnTheBatch) {
  const auto [set, dtype] = GetParam();
  Rng rng(3);
  const TestPanel panel(dtype, 768, rng);
  std::vector<InputColumn> x;
  const void* inputs[kColumnsMax];
  for (size_t c = 0; c < kColumnsMax; ++c) x.emplace_back(*set, panel.panel_kind(), RandomFloats(rng, panel.columns));
  for (size_t c = 0; c < kColumnsMax; ++c) inputs[c] = x[c].data();
  std::vector<float> all(kColumnsMax * kRows);
  set->product[panel.kind()](panel.View(), inputs, kColumnsMax, all.data());
  for (size_t n = 1; n <= kColumnsMax; ++n) {
    std::vector<float> some(n * kRows);
    set->product[panel.kind()](panel.View(), inputs + kColumnsMax - n, n, some.data());
    EXPECT_EQ(std::memcmp(some.data(), all.data() + (kColumnsMax - n) * kRows, some.size() * sizeof(float)), 0) << n;
  }
}

// Nor on whether its column lies in a tile, and with how many panels and tiles that is multiplied.
TEST_P(Products, TilesGiveTheSameBits) {
  const auto [set, dtype] = GetParam();
  constexpr size_t kTile = kernels::kTileColumns;
  constexpr size_t kTiles = 2;
  const size_t block = std::max<size_t>(Info(dtype).block_elements, 32);
  for (const size_t blocks : {1, 2, 3, 7, 9}) {
    Rng rng(blocks);
    const size_t columns = block * blocks;
    std::vector<TestPanel> panels;
    for (size_t p = 0; p < kernels::kTilePanels; ++p) panels.emplace_back(dtype, columns, rng);
    const size_t kind = panels[0].kind();
    ASSERT_EQ(set->tiles[kind].chunk_blocks > 0, set != &kReference && set->quantized[kind]) << "every vector set, every kind of integers";
    if (set->tiles[kind].chunk_blocks == 0) return;
    std::vector<float> x = RandomFloats(rng, kTiles * kTile * columns);
    std::vector<ActivationBlock> q(x.size() / 32);
    std::vector<kernels::ActivationTile> tiles(q.size() / kTile);
    set->quantize(x.data(), x.size(), q.data());
    const size_t row_blocks = columns / 32;
    for (size_t c = 0; c < kTiles * kTile; ++c) {
      for (size_t b = 0; b < row_blocks; ++b) StoreColumn(q[c * row_blocks + b], c % kTile, &tiles[c / kTile * row_blocks + b]);
    }
    std::vector<kernels::Panel> views;
    for (const TestPanel& panel : panels) views.push_back(panel.View());
    std::vector<UnpackedChunk> chunks(kernels::kTilePanels);
    for (size_t n = 1; n <= kernels::kTilePanels; ++n) {
      const size_t stride = kTiles * kTile * kRows + 16;
      std::vector<float> sums(n * stride);
      MultiplyTiles(set->tiles[kind], {{views.data(), n}, panels[0].bytes.size(), 0}, tiles, chunks.data(), sums.data(), stride);
      for (size_t p = 0; p < n; ++p) {
        for (size_t c = 0; c < kTiles * kTile; ++c) {
          const void* input = q.data() + c * row_blocks;
          float alone[kRows];
          set->product[kind](views[p], &input, 1, alone);
          ASSERT_EQ(std::memcmp(sums.data() + p * stride + c * kRows, alone, sizeof(alone)), 0) << "panel " << p << " column " << c;
        }
        for (size_t i = (p + 1) * stride - 16; i < (p + 1) * stride; ++i) ASSERT_EQ(sums[i], 0) << "nothing is written between panels";
      }
    }
  }
}

// Largest codes against largest activations: 16-bit intermediate sums must not overflow.
TEST_P(Products, HoldTheLargestValues) {
  const auto [set, dtype] = GetParam();
  if (Info(dtype).decode == nullptr) return;  // floats have no codes
  const size_t kind = static_cast<size_t>(Info(dtype).panel);
  const PanelInfo& info = Info(Info(dtype).panel);
  const size_t columns = info.group_columns;
  for (const bool high : {true, false}) {
    BlockCodes codes;
    codes.d = 0x3c00;  // 1
    codes.dmin = 0x3c00;
    codes.sub_scale.fill(info.has_min ? 63 : -128);
    codes.sub_min.fill(63);
    codes.code.fill(high ? 0xff : info.low_bits == 8 ? 0x80 : 0);
    std::vector<uint8_t> panel(info.group_bytes);
    for (size_t r = 0; r < kRows; ++r) WriteGroupRow(info.kind, codes, r, panel.data());
    PanelTable table;
    table.value.fill(high ? 127 : -127);
    std::vector<float> row(columns);
    UnpackPanelRow(info.kind, table, panel.data(), 0, columns, row.data());
    std::vector<float> x(columns, -127.0f);
    const InputColumn column(*set, info.kind, x);
    const void* input = column.data();
    float out[kRows];
    set->product[kind]({panel.data(), columns, table.value.data(), table.multiplier}, &input, 1, out);
    double sum = 0;
    double magnitude = 0;
    for (const float weight : row) {
      sum += static_cast<double>(weight) * -127;
      magnitude += std::fabs(static_cast<double>(weight)) * 127;
    }
    for (const float value : out) EXPECT_NEAR(static_cast<double>(value), sum, 4e-6 * (magnitude + 63.0 * 127 * 256)) << high;
  }
}

// Names of tests have no hyphens.
std::string TestName(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, Products, ::testing::ValuesIn(AllCases()),
                         [](const auto& row) { return TestName(row.param.set->name) + "_" + std::string(Info(row.param.dtype).name); });

// Ties go to the even neighbour; the end of the range and what is no number stay what they are.
void CheckToBf16(const KernelSet& set) {
  Rng rng(12);
  for (const size_t n : {1, 2, 15, 16, 17, 31, 33, 100}) {
    std::vector<float> x = RandomFloats(rng, n);
    x[0] = 1.00390625f;             // 1 + 2^-8: half way, to 1
    if (n > 1) x[1] = 1.01171875f;  // 1 + 3 * 2^-8: half way, to 1 + 2^-6
    if (n > 2) x[2] = -3.4e38f;     // beyond the largest: infinite
    if (n > 3) x[3] = std::numeric_limits<float>::infinity();
    if (n > 4) x[4] = std::numeric_limits<float>::quiet_NaN();
    std::vector<uint16_t> out(n + 3, 0x1234);
    set.to_bf16(x.data(), n, out.data());
    for (size_t i = 0; i < n; ++i) {
      const double value = static_cast<double>(BF16ToF32(out[i]));
      if (i == 4) {
        EXPECT_TRUE(std::isnan(value));
      } else {
        EXPECT_EQ(out[i], F32ToBF16(x[i])) << x[i];
        if (std::isfinite(value)) {
          EXPECT_LE(std::fabs(value - static_cast<double>(x[i])), std::fabs(static_cast<double>(x[i])) / 256);
        }
      }
    }
    EXPECT_EQ(out[0], 0x3f80);
    if (n > 1) {
      EXPECT_EQ(out[1], 0x3f82);
    }
    if (n % 2 == 1) {
      EXPECT_EQ(out[n], 0);
    }
    EXPECT_EQ(out[n + n % 2], 0x1234) << "nothing is written past the end";
  }
}

TEST(Bf16, IsRoundedToNearest) {
  for (const KernelSet* set : RunnableKernels()) {
    if (set->to_bf16 != nullptr) CheckToBf16(*set);
  }
}

class Sets : public ::testing::TestWithParam<const KernelSet*> {};

TEST_P(Sets, PassTheirSelfTest) { EXPECT_TRUE(SelfTest(*GetParam()).ok()); }

// One kernel replaced by that of another kind: the self-test must see it.
TEST_P(Sets, SelfTestSeesAWrongKernel) {
  for (size_t kind = 0; kind < kernels::kKinds; ++kind) {
    KernelSet wrong = *GetParam();
    wrong.product[kind] = [](const kernels::Panel&, const void* const*, size_t n, float* out) { std::fill_n(out, n * kRows, 0.25f); };
    EXPECT_EQ(SelfTest(wrong).error().code(), Code::kInternal) << kind;
    wrong = *GetParam();
    if (wrong.tiles[kind].chunk_blocks == 0) continue;
    wrong.tiles[kind].multiply = [](const kernels::TileProduct&) {};
    EXPECT_EQ(SelfTest(wrong).error().code(), Code::kInternal) << "tiles of " << kind;
  }
  KernelSet wrong = *GetParam();
  wrong.attention[1] = [](const kernels::Attention& a, size_t, float* states) { kernels::kReference.attention[1](a, 0, states); };
  EXPECT_FALSE(SelfTest(wrong).ok()) << "every segment is taken for the first";
  wrong = *GetParam();
  for (size_t activation = 0; activation < kernels::kActivations; ++activation) {
    wrong = *GetParam();
    wrong.activate[activation] = [](const float* x, const float*, size_t n, float* out) { std::copy_n(x, n, out); };
    EXPECT_FALSE(SelfTest(wrong).ok()) << activation;
  }
  wrong = *GetParam();
  std::swap(wrong.attention[0], wrong.attention[1]);
  EXPECT_FALSE(SelfTest(wrong).ok());
}

TEST_P(Sets, QuantizeAsTheReference) {
  Rng rng(9);
  std::vector<float> x = RandomFloats(rng, 32 * 50);
  std::fill_n(x.begin(), 32, 0.0f);                 // a block of zeros
  std::fill_n(x.begin() + 32, 32, -3.5f);           // one value
  for (size_t i = 64; i < 96; ++i) x[i] *= 1e-35f;  // tiny
  x[96] = 1e30f;                                    // an outlier
  std::vector<ActivationBlock> got(50);
  std::vector<ActivationBlock> expected(50);
  GetParam()->quantize(x.data(), x.size(), got.data());
  kReference.quantize(x.data(), x.size(), expected.data());
  EXPECT_EQ(std::memcmp(got.data(), expected.data(), 50 * sizeof(ActivationBlock)), 0);
  for (size_t i = 96; i < x.size(); ++i) {
    const ActivationBlock& block = got[i / 32];
    EXPECT_LE(std::fabs(static_cast<double>(block.q[i % 32]) * static_cast<double>(block.scale) - static_cast<double>(x[i])),
              0.5001 * static_cast<double>(block.scale));
  }
}

// Damaged weights make such activations: integers stay in range, their sums match them, and all sets agree.
TEST_P(Sets, QuantizeWithoutNumbers) {
  Rng rng(4);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::signaling_NaN(),
                          std::numeric_limits<float>::infinity(), -1e38f}) {
    for (size_t place = 0; place < 33; ++place) {
      std::vector<float> x = RandomFloats(rng, 32);
      for (float& value : x) value *= place % 2 == 0 ? 1e10f : 1e-3f;
      if (place < 32) {
        x[place] = bad;
      } else {
        std::fill(x.begin(), x.end(), bad);
      }
      ActivationBlock got;
      ActivationBlock expected;
      GetParam()->quantize(x.data(), 32, &got);
      kReference.quantize(x.data(), 32, &expected);
      EXPECT_EQ(std::memcmp(&got, &expected, sizeof(got)), 0) << bad << " at " << place;
      int sums[2] = {0, 0};
      for (size_t i = 0; i < 32; ++i) {
        EXPECT_GE(got.q[i], -127);
        sums[i / 16] += got.q[i];
      }
      EXPECT_EQ(got.sum16[0], sums[0]);
      EXPECT_EQ(got.sum16[1], sums[1]);
    }
  }
}

TEST_P(Sets, NormOfOddSizes) {
  for (const size_t n : {1, 7, 15, 16, 17, 31, 33, 127, 2048}) {
    Rng rng(n);
    const std::vector<float> x = RandomFloats(rng, n);
    const std::vector<float> y = RandomFloats(rng, n);
    std::vector<float> out(n + 1, 42.0f);
    GetParam()->rms_norm(x.data(), y.data(), n, 1e-5f, out.data());
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * static_cast<double>(v);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (size_t i = 0; i < n; ++i) {
      const double expected = static_cast<double>(x[i]) * scale * static_cast<double>(y[i]);
      EXPECT_NEAR(static_cast<double>(out[i]), expected, 1e-6 * (1 + std::fabs(expected))) << n;
    }
    EXPECT_EQ(out[n], 42.0f) << "nothing is written past the end";
  }
}

// As their definitions say, in double.
double Activated(kernels::Activation activation, double x) {
  switch (activation) {
    case kernels::Activation::kSilu:
      return x / (1 + std::exp(-x));
    case kernels::Activation::kGelu:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case kernels::Activation::kRelu:
      return std::max(x, 0.0);
    case kernels::Activation::kReluSquared:
      return std::max(x, 0.0) * std::max(x, 0.0);
    case kernels::Activation::kErfGelu:
      return x / 2 * std::erfc(-x / std::sqrt(2.0));
    case kernels::Activation::kClampedSilu:
      return std::min(x, 7.0) / (1 + std::exp(-1.702 * std::min(x, 7.0)));
  }
  return 0;
}

TEST_P(Sets, ActivationsOfOddSizes) {
  for (size_t kind = 0; kind < kernels::kActivations; ++kind) {
    const auto activation = static_cast<kernels::Activation>(kind);
    const bool clamped = activation == kernels::Activation::kClampedSilu;
    for (const size_t n : {1, 7, 15, 16, 17, 31, 33, 127, 2048}) {
      Rng rng(n);
      std::vector<float> x = RandomFloats(rng, n);
      std::vector<float> factor = RandomFloats(rng, n);
      for (float& value : x) value *= 6;
      for (float& value : factor) value *= 6;
      std::vector<float> alone(n + 1, 42.0f);
      std::vector<float> gated(n + 1, 42.0f);
      GetParam()->activate[kind](x.data(), nullptr, n, alone.data());
      GetParam()->activate[kind](x.data(), factor.data(), n, gated.data());
      for (size_t i = 0; i < n; ++i) {
        const double expected = Activated(activation, static_cast<double>(x[i]));
        const double y = static_cast<double>(factor[i]);
        const double times = clamped ? std::clamp(y, -7.0, 7.0) + 1 : y;
        EXPECT_NEAR(static_cast<double>(alone[i]), expected, 1e-6 * (1 + std::fabs(expected))) << kind << " of " << x[i];
        EXPECT_NEAR(static_cast<double>(gated[i]), expected * times, 1e-6 * (1 + std::fabs(expected)) * (1 + std::fabs(times))) << kind;
      }
      EXPECT_EQ(alone[n], 42.0f) << "nothing is written past the end";
      EXPECT_EQ(gated[n], 42.0f);
      GetParam()->activate[kind](x.data(), factor.data(), n, x.data());
      EXPECT_EQ(std::memcmp(x.data(), gated.data(), n * sizeof(float)), 0) << "in place";
    }
  }
}

TEST_P(Sets, GateFarFromZero) {
  const std::vector<float> gate = {-1e4f, -104, -100, -89, -88, -20, 20, 88, 89, 100, 1e4f};
  const std::vector<float> up(gate.size(), 1.0f);
  std::vector<float> out(gate.size());
  GetParam()->activate[0](gate.data(), up.data(), gate.size(), out.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double g = static_cast<double>(gate[i]);
    const double expected = g / (1 + std::exp(-g));
    EXPECT_NEAR(static_cast<double>(out[i]), expected, 1e-6 * std::fabs(expected) + 1e-36) << gate[i];
  }
  for (const kernels::Activation gelu : {kernels::Activation::kGelu, kernels::Activation::kErfGelu}) {
    GetParam()->activate[static_cast<size_t>(gelu)](gate.data(), nullptr, gate.size(), out.data());
    for (size_t i = 0; i < gate.size(); ++i) {
      const double expected = gate[i] < 0 ? 0 : static_cast<double>(gate[i]);
      EXPECT_NEAR(static_cast<double>(out[i]), expected, 1e-6 * std::fabs(static_cast<double>(gate[i]))) << "GELU of " << gate[i];
    }
  }
}

struct KvCase {
  size_t head_dim;
  size_t group;
  size_t n_context;
  size_t window = 0;
  size_t tokens = 1;
  // Of the scores: their rounding grows with them, and goes through the exponential to the values.
  float scale = 0.3f;
  float softcap = 0;
  bool slopes = false;
  bool sinks = false;
  size_t context_end = SIZE_MAX;
};

// Softmax attention in double over KV blocks that lie in no order.
class AttentionCase {
 public:
  AttentionCase(const KvCase& c, size_t type) : case_(c), type_(type), rng_(c.head_dim * 100 + type) {
    const size_t blocks = (End() + 15) / 16;
    keys_bytes_ = 16 * c.head_dim * kElementBytes[type];
    value_row_bytes_ = type == kInt4 ? (c.head_dim + 1) / 2 : c.head_dim * kElementBytes[type];
    block_bytes_ = kOffset + keys_bytes_ + 16 * value_row_bytes_ + 128 + 64;
    kv_.assign(blocks * block_bytes_, 0xff);  // unwritten slots are NaN
    keys_.resize(End() * c.head_dim);
    values_.resize(End() * c.head_dim);
    order_.resize(blocks);
    for (size_t b = 0; b < blocks; ++b) order_[b] = static_cast<uint32_t>(blocks - 1 - b);
    for (size_t t = FirstOf(0); t < End(); ++t) Fill(t);
    query_ = RandomFloats(rng_, c.tokens * RowStride());
    for (size_t h = 0; h < c.group; ++h) slopes_.push_back(std::exp2(-static_cast<float>(h + 1)));
    sinks_ = RandomFloats(rng_, c.group);
  }

  // Of `tokens` tokens from `from` on: out as they lie, and a guard behind.
  std::vector<float> Run(const KernelSet& set, size_t from, size_t tokens) {
    const kernels::Attention attention = {.query = query_.data() + from * RowStride(),
                                          .kv_base = kv_.data(),
                                          .blocks = order_.data(),
                                          .block_bytes = block_bytes_,
                                          .head_offset = kOffset,
                                          .head_dim = case_.head_dim,
                                          .group = case_.group,
                                          .tokens = tokens,
                                          .row_stride = RowStride(),
                                          .window = case_.window,
                                          .n_context = case_.n_context + from,
                                          .context_end = case_.context_end,
                                          .scale = case_.scale,
                                          .softcap = case_.softcap,
                                          .slopes = case_.slopes ? slopes_.data() : nullptr,
                                          .sinks = case_.sinks ? sinks_.data() : nullptr};
    std::vector<float> scratch(2 * AttentionStatesFloats(tokens * case_.group, case_.head_dim));
    std::vector<float> out(tokens * RowStride() + 1, 42.0f);
    AttendAll(set.attention[type_], attention, scratch.data(), out.data());
    return out;
  }

  // [head_dim] of one head of one token.
  std::vector<double> Expected(size_t token, size_t head) const {
    const size_t end = std::min(case_.n_context + token, case_.context_end);
    const float* query = query_.data() + token * RowStride() + head * case_.head_dim;
    std::vector<double> weight(end);
    double largest = -HUGE_VAL;
    for (size_t t = FirstOf(token); t < end; ++t) {
      for (size_t d = 0; d < case_.head_dim; ++d) weight[t] += static_cast<double>(query[d]) * keys_[t * case_.head_dim + d];
      weight[t] *= static_cast<double>(case_.scale);
      const double cap = static_cast<double>(case_.softcap);
      if (cap != 0) weight[t] = cap * std::tanh(weight[t] / cap);
      if (case_.slopes) weight[t] -= static_cast<double>(slopes_[head]) * static_cast<double>(end - 1 - t);
      largest = std::max(largest, weight[t]);
    }
    double total = case_.sinks ? std::exp(static_cast<double>(sinks_[head]) - largest) : 0;
    for (size_t t = FirstOf(token); t < end; ++t) total += weight[t] = std::exp(weight[t] - largest);
    std::vector<double> expected(case_.head_dim);
    for (size_t t = FirstOf(token); t < end; ++t) {
      for (size_t d = 0; d < case_.head_dim; ++d) expected[d] += weight[t] / total * values_[t * case_.head_dim + d];
    }
    return expected;
  }

  size_t RowStride() const { return case_.group * case_.head_dim + 3; }

 private:
  static constexpr size_t kElementBytes[] = {4, 2, 1, 1};  // of keys
  static constexpr size_t kInt4 = 3;
  static constexpr size_t kOffset = 64;

  size_t End() const { return std::min(case_.n_context + case_.tokens - 1, case_.context_end); }
  size_t FirstOf(size_t token) const {
    const size_t end = case_.n_context + token;
    return case_.window == 0 || end < case_.window ? 0 : end - case_.window;
  }

  double Put(uint8_t* at, float value, float scale) const {
    if (type_ == 0) {
      std::memcpy(at, &value, 4);
      return static_cast<double>(value);
    }
    if (type_ == 1) {
      const uint16_t half = F32ToF16(value);
      std::memcpy(at, &half, 2);
      return static_cast<double>(F16ToF32(half));
    }
    const auto q = static_cast<int8_t>(value * 60);
    std::memcpy(at, &q, 1);
    return static_cast<double>(q) * static_cast<double>(scale);
  }

  void Fill(size_t t) {
    uint8_t* base = kv_.data() + order_[t / 16] * block_bytes_ + kOffset;
    const float key_scale = 0.01f * static_cast<float>(1 + t % 3);
    const float value_scale = 0.02f * static_cast<float>(1 + t % 5);
    uint8_t* scales = base + keys_bytes_ + 16 * value_row_bytes_;
    std::memcpy(scales + 4 * (t % 16), &key_scale, 4);
    std::memcpy(scales + 64 + 4 * (t % 16), &value_scale, 4);
    uint8_t* values = base + keys_bytes_ + t % 16 * value_row_bytes_;
    const size_t bytes = kElementBytes[type_];
    for (size_t d = 0; d < case_.head_dim; ++d) {
      const size_t at = t * case_.head_dim + d;
      keys_[at] = Put(base + (d * 16 + t % 16) * bytes, static_cast<float>(rng_.Uniform() * 4 - 2), key_scale);
      if (type_ == kInt4) {
        // What is left of a byte stays 1s.
        const size_t code = rng_.Next() % 16;
        uint8_t& byte = values[d / 2];
        byte = static_cast<uint8_t>(d % 2 == 0 ? (byte & 0xf0) | code : (byte & 15) | code << 4);
        values_[at] = TableOf(DType::kIQ4_NL).value[code] * static_cast<double>(value_scale);
        continue;
      }
      values_[at] = Put(values + d * bytes, static_cast<float>(rng_.Uniform() * 4 - 2), value_scale);
    }
  }

  KvCase case_;
  size_t type_;
  Rng rng_;
  size_t keys_bytes_ = 0;
  size_t value_row_bytes_ = 0;
  size_t block_bytes_ = 0;
  std::vector<uint8_t> kv_;
  std::vector<double> keys_;
  std::vector<double> values_;
  std::vector<uint32_t> order_;
  std::vector<float> query_;
  std::vector<float> slopes_;
  std::vector<float> sinks_;
};

constexpr float kSmall = 0.05f;
constexpr KvCase kKvCases[] = {
    {8, 2, 1},
    {48, 1, 16},
    {64, 8, 17},
    {20, 3, 40},
    {128, 4, 33},
    {7, 5, 100},
    {32, 4, 40, 1},
    {24, 5, 100, 84},
    {64, 1, 70, 33},
    {64, 3, 300, 0, 1, kSmall},
    {64, 1, 1, 0, 8, kSmall},
    {64, 3, 60, 0, 8, kSmall},
    {48, 2, 120, 0, 7, kSmall},
    {80, 7, 250, 0, 5, kSmall},
    {16, 4, 30, 8, 8, kSmall},
    {64, 1, 64, 64, 2, kSmall},
    {128, 2, 500, 200, 8, kSmall},
    {33, 1, 129, 65, 3, kSmall},
    {32, 3, 512, 0, 2, kSmall},
    {16, 3, 1500, 0, 8, kSmall},
    {24, 2, 1022, 509, 8, kSmall},
    {16, 2, 700, 0, 3},
    {64, 3, 300, 0, 4, 0.3f, /*softcap=*/2},
    {32, 5, 700, 0, 3, kSmall, /*softcap=*/0, /*slopes=*/true},
    {32, 2, 700, 40, 3, kSmall, /*softcap=*/0, /*slopes=*/true},
    {64, 8, 600, 128, 3, kSmall, /*softcap=*/0, /*slopes=*/false, /*sinks=*/true},
    {40, 3, 1, 0, 8, 0.3f, /*softcap=*/1, /*slopes=*/true, /*sinks=*/true},
    // Later tokens are seen too: the whole sequence, and what a window reaches of it.
    {.head_dim = 32, .group = 1, .n_context = 90, .tokens = 8, .scale = kSmall, .context_end = 90},
    {.head_dim = 24, .group = 3, .n_context = 700, .tokens = 5, .scale = kSmall, .context_end = 700},
    {.head_dim = 64, .group = 1, .n_context = 60, .window = 41, .tokens = 8, .scale = kSmall, .context_end = 63},
    {.head_dim = 16, .group = 2, .n_context = 518, .window = 33, .tokens = 8, .scale = kSmall, .context_end = 514},
    {.head_dim = 16, .group = 1, .n_context = 40, .window = 129, .tokens = 3, .scale = kSmall, .context_end = 9}};

TEST_P(Sets, AttentionMatchesDouble) {
  for (size_t type = 0; type < kernels::kKvForms; ++type) {
    for (const KvCase& c : kKvCases) {
      AttentionCase attention(c, type);
      const std::vector<float> out = attention.Run(*GetParam(), /*from=*/0, c.tokens);
      for (size_t t = 0; t < c.tokens; ++t) {
        for (size_t h = 0; h < c.group; ++h) {
          const std::vector<double> expected = attention.Expected(t, h);
          for (size_t d = 0; d < c.head_dim; ++d) {
            ASSERT_NEAR(static_cast<double>(out[t * attention.RowStride() + h * c.head_dim + d]), expected[d], 1e-5)
                << "type " << type << " head_dim " << c.head_dim << " context " << c.n_context << " token " << t;
          }
        }
        for (size_t pad = c.group * c.head_dim; pad < attention.RowStride(); ++pad) EXPECT_EQ(out[t * attention.RowStride() + pad], 42.0f);
      }
      EXPECT_EQ(out.back(), 42.0f);
    }
  }
}

// A token's result is the same to the bit alone and among others.
TEST_P(Sets, AttentionOfATokenDoesNotDependOnOthers) {
  for (size_t type = 0; type < kernels::kKvForms; ++type) {
    for (const KvCase& c : kKvCases) {
      AttentionCase attention(c, type);
      const std::vector<float> together = attention.Run(*GetParam(), /*from=*/0, c.tokens);
      for (size_t t = 0; t < c.tokens; ++t) {
        const std::vector<float> alone = attention.Run(*GetParam(), t, /*tokens=*/1);
        EXPECT_EQ(std::memcmp(alone.data(), together.data() + t * attention.RowStride(), c.group * c.head_dim * sizeof(float)), 0)
            << "type " << type << " head_dim " << c.head_dim << " context " << c.n_context << " token " << t;
      }
    }
  }
}

TEST_P(Sets, ReadSumsAllWords) {
  std::vector<uint64_t> words(1003);
  uint64_t sum = 0;
  for (size_t i = 0; i < words.size(); ++i) sum += words[i] = i * 0x9e3779b97f4a7c15ULL;
  EXPECT_EQ(GetParam()->read(reinterpret_cast<const uint8_t*>(words.data()), words.size() * 8), sum);
}

INSTANTIATE_TEST_SUITE_P(All, Sets, ::testing::ValuesIn(RunnableKernels()), [](const auto& row) { return TestName(row.param->name); });

TEST(Choice, ByName) {
  EXPECT_EQ(*ChooseKernels("auto"), RunnableKernels().front());
  EXPECT_STREQ((*ChooseKernels("ref"))->name, "ref");
  EXPECT_EQ(ChooseKernels("sse9").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(KernelSetNames().back(), "ref");
}

}  // namespace
}  // namespace bantam
