// Blocks of the i-quant formats whose elements come eight at a time out of codebooks. Layouts: the GGUF formats of ggml.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/panel.h"

namespace bantam {

// As those of block_codes.h.
void DecodeIQ1_S(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ1_M(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ2_XXS(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ2_XS(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ2_S(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ3_XXS(const uint8_t* block, size_t group, BlockCodes* codes);
void DecodeIQ3_S(const uint8_t* block, size_t group, BlockCodes* codes);

// The same and WriteGroupRow in one: twice as fast, because weights that are kept as in the file are packed for every token.
void WriteIQ1_S(const uint8_t* block, size_t row, uint8_t* group);
void WriteIQ1_M(const uint8_t* block, size_t row, uint8_t* group);
void WriteIQ2_XXS(const uint8_t* block, size_t row, uint8_t* group);
void WriteIQ2_XS(const uint8_t* block, size_t row, uint8_t* group);
void WriteIQ2_S(const uint8_t* block, size_t row, uint8_t* group);
void WriteIQ3_XXS(const uint8_t* block, size_t row, uint8_t* group);
void WriteIQ3_S(const uint8_t* block, size_t row, uint8_t* group);

// IQ2: +-8, +-25, +-43, and d * (0.5 + s) / 4 = d / 8 * (2 s + 1).
extern const PanelTable kIQ2Table;
// IQ3_XXS: +-4, +-12, ..., +-52, +-62, and d * (0.5 + s) / 2 = d / 4 * (2 s + 1). IQ3_S: +-1, +-3, ..., +-15.
extern const PanelTable kIQ3XXSTable;
extern const PanelTable kIQ3STable;
// IQ1: eighths of -1, 0, 1, each with +-1/8 added.
extern const PanelTable kIQ1Table;

}  // namespace bantam
