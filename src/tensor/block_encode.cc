#include "tensor/block_encode.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "tensor/half.h"

namespace bantam {
namespace {

void PutU16(uint16_t bits, uint8_t* at) { std::memcpy(at, &bits, sizeof(bits)); }

// Element 0..15 to low nibbles, 16..31 to high ones.
void PutNibbles(const uint8_t* code, uint8_t* bytes) {
  for (size_t i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>((code[i] & 15) | (code[i + 16] & 15) << 4);
}

// Bit i of the word is the fifth of element i.
void PutFifthBits(const uint8_t* code, uint8_t* word_bytes) {
  uint32_t word = 0;
  for (size_t i = 0; i < 32; ++i) word |= static_cast<uint32_t>(code[i] >> 4 & 1) << i;
  std::memcpy(word_bytes, &word, sizeof(word));
}

// Runs of 32 codes: bits [shift, shift + width) of run r go to byte k % 32 of the r / per_byte-th 32 bytes.
struct Plane {
  int shift;
  int width;
};
void PutPlane(const BlockCodes& codes, Plane plane, uint8_t* bytes) {
  const size_t per_byte = static_cast<size_t>(8 / plane.width);
  const unsigned mask = (1u << plane.width) - 1;
  for (size_t i = 0; i < 256 / per_byte; ++i) {
    unsigned byte = 0;
    for (size_t part = 0; part < per_byte; ++part) {
      const unsigned code = codes.code[(i / 32 * per_byte + part) * 32 + i % 32];
      byte |= (code >> plane.shift & mask) << (part * static_cast<size_t>(plane.width));
    }
    bytes[i] = static_cast<uint8_t>(byte);
  }
}

// The 12 bytes of eight 6-bit scales and minima.
void PutSixBitPairs(const BlockCodes& codes, uint8_t* packed) {
  for (size_t s = 0; s < 4; ++s) {
    const auto low = static_cast<unsigned>(codes.sub_scale[s]);
    const auto high = static_cast<unsigned>(codes.sub_scale[s + 4]);
    packed[s] = static_cast<uint8_t>(low | (high >> 4) << 6);
    packed[s + 4] = static_cast<uint8_t>(codes.sub_min[s] | (codes.sub_min[s + 4] >> 4) << 6);
    packed[s + 8] = static_cast<uint8_t>((high & 15) | (codes.sub_min[s + 4] & 15) << 4);
  }
}

// A scale of zero 32 as its six bits.
unsigned SixBits(int8_t scale) { return static_cast<unsigned>(scale + 32) & 63u; }

constexpr float kE4M3Max = 448;

// Of half an E8M0 scale and half an unsigned E4M3 one, as bf16 (block_codes.cc).
uint8_t E8M0OfHalf(uint16_t bf16) {
  if (bf16 == 0x0020) return 0;
  if (bf16 == 0x0040) return 1;
  return static_cast<uint8_t>((bf16 >> 7) + 1);
}
uint8_t E4M3OfHalf(uint16_t bf16) {
  const float doubled = 2 * std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16);
  if (!(doubled >= 0 && doubled <= kE4M3Max)) return 0x7f;
  if (doubled < std::ldexp(8.0f, -9)) return static_cast<uint8_t>(std::ldexp(doubled, 9));
  const int exponent = std::ilogb(doubled);
  const float mantissa = std::ldexp(doubled, 3 - exponent) - 8;
  return static_cast<uint8_t>(static_cast<unsigned>(exponent + 7) << 3 | static_cast<unsigned>(mantissa));
}

}  // namespace

void EncodeQ8_0(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  std::memcpy(block + 2, codes.code.data(), 32);
}

void EncodeQ4_0(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  PutNibbles(codes.code.data(), block + 2);
}

void EncodeQ4_1(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  PutU16(NegatedF16(codes.dmin), block + 2);
  PutNibbles(codes.code.data(), block + 4);
}

void EncodeQ5_0(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  PutFifthBits(codes.code.data(), block + 2);
  PutNibbles(codes.code.data(), block + 6);
}

void EncodeQ5_1(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  PutU16(NegatedF16(codes.dmin), block + 2);
  PutFifthBits(codes.code.data(), block + 4);
  PutNibbles(codes.code.data(), block + 8);
}

void EncodeInt3(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  std::memset(block + 2, 0, 12);
  for (size_t i = 0; i < 32; ++i) {
    block[2 + i % 8] = static_cast<uint8_t>(block[2 + i % 8] | (codes.code[i] & 3) << (i / 8 * 2));
    block[10 + i / 8] = static_cast<uint8_t>(block[10 + i / 8] | (codes.code[i] >> 2 & 1) << (i % 8));
  }
}

void EncodeInt3M(const BlockCodes& codes, size_t group, uint8_t* block) {
  EncodeInt3(codes, group, block + 2);
  PutU16(codes.d, block);
  PutU16(NegatedF16(codes.dmin), block + 2);
}

void EncodeQ2_K(const BlockCodes& codes, size_t, uint8_t* block) {
  for (size_t s = 0; s < 16; ++s) block[s] = static_cast<uint8_t>(codes.sub_scale[s] | codes.sub_min[s] << 4);
  PutPlane(codes, {.shift = 0, .width = 2}, block + 16);
  PutU16(codes.d, block + 80);
  PutU16(codes.dmin, block + 82);
}

void EncodeQ3_K(const BlockCodes& codes, size_t, uint8_t* block) {
  PutPlane(codes, {.shift = 2, .width = 1}, block);
  PutPlane(codes, {.shift = 0, .width = 2}, block + 32);
  uint8_t* scales = block + 96;
  for (size_t s = 0; s < 8; ++s) {
    scales[s] = static_cast<uint8_t>((SixBits(codes.sub_scale[s]) & 15) | (SixBits(codes.sub_scale[s + 8]) & 15) << 4);
  }
  for (size_t s = 0; s < 4; ++s) {
    unsigned byte = 0;
    for (size_t part = 0; part < 4; ++part) byte |= SixBits(codes.sub_scale[4 * part + s]) >> 4 << (2 * part);
    scales[8 + s] = static_cast<uint8_t>(byte);
  }
  PutU16(codes.d, block + 108);
}

void EncodeQ4_K(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  PutU16(codes.dmin, block + 2);
  PutSixBitPairs(codes, block + 4);
  PutPlane(codes, {.shift = 0, .width = 4}, block + 16);
}

void EncodeQ5_K(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  PutU16(codes.dmin, block + 2);
  PutSixBitPairs(codes, block + 4);
  PutPlane(codes, {.shift = 4, .width = 1}, block + 16);
  PutPlane(codes, {.shift = 0, .width = 4}, block + 48);
}

// Nibbles of runs 0 and 2 share bytes, and those of 1 and 3.
void EncodeQ6_K(const BlockCodes& codes, size_t, uint8_t* block) {
  for (size_t i = 0; i < 128; ++i) {
    const size_t first = i / 64 * 128 + i % 64;
    block[i] = static_cast<uint8_t>((codes.code[first] & 15) | (codes.code[first + 64] & 15) << 4);
  }
  PutPlane(codes, {.shift = 4, .width = 2}, block + 128);
  std::memcpy(block + 192, codes.sub_scale.data(), 16);
  PutU16(codes.d, block + 208);
}

void EncodeIQ4_NL(const BlockCodes& codes, size_t group, uint8_t* block) { EncodeQ4_0(codes, group, block); }

void EncodeIQ4_XS(const BlockCodes& codes, size_t, uint8_t* block) {
  PutU16(codes.d, block);
  unsigned high = 0;
  for (size_t s = 0; s < 8; ++s) {
    high |= SixBits(codes.sub_scale[s]) >> 4 << (2 * s);
    PutNibbles(&codes.code[32 * s], block + 8 + 16 * s);
  }
  PutU16(static_cast<uint16_t>(high), block + 2);
  for (size_t i = 0; i < 4; ++i) {
    block[4 + i] = static_cast<uint8_t>((SixBits(codes.sub_scale[2 * i]) & 15) | (SixBits(codes.sub_scale[2 * i + 1]) & 15) << 4);
  }
}

void EncodeMXFP4(const BlockCodes& codes, size_t, uint8_t* block) {
  block[0] = E8M0OfHalf(codes.d);
  PutNibbles(codes.code.data(), block + 1);
}

void EncodeNVFP4(const BlockCodes& codes, size_t group, uint8_t* block) {
  block[2 * group] = E4M3OfHalf(codes.d);
  block[2 * group + 1] = E4M3OfHalf(codes.dmin);
  for (size_t i = 0; i < 16; ++i) {
    const uint8_t* low = &codes.code[i / 8 * 16 + i % 8];
    block[4 + 16 * group + i] = static_cast<uint8_t>((low[0] & 15) | (low[8] & 15) << 4);
  }
}

void EncodeQ2_0(const BlockCodes& codes, size_t group, uint8_t* block) {
  PutU16(codes.d, block);
  for (size_t i = 0; i < 8; ++i) {
    const uint8_t* four = &codes.code[4 * i];
    block[2 + 8 * group + i] = static_cast<uint8_t>((four[0] & 3) | (four[1] & 3) << 2 | (four[2] & 3) << 4 | (four[3] & 3) << 6);
  }
}

}  // namespace bantam
