// ModelFile: what every model format becomes: metadata, a tensor directory, and a source of tensor bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/file_identity.h"
#include "base/result.h"
#include "security/sha256.h"
#include "tensor/dtype.h"

namespace bantam {

// Of a number, bool or string as a file stores it.
enum class ValueType : uint8_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kU64, kI64, kF64 };
// 0 for a string.
size_t ElementBytes(ValueType type);

// An array stays in the file until someone asks for its elements. Its bytes were checked when the file was opened.
struct MetadataArray {
  ValueType type;
  uint64_t count;
  std::span<const std::byte> bytes;
};

using MetadataValue = std::variant<bool, int64_t, uint64_t, double, std::string_view, MetadataArray>;

struct MetadataEntry {
  std::string_view key;
  MetadataValue value;
  ValueType stored = ValueType::kU8;  // the width of a number that the value holds widened
};

// Key-value pairs in file order. Views point into the ModelFile, and live as long.
class Metadata {
 public:
  // Corrupt when a key occurs twice.
  static Result<Metadata> Make(std::vector<MetadataEntry> entries);

  // Of metadata that was made of another file: what errors about a key are to name, and the member of that file behind it.
  struct Origin {
    std::string file;                                          // "config.json"
    std::vector<std::pair<std::string, std::string>> members;  // key, member
  };
  void SetOrigin(Origin origin) { origin_ = std::move(origin); }
  // Corrupt: the key, or what it was made of; `problem`, such as "7, expected 1 to 4"; and what to do.
  Error Problem(std::string_view key, std::string_view problem) const;

  const std::vector<MetadataEntry>& entries() const { return entries_; }
  const MetadataValue* Find(std::string_view key) const;

  // nullopt when the key is absent; Corrupt when its type or range is wrong. Integers convert between widths.
  Result<std::optional<uint32_t>> U32(std::string_view key) const;
  Result<std::optional<double>> Number(std::string_view key) const;
  Result<std::optional<bool>> Bool(std::string_view key) const;
  Result<std::optional<std::string_view>> Text(std::string_view key) const;
  // At most `count_max` elements. Numbers() converts any number type.
  Result<std::optional<std::vector<std::string_view>>> Texts(std::string_view key, size_t count_max) const;
  // An array of numbers of one byte each.
  Result<std::optional<std::string_view>> Bytes(std::string_view key, size_t count_max) const;
  Result<std::optional<std::vector<double>>> Numbers(std::string_view key, size_t count_max) const;

 private:
  std::vector<MetadataEntry> entries_;
  std::vector<uint32_t> by_key_;  // indices of entries_, sorted by key
  Origin origin_;
};

inline constexpr size_t kTensorDimensionsMax = 4;
inline constexpr uint64_t kTensorElementsMax = uint64_t{1} << 48;  // their bytes fit in 64 bits whatever the format

struct TensorInfo {
  std::string_view name;
  DType dtype;
  uint32_t n_dimensions;
  // Elements per dimension, fastest first: [columns, rows, matrices, 1]. Unused ones are 1.
  uint64_t dimensions[kTensorDimensionsMax];
  uint64_t offset_bytes;  // from the start of the source
  uint64_t size_bytes;

  uint64_t columns() const { return dimensions[0]; }
  uint64_t rows() const { return dimensions[1]; }
  uint64_t matrices() const { return dimensions[2] * dimensions[3]; }
  uint64_t elements() const { return columns() * rows() * matrices(); }
};

// Fills size_bytes from format and dimensions. Corrupt where they make no possible size.
Status SizeTensor(TensorInfo* tensor);

// Where tensor bytes come from: a mapped file now, a decrypting reader later.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Valid until the next call or the end of the source. Any range inside the file: parts of a tensor too.
  virtual Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) = 0;
  // The range will not be read again soon.
  virtual void Release(uint64_t offset_bytes, uint64_t size_bytes) = 0;
  // Memory held besides what is mapped.
  virtual uint64_t held_bytes() const { return 0; }

  // Where a tensor lies as long as the source lives, for those who use it without a copy: as blocks, or as panels that are ready for the
  // kernels (each matrix whole panels, 64-byte aligned). Nothing where there is no such place.
  enum class Form : uint8_t { kBlocks, kPanels };
  virtual std::optional<std::span<const std::byte>> PlaceOf(const TensorInfo&, Form) const { return std::nullopt; }
  // Reads a part of a place and checks it against what the file says of it, before anybody uses it. Several threads may ask at once.
  virtual Status Check(std::span<const std::byte>) { return Ok(); }
  // From here on weights are taken without a check, as far as AllChecked() is about them: for whoever had them checked before.
  virtual void Trust() {}

  // What names the weights, and the file they are in; nothing where the format has no digests of them, where changes to the file may go
  // unnoticed, or where it changed since it was opened.
  struct Contents {
    Digest digest;
    FileIdentity file;
  };
  virtual std::optional<Contents> contents() const { return std::nullopt; }
  // Whether every part of the weights was checked, by this process; of those that are stored twice, the panels.
  virtual bool AllChecked() const { return false; }
};

class TensorDirectory {
 public:
  // Corrupt when a name occurs twice or two tensors share bytes.
  static Result<TensorDirectory> Make(std::vector<TensorInfo> tensors);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo* Find(std::string_view name) const;

 private:
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> by_name_;
};

struct ModelFile {
  std::string path;
  std::vector<std::string> further_paths;  // of models in several files, all but `path`
  std::string format;                      // "GGUF v3"
  uint64_t size_bytes = 0;
  // What metadata and directory view: a copy, so that a file which changes while it is in use cannot change what was checked.
  std::unique_ptr<std::byte[]> header;
  uint64_t header_bytes = 0;
  Metadata metadata;
  TensorDirectory directory;
  std::unique_ptr<TensorSource> source;
  // The vocabulary ready to use (text/tokenizer_bytes.h), where the format has it so: a part of the header.
  std::span<const std::byte> tokenizer;
  // Files whose bytes metadata views without a copy, such as a tokenizer that is read once.
  std::vector<std::unique_ptr<FileMapping>> attached;

  // Memory held: the header, and the lists made of it.
  uint64_t held_bytes() const;
};

}  // namespace bantam
