#include "formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "formats/gguf_layout.h"

namespace bantam {
namespace {

struct Header {
  uint32_t version = 0;
  uint64_t n_tensors = 0;
  uint64_t n_metadata = 0;
};

Result<Header> ReadHeader(ByteReader& reader) {
  Header header;
  BANTAM_ASSIGN(const uint32_t magic, reader.Read<uint32_t>("the magic"));
  if (magic != kGgufMagic) return Error(Code::kUnsupported, "not a GGUF file (its first bytes are not \"GGUF\"); name a .gguf model");
  BANTAM_ASSIGN(header.version, reader.Read<uint32_t>("the version"));
  if (header.version != 0 && (header.version & 0xffffu) == 0) {
    return Error(Code::kUnsupported, "a big-endian GGUF; convert the model for little-endian machines");
  }
  if (header.version != 2 && header.version != 3) {
    return Error(Code::kUnsupported, fmt::format("GGUF version {}, expected 2 or 3; convert the model again", header.version));
  }
  BANTAM_ASSIGN(header.n_tensors, reader.Read<uint64_t>("the tensor count"));
  BANTAM_ASSIGN(header.n_metadata, reader.Read<uint64_t>("the metadata count"));
  if (header.n_tensors > kGgufTensorsMax || header.n_metadata > kGgufMetadataMax) {
    return Error(Code::kCorrupt, fmt::format("{} tensors and {} metadata pairs, expected at most {} and {}; the file is damaged",
                                             header.n_tensors, header.n_metadata, kGgufTensorsMax, kGgufMetadataMax));
  }
  return header;
}

Result<TensorInfo> ReadTensorInfo(ByteReader& reader) {
  TensorInfo tensor{};
  BANTAM_ASSIGN(tensor.name, ReadGgufName(reader, "a tensor name"));
  BANTAM_ASSIGN(tensor.n_dimensions, reader.Read<uint32_t>(tensor.name));
  if (tensor.n_dimensions == 0 || tensor.n_dimensions > kTensorDimensionsMax) {
    return Error(Code::kCorrupt, fmt::format("tensor {}: {} dimensions, expected 1 to {}; the file is damaged", tensor.name,
                                             tensor.n_dimensions, kTensorDimensionsMax));
  }
  for (size_t d = 0; d < kTensorDimensionsMax; ++d) {
    tensor.dimensions[d] = 1;
    if (d < tensor.n_dimensions) {
      BANTAM_ASSIGN(tensor.dimensions[d], reader.Read<uint64_t>(tensor.name));
    }
  }
  BANTAM_ASSIGN(const uint32_t type, reader.Read<uint32_t>(tensor.name));
  const auto dtype = DTypeFromGguf(type);
  if (!dtype) {
    return Error(Code::kUnsupported,
                 fmt::format("tensor {}: weight format {} is not supported; convert the model to Q4_K_M, Q8_0 or F16", tensor.name, type));
  }
  tensor.dtype = *dtype;
  BANTAM_ASSIGN(tensor.offset_bytes, reader.Read<uint64_t>(tensor.name));
  BANTAM_TRY(SizeTensor(&tensor));
  return tensor;
}

// Turns offsets from the data section into offsets from the start of the file, inside it.
Status PlaceTensors(uint64_t data_begin, uint64_t file_bytes, uint64_t alignment, std::vector<TensorInfo>* tensors) {
  for (TensorInfo& tensor : *tensors) {
    if (tensor.offset_bytes % alignment != 0) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: offset {} is not a multiple of the alignment {}; the file is damaged",
                                               tensor.name, tensor.offset_bytes, alignment));
    }
    uint64_t end = 0;
    if (!CheckedAdd(data_begin, tensor.offset_bytes, &tensor.offset_bytes) || !CheckedAdd(tensor.offset_bytes, tensor.size_bytes, &end) ||
        end > file_bytes) {
      return Error(Code::kCorrupt, fmt::format("tensor {}: {} bytes end past the file's {} bytes; the file is cut short, fetch it again",
                                               tensor.name, tensor.size_bytes, file_bytes));
    }
  }
  return Ok();
}

class MappedSource final : public TensorSource {
 public:
  explicit MappedSource(std::unique_ptr<FileMapping> mapping) : mapping_(std::move(mapping)) {}
  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override {
    const auto bytes = mapping_->bytes();
    CHECK(offset_bytes <= bytes.size() && size_bytes <= bytes.size() - offset_bytes);
    return bytes.subspan(offset_bytes, size_bytes);
  }
  void Release(uint64_t offset_bytes, uint64_t size_bytes) override { mapping_->Release(offset_bytes, size_bytes); }

 private:
  std::unique_ptr<FileMapping> mapping_;
};

// Everything before the data, in file order and unchecked against each other.
struct Listing {
  Header header;
  std::vector<MetadataEntry> entries;
  std::vector<TensorInfo> tensors;
  uint64_t end = 0;
};

Result<Listing> ReadListing(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  Listing listing;
  BANTAM_ASSIGN(listing.header, ReadHeader(reader));
  for (uint64_t i = 0; i < listing.header.n_metadata; ++i) {
    BANTAM_ASSIGN(const MetadataEntry entry, ReadGgufPair(reader));
    listing.entries.push_back(entry);
  }
  for (uint64_t i = 0; i < listing.header.n_tensors; ++i) {
    BANTAM_ASSIGN(const TensorInfo tensor, ReadTensorInfo(reader));
    listing.tensors.push_back(tensor);
  }
  listing.end = reader.offset();
  return listing;
}

// Nothing behind the longest header is looked at: time and memory do not grow with the file.
Result<uint64_t> EndOfListing(std::span<const std::byte> bytes) {
  const bool cut = bytes.size() > kGgufHeaderBytesMax;
  Result<Listing> listing = ReadListing(cut ? bytes.first(kGgufHeaderBytesMax) : bytes);
  if (listing.ok()) return listing->end;
  if (!cut) return listing.error();
  return std::move(listing).error().With(
      fmt::format("within the first {} bytes, the most that metadata and tensor list may take", kGgufHeaderBytesMax));
}

Result<ModelFile> Parse(const std::string& path, std::unique_ptr<FileMapping> mapping) {
  ModelFile file;
  file.path = path;
  file.size_bytes = mapping->bytes().size();
  // Once to find the end, and once from a copy that nobody else can write to.
  BANTAM_ASSIGN(const uint64_t header_bytes, EndOfListing(mapping->bytes()));
  file.header_bytes = header_bytes;
  file.header = std::make_unique_for_overwrite<std::byte[]>(header_bytes);
  std::memcpy(file.header.get(), mapping->bytes().data(), header_bytes);
  mapping->Release(0, header_bytes);
  BANTAM_ASSIGN(Listing listing, ReadListing({file.header.get(), header_bytes}));
  file.format = fmt::format("GGUF v{}", listing.header.version);
  BANTAM_ASSIGN(file.metadata, Metadata::Make(std::move(listing.entries)));
  BANTAM_ASSIGN(const uint64_t alignment, GgufAlignment(file.metadata));
  const uint64_t data_begin = RoundUp(listing.end, alignment);
  BANTAM_TRY(PlaceTensors(data_begin, file.size_bytes, alignment, &listing.tensors));
  BANTAM_ASSIGN(file.directory, TensorDirectory::Make(std::move(listing.tensors)));
  file.source = std::make_unique<MappedSource>(std::move(mapping));
  return file;
}

}  // namespace

Result<uint64_t> GgufAlignment(const Metadata& metadata) {
  BANTAM_ASSIGN(const auto alignment, metadata.U32("general.alignment"));
  const uint64_t value = alignment.value_or(32);
  if (value == 0 || value > kGgufAlignmentMax || !std::has_single_bit(value)) {
    return Error(Code::kCorrupt,
                 fmt::format("metadata key general.alignment: {}, expected a power of two up to {}", value, kGgufAlignmentMax));
  }
  return value;
}

Result<ModelFile> OpenGguf(FileSystem& files, const std::string& path) {
  BANTAM_ASSIGN(auto mapping, files.Map(path));
  return Parse(path, std::move(mapping)).With(path);
}

}  // namespace bantam
