#include "tensor/block_codes.h"

#include <bit>
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

// Codes 0, 1, 2 of a codebook entry stand for 8, 25, 43; with the sign they index kIQ2Table.
constexpr uint8_t SignedIndex(unsigned magnitude, bool negative) { return static_cast<uint8_t>(negative ? 2 - magnitude : 3 + magnitude); }

}  // namespace

const PanelTable kIQ2Table = {.value = {-43, -25, -8, 8, 25, 43}, .multiplier = 0.125f};

// f16 d, 32 x int8.
void DecodeQ8_0(const uint8_t* block, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  std::memcpy(codes->code.data(), block + 2, 32);
}

// f16 d, 16 bytes: low nibbles are elements 0..15, high nibbles 16..31.
void DecodeQ4_0(const uint8_t* block, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t i = 0; i < 16; ++i) {
    codes->code[i] = block[2 + i] & 15;
    codes->code[i + 16] = block[2 + i] >> 4;
  }
}

// 16 bytes of scale (low nibble) and minimum (high nibble), 64 bytes of 2-bit codes, f16 d, f16 dmin.
void DecodeQ2_K(const uint8_t* block, BlockCodes* codes) {
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

// f16 d, f16 dmin, 12 bytes of 6-bit pairs, 128 bytes: per 64 elements, low nibbles then high nibbles of 32 bytes.
void DecodeQ4_K(const uint8_t* block, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  codes->dmin = LoadUnaligned<uint16_t>(block + 2);
  for (size_t s = 0; s < 8; ++s) SixBitPair(block + 4, s, codes);
  const uint8_t* quants = block + 16;
  for (size_t k = 0; k < 256; ++k) {
    codes->code[k] = (quants[k / 64 * 32 + k % 32] >> (k % 64 / 32 * 4)) & 15;
  }
}

// As Q4_K with 32 bytes of fifth bits in front of the nibbles: bit k / 32 of byte k % 32.
void DecodeQ5_K(const uint8_t* block, BlockCodes* codes) {
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
void DecodeQ6_K(const uint8_t* block, BlockCodes* codes) {
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
void DecodeIQ2_XXS(const uint8_t* block, BlockCodes* codes) {
  codes->d = LoadUnaligned<uint16_t>(block);
  for (size_t s = 0; s < 8; ++s) {
    const uint8_t* sub = block + 2 + 8 * s;
    const uint32_t word = LoadUnaligned<uint32_t>(sub + 4);
    codes->sub_scale[s] = static_cast<int8_t>(2 * (word >> 28) + 1);
    for (size_t g = 0; g < 4; ++g) {
      const uint32_t entry = kIQ2XXSCodebook[sub[g]];
      const uint32_t pattern = (word >> (7 * g)) & 127u;
      // The eighth sign makes the number of negative ones even.
      const uint32_t signs = pattern | (static_cast<uint32_t>(std::popcount(pattern) & 1) << 7);
      for (size_t i = 0; i < 8; ++i) {
        codes->code[32 * s + 8 * g + i] = SignedIndex((entry >> (2 * i)) & 3u, ((signs >> i) & 1u) != 0);
      }
    }
  }
}

}  // namespace bantam
