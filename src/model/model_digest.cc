#include "model/model_digest.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

namespace bantam {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{4} << 20;

class Hash {
 public:
  void Add(std::span<const std::byte> bytes) {
    const uint64_t size = bytes.size();
    sha_.Update(std::as_bytes(std::span(&size, 1)));
    sha_.Update(bytes);
  }
  void Add(std::string_view text) { Add(std::as_bytes(std::span(text))); }
  template <typename T>
  requires std::is_arithmetic_v<T>
  void Add(T number) { Add(std::as_bytes(std::span(&number, 1))); }
  void Piece(std::span<const std::byte> bytes) { sha_.Update(bytes); }
  Digest Finish() { return sha_.Finish(); }

 private:
  Sha256 sha_;
};

void AddMetadata(const Metadata& metadata, Hash* hash) {
  for (const MetadataEntry& entry : metadata.entries()) {
    hash->Add(entry.key);
    hash->Add(static_cast<uint64_t>(entry.value.index()));
    std::visit(
        [&](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, MetadataArray>) {
            hash->Add(static_cast<uint8_t>(value.type));
            hash->Add(value.count);
            hash->Add(value.bytes);
          } else {
            hash->Add(value);
          }
        },
        entry.value);
  }
}

}  // namespace

Result<Digest> DigestModel(const ModelFile& file, const Progress& progress) {
  Hash hash;
  AddMetadata(file.metadata, &hash);
  // Packages know it of their weights without reading them.
  if (const auto contents = file.source->contents()) {
    hash.Add(std::as_bytes(std::span(contents->digest)));
    return hash.Finish();
  }
  uint64_t total = 0;
  for (const TensorInfo& tensor : file.directory.tensors()) total += tensor.size_bytes;
  uint64_t done = 0;
  for (const TensorInfo& tensor : file.directory.tensors()) {
    hash.Add(tensor.name);
    hash.Add(static_cast<uint32_t>(tensor.dtype));
    for (const uint64_t dimension : tensor.dimensions) hash.Add(dimension);
    hash.Add(tensor.size_bytes);
    for (uint64_t at = 0; at < tensor.size_bytes; at += kPieceBytes) {
      if (progress && !progress("naming the model", done + at, total)) return Error(Code::kCancelled, "naming the model was interrupted");
      BANTAM_ASSIGN(const auto bytes, file.source->View(tensor.offset_bytes + at, std::min(kPieceBytes, tensor.size_bytes - at)));
      hash.Piece(bytes);
    }
    done += tensor.size_bytes;
  }
  return hash.Finish();
}

std::optional<Digest> NameFiles(FileSystem& files, const ModelFile& file, int64_t now_ns) {
  constexpr int64_t kSettledNs = 60'000'000'000;
  std::vector<std::string> paths;
  if (const auto entries = files.List(file.path); entries.ok()) {
    for (const FileSystem::Entry& entry : *entries) paths.push_back(fmt::format("{}/{}", file.path, entry.name));
  } else {
    paths = file.further_paths;
    paths.push_back(file.path);
  }
  Hash hash;
  AddMetadata(file.metadata, &hash);
  for (const std::string& path : paths) {
    const auto mapping = files.Map(path);
    const std::optional<FileIdentity> identity = mapping.ok() ? (*mapping)->identity() : std::nullopt;
    if (!identity || now_ns - identity->changed_ns < kSettledNs) return std::nullopt;
    hash.Add(identity->device);
    hash.Add(identity->inode);
    hash.Add(identity->size_bytes);
    hash.Add(identity->written_ns);
    hash.Add(identity->changed_ns);
  }
  return hash.Finish();
}

}  // namespace bantam
