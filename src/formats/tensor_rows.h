// The rows of a tensor, some at a time, so that no more of a file is in memory than is looked at.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "formats/model_file.h"
#include "tensor/dtype.h"

namespace bantam {

// Of one matrix.
struct TensorRows {
  const uint8_t* bytes = nullptr;  // as the file has them
  size_t count = 0;
  size_t first = 0;  // row of the matrix
  size_t matrix = 0;
};

// Calls visit(TensorRows) for all rows in their order, at most `at_once` of them, until it gives an error; what was visited is given back
// to the source. Other errors are the source's.
template <typename Visit>
Status ForEachRows(const TensorInfo& tensor, TensorSource& source, uint64_t at_once, const Visit& visit) {
  const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
  for (uint64_t matrix = 0; matrix < tensor.matrices(); ++matrix) {
    for (uint64_t row = 0; row < tensor.rows(); row += at_once) {
      const uint64_t count = std::min(at_once, tensor.rows() - row);
      const uint64_t offset = tensor.offset_bytes + (matrix * tensor.rows() + row) * row_bytes;
      BANTAM_ASSIGN(const auto bytes, source.View(offset, count * row_bytes));
      const TensorRows rows = {reinterpret_cast<const uint8_t*>(bytes.data()), static_cast<size_t>(count), static_cast<size_t>(row),
                               static_cast<size_t>(matrix)};
      BANTAM_TRY(visit(rows));
      source.Release(offset, count * row_bytes);
    }
  }
  return Ok();
}

}  // namespace bantam
