#include "formats/quantized_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "base/bytes.h"
#include "base/check.h"
#include "tensor/block_codes.h"
#include "tensor/half.h"

namespace bantam {
namespace {

constexpr size_t kBlock = 32;

uint32_t LoadUnit(const PackedNumbers& numbers, const uint8_t* at) {
  return numbers.unit_bytes == 1 ? *at : LoadUnaligned<uint32_t>(at) + numbers.more;
}

// Codes of columns [begin, begin + n) of what is read.
void ReadCodes(const QuantizedMatrix& matrix, uint64_t row, uint64_t begin, size_t n, uint8_t* codes) {
  const PackedNumbers& numbers = matrix.codes;
  const auto column = [&](size_t i) -> uint64_t { return matrix.order.empty() ? begin + i : matrix.order[begin + i]; };
  const size_t per_unit = numbers.unit_bytes * 8 / numbers.bits;
  const bool whole = per_unit * numbers.bits == numbers.unit_bytes * 8;
  if (!matrix.by_columns && matrix.order.empty() && whole && begin % per_unit == 0 && n % per_unit == 0) {
    // A unit at once.
    const uint8_t* at = numbers.base + row * numbers.line_stride + begin / per_unit * numbers.unit_stride;
    const uint32_t mask = (1u << numbers.bits) - 1u;
    for (size_t i = 0; i < n; i += per_unit, at += numbers.unit_stride) {
      const uint32_t unit = LoadUnit(numbers, at);
      for (size_t k = 0; k < per_unit; ++k) {
        const size_t place = numbers.bits == 4 ? numbers.place[k] : k;
        codes[i + k] = static_cast<uint8_t>(((unit >> (place * numbers.bits)) & mask) ^ numbers.flip);
      }
    }
    return;
  }
  // The row's number in lines that are columns.
  const uint64_t number = matrix.units == 0 ? row : row % matrix.units * per_unit + row / matrix.units;
  if (matrix.by_columns && matrix.order.empty() && numbers.unit_bytes == 1 && numbers.bits == 2 && numbers.line_stride == 1) {
    const uint8_t* at = numbers.base + number / per_unit * numbers.unit_stride + begin;
    const size_t shift = number % per_unit * numbers.bits;
    for (size_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(((at[i] >> shift) & 3u) ^ numbers.flip);
    return;
  }
  for (size_t i = 0; i < n; ++i) {
    const uint64_t c = column(i);
    codes[i] = static_cast<uint8_t>(matrix.by_columns ? numbers.At(number, c) : numbers.At(c, row));
  }
}

// An E8M0 scale and codes in halves, as MXFP4's blocks have them.
void PutFP4(uint8_t scale, const uint8_t* codes, uint8_t* out) {
  out[0] = scale;
  for (size_t i = 0; i < kBlock / 2; ++i) out[1 + i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + kBlock / 2] & 15) << 4);
}

// Codes as a format has them whose middle is zero.
struct Moved {
  int32_t by;
  int32_t most;
};
Moved MovedTo(DType dtype) {
  if (dtype == DType::kQ2_0) return {1, 3};
  if (dtype == DType::kQ4_0) return {8, 15};
  return dtype == DType::kQ5_0 ? Moved{16, 31} : Moved{128, 255};
}

float ValueOf(CodeKind kind, uint8_t code, int32_t zero) {
  switch (kind) {
    case CodeKind::kIntegers:
      return static_cast<float>(code - zero);
    case CodeKind::kNF4:
      return kNF4Quantiles[code & 15];
    case CodeKind::kFP4:
      return static_cast<float>(kFp4Table.value[code & 15]) / 2;
    case CodeKind::kE4M3:
      return E4M3ToF32(code);
    case CodeKind::kE5M2:
      return E5M2ToF32(code);
  }
  return 0;
}

// Up to 32 columns as F16 or F32; groups may begin anywhere.
void PutFloats(const QuantizedMatrix& matrix, const QuantizedRow& row, uint64_t begin, std::span<const uint8_t> codes, uint8_t* out) {
  uint64_t group = UINT64_MAX;
  float scale = 0;
  int32_t zero = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    if (const uint64_t of = (begin + i) / matrix.group_columns; of != group) {
      group = of;
      scale = matrix.ScaleAt(row.row, group);
      zero = matrix.ZeroAt(row.row, group);
    }
    const float value = ValueOf(matrix.kind, codes[i], zero) * scale;
    if (row.dtype == DType::kF16) {
      const uint16_t bits = F32ToF16(value);
      std::memcpy(out + 2 * i, &bits, sizeof(bits));
    } else {
      std::memcpy(out + 4 * i, &value, sizeof(value));
    }
  }
}

}  // namespace

uint32_t PackedNumbers::At(uint64_t number, uint64_t line) const {
  if (bits == 4) number = (number & ~uint64_t{7}) | place[number & 7];
  const uint32_t unit_bits = 8 * unit_bytes;
  const uint64_t bit = number * bits;
  const auto shift = static_cast<uint32_t>(bit % unit_bits);
  const uint8_t* at = base + line * line_stride + bit / unit_bits * unit_stride;
  uint32_t value = LoadUnit(*this, at) >> shift;
  if (shift + bits > unit_bits) value |= LoadUnit(*this, at + unit_stride) << (unit_bits - shift);
  return (value & ((1u << bits) - 1u)) ^ flip;
}

float GroupScales::At(uint64_t row, uint64_t group) const {
  const uint64_t index = row / rows * row_stride + group * group_stride;
  switch (type) {
    case ScaleType::kOne:
      return 1;
    case ScaleType::kF32:
      return LoadUnaligned<float>(base + 4 * index);
    case ScaleType::kF16:
      return F16ToF32(LoadUnaligned<uint16_t>(base + 2 * index));
    case ScaleType::kBF16:
      return BF16ToF32(LoadUnaligned<uint16_t>(base + 2 * index));
    case ScaleType::kE8M0:
      return std::ldexp(1.0f, base[index] - 127);
    case ScaleType::kNested:
      return map[base[index]] * LoadUnaligned<float>(nested + 4 * (index / nested_block)) + mean;
  }
  return 1;
}

int32_t QuantizedMatrix::ZeroAt(uint64_t row, uint64_t group) const {
  if (zeros.base == nullptr) return zero;
  return static_cast<int32_t>(zeros_by_groups ? zeros.At(row, group) : zeros.At(group, row)) + zero;
}

void ReadQuantizedRow(const QuantizedMatrix& matrix, const QuantizedRow& row, uint8_t* out) {
  const bool floats = row.dtype == DType::kF16 || row.dtype == DType::kF32;
  const size_t block_elements = Info(row.dtype).block_elements;
  CHECK(floats || (row.columns % block_elements == 0 && matrix.group_columns % block_elements == 0));
  BlockCodes block;
  uint8_t* codes = block.code.data();
  for (uint64_t begin = 0; begin < row.columns; begin += kBlock) {
    const size_t n = std::min<uint64_t>(kBlock, row.columns - begin);
    ReadCodes(matrix, row.row, begin, n, codes);
    const uint64_t group = begin / matrix.group_columns;
    if (floats) {
      PutFloats(matrix, row, begin, {codes, n}, out);
    } else if (row.dtype == DType::kMXFP4) {
      PutFP4(matrix.scales.base[row.row * matrix.scales.row_stride + group * matrix.scales.group_stride], codes, out);
    } else if (row.dtype == DType::kNF4) {
      block.d = F32ToF16(matrix.ScaleAt(row.row, group) / kNF4Unit);
      Info(row.dtype).encode(block, /*group=*/0, out);
    } else {
      block.d = F32ToF16(matrix.ScaleAt(row.row, group));
      const Moved moved = MovedTo(row.dtype);
      const int32_t by = moved.by - matrix.ZeroAt(row.row, group);
      for (size_t i = 0; i < kBlock; ++i) codes[i] = static_cast<uint8_t>(std::clamp(codes[i] + by, 0, moved.most));
      // Q8_0's have a sign.
      for (size_t i = 0; row.dtype == DType::kQ8_0 && i < kBlock; ++i) codes[i] ^= 0x80;
      Info(row.dtype).encode(block, begin % block_elements / kBlock, out);
    }
    if (floats || (begin + n) % block_elements == 0) out += RowBytes(row.dtype, floats ? n : block_elements);
  }
}

}  // namespace bantam
