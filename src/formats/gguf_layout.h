// What the reader and the writer of GGUF share (docs/formats/gguf.md), and packages, which hold pairs in the same form.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

inline constexpr uint32_t kGgufMagic = 0x46554747;  // "GGUF"
inline constexpr uint32_t kGgufArray = 9;           // the value type of arrays

// Value types as the file numbers them; nullopt for arrays and unknown numbers.
std::optional<ValueType> GgufType(uint32_t id);
uint32_t GgufTypeId(ValueType type);

// A u64 length and the bytes. A name has 1 to kGgufKeyBytesMax of them.
Result<std::string_view> ReadGgufText(ByteReader& reader, std::string_view what);
Result<std::string_view> ReadGgufName(ByteReader& reader, std::string_view what);
// A metadata pair; it views what is read. Numbers are to fit MetadataEntry::stored when they are written.
Result<MetadataEntry> ReadGgufPair(ByteReader& reader);
void PutGgufText(std::string* out, std::string_view text);
void PutGgufPair(std::string* out, const MetadataEntry& entry);

// general.alignment, or its default. Corrupt when it is no power of two or too large.
Result<uint64_t> GgufAlignment(const Metadata& metadata);

}  // namespace bantam
