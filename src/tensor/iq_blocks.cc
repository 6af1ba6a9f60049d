#include "tensor/iq_blocks.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/bytes.h"
#include "tensor/iq_codebooks.h"

namespace bantam {
namespace {

// Codes are indices into a table of ascending values that are each other's negatives from both ends: magnitude m is
// kMagnitudes + m, and its negative the complement of that.
constexpr unsigned kIQ2Magnitudes = 4;
constexpr unsigned kIQ3Magnitudes = 8;

// Eight elements as a panel has them: elements 0 to 3 in the low nibbles of four bytes, 4 to 7 in the high ones.
constexpr unsigned NibbleOf(size_t i) { return static_cast<unsigned>(8 * (i % 4) + 4 * (i / 4)); }

// The entries of a codebook of kElements elements each as codes.
template <size_t kElements, size_t kEntries>
constexpr std::array<uint32_t, kEntries> Spread(const std::array<uint16_t, kEntries>& entries, unsigned bits, unsigned first,
                                                unsigned step) {
  std::array<uint32_t, kEntries> codes{};
  for (size_t e = 0; e < kEntries; ++e) {
    for (size_t i = 0; i < kElements; ++i) {
      const uint32_t element = (static_cast<uint32_t>(entries[e]) >> (bits * i)) & ((1u << bits) - 1u);
      codes[e] |= (first + step * element) << NibbleOf(i);
    }
  }
  return codes;
}
constexpr auto kIQ2XXSCodes = Spread<8>(kIQ2XXSCodebook, 2, kIQ2Magnitudes, 1);
constexpr auto kIQ2XSCodes = Spread<8>(kIQ2XSCodebook, 2, kIQ2Magnitudes, 1);
constexpr auto kIQ2SCodes = Spread<8>(kIQ2SCodebook, 2, kIQ2Magnitudes, 1);
constexpr auto kIQ3XXSCodes = Spread<4>(kIQ3XXSCodebook, 3, kIQ3Magnitudes, 1);
constexpr auto kIQ3SCodes = Spread<4>(kIQ3SCodebook, 3, kIQ3Magnitudes, 1);
// -1, 0, 1, each with 1/8 subtracted, are 0, 2, 4 in the table; with it added, one more.
constexpr auto kIQ1Codes = Spread<8>(kIQ1Codebook, 2, 0, 2);
constexpr uint32_t kOnes = 0x11111111u;

// For eight signs, what turns codes into those of their negatives.
template <size_t kPatterns>
constexpr std::array<uint32_t, kPatterns> Flips(unsigned magnitudes) {
  std::array<uint32_t, kPatterns> flips{};
  for (uint32_t pattern = 0; pattern < kPatterns; ++pattern) {
    // Of seven signs, the eighth makes the number of negative ones even.
    const uint32_t signs = kPatterns == 128 ? pattern | static_cast<uint32_t>(std::popcount(pattern) & 1) << 7 : pattern;
    for (size_t i = 0; i < 8; ++i) flips[pattern] |= (signs >> i & 1u) * (2 * magnitudes - 1) << NibbleOf(i);
  }
  return flips;
}
constexpr auto kIQ2Flips = Flips<256>(kIQ2Magnitudes);
constexpr auto kIQ2EvenFlips = Flips<128>(kIQ2Magnitudes);
constexpr auto kIQ3Flips = Flips<256>(kIQ3Magnitudes);
constexpr auto kIQ3EvenFlips = Flips<128>(kIQ3Magnitudes);

uint16_t FirstHalf(const uint8_t* block) { return LoadUnaligned<uint16_t>(block); }
uint32_t Nibble(const uint8_t* bytes, size_t i) { return static_cast<uint32_t>(bytes[i / 2] >> (i % 2 * 4)) & 15u; }

// A format: what it says of a block of 256, with its scale, those of its kSubBlocks sub-blocks (odd numbers: 2 * Step + 1), and the codes
// of the 32 elements of run r, eight in a word.
using Run = std::array<uint32_t, 4>;

// f16 d, then per 32 elements 8 bytes: four codebook indices, and a word of four 7-bit sign patterns with the scale on top.
struct IQ2_XXS {
  static constexpr PanelKind kPanel = PanelKind::kLut4;
  static constexpr size_t kSubBlocks = 8;
  static uint16_t Scale(const uint8_t* block) { return FirstHalf(block); }
  static uint32_t Step(const uint8_t* block, size_t s) { return LoadUnaligned<uint32_t>(block + 6 + 8 * s) >> 28; }
  static Run Codes(const uint8_t* block, size_t r) {
    const uint64_t word = LoadUnaligned<uint64_t>(block + 2 + 8 * r);
    Run run;
    for (size_t i = 0; i < 4; ++i) run[i] = kIQ2XXSCodes[word >> (8 * i) & 255u] ^ kIQ2EvenFlips[word >> (32 + 7 * i) & 127u];
    return run;
  }
};

// f16 d, 32 words of a 9-bit index and a 7-bit sign pattern, 8 bytes of two scales.
struct IQ2_XS {
  static constexpr PanelKind kPanel = PanelKind::kLut4H;
  static constexpr size_t kSubBlocks = 16;
  static uint16_t Scale(const uint8_t* block) { return FirstHalf(block); }
  static uint32_t Step(const uint8_t* block, size_t s) { return Nibble(block + 66, s); }
  static Run Codes(const uint8_t* block, size_t r) {
    Run run;
    for (size_t i = 0; i < 4; ++i) {
      const uint32_t word = LoadUnaligned<uint16_t>(block + 2 + 8 * r + 2 * i);
      run[i] = kIQ2XSCodes[word & 511u] ^ kIQ2EvenFlips[word >> 9];
    }
    return run;
  }
};

// f16 d, 32 low bytes of indices, 32 bytes of signs, 8 bytes of four upper bit pairs, 8 bytes of two scales.
struct IQ2_S {
  static constexpr PanelKind kPanel = PanelKind::kLut4H;
  static constexpr size_t kSubBlocks = 16;
  static uint16_t Scale(const uint8_t* block) { return FirstHalf(block); }
  static uint32_t Step(const uint8_t* block, size_t s) { return Nibble(block + 74, s); }
  static Run Codes(const uint8_t* block, size_t r) {
    const uint32_t high = static_cast<uint32_t>(block[66 + r]) << 8;
    Run run;
    for (size_t i = 0; i < 4; ++i)
      run[i] = kIQ2SCodes[block[2 + 4 * r + i] | (high >> (2 * i) & 0x300u)] ^ kIQ2Flips[block[34 + 4 * r + i]];
    return run;
  }
};

// f16 d, 64 indices, 8 words as in IQ2_XXS.
struct IQ3_XXS {
  static constexpr PanelKind kPanel = PanelKind::kLut4;
  static constexpr size_t kSubBlocks = 8;
  static uint16_t Scale(const uint8_t* block) { return FirstHalf(block); }
  static uint32_t Word(const uint8_t* block, size_t r) { return LoadUnaligned<uint32_t>(block + 66 + 4 * r); }
  static uint32_t Step(const uint8_t* block, size_t s) { return Word(block, s) >> 28; }
  static Run Codes(const uint8_t* block, size_t r) {
    const uint64_t index = LoadUnaligned<uint64_t>(block + 2 + 8 * r);
    const uint32_t word = Word(block, r);
    Run run;
    for (size_t i = 0; i < 4; ++i) {
      run[i] = (kIQ3XXSCodes[index >> (16 * i) & 255u] | kIQ3XXSCodes[index >> (16 * i + 8) & 255u] << 4) ^
               kIQ3EvenFlips[word >> (7 * i) & 127u];
    }
    return run;
  }
};

// f16 d, 64 low bytes of indices, 8 bytes of their ninth bits, 32 bytes of signs, 4 bytes of two scales.
struct IQ3_S {
  static constexpr PanelKind kPanel = PanelKind::kLut4;
  static constexpr size_t kSubBlocks = 8;
  static uint16_t Scale(const uint8_t* block) { return FirstHalf(block); }
  static uint32_t Step(const uint8_t* block, size_t s) { return Nibble(block + 106, s); }
  static Run Codes(const uint8_t* block, size_t r) {
    const uint8_t* index = block + 2 + 8 * r;
    const uint32_t high = static_cast<uint32_t>(block[66 + r]) << 8;
    Run run;
    for (size_t i = 0; i < 4; ++i) {
      const uint32_t first = kIQ3SCodes[index[2 * i] | (high >> (2 * i) & 0x100u)];
      const uint32_t second = kIQ3SCodes[index[2 * i + 1] | (high >> (2 * i + 1) & 0x100u)];
      run[i] = (first | second << 4) ^ kIQ3Flips[block[74 + 4 * r + i]];
    }
    return run;
  }
};

// f16 d, 32 low bytes of indices, 8 words: four 3-bit upper parts of indices, a 3-bit scale, the sign of the eighth.
struct IQ1_S {
  static constexpr PanelKind kPanel = PanelKind::kLut4;
  static constexpr size_t kSubBlocks = 8;
  static uint16_t Scale(const uint8_t* block) { return FirstHalf(block); }
  static uint32_t Word(const uint8_t* block, size_t r) { return LoadUnaligned<uint16_t>(block + 34 + 2 * r); }
  static uint32_t Step(const uint8_t* block, size_t s) { return Word(block, s) >> 12 & 7u; }
  static Run Codes(const uint8_t* block, size_t r) {
    const uint32_t word = Word(block, r);
    const uint32_t plus = (word & 0x8000u) != 0 ? 0 : kOnes;
    Run run;
    for (size_t i = 0; i < 4; ++i) run[i] = kIQ1Codes[block[2 + 4 * r + i] | (word >> (3 * i) & 7u) << 8] + plus;
    return run;
  }
};

// 32 low bytes of indices, 16 bytes of two nibbles (upper part of the index, sign of the eighth), 4 words: four 3-bit scales
// each, and in their top nibbles the f16 d.
struct IQ1_M {
  static constexpr PanelKind kPanel = PanelKind::kLut4H;
  static constexpr size_t kSubBlocks = 16;
  static uint32_t Word(const uint8_t* block, size_t w) { return LoadUnaligned<uint16_t>(block + 48 + 2 * w); }
  static uint16_t Scale(const uint8_t* block) {
    uint32_t d = 0;
    for (size_t w = 0; w < 4; ++w) d |= Word(block, w) >> 12 << (4 * w);
    return static_cast<uint16_t>(d);
  }
  static uint32_t Step(const uint8_t* block, size_t s) { return Word(block, s / 4) >> (s % 4 * 3) & 7u; }
  static Run Codes(const uint8_t* block, size_t r) {
    const uint32_t nibbles = LoadUnaligned<uint16_t>(block + 32 + 2 * r);
    Run run;
    for (size_t i = 0; i < 4; ++i) {
      const uint32_t nibble = nibbles >> (4 * i);
      run[i] = kIQ1Codes[block[4 * r + i] | (nibble & 7u) << 8] + ((nibble & 8u) != 0 ? 0 : kOnes);
    }
    return run;
  }
};

template <typename Format>
void Decode(const uint8_t* block, BlockCodes* codes) {
  codes->d = Format::Scale(block);
  for (size_t s = 0; s < Format::kSubBlocks; ++s) codes->sub_scale[s] = static_cast<int8_t>(2 * Format::Step(block, s) + 1);
  for (size_t r = 0; r < 8; ++r) {
    const Run run = Format::Codes(block, r);
    for (size_t i = 0; i < 8; ++i) {
      const uint32_t four = run[i / 2] >> (4 * (i % 2)) & 0x0f0f0f0fu;
      std::memcpy(&codes->code[32 * r + 4 * i], &four, sizeof(four));
    }
  }
}

// To the places that docs/formats/panels.md gives: vector i of the planes holds elements 8 i to 8 i + 3 in low nibbles, and the next four
// in high ones.
template <typename Format>
void Write(const uint8_t* block, size_t row, uint8_t* group) {
  const uint16_t d = Format::Scale(block);
  std::memcpy(group + 2 * row, &d, sizeof(d));
  uint8_t* sub_scale = group + 2 * kPanelRows + row;
  for (size_t s = 0; s < Format::kSubBlocks; ++s) sub_scale[s * kPanelRows] = static_cast<uint8_t>(2 * Format::Step(block, s) + 1);
  uint8_t* lane = group + Info(Format::kPanel).data_offset + 4 * row;
  for (size_t r = 0; r < 8; ++r, lane += 4 * 64) {
    const Run run = Format::Codes(block, r);
    for (size_t i = 0; i < 4; ++i) std::memcpy(lane + 64 * i, &run[i], sizeof(run[i]));
  }
}

}  // namespace

const PanelTable kIQ2Table = {.value = {0, -43, -25, -8, 8, 25, 43, 0}, .multiplier = 0.125f};
const PanelTable kIQ3XXSTable = {.value = {-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62}, .multiplier = 0.25f};
const PanelTable kIQ3STable = {.value = {-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15}, .multiplier = 1.0f};
const PanelTable kIQ1Table = {.value = {-9, -7, -1, 1, 7, 9}, .multiplier = 0.125f};

void DecodeIQ1_S(const uint8_t* block, size_t, BlockCodes* codes) { Decode<IQ1_S>(block, codes); }
void DecodeIQ1_M(const uint8_t* block, size_t, BlockCodes* codes) { Decode<IQ1_M>(block, codes); }
void DecodeIQ2_XXS(const uint8_t* block, size_t, BlockCodes* codes) { Decode<IQ2_XXS>(block, codes); }
void DecodeIQ2_XS(const uint8_t* block, size_t, BlockCodes* codes) { Decode<IQ2_XS>(block, codes); }
void DecodeIQ2_S(const uint8_t* block, size_t, BlockCodes* codes) { Decode<IQ2_S>(block, codes); }
void DecodeIQ3_XXS(const uint8_t* block, size_t, BlockCodes* codes) { Decode<IQ3_XXS>(block, codes); }
void DecodeIQ3_S(const uint8_t* block, size_t, BlockCodes* codes) { Decode<IQ3_S>(block, codes); }

void WriteIQ1_S(const uint8_t* block, size_t row, uint8_t* group) { Write<IQ1_S>(block, row, group); }
void WriteIQ1_M(const uint8_t* block, size_t row, uint8_t* group) { Write<IQ1_M>(block, row, group); }
void WriteIQ2_XXS(const uint8_t* block, size_t row, uint8_t* group) { Write<IQ2_XXS>(block, row, group); }
void WriteIQ2_XS(const uint8_t* block, size_t row, uint8_t* group) { Write<IQ2_XS>(block, row, group); }
void WriteIQ2_S(const uint8_t* block, size_t row, uint8_t* group) { Write<IQ2_S>(block, row, group); }
void WriteIQ3_XXS(const uint8_t* block, size_t row, uint8_t* group) { Write<IQ3_XXS>(block, row, group); }
void WriteIQ3_S(const uint8_t* block, size_t row, uint8_t* group) { Write<IQ3_S>(block, row, group); }

}  // namespace bantam
