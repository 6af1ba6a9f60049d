#include "compress/made_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "formats/tensor_rows.h"

namespace bantam {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{4} << 20;
constexpr uint64_t kAlignment = 32;

}  // namespace

Result<std::vector<float>> ReadValues(const TensorInfo& tensor, TensorSource& source) {
  std::vector<float> values(tensor.elements());
  BANTAM_TRY(ReadValues(tensor, source, values));
  return values;
}

Status ReadValues(const TensorInfo& tensor, TensorSource& source, std::span<float> values) {
  CHECK(values.size() == tensor.elements());
  const uint64_t row_bytes = RowBytes(tensor.dtype, tensor.columns());
  const size_t columns = tensor.columns();
  return ForEachRows(tensor, source, std::max<uint64_t>(1, kPieceBytes / row_bytes), [&](const TensorRows& rows) -> Status {
    float* out = values.data() + (rows.matrix * tensor.rows() + rows.first) * columns;
    for (size_t r = 0; r < rows.count; ++r) Unpack(tensor.dtype, rows.bytes + r * row_bytes, columns, out + r * columns);
    for (size_t i = 0; i < rows.count * columns; ++i) {
      if (std::isfinite(out[i])) continue;
      return Error(Code::kCorrupt,
                   fmt::format("tensor {}: row {}: element {} is {}, expected a finite number; the file is damaged, fetch it "
                               "again",
                               tensor.name, rows.first + i / columns, i % columns, out[i]));
    }
    return Ok();
  });
}

void MadeSource::Add(TensorInfo info, const TensorInfo* copied) {
  info.offset_bytes =
      tensors_.empty() ? 0 : tensors_.back().offset_bytes + (tensors_.back().size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  info.size_bytes = info.elements() / info.columns() * RowBytes(info.dtype, info.columns());
  tensors_.push_back(info);
  copied_.push_back(copied);
}

size_t MadeSource::Find(uint64_t offset_bytes) const {
  const auto behind = std::upper_bound(tensors_.begin(), tensors_.end(), offset_bytes,
                                       [](uint64_t offset, const TensorInfo& tensor) { return offset < tensor.offset_bytes; });
  CHECK(behind != tensors_.begin());
  return static_cast<size_t>(behind - tensors_.begin()) - 1;
}

Result<std::span<const std::byte>> MadeSource::View(uint64_t offset_bytes, uint64_t size_bytes) {
  const size_t index = Find(offset_bytes);
  const TensorInfo& tensor = tensors_[index];
  const uint64_t begin = offset_bytes - tensor.offset_bytes;
  if (begin > tensor.size_bytes || size_bytes > tensor.size_bytes - begin) {
    return Error(Code::kInvalidArgument,
                 fmt::format("bytes {} to {} of tensor {}, which has {}", begin, begin + size_bytes, tensor.name, tensor.size_bytes));
  }
  if (copied_[index] != nullptr) return whole_.View(copied_[index]->offset_bytes + begin, size_bytes);
  if (made_index_ != index) {
    made_index_ = SIZE_MAX;
    made_.assign(tensor.size_bytes, std::byte{0});
    BANTAM_TRY(Make(index, made_).With(std::string(tensor.name)));
    made_index_ = index;
  }
  return std::span<const std::byte>(made_).subspan(begin, size_bytes);
}

void MadeSource::Release(uint64_t offset_bytes, uint64_t size_bytes) {
  const size_t index = Find(offset_bytes);
  if (copied_[index] != nullptr) whole_.Release(copied_[index]->offset_bytes + offset_bytes - tensors_[index].offset_bytes, size_bytes);
}

}  // namespace bantam
