#include "formats/gguf_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "formats/gguf.h"
#include "formats/gguf_layout.h"

namespace bantam {
namespace {

constexpr uint32_t kVersion = 3;

Status CheckName(std::string_view what, std::string_view name) {
  if (!name.empty() && name.size() <= kGgufKeyBytesMax) return Ok();
  return Error(Code::kInvalidArgument, fmt::format("{} of {} bytes: expected 1 to {}", what, name.size(), kGgufKeyBytesMax));
}

template <typename Stored, typename Wide>
bool Holds(Wide value) {
  return std::in_range<Stored>(value);
}

// Whether an integer fits the width that it is to be stored in.
template <typename Wide>
bool Fits(ValueType type, Wide value) {
  switch (type) {
    case ValueType::kU8:
      return Holds<uint8_t>(value);
    case ValueType::kI8:
      return Holds<int8_t>(value);
    case ValueType::kU16:
      return Holds<uint16_t>(value);
    case ValueType::kI16:
      return Holds<int16_t>(value);
    case ValueType::kU32:
      return Holds<uint32_t>(value);
    case ValueType::kI32:
      return Holds<int32_t>(value);
    case ValueType::kU64:
      return Holds<uint64_t>(value);
    case ValueType::kI64:
      return Holds<int64_t>(value);
    case ValueType::kF32:
    case ValueType::kF64:
      return true;
    case ValueType::kBool:
    case ValueType::kString:
      return false;
  }
  return false;
}

Status CheckFits(const MetadataEntry& entry) {
  const auto* i = std::get_if<int64_t>(&entry.value);
  const auto* u = std::get_if<uint64_t>(&entry.value);
  if ((i == nullptr || Fits(entry.stored, *i)) && (u == nullptr || Fits(entry.stored, *u))) return Ok();
  return Error(Code::kInvalidArgument,
               fmt::format("metadata key {}: the number does not fit the type that it is to be stored in", entry.key));
}

// Bytes of a tensor, or why the reader would refuse it.
Result<uint64_t> SizeOf(const GgufTensor& tensor) {
  BANTAM_TRY(CheckName("a tensor name", tensor.name));
  const DTypeInfo& info = Info(tensor.dtype);
  uint64_t elements = 1;
  bool possible = !tensor.dimensions.empty() && tensor.dimensions.size() <= kTensorDimensionsMax;
  for (const uint64_t dimension : tensor.dimensions) {
    possible = possible && dimension != 0 && CheckedMultiply(elements, dimension, &elements) && elements <= kTensorElementsMax;
  }
  if (!possible || tensor.dimensions[0] % info.block_elements != 0) {
    return Error(Code::kInvalidArgument,
                 fmt::format("tensor {}: dimensions [{}] of {}: expected 1 to {} of at least 1, the first a multiple of {}", tensor.name,
                             fmt::join(tensor.dimensions, ", "), info.name, kTensorDimensionsMax, info.block_elements));
  }
  return elements / info.block_elements * info.block_bytes;
}

}  // namespace

Result<std::string> GgufWriter::MakeHeader(const std::string& path, std::vector<MetadataEntry> metadata,
                                           const std::vector<GgufTensor>& tensors, GgufWriter* writer) {
  if (metadata.size() > kGgufMetadataMax || tensors.size() > kGgufTensorsMax) {
    return Error(Code::kInvalidArgument, fmt::format("{}: {} metadata pairs and {} tensors: expected at most {} and {}", path,
                                                     metadata.size(), tensors.size(), kGgufMetadataMax, kGgufTensorsMax));
  }
  std::string header;
  AppendLittleEndian(&header, kGgufMagic);
  AppendLittleEndian(&header, kVersion);
  AppendLittleEndian<uint64_t>(&header, tensors.size());
  AppendLittleEndian<uint64_t>(&header, metadata.size());
  for (const MetadataEntry& entry : metadata) {
    BANTAM_TRY(CheckName("a metadata key", entry.key).With(path));
    BANTAM_TRY(CheckFits(entry).With(path));
    PutGgufPair(&header, entry);
  }
  const auto refused = [&](const Error& error) { return Error(Code::kInvalidArgument, fmt::format("{}: {}", path, error.message())); };
  Result<Metadata> checked = Metadata::Make(std::move(metadata));
  if (!checked.ok()) return refused(checked.error());
  Result<uint64_t> alignment_read = GgufAlignment(*checked);
  if (!alignment_read.ok()) return refused(alignment_read.error());
  const uint64_t alignment = *alignment_read;

  std::vector<uint64_t> sizes;
  std::vector<TensorInfo> directory;
  uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    BANTAM_ASSIGN(const uint64_t size, SizeOf(tensor).With(path));
    PutGgufText(&header, tensor.name);
    AppendLittleEndian<uint32_t>(&header, static_cast<uint32_t>(tensor.dimensions.size()));
    for (const uint64_t dimension : tensor.dimensions) AppendLittleEndian<uint64_t>(&header, dimension);
    AppendLittleEndian<uint32_t>(&header, Info(tensor.dtype).gguf_id);
    AppendLittleEndian<uint64_t>(&header, offset);
    TensorInfo info{};
    info.name = tensor.name;
    info.offset_bytes = offset;
    info.size_bytes = size;
    directory.push_back(info);
    sizes.push_back(size);
    offset += RoundUp(size, alignment);
  }
  if (Result<TensorDirectory> listed = TensorDirectory::Make(std::move(directory)); !listed.ok()) return refused(listed.error());
  if (header.size() > kGgufHeaderBytesMax) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{}: metadata and tensor list of {} bytes, expected at most {}", path, header.size(), kGgufHeaderBytesMax));
  }
  header.resize(RoundUp(header.size(), alignment));

  writer->tensors_ = tensors;
  writer->sizes_ = std::move(sizes);
  writer->alignment_ = alignment;
  return header;
}

Result<std::unique_ptr<GgufWriter>> GgufWriter::Make(FileSystem& files, const std::string& path, std::vector<MetadataEntry> metadata,
                                                     const std::vector<GgufTensor>& tensors) {
  std::unique_ptr<GgufWriter> writer(new GgufWriter());
  BANTAM_ASSIGN(const std::string header, MakeHeader(path, std::move(metadata), tensors, writer.get()));
  BANTAM_ASSIGN(writer->writer_, files.Create(path));
  BANTAM_TRY(writer->writer_->Append(AsBytes(header)));
  return writer;
}

Result<std::unique_ptr<GgufWriter>> GgufWriter::Make(std::unique_ptr<FileWriter> file, const std::string& path,
                                                     std::vector<MetadataEntry> metadata, const std::vector<GgufTensor>& tensors) {
  std::unique_ptr<GgufWriter> writer(new GgufWriter());
  BANTAM_ASSIGN(const std::string header, MakeHeader(path, std::move(metadata), tensors, writer.get()));
  writer->writer_ = std::move(file);
  BANTAM_TRY(writer->writer_->Append(AsBytes(header)));
  return writer;
}

Status GgufWriter::Append(std::span<const std::byte> bytes) {
  Status written = failed_ ? Status(Error(Code::kInvalidArgument, "an earlier write failed")) : AppendAll(bytes);
  failed_ = failed_ || !written.ok();  // what reached the file is not known: it is never committed
  return written;
}

Status GgufWriter::AppendAll(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if (current_ == tensors_.size()) {
      return Error(Code::kInvalidArgument, fmt::format("{} bytes behind the last tensor", bytes.size()));
    }
    const uint64_t part = std::min<uint64_t>(bytes.size(), sizes_[current_] - written_);
    BANTAM_TRY(writer_->Append(bytes.first(part)));
    bytes = bytes.subspan(part);
    written_ += part;
    if (written_ == sizes_[current_]) BANTAM_TRY(Pad());
  }
  return Ok();
}

Status GgufWriter::Pad() {
  const std::string zeros(RoundUp(written_, alignment_) - written_, '\0');
  ++current_;
  written_ = 0;
  return writer_->Append(AsBytes(zeros));
}

Status GgufWriter::Commit() {
  if (failed_) return Error(Code::kInvalidArgument, "an earlier write failed");
  if (current_ != tensors_.size()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("tensor {}: {} of {} bytes were written", tensors_[current_].name, written_, sizes_[current_]));
  }
  return writer_->Commit();
}

}  // namespace bantam
