// Matrices as quantisers pack them in Hugging Face checkpoints (docs/formats/safetensors.md): codes, scales and zero points, each in a
// tensor of its own and in an order of its own. Rows are read as blocks of a format that this program runs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor/dtype.h"

namespace bantam {

// What the codes of NF4 stand for, as QLoRA's code has them (Dettmers et al., 2023).
inline constexpr std::array<float, 16> kNF4Quantiles = {-1.0f,         -0.69619280f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f,
                                                        -0.091050036f, 0.0f,         0.079580300f, 0.16093020f,  0.24611230f,  0.33791524f,
                                                        0.44070983f,   0.56261700f,  0.72295684f,  1.0f};

// Whole numbers of 2 to 8 bits, one behind the other in lines of 8-bit or 32-bit units; a number may lie in two units.
struct PackedNumbers {
  const uint8_t* base = nullptr;  // null: there are none
  uint32_t bits = 4;
  uint32_t unit_bytes = 4;   // 1 or 4
  uint64_t unit_stride = 4;  // bytes from a line's unit to the next
  uint64_t line_stride = 0;  // bytes from a line to the next
  // Of numbers of 4 bits: where each of 8 neighbours stands among them.
  std::array<uint8_t, 8> place = {0, 1, 2, 3, 4, 5, 6, 7};
  uint32_t flip = 0;  // bits that are turned: numbers with a sign become such without
  uint32_t more = 0;  // is added to each unit of 4 bytes before it is taken apart

  uint32_t At(uint64_t number, uint64_t line) const;
};

enum class ScaleType : uint8_t { kOne, kF32, kF16, kBF16, kE8M0, kNested };

// A scale per group of columns and row, or run of rows.
struct GroupScales {
  ScaleType type = ScaleType::kOne;
  const uint8_t* base = nullptr;
  uint64_t rows = 1;  // that share theirs
  // Elements from one to the next.
  uint64_t row_stride = 0;
  uint64_t group_stride = 0;
  // kNested: `base` has 8-bit codes of map, whose values are multiplied by a number per nested_block of them; mean is added.
  std::vector<float> map;
  const uint8_t* nested = nullptr;  // F32
  uint64_t nested_block = 1;
  float mean = 0;

  float At(uint64_t row, uint64_t group) const;
};

enum class CodeKind : uint8_t {
  kIntegers,  // scale * (code - zero)
  kNF4,       // scale * quantile[code]
  kFP4,       // scale * E2M1(code), scale in E8M0
  kE4M3,      // scale * E4M3(code)
  kE5M2,
};

struct QuantizedMatrix {
  CodeKind kind = CodeKind::kIntegers;
  PackedNumbers codes;      // of columns in lines that are rows
  bool by_columns = false;  // of rows in lines that are columns
  uint64_t units = 0;       // by columns: of a line, where row r is in unit r % units, rows behind in its higher bits; 0: one after another
  PackedNumbers zeros;
  bool zeros_by_groups = false;  // numbers are rows and lines are groups, instead of the other way round
  int32_t zero = 0;              // is added to each of zeros, or stands alone
  GroupScales scales;
  uint64_t group_columns = 1;    // that share a scale and a zero point, once they are in order
  float scale_multiplier = 1;    // of scales, when they are read
  float factor = 1;              // weights are this times what is read: a power of two, or a scale of the whole matrix
  std::vector<uint32_t> order;   // the stored column that is read as each; empty: as they are stored
  std::vector<uint32_t> inputs;  // the element that each is multiplied with; empty: as `order` says
  // Of the codes.
  uint64_t rows = 0;
  uint32_t file = 0;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;

  bool in_order() const { return order.empty() && inputs.empty(); }
  uint64_t InputOf(uint64_t column) const {
    if (!inputs.empty()) return inputs[column];
    return order.empty() ? column : order[column];
  }
  float ScaleAt(uint64_t row, uint64_t group) const { return scales.At(row, group) * scale_multiplier; }
  int32_t ZeroAt(uint64_t row, uint64_t group) const;
};

struct QuantizedRow {
  DType dtype;
  uint64_t row;
  uint64_t columns;
};

// Reads rows. Where rows lie beside each other, as many as share cache lines are taken apart at once and kept for the next call.
class QuantizedRowReader {
 public:
  // Of codes that are kept together, a byte each; rows that share a word are kept whatever their width.
  static constexpr uint64_t kRunBytesMax = uint64_t{4} << 20;

  // RowBytes(dtype, columns) bytes. Integers become Q2_0, Q4_0, Q5_0 or Q8_0 where code - zero is in its range; NF4 becomes NF4 and FP4
  // MXFP4; all but FP4 become F16 or F32. Of blocks, columns are a multiple of a block's and so are groups. What does not fit is cut off.
  void Read(const QuantizedMatrix& matrix, const QuantizedRow& row, uint8_t* out);

  uint64_t held_bytes() const;

 private:
  // Codes of neighbouring rows, columns as they are stored.
  struct Run {
    const uint8_t* base = nullptr;  // of the matrix's codes; null: nothing is kept
    uint64_t first = 0;
    uint64_t rows = 0;
    uint64_t last_use = 0;
    std::vector<uint8_t> codes;
  };
  const uint8_t* CodesOf(const QuantizedMatrix& matrix, uint64_t row, uint64_t columns);

  std::array<Run, 2> runs_;  // halves of heads are read in turn
  uint64_t uses_ = 0;
};

}  // namespace bantam
