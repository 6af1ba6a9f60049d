// Writes GGUF version 3 (docs/formats/gguf.md), tensor by tensor: a file larger than memory needs only its header in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

struct GgufTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> dimensions;  // fastest first, 1 to 4
};

// What the bytes of a MetadataArray of strings look like.
std::string EncodeTexts(std::span<const std::string_view> texts);

class GgufWriter {
 public:
  // Writes the header. Nothing stands at `path` before Commit. Numbers are written as wide as MetadataEntry::stored says. Errors: those
  // of FileSystem::Create; InvalidArgument for what OpenGguf would refuse (names twice or empty, sizes, counts).
  static Result<std::unique_ptr<GgufWriter>> Make(FileSystem& files, const std::string& path, std::vector<MetadataEntry> metadata,
                                                  const std::vector<GgufTensor>& tensors);
  // The same into a writer that is there already. `path` is what errors name.
  static Result<std::unique_ptr<GgufWriter>> Make(std::unique_ptr<FileWriter> writer, const std::string& path,
                                                  std::vector<MetadataEntry> metadata, const std::vector<GgufTensor>& tensors);

  // The next bytes of the tensors in their order, cut anywhere. Padding comes of itself.
  Status Append(std::span<const std::byte> bytes);

  // InvalidArgument when bytes are missing.
  Status Commit();

 private:
  // What stands in front of the tensors' bytes, and the writer without a file yet.
  static Result<std::string> MakeHeader(const std::string& path, std::vector<MetadataEntry> metadata,
                                        const std::vector<GgufTensor>& tensors, GgufWriter* writer);
  GgufWriter() = default;
  Status AppendAll(std::span<const std::byte> bytes);
  Status Pad();

  std::unique_ptr<FileWriter> writer_;
  std::vector<GgufTensor> tensors_;
  std::vector<uint64_t> sizes_;
  uint64_t alignment_ = 0;
  bool failed_ = false;
  size_t current_ = 0;    // the tensor being written
  uint64_t written_ = 0;  // of it
};

}  // namespace bantam
