// safetensors (docs/formats/safetensors.md): a length, a JSON header, and tensors one behind the other without a gap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bantam {

enum class SafetensorsType : uint8_t { kF64, kF32, kF16, kBF16, kF8E4M3, kF8E5M2, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };
std::string_view SafetensorsTypeName(SafetensorsType type);
size_t ElementBytes(SafetensorsType type);

struct SafetensorsTensor {
  std::string name;
  SafetensorsType type;
  std::vector<uint64_t> shape;  // slowest first; empty: one number
  uint64_t offset_bytes;        // from the start of the file
  uint64_t size_bytes;
};

inline constexpr uint64_t kSafetensorsHeaderMax = uint64_t{32} << 20;
// Of all files of a model: 188,000 are the four of each matrix of 61 layers with 257 experts.
inline constexpr size_t kSafetensorsTensorsMax = size_t{1} << 18;
inline constexpr size_t kSafetensorsDimensionsMax = 8;

// The tensors of a file, in the order of their bytes. Errors: Corrupt (a header that passes the file or is no JSON object, names twice,
// shapes of more than 2^48 elements, offsets that do not fit the shape, pass the end, overlap or leave a hole), Unsupported (an element
// type, by its name), Exhausted (more than kSafetensorsTensorsMax).
Result<std::vector<SafetensorsTensor>> ReadSafetensors(std::span<const std::byte> file);

}  // namespace bantam
