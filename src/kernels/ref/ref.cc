// The reference kernels: the specification in plain C++. Activations stay f32; weights are unpacked to their exact values.
#include "kernels/ref/ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/dtype.h"
#include "tensor/half.h"
#include "tensor/panel.h"

namespace bantam::kernels {
namespace {

constexpr size_t kTile = 256;  // columns unpacked at a time: one group of any kind

// 16 sums side by side, each over its row in column order: plain enough to read, wide enough to be vectorised.
void MultiplyTile(const float* weights /* [columns][16] */, size_t columns, const float* x, float* out /* [16] */) {
  float sums[kRows];
  std::memcpy(sums, out, sizeof(sums));
  for (size_t k = 0; k < columns; ++k) {
    for (size_t r = 0; r < kRows; ++r) sums[r] += weights[k * kRows + r] * x[k];
  }
  std::memcpy(out, sums, sizeof(sums));
}

template <PanelKind kKind>
void Product(const Panel& panel, const void* const* columns, size_t n, float* out) {
  PanelTable table;
  if (panel.table != nullptr) std::memcpy(table.value.data(), panel.table, table.value.size());
  table.multiplier = panel.multiplier;
  std::memset(out, 0, n * kRows * sizeof(float));
  float row[kTile];
  float tile[kTile * kRows];
  for (size_t begin = 0; begin < panel.columns; begin += kTile) {
    const size_t width = std::min(kTile, panel.columns - begin);
    const uint8_t* groups = panel.data + PanelBytes(kKind, begin);
    for (size_t r = 0; r < kRows; ++r) {
      UnpackPanelRow(kKind, table, groups, r, width, row);
      for (size_t k = 0; k < width; ++k) tile[k * kRows + r] = row[k];
    }
    for (size_t c = 0; c < n; ++c) {
      MultiplyTile(tile, width, static_cast<const float*>(columns[c]) + begin, out + c * kRows);
    }
  }
}

void Quantize(const float* x, size_t n, ActivationBlock* out) {
  for (size_t b = 0; b < n / 32; ++b, x += 32, ++out) {
    float largest = 0;
    for (size_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
    const bool zeros = !(largest >= kernels::kQuantizedMin);
    const float inverse = zeros ? 0.0f : 127.0f / largest;
    out->scale = zeros ? 0.0f : largest / 127.0f;
    int sums[2] = {0, 0};
    for (size_t i = 0; i < 32; ++i) {
      out->q[i] = RoundToInt8(x[i] * inverse);
      sums[i / 16] += out->q[i];
    }
    out->sum16[0] = static_cast<int16_t>(sums[0]);
    out->sum16[1] = static_cast<int16_t>(sums[1]);
  }
}

void RmsNorm(const float* x, const float* weight, size_t n, float epsilon, float* out) {
  double squares = 0;
  for (size_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const float scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon)));
  for (size_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

float Apply(Activation activation, float x) {
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0f + std::exp(-x));
    case Activation::kGelu: {
      constexpr float kSqrt2OverPi = 0.797884560802865f;
      return 0.5f * x * (1.0f + std::tanh(kSqrt2OverPi * (x + 0.044715f * x * x * x)));
    }
    case Activation::kRelu:
      return std::max(0.0f, x);
    case Activation::kReluSquared:
      return std::max(0.0f, x) * std::max(0.0f, x);
    case Activation::kErfGelu:
      return 0.5f * x * std::erfc(-x * 0.707106781186548f);
    case Activation::kClampedSilu: {
      const float low = std::min(x, 7.0f);
      return low / (1.0f + std::exp(-1.702f * low));
    }
  }
  return x;
}

template <Activation kActivation>
void Activate(const float* x, const float* factor, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) {
    float times = factor == nullptr ? 1.0f : factor[i];
    if (factor != nullptr && kActivation == Activation::kClampedSilu) times = std::clamp(times, -7.0f, 7.0f) + 1.0f;
    out[i] = Apply(kActivation, x[i]) * times;
  }
}

struct F32Kv {
  static constexpr size_t Bytes(size_t n) { return 4 * n; }
  static constexpr bool kScaled = false;
  static float Load(const uint8_t* data, size_t i) {
    float value;
    std::memcpy(&value, data + 4 * i, 4);
    return value;
  }
};
struct F16Kv {
  static constexpr size_t Bytes(size_t n) { return 2 * n; }
  static constexpr bool kScaled = false;
  static float Load(const uint8_t* data, size_t i) {
    uint16_t bits;
    std::memcpy(&bits, data + 2 * i, 2);
    return F16ToF32(bits);
  }
};
struct Int8Kv {
  static constexpr size_t Bytes(size_t n) { return n; }
  static constexpr bool kScaled = true;
  static float Load(const uint8_t* data, size_t i) { return static_cast<float>(static_cast<int8_t>(data[i])); }
};
struct Int4Kv {
  static constexpr size_t Bytes(size_t n) { return (n + 1) / 2; }
  static constexpr bool kScaled = true;
  static float Load(const uint8_t* data, size_t i) {
    return static_cast<float>(TableOf(DType::kIQ4_NL).value[data[i / 2] >> (i % 2 * 4) & 15]);
  }
};

size_t PositionOf(const Attention& a, size_t token) {
  return a.numbers == nullptr ? token : a.numbers[token / kKvTokens] * kKvTokens + token % kKvTokens;
}

// softmax(q K^T * scale) V over the visible tokens of a segment, in one pass with a running maximum (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018). Sums are double, and relative to a maximum that the state can hold.
template <typename K, typename U>
void Attend(const Attention& a, size_t segment, float* states) {
  const size_t segment_begin = segment * kSegmentTokens;
  for (size_t row = 0; row < a.tokens * a.group; ++row) {
    const float* query = a.query + row / a.group * a.row_stride + row % a.group * a.head_dim;
    float* out = states + row * AttentionStateFloats(a.head_dim);
    const size_t reach = a.n_context + row / a.group;
    const size_t visible_end = std::min(reach, a.context_end);
    const size_t first = std::max(segment_begin, a.window == 0 || reach < a.window ? 0 : reach - a.window);
    const size_t end = std::min(visible_end, segment_begin + kSegmentTokens);
    double largest = -HUGE_VAL;
    double total = 0;
    std::fill_n(out, a.head_dim, 0.0f);
    for (size_t t = first; t < end; ++t) {
      const uint8_t* keys = a.kv_base + a.blocks[t / kKvTokens] * a.block_bytes + a.head_offset;
      const uint8_t* values = keys + K::Bytes(kKvTokens * a.head_dim);
      const uint8_t* scales = values + kKvTokens * U::Bytes(a.head_dim);
      const size_t slot = t % kKvTokens;
      double score = 0;
      for (size_t d = 0; d < a.head_dim; ++d) {
        score += static_cast<double>(query[d]) * static_cast<double>(K::Load(keys, d * kKvTokens + slot));
      }
      score *= static_cast<double>(a.scale);
      double value_scale = 1;
      if (K::kScaled) score *= static_cast<double>(F32Kv::Load(scales, slot));
      if (U::kScaled) value_scale = static_cast<double>(F32Kv::Load(scales, kKvTokens + slot));
      if (a.softcap != 0) score = static_cast<double>(a.softcap) * std::tanh(score / static_cast<double>(a.softcap));
      if (a.slopes != nullptr) {
        score -= static_cast<double>(a.slopes[row % a.group]) * static_cast<double>(PositionOf(a, visible_end - 1) - PositionOf(a, t));
      }
      const double raised = std::max(largest, static_cast<double>(static_cast<float>(score)));
      const double keep = std::exp(largest - raised);
      const double weight = std::exp(score - raised);
      total = total * keep + weight;
      for (size_t d = 0; d < a.head_dim; ++d) {
        const double value = static_cast<double>(U::Load(values + slot * U::Bytes(a.head_dim), d));
        out[d] = static_cast<float>(static_cast<double>(out[d]) * keep + weight * value_scale * value);
      }
      largest = raised;
    }
    out[a.head_dim] = static_cast<float>(largest);
    out[a.head_dim + 1] = static_cast<float>(total);
  }
}

uint64_t Read(const uint8_t* data, size_t bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    sum += word;
  }
  return sum;
}

void Convolve(const Convolution& c) {
  const auto seen = [&](size_t t, size_t column) {
    if (t >= c.taps - 1) return c.in[(t - (c.taps - 1)) * c.columns + column];
    return c.before == nullptr ? 0.0f : c.before[t * c.columns + column];
  };
  for (size_t t = 0; t < c.rows; ++t) {
    for (size_t column = c.begin; column < c.end; ++column) {
      float sum = c.bias == nullptr ? 0.0f : c.bias[column];
      for (size_t k = 0; k < c.taps; ++k) sum += c.weight[column * c.taps + k] * seen(t + k, column);
      c.out[t * c.columns + column] = c.silu ? sum / (1.0f + std::exp(-sum)) : sum;
    }
  }
  for (size_t k = 0; k + 1 < c.taps; ++k) {
    for (size_t column = c.begin; column < c.end; ++column) c.after[k * c.columns + column] = seen(c.rows + k, column);
  }
}

void Scan(const StateScan& s) {
  for (size_t t = 0; t < s.rows; ++t) {
    const float* from = t > 0 ? s.after : s.before;
    for (size_t i = 0; i < s.head_dim; ++i) {
      const float x = s.x.data[t * s.x.stride + i];
      float sum = 0;
      for (size_t n = 0; n < s.state_size; ++n) {
        const size_t at = i * s.state_size + n;
        const float decay = s.decays == nullptr ? std::exp(s.steps[t] * s.rates[n]) : s.decays[t];
        s.after[at] = (from == nullptr ? 0 : from[at] * decay) + s.b.data[t * s.b.stride + n] * (s.steps[t] * x);
        sum += s.after[at] * s.c.data[t * s.c.stride + n];
      }
      s.out[t * s.out_stride + i] = sum + s.skip * x;
    }
  }
}

void Delta(const DeltaScan& s) {
  for (size_t t = 0; t < s.rows; ++t) {
    const float* from = t > 0 ? s.after : s.before;
    const float* k = s.k.data + t * s.k.stride;
    const float* q = s.q.data + t * s.q.stride;
    for (size_t i = 0; i < s.value_dim; ++i) {
      float* row = s.after + i * s.key_dim;
      float known = 0;
      for (size_t n = 0; n < s.key_dim; ++n) {
        row[n] = from == nullptr ? 0 : s.decays[t] * from[i * s.key_dim + n];
        known += row[n] * (s.k_scales[t] * k[n]);
      }
      const float correction = s.betas[t] * (s.v.data[t * s.v.stride + i] - known);
      float sum = 0;
      for (size_t n = 0; n < s.key_dim; ++n) {
        row[n] += correction * (s.k_scales[t] * k[n]);
        sum += row[n] * (s.q_scales[t] * q[n]);
      }
      s.out[t * s.out_stride + i] = sum;
    }
  }
}

constexpr size_t kPeakWidth = 256;

// As wide as the compiler makes it. The factors change with each round, or the sums would be known beforehand.
template <typename Factor, typename Sum>
uint64_t RunPeak(uint64_t rounds) {
  Factor a[kPeakWidth];
  Factor b[kPeakWidth];
  Sum sums[kPeakWidth] = {};
  for (size_t i = 0; i < kPeakWidth; ++i) {
    a[i] = static_cast<Factor>(i % 7);
    b[i] = static_cast<Factor>(i % 5);
  }
  for (uint64_t round = 0; round < rounds; ++round) {
    a[round % kPeakWidth] = static_cast<Factor>(round % 3);
    for (size_t i = 0; i < kPeakWidth; ++i) sums[i] = static_cast<Sum>(sums[i] + static_cast<Sum>(a[i]) * static_cast<Sum>(b[i]));
  }
  uint64_t checksum = 0;
  for (const Sum sum : sums) checksum += static_cast<uint64_t>(sum);
  return checksum;
}

}  // namespace

const KernelSet kReference = {
    .name = "ref",
    .quantized = {},
    .product = {Product<PanelKind::kF32>,   Product<PanelKind::kF16>,  Product<PanelKind::kBF16>, Product<PanelKind::kQ8>,
                Product<PanelKind::kQ4>,    Product<PanelKind::kLut4>, Product<PanelKind::kQ4S>,  Product<PanelKind::kQ5S>,
                Product<PanelKind::kQ6S>,   Product<PanelKind::kQ2S>,  Product<PanelKind::kQ4M>,  Product<PanelKind::kQ5>,
                Product<PanelKind::kQ5M>,   Product<PanelKind::kQ3S>,  Product<PanelKind::kQ2>,   Product<PanelKind::kLut4H>,
                Product<PanelKind::kLut4B>, Product<PanelKind::kFp4>,  Product<PanelKind::kQ3>,   Product<PanelKind::kQ3M>},
    .tiles = {},
    .quantize = Quantize,
    .rms_norm = RmsNorm,
    .activate = {Activate<Activation::kSilu>, Activate<Activation::kGelu>, Activate<Activation::kRelu>, Activate<Activation::kReluSquared>,
                 Activate<Activation::kErfGelu>, Activate<Activation::kClampedSilu>},
    .attention = {Attend<F32Kv, F32Kv>, Attend<F16Kv, F16Kv>, Attend<Int8Kv, Int8Kv>, Attend<Int8Kv, Int4Kv>},
    .convolve = Convolve,
    .scan = Scan,
    .delta = Delta,
    .read = Read,
    .int8_peak = {RunPeak<int8_t, uint32_t>, kPeakWidth},
    .float_peak = {RunPeak<float, float>, kPeakWidth},
};

}  // namespace bantam::kernels
