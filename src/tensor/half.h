// Small numbers in plain C++: the specification that vector conversions are held against.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace bantam {

// IEEE 754 binary16 to binary32, exact; subnormals, infinities and NaN payloads included.
inline float F16ToF32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// Binary32 to binary16, round to nearest even, as the hardware instructions do; NaN stays NaN (quiet).
inline uint16_t F32ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {                                               // below 2^-14: a subnormal half
    // Adding 0.5 aligns the value so that its unit in the last place is 2^-24; the addition does the rounding.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

// bfloat16 is the upper half of binary32.
inline float BF16ToF32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Round to nearest even; NaN stays NaN (quiet). As in hardware and in ggml.
inline uint16_t F32ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 64u);
  return static_cast<uint16_t>((bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16);
}

// 8-bit floats (Micikevicius et al., "FP8 formats for deep learning", 2022) to binary32, exact. E4M3 has no infinities, and NaN where all
// bits but the sign are set; E5M2 is the upper half of binary16.
inline float E4M3ToF32(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t exponent = (bits >> 3) & 15u;
  const uint32_t mantissa = bits & 7u;
  if ((bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) return std::bit_cast<float>(std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-9f) | sign);
  return std::bit_cast<float>(sign | (exponent + 120u) << 23 | mantissa << 20);
}
inline float E5M2ToF32(uint8_t bits) { return F16ToF32(static_cast<uint16_t>(bits << 8)); }

// The largest finite binary16.
inline constexpr float kF16Max = 65504.0f;

constexpr uint16_t NegatedF16(uint16_t bits) { return bits ^ 0x8000u; }

// Below this a block of values counts as zeros: the inverse of its scale would not be finite.
inline constexpr float kQuantizedMin = 1e-30f;

// Nearest (even) of -127..127; NaN gives 0.
inline int8_t RoundToInt8(float value) {
  const float nearest = std::nearbyint(value);
  if (nearest >= 127.0f) return 127;
  if (nearest <= -127.0f) return -127;
  return nearest == nearest ? static_cast<int8_t>(nearest) : int8_t{0};
}

}  // namespace bantam
