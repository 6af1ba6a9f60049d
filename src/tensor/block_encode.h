// Small integers back to blocks of the file formats: the reverse of block_codes.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/panel.h"

namespace bantam {

// Each writes the codes of one group of a block of block_bytes (the dtype table): all groups of a block make all its bytes, and
// decoding gives the same codes again. Of formats whose panels are little larger than their blocks, and so can stand for them.
using EncodeFunction = void (*)(const BlockCodes& codes, size_t group, uint8_t* block);

void EncodeQ8_0(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ4_0(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ4_1(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ5_0(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ5_1(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ2_K(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ3_K(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ4_K(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ5_K(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ6_K(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeIQ4_NL(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeIQ4_XS(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeMXFP4(const BlockCodes& codes, size_t group, uint8_t* block);
// Two groups of 32 a block.
void EncodeNVFP4(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeQ2_0(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeInt3(const BlockCodes& codes, size_t group, uint8_t* block);
void EncodeInt3M(const BlockCodes& codes, size_t group, uint8_t* block);

}  // namespace bantam
