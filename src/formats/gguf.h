// GGUF versions 2 and 3 (docs/formats/gguf.md). Every field is bounded by the file before it is used.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

inline constexpr uint64_t kGgufMetadataMax = 1 << 16;  // key-value pairs
inline constexpr uint64_t kGgufTensorsMax = 1 << 16;
inline constexpr uint64_t kGgufKeyBytesMax = 1 << 16;  // of a key or a tensor name
inline constexpr uint64_t kGgufAlignmentMax = 1 << 20;
inline constexpr uint64_t kGgufHeaderBytesMax = uint64_t{64} << 20;  // metadata and tensor list together

// Maps and checks the file. Errors: those of FileSystem::Map; Corrupt (bytes contradict the format); Unsupported (another
// version, big-endian, a tensor format outside the dtype table).
Result<ModelFile> OpenGguf(FileSystem& files, const std::string& path);

}  // namespace bantam
