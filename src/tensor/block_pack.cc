#include "tensor/block_pack.h"

#include <bit>
#include <cstring>

#include "tensor/block_codes.h"
#include "tensor/block_encode.h"
#include "tensor/group_pack.h"
#include "tensor/half.h"

namespace bantam {
namespace {

constexpr std::array<float, 256> MakeOnes() {
  std::array<float, 256> ones{};
  ones.fill(1);
  return ones;
}
constexpr std::array<float, 256> kOnes = MakeOnes();

// Weights of one block, brought to at most 1 so that no sum of squares overflows. Without any weight all count the same.
template <size_t kN>
class Weights {
 public:
  explicit Weights(const float* w) {
    float largest = 0;
    for (size_t i = 0; w != nullptr && i < kN; ++i) largest = std::max(largest, w[i]);
    if (!(largest > 0)) return;
    for (size_t i = 0; i < kN; ++i) weights_[i] = w[i] / largest;
  }
  const float* data() const { return weights_.data(); }

 private:
  std::array<float, 256> weights_ = kOnes;
};

void PutHalf(float value, uint8_t* at) {
  const uint16_t bits = F32ToF16(value);
  std::memcpy(at, &bits, 2);
}
float Rounded(float value) { return F16ToF32(F32ToF16(value)); }

// The value of the largest magnitude, with its sign. Of finite numbers the bits without the sign are in the order of their magnitudes, and
// compilers make vector instructions of a maximum of integers.
float Extreme(const float* x, size_t n) {
  constexpr uint32_t kMagnitude = 0x7fffffff;
  int32_t largest = 0;
  for (size_t i = 0; i < n; ++i) largest = std::max(largest, static_cast<int32_t>(std::bit_cast<uint32_t>(x[i]) & kMagnitude));
  for (size_t i = 0; i < n && largest != 0; ++i) {
    if (static_cast<int32_t>(std::bit_cast<uint32_t>(x[i]) & kMagnitude) == largest) return x[i];
  }
  return 0;
}

// The least and the largest of 32 values, eight side by side.
struct Range {
  float low;
  float top;
};
Range RangeOf(const float* x) {
  float low[8], top[8];
  std::copy_n(x, 8, low);
  std::copy_n(x, 8, top);
  for (size_t i = 8; i < 32; i += 8) {
    for (size_t j = 0; j < 8; ++j) {
      low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
      top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
    }
  }
  return {*std::min_element(low, low + 8), *std::max_element(top, top + 8)};
}

// std::round within the range of int, without a call for each number.
int RoundAway(float value) {
  const int whole = static_cast<int>(value);
  const float rest = value - static_cast<float>(whole);
  return whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
}

// Codes 0..2 * zero - 1 around `zero` in one block of 32; the scale that is to be stored.
float SymmetricCodes(const float* x, const float* w, int zero, uint8_t* code) {
  if (w == nullptr) {
    const float d = Extreme(x, 32) / static_cast<float>(-zero);
    const float inverse = InverseScale(d);
    for (size_t i = 0; i < 32; ++i) {
      const int rounded = static_cast<int>(x[i] * inverse + (static_cast<float>(zero) + 0.5f));
      code[i] = static_cast<uint8_t>(std::clamp(rounded, 0, 2 * zero - 1));
    }
    return d;
  }
  const Weights<32> weights(w);
  const UniformLevels levels = {-zero, zero - 1};
  const float d = Rounded(SearchScale({x, weights.data(), 32}, levels));
  for (size_t i = 0; i < 32; ++i) code[i] = static_cast<uint8_t>(levels.Nearest(x[i] * InverseScale(d)) + zero);
  return d;
}

// Codes 0..high of d * code - m.
ScaleAndMin AsymmetricCodes(const float* x, const float* w, int high, uint8_t* code) {
  ScaleAndMin s;
  if (w == nullptr) {
    const auto [low, top] = RangeOf(x);
    s = {(top - low) / static_cast<float>(high), -low};
    const float inverse = InverseScale(s.d);
    for (size_t i = 0; i < 32; ++i) code[i] = static_cast<uint8_t>(std::min(static_cast<int>((x[i] - low) * inverse + 0.5f), high));
    return s;
  }
  const Weights<32> weights(w);
  s = SearchScaleAndMin({x, weights.data(), 32}, high, /*positive_min=*/false);
  s = {Rounded(s.d), Rounded(s.m)};
  if (!std::isfinite(s.d) || !std::isfinite(s.m)) {
    // A line through a few weighted values may leave the range of f16; one from the least to the largest value does not.
    const auto [low, top] = RangeOf(x);
    s = {Rounded((top - low) / static_cast<float>(high)), Rounded(-low)};
  }
  for (size_t i = 0; i < 32; ++i) code[i] = static_cast<uint8_t>(UniformLevels{0, high}.Nearest((x[i] + s.m) * InverseScale(s.d)));
  return s;
}

// ---- Super-blocks: 256 values, sub-blocks of kSub, small integer scales that share one f16 ----

// Candidates for the shared scale: the one that gives the largest sub-block the largest integer, and some around it.
constexpr std::array<float, 7> kSharedFactors = {1.0f, 0.96f, 0.92f, 1.04f, 0.88f, 1.08f, 0.84f};

template <size_t kSub>
struct SymmetricSuper {
  static constexpr size_t kSubs = 256 / kSub;
  float d = 0;
  std::array<int, kSubs> scale{};
  std::array<uint8_t, 256> level{};  // codes of the levels (UniformLevels: code - low)
  float error = INFINITY;
};

struct ScaleRange {
  int low;
  int high;
};

// The best integer near each sub-block's ideal scale, and the codes that go with it.
template <size_t kSub, typename Levels>
SymmetricSuper<kSub> WithShared(const float* x, const float* w, const Levels& levels, ScaleRange range, float shared,
                                const std::array<float, 256 / kSub>& ideal) {
  SymmetricSuper<kSub> out;
  out.d = Rounded(shared);
  out.error = 0;
  for (size_t s = 0; s < out.kSubs; ++s) {
    const WeightedBlock block = {x + s * kSub, w + s * kSub, kSub};
    const int nearest = static_cast<int>(RoundSmall(std::clamp(ideal[s] * InverseScale(out.d), -1000.0f, 1000.0f)));
    float best = INFINITY;
    for (int candidate = nearest - 1; candidate <= nearest + 1; ++candidate) {
      const int scale = std::clamp(candidate, range.low, range.high);
      const float error = ErrorWithScale(block, levels, out.d * static_cast<float>(scale));
      if (error < best) {
        best = error;
        out.scale[s] = scale;
      }
    }
    out.error += best;
  }
  return out;
}

// The shared scale that fits best to given sub-scales and codes.
template <size_t kSub, typename Levels>
float RefitShared(const float* x, const float* w, const Levels& levels, const SymmetricSuper<kSub>& super) {
  double xv = 0;
  double vv = 0;
  for (size_t i = 0; i < 256; ++i) {
    const float scale = static_cast<float>(super.scale[i / kSub]);
    const float v = scale * levels.Value(levels.Nearest(x[i] * InverseScale(super.d * scale)));
    xv += static_cast<double>(w[i]) * static_cast<double>(x[i]) * static_cast<double>(v);
    vv += static_cast<double>(w[i]) * static_cast<double>(v) * static_cast<double>(v);
  }
  return vv > 0 ? static_cast<float>(xv / vv) : 0;
}

template <size_t kSub, typename Levels>
SymmetricSuper<kSub> SearchSymmetric(const float* x, const float* w, const Levels& levels, ScaleRange range) {
  std::array<float, 256 / kSub> ideal;
  for (size_t s = 0; s < ideal.size(); ++s) ideal[s] = SearchScale({x + s * kSub, w + s * kSub, kSub}, levels);
  // The range reaches one further below zero: the largest scale goes there.
  const float largest = Extreme(ideal.data(), ideal.size());
  SymmetricSuper<kSub> best;
  for (const float factor : kSharedFactors) {
    auto super = WithShared<kSub>(x, w, levels, range, factor * largest / static_cast<float>(range.low), ideal);
    if (super.error < best.error) best = super;
  }
  for (int round = 0; round < 3; ++round) {
    auto super = WithShared<kSub>(x, w, levels, range, RefitShared<kSub>(x, w, levels, best), ideal);
    if (!(super.error < best.error)) break;
    best = super;
  }
  for (size_t i = 0; i < 256; ++i) {
    const float d = best.d * static_cast<float>(best.scale[i / kSub]);
    best.level[i] = static_cast<uint8_t>(levels.Nearest(x[i] * InverseScale(d)) - static_cast<int>(levels.Nearest(-INFINITY)));
  }
  return best;
}

template <size_t kSub>
struct AsymmetricSuper {
  static constexpr size_t kSubs = 256 / kSub;
  ScaleAndMin shared;
  std::array<uint8_t, kSubs> scale{};
  std::array<uint8_t, kSubs> minimum{};
  std::array<uint8_t, 256> code{};
  float error = INFINITY;

  ScaleAndMin Of(size_t s) const { return {shared.d * static_cast<float>(scale[s]), shared.m * static_cast<float>(minimum[s])}; }
};

struct AsymmetricShape {
  int code_high;   // of codes
  int scale_high;  // of sub-scales and sub-minima
};

template <size_t kSub>
AsymmetricSuper<kSub> WithShared(const float* x, const float* w, AsymmetricShape shape, ScaleAndMin shared,
                                 const std::array<ScaleAndMin, 256 / kSub>& ideal) {
  AsymmetricSuper<kSub> out;
  out.shared = {Rounded(shared.d), Rounded(shared.m)};
  out.error = 0;
  const UniformLevels integers = {0, shape.scale_high};
  for (size_t s = 0; s < out.kSubs; ++s) {
    const WeightedBlock block = {x + s * kSub, w + s * kSub, kSub};
    const int scale = integers.Nearest(ideal[s].d * InverseScale(out.shared.d));
    const int minimum = integers.Nearest(ideal[s].m * InverseScale(out.shared.m));
    float best = INFINITY;
    for (int a = std::max(0, scale - 1); a <= std::min(shape.scale_high, scale + 1); ++a) {
      for (int b = std::max(0, minimum - 1); b <= std::min(shape.scale_high, minimum + 1); ++b) {
        const ScaleAndMin tried = {out.shared.d * static_cast<float>(a), out.shared.m * static_cast<float>(b)};
        const float error = ErrorWithMin(block, shape.code_high, tried);
        if (error < best) {
          best = error;
          out.scale[s] = static_cast<uint8_t>(a);
          out.minimum[s] = static_cast<uint8_t>(b);
        }
      }
    }
    out.error += best;
  }
  return out;
}

template <size_t kSub>
void FillCodes(const float* x, int code_high, AsymmetricSuper<kSub>* super) {
  for (size_t i = 0; i < 256; ++i) {
    const ScaleAndMin s = super->Of(i / kSub);
    super->code[i] = static_cast<uint8_t>(UniformLevels{0, code_high}.Nearest((x[i] + s.m) * InverseScale(s.d)));
  }
}

// Least squares for the two shared numbers with given integers: x = d (s c) - m n.
template <size_t kSub>
ScaleAndMin RefitShared(const float* x, const float* w, const AsymmetricSuper<kSub>& super) {
  double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
  for (size_t i = 0; i < 256; ++i) {
    const double a = static_cast<double>(super.scale[i / kSub]) * super.code[i];
    const double b = -static_cast<double>(super.minimum[i / kSub]);
    const double weight = static_cast<double>(w[i]);
    aa += weight * a * a;
    ab += weight * a * b;
    bb += weight * b * b;
    ax += weight * a * static_cast<double>(x[i]);
    bx += weight * b * static_cast<double>(x[i]);
  }
  const double determinant = aa * bb - ab * ab;
  if (!(determinant > 1e-9 * aa * bb)) return super.shared;
  return {static_cast<float>((ax * bb - bx * ab) / determinant), static_cast<float>((bx * aa - ax * ab) / determinant)};
}

template <size_t kSub>
AsymmetricSuper<kSub> SearchAsymmetric(const float* x, const float* w, AsymmetricShape shape) {
  std::array<ScaleAndMin, 256 / kSub> ideal;
  ScaleAndMin largest;
  for (size_t s = 0; s < ideal.size(); ++s) {
    ideal[s] = SearchScaleAndMin({x + s * kSub, w + s * kSub, kSub}, shape.code_high, /*positive_min=*/true);
    largest = {std::max(largest.d, ideal[s].d), std::max(largest.m, ideal[s].m)};
  }
  const float high = static_cast<float>(shape.scale_high);
  AsymmetricSuper<kSub> best;
  for (const float factor : {1.0f, 0.95f, 0.9f}) {
    auto super = WithShared<kSub>(x, w, shape, {factor * largest.d / high, factor * largest.m / high}, ideal);
    if (super.error < best.error) best = super;
  }
  FillCodes(x, shape.code_high, &best);
  for (int round = 0; round < 4; ++round) {
    auto super = WithShared<kSub>(x, w, shape, RefitShared(x, w, best), ideal);
    if (!(super.error < best.error)) break;
    best = super;
    FillCodes(x, shape.code_high, &best);
  }
  return best;
}

// Blocks of 32 add the minimum instead of subtracting it, and the codes' minimum is subtracted.
void SetScales(ScaleAndMin s, BlockCodes* codes) {
  codes->d = F32ToF16(s.d);
  codes->dmin = F32ToF16(s.m);
}

// What a search found, as the codes that are stored.
template <size_t kSub>
BlockCodes CodesOf(const AsymmetricSuper<kSub>& super) {
  BlockCodes codes;
  codes.d = F32ToF16(super.shared.d);
  codes.dmin = F32ToF16(super.shared.m);
  for (size_t s = 0; s < super.kSubs; ++s) {
    codes.sub_scale[s] = static_cast<int8_t>(super.scale[s]);
    codes.sub_min[s] = super.minimum[s];
  }
  codes.code = super.code;
  return codes;
}
template <size_t kSub>
BlockCodes CodesOf(const SymmetricSuper<kSub>& super) {
  BlockCodes codes;
  codes.d = F32ToF16(super.d);
  for (size_t s = 0; s < super.kSubs; ++s) codes.sub_scale[s] = static_cast<int8_t>(super.scale[s]);
  codes.code = super.level;
  return codes;
}

// Five base-3 digits (0..2) as a fraction of 256, rounded up so that truncation gives the digits back.
uint8_t PutTernary(const uint8_t* digits, size_t stride, size_t n) {
  unsigned number = 0;
  for (size_t i = 0; i < 5; ++i) number = number * 3 + (i < n ? digits[i * stride] : 0u);
  return static_cast<uint8_t>((number * 256 + 242) / 243);
}

// Codes 0, 1, 2 for -d, 0, d; the scale.
float TernaryCodes(const float* x, const float* w, uint8_t* code) {
  float d = std::fabs(Extreme(x, 256));
  if (w != nullptr) {
    const Weights<256> weights(w);
    d = Rounded(SearchTernaryScale({x, weights.data(), 256}));
  }
  for (size_t i = 0; i < 256; ++i) code[i] = static_cast<uint8_t>(std::clamp(std::lround(x[i] * InverseScale(d)), -1L, 1L) + 1);
  return d;
}

}  // namespace

void PackQ8_0(const float* x, const float*, uint8_t* block) {
  const float d = std::fabs(Extreme(x, 32)) / 127.0f;
  BlockCodes codes;
  codes.d = F32ToF16(d);
  const float inverse = InverseScale(d);
  for (size_t i = 0; i < 32; ++i) codes.code[i] = static_cast<uint8_t>(RoundAway(x[i] * inverse));
  EncodeQ8_0(codes, /*group=*/0, block);
}

void PackQ4_0(const float* x, const float* w, uint8_t* block) {
  BlockCodes codes;
  codes.d = F32ToF16(SymmetricCodes(x, w, /*zero=*/8, codes.code.data()));
  EncodeQ4_0(codes, /*group=*/0, block);
}

void PackQ4_1(const float* x, const float* w, uint8_t* block) {
  BlockCodes codes;
  SetScales(AsymmetricCodes(x, w, /*high=*/15, codes.code.data()), &codes);
  EncodeQ4_1(codes, /*group=*/0, block);
}

void PackQ5_0(const float* x, const float* w, uint8_t* block) {
  BlockCodes codes;
  codes.d = F32ToF16(SymmetricCodes(x, w, /*zero=*/16, codes.code.data()));
  EncodeQ5_0(codes, /*group=*/0, block);
}

void PackQ5_1(const float* x, const float* w, uint8_t* block) {
  BlockCodes codes;
  SetScales(AsymmetricCodes(x, w, /*high=*/31, codes.code.data()), &codes);
  EncodeQ5_1(codes, /*group=*/0, block);
}

void PackQ2_K(const float* x, const float* w, uint8_t* block) {
  const Weights<256> weights(w);
  EncodeQ2_K(CodesOf(SearchAsymmetric<16>(x, weights.data(), {.code_high = 3, .scale_high = 15})), /*group=*/0, block);
}

void PackQ3_K(const float* x, const float* w, uint8_t* block) {
  const Weights<256> weights(w);
  EncodeQ3_K(CodesOf(SearchSymmetric<16>(x, weights.data(), UniformLevels{-4, 3}, {-32, 31})), /*group=*/0, block);
}

void PackQ4_K(const float* x, const float* w, uint8_t* block) {
  const Weights<256> weights(w);
  EncodeQ4_K(CodesOf(SearchAsymmetric<32>(x, weights.data(), {.code_high = 15, .scale_high = 63})), /*group=*/0, block);
}

void PackQ5_K(const float* x, const float* w, uint8_t* block) {
  const Weights<256> weights(w);
  EncodeQ5_K(CodesOf(SearchAsymmetric<32>(x, weights.data(), {.code_high = 31, .scale_high = 63})), /*group=*/0, block);
}

void PackQ6_K(const float* x, const float* w, uint8_t* block) {
  const Weights<256> weights(w);
  EncodeQ6_K(CodesOf(SearchSymmetric<16>(x, weights.data(), UniformLevels{-32, 31}, {-128, 127})), /*group=*/0, block);
}

void PackIQ4_NL(const float* x, const float* w, uint8_t* block) {
  const Weights<32> weights(w);
  const TableLevels levels(kIQ4Table.value);
  const float d = Rounded(SearchScale({x, weights.data(), 32}, levels));
  BlockCodes codes;
  codes.d = F32ToF16(d);
  for (size_t i = 0; i < 32; ++i) codes.code[i] = static_cast<uint8_t>(levels.Nearest(x[i] * InverseScale(d)));
  EncodeIQ4_NL(codes, /*group=*/0, block);
}

void PackIQ4_XS(const float* x, const float* w, uint8_t* block) {
  const Weights<256> weights(w);
  EncodeIQ4_XS(CodesOf(SearchSymmetric<32>(x, weights.data(), TableLevels(kIQ4Table.value), {-32, 31})), /*group=*/0, block);
}

void PackTQ1_0(const float* x, const float* w, uint8_t* block) {
  uint8_t code[256];
  PutHalf(TernaryCodes(x, w, code), block + 52);
  for (size_t i = 0; i < 32; ++i) block[i] = PutTernary(code + i, 32, 5);
  for (size_t i = 0; i < 16; ++i) block[32 + i] = PutTernary(code + 160 + i, 16, 5);
  for (size_t i = 0; i < 4; ++i) block[48 + i] = PutTernary(code + 240 + i, 4, 4);
}

void PackTQ2_0(const float* x, const float* w, uint8_t* block) {
  uint8_t code[256];
  PutHalf(TernaryCodes(x, w, code), block + 64);
  for (size_t i = 0; i < 64; ++i) {
    const uint8_t* four = code + i / 32 * 128 + i % 32;
    block[i] = static_cast<uint8_t>(four[0] | four[32] << 2 | four[64] << 4 | four[96] << 6);
  }
}

void PackNF4(const float* x, const float* w, uint8_t* block) { PackGroup(DType::kNF4, x, w, /*n=*/32, block); }
void PackInt3(const float* x, const float* w, uint8_t* block) { PackGroup(DType::kInt3, x, w, /*n=*/32, block); }
void PackInt3M(const float* x, const float* w, uint8_t* block) { PackGroup(DType::kInt3M, x, w, /*n=*/32, block); }

void PackMXFP4(const float* x, const float* w, uint8_t* block) {
  const float largest = std::fabs(Extreme(x, 32));
  // The largest value of E2M1 is 6: its exponent is 2. (ilogb is exact; this rounds as the reference does.)
  const int plain = largest > 0 ? static_cast<int>(std::floor(std::log2(largest))) - 2 + 127 : 0;
  const Weights<32> weights(w);
  const auto nearest = [](float scaled) {
    size_t best = 0;
    float best_distance = std::fabs(scaled);
    for (size_t i = 1; i < 16; ++i) {
      const float distance = std::fabs(scaled - static_cast<float>(kFp4Table.value[i]));
      if (distance < best_distance) {
        best_distance = distance;
        best = i;
      }
    }
    return best;
  };
  double best_error = HUGE_VAL;
  for (const int step : {0, 1, -1}) {
    const int exponent = std::clamp(plain + step, 0, 254);
    const float d = std::ldexp(1.0f, exponent - 128);
    BlockCodes codes;
    codes.d = codes.dmin = F32ToBF16(d);
    double error = 0;  // squares of large values pass the range of floats
    for (size_t i = 0; i < 32; ++i) {
      codes.code[i] = static_cast<uint8_t>(nearest(x[i] / d));
      const double difference = static_cast<double>(x[i]) - static_cast<double>(d) * static_cast<double>(kFp4Table.value[codes.code[i]]);
      error += static_cast<double>(weights.data()[i]) * difference * difference;
    }
    if (error < best_error) {
      best_error = error;
      EncodeMXFP4(codes, /*group=*/0, block);
    }
    if (w == nullptr) return;
  }
}

}  // namespace bantam
