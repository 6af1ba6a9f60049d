// Blocks of the file formats as small integers. Layouts: the GGUF formats of ggml (quantization version 2).
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/panel.h"

namespace bantam {

// Each reads the codes of one group (docs/formats/panels.md) of a block of block_bytes (the dtype table). A block whose
// format has one group per block is given group 0.
void DecodeQ8_0(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ4_0(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ4_1(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ5_0(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ5_1(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ2_K(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ3_K(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ4_K(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ5_K(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ6_K(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ4_NL(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ4_XS(const uint8_t* block, size_t group, BlockCodes* codes);
// Groups of 32 below: a block has several.
void DecodeTQ1_0(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeTQ2_0(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeMXFP4(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeNVFP4(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ1_0(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeQ2_0(const uint8_t* block, size_t group, BlockCodes* codes);
// Our own (docs/formats/package.md).
void DecodeInt3(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeInt3M(const uint8_t* block, size_t group, BlockCodes* codes);

// IQ4_NL and IQ4_XS: 16 levels, dense around zero.
extern const PanelTable kIQ4Table;
// NF4: 112 times the normal quantiles of QLoRA (Dettmers et al., 2023), rounded: of the multiples up to 127 about the one of the least
// squared error (2.4e-5 of the squares of normal numbers). Blocks are those of IQ4_NL; d is the largest magnitude / 112.
extern const PanelTable kNF4Table;
inline constexpr float kNF4Unit = 112.0f;
// MXFP4 and NVFP4: twice the values of E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives).
extern const PanelTable kFp4Table;

}  // namespace bantam
