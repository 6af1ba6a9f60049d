#include "formats/assembled_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/bytes.h"
#include "base/check.h"
#include "tensor/half.h"

namespace bantam {
namespace {

// Tensors begin at whole cache lines.
constexpr uint64_t kAlignment = 64;

// Whether a range of what is read is a range of what is stored.
bool IsStoredSo(const Assembly& tensor) {
  const RowOrder& order = tensor.order;
  return tensor.values.empty() && tensor.quantized.empty() && !tensor.changes() && !tensor.by_columns && order.head == 0 &&
         order.turns.runs == 0 && tensor.column_turns.runs == 0 && (order.take == 0 || order.take == order.stride);
}

// Elements from `column` on that follow each other where they are stored.
uint64_t ColumnRun(const Assembly& tensor, uint64_t column) {
  const HeadTurns& turns = tensor.column_turns;
  if (tensor.by_columns) return 1;
  if (turns.runs == 0) return tensor.columns - column;
  return column < turns.first ? turns.first - column : turns.head - (column - turns.first) % turns.head;
}

float FactorOf(const Assembly& tensor, uint64_t row) {
  for (const RowFactor& factor : tensor.factors) {
    if (row < factor.end) return factor.factor;
  }
  return 1;
}

// Stored elements of a row, changed.
void ChangeElements(const Assembly& tensor, uint64_t row, const std::byte* from, std::span<std::byte> out) {
  constexpr size_t kChunk = 256;
  const size_t stored_bytes = RowBytes(tensor.dtype, 1);
  const size_t read_bytes = RowBytes(tensor.read_dtype(), 1);
  const float factor = FactorOf(tensor, row);
  std::array<float, kChunk> values;
  for (size_t done = 0, n = 0; done < out.size() / read_bytes; done += n) {
    n = std::min(kChunk, out.size() / read_bytes - done);
    Unpack(tensor.dtype, reinterpret_cast<const uint8_t*>(from + done * stored_bytes), n, values.data());
    for (size_t i = 0; i < n; ++i) {
      float& value = values[i];
      if (tensor.change == Change::kAddOne) value += 1;
      if (tensor.change == Change::kMinusExp) value = -static_cast<float>(std::exp(static_cast<double>(value)));
      value *= factor;
    }
    std::byte* to = out.data() + done * read_bytes;
    if (tensor.read_dtype() == DType::kF32) {
      std::memcpy(to, values.data(), n * sizeof(float));
      continue;
    }
    for (size_t i = 0; i < n; ++i) {
      const uint16_t bits = tensor.read_dtype() == DType::kF16 ? F32ToF16(values[i]) : F32ToBF16(values[i]);
      std::memcpy(to + i * sizeof(bits), &bits, sizeof(bits));
    }
  }
}

}  // namespace

uint64_t HeadTurns::Stored(uint64_t index) const {
  if (runs == 0 || index < first) return index;
  const uint64_t place = (index - first) / head;
  return first + (place % runs * each + place / runs) * head + (index - first) % head;
}

uint64_t RowOrder::Stored(uint64_t row) const {
  row = turns.Stored(row);
  if (head != 0) {
    const uint64_t inner = row % head;
    row = row - inner + inner % 2 * (head / 2) + inner / 2;
  }
  return first + (take == 0 ? row : row / take * stride + row % take);
}

AssembledSource::AssembledSource(std::vector<std::unique_ptr<FileMapping>> files, std::vector<Assembly> tensors)
    : files_(std::move(files)), tensors_(std::move(tensors)) {
  uint64_t offset = 0;
  for (const Assembly& tensor : tensors_) {
    CHECK(tensor.pieces.size() == 1 || tensor.pieces.size() == tensor.matrices || !tensor.values.empty() ||
          tensor.quantized.size() == tensor.matrices);
    offsets_.push_back(offset);
    offset += RoundUp(tensor.size_bytes(), kAlignment);
  }
}

AssembledSource::Range AssembledSource::Find(uint64_t offset_bytes, uint64_t size_bytes) const {
  const auto after = std::upper_bound(offsets_.begin(), offsets_.end(), offset_bytes);
  if (after == offsets_.begin()) return {nullptr, 0};
  const size_t index = static_cast<size_t>(after - offsets_.begin()) - 1;
  const uint64_t begin = offset_bytes - offsets_[index];
  const uint64_t size = tensors_[index].size_bytes();
  if (begin > size || size_bytes > size - begin) return {nullptr, 0};
  return {&tensors_[index], begin};
}

// The first stored row of a matrix.
const std::byte* AssembledSource::At(const Assembly& tensor, uint64_t matrix) const {
  const bool one = tensor.pieces.size() == 1;
  const Assembly::Piece& piece = tensor.pieces[one ? 0 : matrix];
  const uint64_t matrix_bytes = one ? matrix * RowBytes(tensor.dtype, tensor.columns * tensor.stored_rows) : 0;
  return files_[piece.file]->bytes().data() + piece.offset_bytes + matrix_bytes;
}

void AssembledSource::Gather(const Assembly& tensor, uint64_t begin, std::span<std::byte> out) const {
  const size_t stored_bytes = RowBytes(tensor.dtype, 1);
  const size_t read_bytes = RowBytes(tensor.read_dtype(), 1);
  for (uint64_t done = 0; done < out.size();) {
    const uint64_t byte = begin + done;
    const uint64_t element = byte / read_bytes;
    const uint64_t column = element % tensor.columns;
    const uint64_t row = element / tensor.columns % tensor.rows;
    const std::byte* matrix = At(tensor, element / tensor.columns / tensor.rows);
    const uint64_t stored_row = tensor.order.Stored(row);
    const uint64_t stored_column = tensor.column_turns.Stored(column);
    const uint64_t stored_element =
        tensor.by_columns ? stored_column * tensor.stored_rows + stored_row : stored_row * tensor.columns + stored_column;
    const std::byte* from = matrix + stored_element * stored_bytes;
    const uint64_t within = byte % read_bytes;
    uint64_t size = std::min<uint64_t>(ColumnRun(tensor, column) * read_bytes - within, out.size() - done);
    if (!tensor.changes()) {
      std::memcpy(out.data() + done, from + within, size);
    } else if (within == 0 && size >= read_bytes) {
      size -= size % read_bytes;
      ChangeElements(tensor, row, from, out.subspan(done, size));
    } else {
      std::array<std::byte, sizeof(float)> one;
      size = std::min(size, read_bytes - within);
      ChangeElements(tensor, row, from, std::span(one).first(read_bytes));
      std::memcpy(out.data() + done, one.data() + within, size);
    }
    done += size;
  }
}

void AssembledSource::GatherQuantized(const Assembly& tensor, uint64_t begin, std::span<std::byte> out) {
  const size_t row_bytes = RowBytes(tensor.dtype, tensor.columns);
  for (uint64_t done = 0; done < out.size();) {
    const uint64_t row = (begin + done) / row_bytes;
    const uint64_t within = (begin + done) % row_bytes;
    const size_t size = std::min<uint64_t>(row_bytes - within, out.size() - done);
    const QuantizedMatrix& matrix = tensor.quantized[row / tensor.rows];
    const QuantizedRow wanted = {tensor.dtype, tensor.order.Stored(row % tensor.rows), tensor.columns};
    if (size == row_bytes) {
      rows_.Read(matrix, wanted, reinterpret_cast<uint8_t*>(out.data() + done));
    } else {
      row_.resize(row_bytes);
      rows_.Read(matrix, wanted, reinterpret_cast<uint8_t*>(row_.data()));
      std::memcpy(out.data() + done, row_.data() + within, size);
    }
    done += size;
  }
}

Result<std::span<const std::byte>> AssembledSource::View(uint64_t offset_bytes, uint64_t size_bytes) {
  const Range range = Find(offset_bytes, size_bytes);
  if (range.tensor == nullptr) {
    return Error(Code::kInvalidArgument, fmt::format("{} bytes at {} are not within one tensor", size_bytes, offset_bytes));
  }
  const Assembly& tensor = *range.tensor;
  if (!tensor.values.empty()) return std::as_bytes(std::span(tensor.values)).subspan(range.begin, size_bytes);
  if (!tensor.quantized.empty()) {
    gathered_.resize(size_bytes);
    GatherQuantized(tensor, range.begin, gathered_);
    return std::span<const std::byte>(gathered_);
  }
  const uint64_t matrix_bytes = RowBytes(tensor.dtype, tensor.columns * tensor.rows);
  const uint64_t matrix = matrix_bytes == 0 ? 0 : range.begin / matrix_bytes;
  const uint64_t begin = range.begin - matrix * matrix_bytes;
  if (IsStoredSo(tensor) && begin + size_bytes <= matrix_bytes) {
    return std::span(At(tensor, matrix) + RowBytes(tensor.dtype, tensor.order.first * tensor.columns) + begin, size_bytes);
  }
  gathered_.resize(size_bytes);
  Gather(tensor, range.begin, gathered_);
  return std::span<const std::byte>(gathered_);
}

uint64_t AssembledSource::held_bytes() const {
  uint64_t bytes = gathered_.capacity() + row_.capacity() + rows_.held_bytes() + offsets_.capacity() * sizeof(offsets_[0]);
  for (const Assembly& tensor : tensors_) {
    bytes += sizeof(tensor) + tensor.pieces.capacity() * sizeof(tensor.pieces[0]) + tensor.values.capacity() * sizeof(float) +
             tensor.quantized.capacity() * sizeof(QuantizedMatrix);
    for (const QuantizedMatrix& matrix : tensor.quantized) {
      bytes += (matrix.order.capacity() + matrix.inputs.capacity()) * sizeof(uint32_t) + matrix.scales.map.capacity() * sizeof(float);
    }
  }
  return bytes;
}

void AssembledSource::Release(uint64_t offset_bytes, uint64_t size_bytes) {
  const Range range = Find(offset_bytes, size_bytes);
  if (range.tensor == nullptr || size_bytes == 0 || !range.tensor->values.empty()) return;
  const Assembly& tensor = *range.tensor;
  if (!tensor.quantized.empty()) {
    const size_t matrix_bytes = RowBytes(tensor.dtype, tensor.columns * tensor.rows);
    for (uint64_t m = range.begin / matrix_bytes; m <= (range.begin + size_bytes - 1) / matrix_bytes; ++m) {
      const QuantizedMatrix& matrix = tensor.quantized[m];
      files_[matrix.file]->Release(matrix.offset_bytes, matrix.size_bytes);
    }
    return;
  }
  const uint64_t matrix_elements = tensor.columns * tensor.rows;
  const size_t element_bytes = RowBytes(tensor.read_dtype(), 1);
  const uint64_t first = range.begin / element_bytes;
  const uint64_t last = (range.begin + size_bytes - 1) / element_bytes;
  for (uint64_t matrix = first / matrix_elements; matrix <= last / matrix_elements; ++matrix) {
    const bool one = tensor.pieces.size() == 1;
    const Assembly::Piece& piece = tensor.pieces[one ? 0 : matrix];
    const uint64_t stored_bytes = RowBytes(tensor.dtype, tensor.columns * tensor.stored_rows);
    const uint64_t base = piece.offset_bytes + (one ? matrix * stored_bytes : 0);
    if (!IsStoredSo(tensor)) {
      // Its bytes are all over the matrix, and the next range comes back to some of them: they are in the page cache.
      files_[piece.file]->Release(base, stored_bytes);
      continue;
    }
    const uint64_t begin = std::max(first, matrix * matrix_elements) - matrix * matrix_elements;
    const uint64_t end = std::min(last + 1, (matrix + 1) * matrix_elements) - matrix * matrix_elements;
    const uint64_t skipped = tensor.order.first * tensor.columns;
    files_[piece.file]->Release(base + RowBytes(tensor.dtype, skipped + begin), RowBytes(tensor.dtype, end - begin));
  }
}

}  // namespace bantam
