// Panels: the layout in which weights are stored for the kernels. Specified byte by byte in docs/formats/panels.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace bantam {

// Rows side by side in one panel. 16 is one AVX-512 register of int32 sums, two of AVX2, four of NEON.
inline constexpr size_t kPanelRows = 16;

// How a panel stores its weights. Several file formats share one kind (block_codes.h translates them without loss).
enum class PanelKind : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8,     // int8, f16 scale per 32
  kQ4,     // 4 bits, zero 8, f16 scale per 32
  kLut4,   // 4-bit index into a table of 16 int8 values, f16 scale per 256 times int8 per 32
  kQ4S,    // 4 bits, f16 scale and minimum per 256 times 6 bits per 32
  kQ5S,    // 5 bits, the same
  kQ6S,    // 6 bits, zero 32, f16 scale per 256 times int8 per 16
  kQ2S,    // 2 bits, f16 scale and minimum per 256 times 4 bits per 16
  kQ4M,    // 4 bits, f16 scale and minimum per 32
  kQ5,     // 5 bits, zero 16, f16 scale per 32
  kQ5M,    // 5 bits, f16 scale and minimum per 32
  kQ3S,    // 3 bits, zero 4, f16 scale per 256 times int8 per 16
  kQ2,     // 2 bits, zero 1, f16 scale per 32
  kLut4H,  // as kLut4, int8 per 16
  kLut4B,  // 4-bit index into a table, f16 scale per 32
  kFp4,    // 4-bit index into a table, bf16 scale per 16
  kQ3,     // 3 bits, zero 4, f16 scale per 32
  kQ3M,    // 3 bits, f16 scale and minimum per 32
};
inline constexpr size_t kPanelKinds = 20;

struct PanelInfo {
  PanelKind kind;
  std::string_view name;
  size_t group_columns;  // columns that share a group: 1, 32 or 256
  size_t group_bytes;    // of all 16 rows
  size_t data_offset;    // of the first plane within a group
  size_t bytes_per_32;   // planes of 32 columns
  size_t sub_columns;    // columns that share a scale: 0 for floats
  int zero;              // subtracted from an unsigned code
  int low_bits;          // bits of the first plane: 2, 4 or 8 (0 for floats)
  int high_bits;         // bits of the second plane: 0, 1 or 2
  bool has_sub_scale;
  bool has_min;
  bool has_table;   // codes index a PanelTable
  bool bf16_scale;  // d and dmin are bf16 scales of columns 0 to 15 and 16 to 31
};

const PanelInfo& Info(PanelKind kind);

// Bytes of one panel of 16 rows x `columns`, and of all panels of a matrix. `columns` is a multiple of the group.
inline size_t PanelBytes(PanelKind kind, size_t columns) { return columns / Info(kind).group_columns * Info(kind).group_bytes; }
inline size_t PanelCount(size_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }
inline size_t MatrixBytes(PanelKind kind, size_t rows, size_t columns) { return PanelCount(rows) * PanelBytes(kind, columns); }

// One row's part of a group as small integers, before it is spread over a panel's planes. A weight is
//   (d * multiplier * sub_scale[s]) * value(code) - dmin * sub_min[s],   s = column / sub_columns,
// where value(code) is code - zero, int8(code) for kQ8, or table[code]. Without sub-scales the weight is
//   d * value(code) - dmin.
struct BlockCodes {
  uint16_t d = 0;     // f16; of kFp4 bf16
  uint16_t dmin = 0;  // f16; of kFp4 the bf16 scale of columns 16 to 31
  std::array<int8_t, 16> sub_scale{};
  std::array<uint8_t, 16> sub_min{};
  std::array<uint8_t, 256> code{};
};

// What a panel whose codes index a table needs beside its bytes.
struct PanelTable {
  std::array<int8_t, 16> value{};
  float multiplier = 1.0f;
};

// Writes row `row` (0..15) of one group whose bytes for that row are zeros.
void WriteGroupRow(PanelKind kind, const BlockCodes& codes, size_t row, uint8_t* group);

// And reads it back.
BlockCodes ReadGroupRow(PanelKind kind, const uint8_t* group, size_t row);

// The float values of one decoded group: `group_columns` of them.
void UnpackCodes(PanelKind kind, const BlockCodes& codes, const PanelTable& table, float* values);

// Row `row` (0..15) of a panel as floats: `columns` of them. The exact weights, whatever the kind.
void UnpackPanelRow(PanelKind kind, const PanelTable& table, const uint8_t* panel, size_t row, size_t columns, float* values);

}  // namespace bantam
