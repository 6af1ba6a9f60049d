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

size_t PerUnit(const PackedNumbers& numbers) { return numbers.unit_bytes * 8 / numbers.bits; }
bool FillsUnits(const PackedNumbers& numbers) { return PerUnit(numbers) * numbers.bits == numbers.unit_bytes * 8; }
uint8_t CodeOf(const PackedNumbers& numbers, uint32_t unit, size_t k) {
  const size_t place = numbers.bits == 4 ? numbers.place[k & 7] + (k & ~size_t{7}) : k;
  return static_cast<uint8_t>(((unit >> (place * numbers.bits)) & ((1u << numbers.bits) - 1u)) ^ numbers.flip);
}

// Rows that are taken apart together: those whose codes share cache lines.
uint64_t RowsOfRun(const QuantizedMatrix& matrix) {
  constexpr uint64_t kLineBytes = 64;
  const PackedNumbers& numbers = matrix.codes;
  if (matrix.by_columns) return numbers.line_stride < kLineBytes ? 1 : kLineBytes / numbers.unit_bytes * PerUnit(numbers);
  return numbers.unit_stride < kLineBytes ? 1 : kLineBytes / std::clamp<uint64_t>(numbers.line_stride, 1, kLineBytes);
}
// The same, of rows that are not wider than the run may be. Units stay whole.
uint64_t RowsOfRun(const QuantizedMatrix& matrix, uint64_t columns) {
  const uint64_t least = matrix.by_columns ? PerUnit(matrix.codes) : 1;
  uint64_t rows = RowsOfRun(matrix);
  while (rows > least && rows * columns > QuantizedRowReader::kRunBytesMax) rows /= 2;
  return rows;
}

struct RowRange {
  uint64_t first;
  uint64_t rows;
  uint64_t columns;
};

// A unit at once, all of them of one row or of one column.
void UnpackUnits(const QuantizedMatrix& matrix, const RowRange& range, uint8_t* codes) {
  const PackedNumbers& numbers = matrix.codes;
  const size_t per_unit = PerUnit(numbers);
  if (matrix.by_columns) {
    for (uint64_t c = 0; c < range.columns; ++c) {
      for (uint64_t r = 0; r < range.rows; r += per_unit) {
        const uint8_t* at = numbers.base + c * numbers.line_stride + (range.first + r) / per_unit * numbers.unit_stride;
        const uint32_t unit = LoadUnit(numbers, at);
        for (size_t k = 0; k < std::min<uint64_t>(per_unit, range.rows - r); ++k) {
          codes[(r + k) * range.columns + c] = CodeOf(numbers, unit, k);
        }
      }
    }
    return;
  }
  for (uint64_t c = 0; c < range.columns; c += per_unit) {
    for (uint64_t r = 0; r < range.rows; ++r) {
      const uint32_t unit = LoadUnit(numbers, numbers.base + (range.first + r) * numbers.line_stride + c / per_unit * numbers.unit_stride);
      uint8_t* out = codes + r * range.columns + c;
      for (size_t k = 0; k < std::min<uint64_t>(per_unit, range.columns - c); ++k) out[k] = CodeOf(numbers, unit, k);
    }
  }
}

// Neighbours in a row are neighbours where they are stored (BitNet).
void UnpackColumnBytes(const QuantizedMatrix& matrix, const RowRange& range, uint8_t* codes) {
  const PackedNumbers& numbers = matrix.codes;
  for (uint64_t r = 0; r < range.rows; ++r) {
    const uint64_t row = range.first + r;
    const uint64_t unit = matrix.units == 0 ? row / PerUnit(numbers) : row % matrix.units;
    const size_t k = matrix.units == 0 ? row % PerUnit(numbers) : row / matrix.units;
    const uint8_t* at = numbers.base + unit * numbers.unit_stride;
    for (uint64_t c = 0; c < range.columns; ++c) codes[r * range.columns + c] = CodeOf(numbers, at[c], k);
  }
}

void UnpackCodes(const QuantizedMatrix& matrix, const RowRange& range, uint8_t* codes) {
  const PackedNumbers& numbers = matrix.codes;
  if (matrix.by_columns && numbers.unit_bytes == 1 && numbers.line_stride == 1) return UnpackColumnBytes(matrix, range, codes);
  const bool aligned = !matrix.by_columns || range.first % PerUnit(numbers) == 0;
  CHECK(matrix.units == 0);
  if (FillsUnits(numbers) && aligned) return UnpackUnits(matrix, range, codes);
  for (uint64_t c = 0; c < range.columns; ++c) {
    for (uint64_t r = 0; r < range.rows; ++r) {
      const uint64_t row = range.first + r;
      codes[r * range.columns + c] = static_cast<uint8_t>(matrix.by_columns ? numbers.At(row, c) : numbers.At(c, row));
    }
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

const uint8_t* QuantizedRowReader::CodesOf(const QuantizedMatrix& matrix, uint64_t row, uint64_t columns) {
  ++uses_;
  Run* oldest = runs_.data();
  for (Run& run : runs_) {
    if (run.base == matrix.codes.base && row - run.first < run.rows) {
      run.last_use = uses_;
      return run.codes.data() + (row - run.first) * columns;
    }
    if (run.last_use < oldest->last_use) oldest = &run;
  }
  const uint64_t together = RowsOfRun(matrix, columns);
  oldest->base = matrix.codes.base;
  oldest->first = row / together * together;
  oldest->rows = std::min(together, matrix.rows - oldest->first);
  oldest->last_use = uses_;
  oldest->codes.resize(oldest->rows * columns);
  UnpackCodes(matrix, {oldest->first, oldest->rows, columns}, oldest->codes.data());
  return oldest->codes.data() + (row - oldest->first) * columns;
}

uint64_t QuantizedRowReader::held_bytes() const { return runs_[0].codes.capacity() + runs_[1].codes.capacity(); }

void QuantizedRowReader::Read(const QuantizedMatrix& matrix, const QuantizedRow& row, uint8_t* out) {
  const bool floats = row.dtype == DType::kF16 || row.dtype == DType::kF32;
  const size_t block_elements = Info(row.dtype).block_elements;
  CHECK(row.row < matrix.rows && (floats || (row.columns % block_elements == 0 && matrix.group_columns % block_elements == 0)));
  const uint8_t* stored = CodesOf(matrix, row.row, row.columns);
  BlockCodes block;
  uint8_t* codes = block.code.data();
  for (uint64_t begin = 0; begin < row.columns; begin += kBlock) {
    const size_t n = std::min<uint64_t>(kBlock, row.columns - begin);
    if (matrix.order.empty()) {
      std::memcpy(codes, stored + begin, n);
    } else {
      for (size_t i = 0; i < n; ++i) codes[i] = stored[matrix.order[begin + i]];
    }
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
