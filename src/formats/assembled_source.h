// A TensorSource whose tensors are put together from pieces of other files: experts that are stored one by one, rows in another order,
// matrices stored column by column. What a model's publisher laid out in one way is read as if it were laid out in GGUF's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"
#include "formats/quantized_matrix.h"

namespace bantam {

// Runs of heads that are read in turn: the first of every run, then the second of every run. Head j * runs + k is stored at k * each + j.
struct HeadTurns {
  uint64_t runs = 0;   // 0: heads are read as they are stored
  uint64_t each = 0;   // heads of a run
  uint64_t head = 0;   // rows (or columns) of a head
  uint64_t first = 0;  // those in front, which are no heads'

  uint64_t Stored(uint64_t index) const;
};

// Where row r of a matrix stands among the rows that are stored: first + (r / take) * stride + r % take. Before that, rows of each head
// that are stored as halves are taken in pairs, as interleaved rotary embedding reads them.
struct RowOrder {
  uint64_t first = 0;
  uint64_t take = 0;    // rows that follow each other; 0: all
  uint64_t stride = 0;  // from one such run to the next
  uint64_t head = 0;    // rows of a head that are to be paired; 0: none
  HeadTurns turns = {};

  uint64_t Stored(uint64_t row) const;
};

// Of every element; what is read is F32 then.
enum class Change : uint8_t {
  kNothing,
  kAddOne,
  kMinusExp,  // -exp(x)
};

// Rows up to `end`, from where the one before ends, are multiplied by it.
struct RowFactor {
  uint64_t end = 0;
  float factor = 1;
};

struct Assembly {
  // Stored elements: F32, F16 or BF16; of quantised matrices, what their rows become.
  DType dtype = DType::kF32;
  // As they are read. A vector's elements may be rows of one column.
  uint64_t columns = 1;
  uint64_t rows = 1;
  uint64_t matrices = 1;
  // As they are stored: rows per matrix, and whether elements of a column follow each other instead of those of a row.
  uint64_t stored_rows = 1;
  bool by_columns = false;
  RowOrder order;
  HeadTurns column_turns;
  Change change = Change::kNothing;
  std::vector<RowFactor> factors;  // of rows as they are read; products are rounded to the stored type, as converters round them
  struct Piece {
    uint32_t file = 0;
    uint64_t offset_bytes = 0;
  };
  std::vector<Piece> pieces;               // one per matrix, or one for all
  std::vector<float> values;               // instead of pieces, F32
  std::vector<QuantizedMatrix> quantized;  // instead of pieces, one per matrix

  // Whether elements are read as other numbers than are stored.
  bool changes() const { return change != Change::kNothing || !factors.empty(); }
  DType read_dtype() const { return change != Change::kNothing ? DType::kF32 : dtype; }
  uint64_t size_bytes() const { return RowBytes(read_dtype(), columns * rows * matrices); }
};

class AssembledSource : public TensorSource {
 public:
  // Every piece lies in its file. Tensor i begins at offset_bytes(i) of the source.
  AssembledSource(std::vector<std::unique_ptr<FileMapping>> files, std::vector<Assembly> tensors);

  uint64_t offset_bytes(size_t tensor) const { return offsets_[tensor]; }

  // InvalidArgument for ranges that are not within one tensor. What is not stored as it is read is put together in memory as large as the
  // range.
  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override;
  void Release(uint64_t offset_bytes, uint64_t size_bytes) override;
  uint64_t held_bytes() const override;

 private:
  struct Range {
    const Assembly* tensor;
    uint64_t begin;  // bytes of the tensor
  };
  Range Find(uint64_t offset_bytes, uint64_t size_bytes) const;
  const std::byte* At(const Assembly& tensor, uint64_t matrix) const;
  void Gather(const Assembly& tensor, uint64_t begin, std::span<std::byte> out) const;
  void GatherQuantized(const Assembly& tensor, uint64_t begin, std::span<std::byte> out);

  std::vector<std::unique_ptr<FileMapping>> files_;
  std::vector<Assembly> tensors_;
  std::vector<uint64_t> offsets_;
  std::vector<std::byte> gathered_;
  QuantizedRowReader rows_;
  std::vector<std::byte> row_;  // a quantised one of which a part is wanted
};

}  // namespace bantam
