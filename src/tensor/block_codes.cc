#include "tensor/block_codes.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "base/bytes.h"
#include "tensor/half.h"

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

// Eight codes at once, one byte each.
constexpr uint64_t kOnes = 0x0101010101010101u;

// (byte >> shift) & mask of 32 bytes, as 32 codes; and the same added to codes, `left` bits up.
void PutBits(const uint8_t* bytes, size_t shift, uint64_t mask, uint8_t* code) {
  for (size_t i = 0; i < 32; i += 8) {
    const uint64_t eight = LoadUnaligned<uint64_t>(bytes + i) >> shift & mask * kOnes;
    std::memcpy(code + i, &eight, 8);
  }
}
void AddBits(const uint8_t* bytes, size_t shift, uint64_t mask, int left, uint8_t* code) {
  for (size_t i = 0; i < 32; i += 8) {
    const uint64_t eight = LoadUnaligned<uint64_t>(code + i) | (LoadUnaligned<uint64_t>(bytes + i) >> shift & mask * kOnes) << left;
    std::memcpy(code + i, &eight, 8);
  }
}

// A nibble plane of 32 elements in 16 bytes: low nibbles are elements 0 to 15, high nibbles 16 to 31.
void Nibbles(const uint8_t* bytes, uint8_t* code) {
  for (size_t i = 0; i < 32; i += 8) {
    const uint64_t eight = LoadUnaligned<uint64_t>(bytes + i % 16) >> (i / 16 * 4) & 15 * kOnes;
    std::memcpy(code + i, &eight, 8);
  }
}

// The bits of a byte as eight codes of 0 and 1.
uint64_t EightBits(uint8_t byte) {
  const uint64_t bits = byte * kOnes & 0x8040201008040201u;
  return (bits + 0x7f * kOnes) >> 7 & kOnes;
}

// Adds the fifth bits: bit i of the word belongs to element i.
void AddFifthBits(const uint8_t* word_bytes, uint8_t* code) {
  for (size_t i = 0; i < 4; ++i) {
    const uint64_t eight = LoadUnaligned<uint64_t>(code + 8 * i) | EightBits(word_bytes[i]) << 4;
    std::memcpy(code + 8 * i, &eight, 8);
  }
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

const PanelTable kIQ4Table = {.value = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, .multiplier = 1.0f};
const PanelTable kNF4Table = {.value = {-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112}, .multiplier = 1.0f};
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
  codes->dmin = NegatedF16(LoadUnaligned<uint16_t>(block + 2));
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
  codes->dmin = NegatedF16(LoadUnaligned<uint16_t>(block + 2));
  Nibbles(block + 8, codes->code.data());
  AddFifthBits(block + 4, codes->code.data());
}

// f16 d, 8 bytes of bit pairs (of byte k, those of elements k, 8 + k, 16 + k and 24 + k), 4 bytes of third bits.
void DecodeInt3(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  const uint64_t pairs = LoadUnaligned<uint64_t>(block + 2);
  for (size_t run = 0; run < 4; ++run) {
    const uint64_t eight = (pairs >> 2 * run & 3 * kOnes) | EightBits(block[10 + run]) << 2;
    std::memcpy(&codes->code[8 * run], &eight, 8);
  }
}

// The same with an f16 minimum (added) behind d.
void DecodeInt3M(const uint8_t* block, size_t, BlockCodes* codes) {
  DecodeInt3(block + 2, /*group=*/0, codes);
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = NegatedF16(LoadUnaligned<uint16_t>(block + 2));
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
  for (size_t run = 0; run < 8; ++run) PutBits(quants + run / 4 * 32, run % 4 * 2, 3, &codes->code[32 * run]);
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
  for (size_t run = 0; run < 8; ++run) {
    PutBits(block + 32 + run / 4 * 32, run % 4 * 2, 3, &codes->code[32 * run]);
    AddBits(block, run, 1, 2, &codes->code[32 * run]);
  }
}

// f16 d, f16 dmin, 12 bytes of 6-bit pairs, 128 bytes: per 64 elements, low nibbles then high nibbles of 32 bytes.
void DecodeQ4_K(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = LoadUnaligned<uint16_t>(block + 2);
  for (size_t s = 0; s < 8; ++s) SixBitPair(block + 4, s, codes);
  for (size_t run = 0; run < 8; ++run) PutBits(block + 16 + run / 2 * 32, run % 2 * 4, 15, &codes->code[32 * run]);
}

// As Q4_K with 32 bytes of fifth bits in front of the nibbles: bit k / 32 of byte k % 32.
void DecodeQ5_K(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = LoadUnaligned<uint16_t>(block + 2);
  for (size_t s = 0; s < 8; ++s) SixBitPair(block + 4, s, codes);
  for (size_t run = 0; run < 8; ++run) {
    PutBits(block + 48 + run / 2 * 32, run % 2 * 4, 15, &codes->code[32 * run]);
    AddBits(block + 16, run, 1, 4, &codes->code[32 * run]);
  }
}

// 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, f16 d. Per 128 elements: four runs of 32.
void DecodeQ6_K(const uint8_t* block, size_t, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block + 208);
  std::memcpy(codes->sub_scale.data(), block + 192, 16);
  for (size_t run = 0; run < 8; ++run) {
    PutBits(block + run / 4 * 64 + run % 2 * 32, run % 4 / 2 * 4, 15, &codes->code[32 * run]);
    AddBits(block + 128 + run / 4 * 32, run % 4 * 2, 3, 4, &codes->code[32 * run]);
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
  if (group < 5) {
    for (size_t i = 0; i < 32; ++i) codes->code[i] = Ternary(block[i], group);
    return;
  }
  for (size_t i = 0; i < 32; ++i) {
    const size_t k = 32 * group + i;
    const size_t byte = k < 240 ? 32 + (k - 160) % 16 : 48 + (k - 240) % 4;
    const size_t digit = k < 240 ? (k - 160) / 16 : (k - 240) / 4;
    codes->code[i] = Ternary(block[byte], digit);
  }
}

// 64 bytes of 2-bit codes, f16 d. Per 128 elements: four runs of 32.
void DecodeTQ2_0(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block + 64);
  PutBits(block + group / 4 * 32, group % 4 * 2, 3, codes->code.data());
}

// f16 d, then bits: 0 is -d, 1 is d.
void DecodeQ1_0(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t i = 0; i < 4; ++i) {
    const uint64_t eight = EightBits(block[2 + 4 * group + i]) << 1;
    std::memcpy(&codes->code[8 * i], &eight, 8);
  }
}

// f16 d, then 2-bit codes: -1, 0, 1, 2 times d.
void DecodeQ2_0(const uint8_t* block, size_t group, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t i = 0; i < 8; ++i) {
    const uint32_t byte = block[2 + 8 * group + i];
    const uint32_t four = (byte | byte << 6 | byte << 12 | byte << 18) & 0x03030303u;
    std::memcpy(&codes->code[4 * i], &four, 4);
  }
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
