#include "tensor/block_codes.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/bytes.h"
#include "tensor/iq_codebooks.h"

namespace bantam {
namespace {

// The 6-bit scale and minimum of sub-block s (0..7) out of the 12 packed bytes of Q4_K and Q5_K.
void SixBitPair(const uint8_t* packed, size_t s, BlockCodes* codes) {
  if (s < 4) {
    codes->sub_scale[s] = static_cast<int8_t>(packed[s] & 63);
    codes->sub_min[s] = packed[s + 4] & 63;
  } else {
    codes->sub_scale[s] = static_cast<int8_t>((packed[s + 4] & 15) | ((packed[s - 4] >> 6) << 4));
    codes->sub_min[s] = static_cast<uint8_t>((packed[s + 4] >> 4) | ((packed[s] >> 6) << 4));
  }
}

// A nibble plane of 32 elements in 16 bytes: low nibbles are elements 0 to 15, high nibbles 16 to 31.
void Nibbles(const uint8_t* bytes, uint8_t* code) {
  for (size_t i = 0; i < 16; ++i) {
    code[i] = bytes[i] & 15;
    code[i + 16] = bytes[i] >> 4;
  }
}

// Adds the fifth bits: bit i of the word belongs to element i.
void AddFifthBits(const uint8_t* word_bytes, uint8_t* code) {
  const uint32_t word = LoadUnaligned<uint32_t>(word_bytes);
  for (size_t i = 0; i < 32; ++i) code[i] = static_cast<uint8_t>(code[i] | (((word >> i) & 1u) << 4));
}

constexpr uint16_t Negated(uint16_t f16) { return f16 ^ 0x8000u; }

// Element i of a codebook entry and its sign as an index into a table of `2 * kMagnitudes` ascending values.
template <unsigned kBits, unsigned kMagnitudes>
constexpr uint8_t SignedIndex(uint32_t entry, size_t i, uint32_t signs, size_t sign_bit) {
  const unsigned magnitude = (entry >> (kBits * i)) & ((1u << kBits) - 1u);
  const bool negative = ((signs >> sign_bit) & 1u) != 0;
  return static_cast<uint8_t>(negative ? kMagnitudes - 1 - magnitude : kMagnitudes + magnitude);
}

// Eight signs of seven bits: the eighth makes the number of negative ones even.
constexpr uint32_t EvenSigns(uint32_t pattern) {
  pattern &= 127u;
  return pattern | (static_cast<uint32_t>(std::popcount(pattern) & 1) << 7);
}

// Eight elements of IQ2, and eight of IQ3 (two entries of four).
void PutIQ2(uint16_t entry, uint32_t signs, uint8_t* code) {
  for (size_t i = 0; i < 8; ++i) code[i] = SignedIndex<2, 3>(entry, i, signs, i);
}
void PutIQ3(uint16_t low, uint16_t high, uint32_t signs, uint8_t* code) {
  for (size_t i = 0; i < 4; ++i) {
    code[i] = SignedIndex<3, 8>(low, i, signs, i);
    code[i + 4] = SignedIndex<3, 8>(high, i, signs, i + 4);
  }
}
// Eight elements of IQ1: -1, 0, 1 as 0, 1, 2, and whether 1/8 is subtracted instead of added.
void PutIQ1(uint16_t entry, bool minus, uint8_t* code) {
  for (size_t i = 0; i < 8; ++i) code[i] = static_cast<uint8_t>(2 * ((entry >> (2 * i)) & 3u) + (minus ? 0 : 1));
}

// One digit of five base-3 digits in a byte, stored as a fraction of 256: digit n is the integer part of 3 * frac(3^n * b / 256).
uint8_t Ternary(uint8_t byte, size_t digit) {
  constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
  const auto shifted = static_cast<uint8_t>(byte * kPowers[digit]);
  return static_cast<uint8_t>((shifted * 3u) >> 8);
}

// Half of an E8M0 scale (OCP Microscaling, 2^(e - 128)) and half of an unsigned E4M3 one, as bf16, without loss.
uint16_t HalfE8M0(uint8_t e) {
  const uint32_t bits = e < 2 ? 0x00200000u << e : (static_cast<uint32_t>(e) - 1) << 23;
  return static_cast<uint16_t>(bits >> 16);
}
uint16_t HalfE4M3(uint8_t x) {
  if (x == 0x7f) return 0;  // the format's NaN
  const unsigned exponent = (x >> 3) & 15u;
  const float mantissa = static_cast<float>(x & 7);
  const float value = exponent == 0 ? std::ldexp(mantissa, -10) : std::ldexp(8.0f + mantissa, static_cast<int>(exponent) - 11);
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

}  // namespace

const PanelTable kIQ2Table = {.value = {-43, -25, -8, 8, 25, 43}, .multiplier = 0.125f};
const PanelTable kIQ3XXSTable = {.value = {-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62}, .multiplier = 0.25f};
const PanelTable kIQ3STable = {.value = {-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15}, .multiplier = 1.0f};
const PanelTable kIQ1Table = {.value = {-9, -7, -1, 1, 7, 9}, .multiplier = 0.125f};
const PanelTable kIQ4Table = {.value = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, .multiplier = 1.0f};
const PanelTable kFp4Table = {.value = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}, .multiplier = 1.0f};

// f16 d, 32 x int8.
void DecodeQ8_0(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  std::memcpy(codes->code.data(), block + 2, 32);
}

// f16 d, 16 bytes of nibbles.
void DecodeQ4_0(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  Nibbles(block + 2, codes->code.data());
}

// f16 d, f16 minimum (added), 16 bytes of nibbles.
void DecodeQ4_1(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = Negated(LoadUnaligned<uint16_t>(block + 2));
  Nibbles(block + 4, codes->code.data());
}

// f16 d, 4 bytes of fifth bits, 16 bytes of nibbles.
void DecodeQ5_0(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  Nibbles(block + 6, codes->code.data());
  AddFifthBits(block + 2, codes->code.data());
}

// As Q5_0 with an f16 minimum (added) behind d.
void DecodeQ5_1(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = Negated(LoadUnaligned<uint16_t>(block + 2));
  Nibbles(block + 8, codes->code.data());
  AddFifthBits(block + 4, codes->code.data());
}

// 16 bytes of scale (low nibble) and minimum (high nibble), 64 bytes of 2-bit codes, f16 d, f16 dmin.
void DecodeQ2_K(const uint8_t* block, size_t, BlockCodes* codes) {
  const uint8_t* quants = block + 16;
  codes->d = LoadUnaligned<uint16_t>(block + 80);
  codes->dmin = LoadUnaligned<uint16_t>(block + 82);
  for (size_t s = 0; s < 16; ++s) {
    codes->sub_scale[s] = static_cast<int8_t>(block[s] & 15);
    codes->sub_min[s] = block[s] >> 4;
  }
  for (size_t k = 0; k < 256; ++k) {
    codes->code[k] = (quants[k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2)) & 3;
  }
}

// 32 bytes of third bits, 64 bytes of bit pairs, 12 bytes of 6-bit scales (zero 32), f16 d. Per 128 elements: four runs of 32.
void DecodeQ3_K(const uint8_t* block, size_t, BlockCodes* codes) {
  const uint8_t* scales = block + 96;
  codes->d = LoadUnaligned<uint16_t>(block + 108);
  for (size_t s = 0; s < 16; ++s) {
    const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
    const int high = (scales[8 + s % 4] >> (s / 4 * 2)) & 3;
    codes->sub_scale[s] = static_cast<int8_t>((low | (high << 4)) - 32);
  }
  for (size_t k = 0; k < 256; ++k) {
    const unsigned pair = (block[32 + k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2)) & 3u;
    const unsigned bit = (block[k % 32] >> (k / 32)) & 1u;
    codes->code[k] = static_cast<uint8_t>(pair | (bit << 2));
  }
}

// f16 d, f16 dmin, 12 bytes of 6-bit pairs, 128 bytes: per 64 elements, low nibbles then high nibbles of 32 bytes.
void DecodeQ4_K(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = LoadUnaligned<uint16_t>(block + 2);
  for (size_t s = 0; s < 8; ++s) SixBitPair(block + 4, s, codes);
  const uint8_t* quants = block + 16;
  for (size_t k = 0; k < 256; ++k) {
    codes->code[k] = (quants[k / 64 * 32 + k % 32] >> (k % 64 / 32 * 4)) & 15;
  }
}

// As Q4_K with 32 bytes of fifth bits in front of the nibbles: bit k / 32 of byte k % 32.
void DecodeQ5_K(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = LoadUnaligned<uint16_t>(block + 2);
  for (size_t s = 0; s < 8; ++s) SixBitPair(block + 4, s, codes);
  const uint8_t* high = block + 16;
  const uint8_t* low = block + 48;
  for (size_t k = 0; k < 256; ++k) {
    const unsigned nibble = (low[k / 64 * 32 + k % 32] >> (k % 64 / 32 * 4)) & 15u;
    const unsigned bit = (high[k % 32] >> (k / 32)) & 1u;
    codes->code[k] = static_cast<uint8_t>(nibble | (bit << 4));
  }
}

// 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, f16 d. Per 128 elements: four runs of 32.
void DecodeQ6_K(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block + 208);
  std::memcpy(codes->sub_scale.data(), block + 192, 16);
  for (size_t k = 0; k < 256; ++k) {
    const size_t half = k / 128;
    const size_t run = k % 128 / 32;
    const size_t i = k % 32;
    const unsigned nibble = (block[half * 64 + run % 2 * 32 + i] >> (run / 2 * 4)) & 15u;
    const unsigned pair = (block[128 + half * 32 + i] >> (run * 2)) & 3u;
    codes->code[k] = static_cast<uint8_t>(nibble | (pair << 4));
  }
}

// f16 d, then per 32 elements 8 bytes: four codebook indices, and a word of four 7-bit sign patterns with the scale on top.
void DecodeIQ2_XXS(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t s = 0; s < 8; ++s) {
    const uint8_t* sub = block + 2 + 8 * s;
    const uint32_t word = LoadUnaligned<uint32_t>(sub + 4);
    codes->sub_scale[s] = static_cast<int8_t>(2 * (word >> 28) + 1);
    for (size_t g = 0; g < 4; ++g) PutIQ2(kIQ2XXSCodebook[sub[g]], EvenSigns(word >> (7 * g)), &codes->code[32 * s + 8 * g]);
  }
}

// f16 d, 32 words of a 9-bit index and a 7-bit sign pattern, 8 bytes of two scales.
void DecodeIQ2_XS(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t s = 0; s < 16; ++s) codes->sub_scale[s] = static_cast<int8_t>(2 * ((block[66 + s / 2] >> (s % 2 * 4)) & 15) + 1);
  for (size_t g = 0; g < 32; ++g) {
    const uint16_t word = LoadUnaligned<uint16_t>(block + 2 + 2 * g);
    PutIQ2(kIQ2XSCodebook[word & 511u], EvenSigns(word >> 9), &codes->code[8 * g]);
  }
}

// f16 d, 32 low bytes of indices, 32 bytes of signs, 8 bytes of four upper bit pairs, 8 bytes of two scales.
void DecodeIQ2_S(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t s = 0; s < 16; ++s) codes->sub_scale[s] = static_cast<int8_t>(2 * ((block[74 + s / 2] >> (s % 2 * 4)) & 15) + 1);
  for (size_t g = 0; g < 32; ++g) {
    const unsigned high = (block[66 + g / 4] >> (g % 4 * 2)) & 3u;
    PutIQ2(kIQ2SCodebook[block[2 + g] | (high << 8)], block[34 + g], &codes->code[8 * g]);
  }
}

// f16 d, 64 indices, 8 words as in IQ2_XXS.
void DecodeIQ3_XXS(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t s = 0; s < 8; ++s) {
    const uint32_t word = LoadUnaligned<uint32_t>(block + 66 + 4 * s);
    codes->sub_scale[s] = static_cast<int8_t>(2 * (word >> 28) + 1);
    for (size_t g = 0; g < 4; ++g) {
      const uint8_t* index = block + 2 + 8 * s + 2 * g;
      PutIQ3(kIQ3XXSCodebook[index[0]], kIQ3XXSCodebook[index[1]], EvenSigns(word >> (7 * g)), &codes->code[32 * s + 8 * g]);
    }
  }
}

// f16 d, 64 low bytes of indices, 8 bytes of their ninth bits, 32 bytes of signs, 4 bytes of two scales.
void DecodeIQ3_S(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t s = 0; s < 8; ++s) {
    codes->sub_scale[s] = static_cast<int8_t>(2 * ((block[106 + s / 2] >> (s % 2 * 4)) & 15) + 1);
    const unsigned high = block[66 + s];
    for (size_t g = 0; g < 4; ++g) {
      const uint8_t* index = block + 2 + 8 * s + 2 * g;
      const uint16_t first = kIQ3SCodebook[index[0] | ((high >> (2 * g) & 1u) << 8)];
      const uint16_t second = kIQ3SCodebook[index[1] | ((high >> (2 * g + 1) & 1u) << 8)];
      PutIQ3(first, second, block[74 + 4 * s + g], &codes->code[32 * s + 8 * g]);
    }
  }
}

// f16 d, 32 low bytes of indices, 8 words: four 3-bit upper parts of indices, a 3-bit scale, the sign of the eighth.
void DecodeIQ1_S(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t s = 0; s < 8; ++s) {
    const uint16_t word = LoadUnaligned<uint16_t>(block + 34 + 2 * s);
    codes->sub_scale[s] = static_cast<int8_t>(2 * ((word >> 12) & 7) + 1);
    for (size_t g = 0; g < 4; ++g) {
      const unsigned index = block[2 + 4 * s + g] | (((word >> (3 * g)) & 7u) << 8);
      PutIQ1(kIQ1Codebook[index], /*minus=*/(word & 0x8000u) != 0, &codes->code[32 * s + 8 * g]);
    }
  }
}

// 32 low bytes of indices, 16 bytes of two nibbles (upper part of the index, sign of the eighth), 4 words: four 3-bit scales
// each, and in their top nibbles the f16 d.
void DecodeIQ1_M(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = 0;
  for (size_t w = 0; w < 4; ++w) {
    const uint16_t word = LoadUnaligned<uint16_t>(block + 48 + 2 * w);
    codes->d = static_cast<uint16_t>(codes->d | (word >> 12) << (4 * w));
    for (size_t i = 0; i < 4; ++i) codes->sub_scale[4 * w + i] = static_cast<int8_t>(2 * ((word >> (3 * i)) & 7) + 1);
  }
  for (size_t g = 0; g < 32; ++g) {
    const unsigned nibble = (block[32 + g / 2] >> (g % 2 * 4)) & 15u;
    PutIQ1(kIQ1Codebook[block[g] | ((nibble & 7u) << 8)], /*minus=*/(nibble & 8u) != 0, &codes->code[8 * g]);
  }
}

// f16 d, 16 bytes of nibbles that index the table.
void DecodeIQ4_NL(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  Nibbles(block + 2, codes->code.data());
}

// f16 d, a word of the upper bit pairs of eight 6-bit scales (zero 32), 4 bytes of their lower nibbles, 8 x 16 bytes of nibbles.
void DecodeIQ4_XS(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  const uint16_t high = LoadUnaligned<uint16_t>(block + 2);
  for (size_t s = 0; s < 8; ++s) {
    const int low = (block[4 + s / 2] >> (s % 2 * 4)) & 15;
    codes->sub_scale[s] = static_cast<int8_t>((low | (((high >> (2 * s)) & 3) << 4)) - 32);
    Nibbles(block + 8 + 16 * s, &codes->code[32 * s]);
  }
}

// 48 bytes of five digits, 4 bytes of four, f16 d. Elements: 5 x 32 out of bytes 0 to 31, 5 x 16 out of bytes 32 to 47, 4 x 4.
void DecodeTQ1_0(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block + 52);
  for (size_t i = 0; i < 32; ++i) {
    const size_t k = 32 * group + i;
    const size_t byte = k < 160 ? k % 32 : k < 240 ? 32 + (k - 160) % 16 : 48 + (k - 240) % 4;
    const size_t digit = k < 160 ? k / 32 : k < 240 ? (k - 160) / 16 : (k - 240) / 4;
    codes->code[i] = Ternary(block[byte], digit);
  }
}

// 64 bytes of 2-bit codes, f16 d. Per 128 elements: four runs of 32.
void DecodeTQ2_0(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block + 64);
  for (size_t i = 0; i < 32; ++i) codes->code[i] = (block[group / 4 * 32 + i] >> (group % 4 * 2)) & 3;
}

// f16 d, then bits: 0 is -d, 1 is d.
void DecodeQ1_0(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t i = 0; i < 32; ++i) codes->code[i] = static_cast<uint8_t>(2 * ((block[2 + 4 * group + i / 8] >> (i % 8)) & 1));
}

// f16 d, then 2-bit codes: -1, 0, 1, 2 times d.
void DecodeQ2_0(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t i = 0; i < 32; ++i) codes->code[i] = (block[2 + 8 * group + i / 4] >> (i % 4 * 2)) & 3;
}

// E8M0 scale, 16 bytes of nibbles.
void DecodeMXFP4(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = codes->dmin = HalfE8M0(block[0]);
  Nibbles(block + 1, codes->code.data());
}

// 4 E4M3 scales of 16 elements each, 4 x 8 bytes: low nibbles are elements 0 to 7 of the sixteen, high nibbles 8 to 15.
void DecodeNVFP4(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = HalfE4M3(block[2 * group]);
  codes->dmin = HalfE4M3(block[2 * group + 1]);
  for (size_t i = 0; i < 32; ++i) {
    const uint8_t byte = block[4 + 16 * group + i / 16 * 8 + i % 8];
    codes->code[i] = i % 16 < 8 ? byte & 15 : byte >> 4;
  }
}

}  // namespace bantam
