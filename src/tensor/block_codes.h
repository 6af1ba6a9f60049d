// Blocks of the file formats as small integers. Layouts: the GGUF formats of ggml (quantization version 2).
#pragma once

#include <cstdint>

#include "tensor/panel.h"

namespace bantam {

// Each reads one block of its format (block_bytes of the dtype table).
void DecodeQ8_0(const uint8_t* block, BlockCodes* codes);
void DecodeQ4_0(const uint8_t* block, BlockCodes* codes);
void DecodeQ2_K(const uint8_t* block, BlockCodes* codes);
void DecodeQ4_K(const uint8_t* block, BlockCodes* codes);
void DecodeQ5_K(const uint8_t* block, BlockCodes* codes);
void DecodeQ6_K(const uint8_t* block, BlockCodes* codes);
void DecodeIQ2_XXS(const uint8_t* block, BlockCodes* codes);

// Values of the IQ2 codes: +-8, +-25, +-43, and d * (0.5 + s) * 0.25 = d * (2 s + 1) / 8.
extern const PanelTable kIQ2Table;

}  // namespace bantam
