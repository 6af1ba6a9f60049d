// What the reader and the writer of GGUF share (docs/formats/gguf.md).
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

inline constexpr uint32_t kGgufMagic = 0x46554747;  // "GGUF"
inline constexpr uint32_t kGgufArray = 9;           // the value type of arrays

// Value types as the file numbers them; nullopt for arrays and unknown numbers.
std::optional<ValueType> GgufType(uint32_t id);
uint32_t GgufTypeId(ValueType type);

// general.alignment, or its default. Corrupt when it is no power of two or too large.
Result<uint64_t> GgufAlignment(const Metadata& metadata);

}  // namespace bantam
