// What the reader and the writer of packages share (docs/formats/package.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "formats/model_file.h"
#include "formats/package.h"

namespace bantam {

inline constexpr std::array<uint8_t, 8> kPackageMagic = {0x89, 'B', 'T', 'M', '\r', '\n', 0x1a, '\n'};
inline constexpr uint32_t kPackageVersion = 1;
inline constexpr size_t kPackageHeaderBytes = 64;
inline constexpr size_t kPackageEntryBytes = 64;
inline constexpr size_t kPackageDigestAt = 32;
inline constexpr uint32_t kPackageSectionsMax = 64;
inline constexpr uint64_t kPackageChunkBytes = uint64_t{1} << 20;
inline constexpr uint64_t kPackageSectionAlignment = 4096;
inline constexpr uint64_t kPackageTensorAlignment = 64;
inline constexpr uint64_t kPackageFileBytesMax = uint64_t{1} << 42;
// Of sections that are copied into memory.
inline constexpr uint64_t kPackagePartBytesMax = uint64_t{256} << 20;
// Of those among them that are texts for people and tools.
inline constexpr uint64_t kPackageTextBytesMax = uint64_t{4} << 20;

constexpr uint64_t PackageChunks(uint64_t size_bytes) { return (size_bytes + kPackageChunkBytes - 1) / kPackageChunkBytes; }

// Corrupt: what is wrong, and the remedy.
Error PackageDamage(std::string what);

// As in GGUF; as panels; or both, one behind the other, where panels are much larger than blocks.
enum class StoredForm : uint32_t { kBlocks = 0, kPanels = 1, kBlocksAndPanels = 2 };

// A tensor of the list, and where it is in the weights section.
struct PackedTensor {
  TensorInfo info;  // offset_bytes is not used
  StoredForm form = StoredForm::kBlocks;
  uint64_t offset_bytes = 0;

  bool has_panels() const { return form != StoredForm::kBlocks; }
  bool has_blocks() const { return form != StoredForm::kPanels; }
  // Of what it has.
  uint64_t panels_offset() const;
  uint64_t panels_bytes() const;
  // The first byte behind it.
  uint64_t end() const;
};

// The header and the table; digest and places of sections are filled in.
std::string EncodeManifest(PackageManifest* manifest);
// Checks the digest, and each section's place. `file_bytes` is the length that the file has.
Result<PackageManifest> DecodeManifest(std::span<const std::byte> bytes, uint64_t file_bytes);
// Where the first section begins, behind the leaves; and the leaves of section `index`.
struct LeafPlace {
  uint64_t offset_bytes = 0;
  uint64_t count = 0;
};
LeafPlace LeavesOf(const PackageManifest& manifest, size_t index);
uint64_t SectionsBegin(const PackageManifest& manifest);

// A pair and its place among all of the source.
struct PlacedPair {
  uint32_t place = 0;
  MetadataEntry entry;
};
std::string EncodePairs(std::span<const PlacedPair> pairs);
Status DecodePairs(std::span<const std::byte> bytes, std::vector<PlacedPair>* pairs);

std::string EncodeTensors(std::span<const PackedTensor> tensors);
// Fills the offsets of a model file's source: tensors one behind the other, as blocks.
Result<std::vector<PackedTensor>> DecodeTensors(std::span<const std::byte> bytes, uint64_t weights_bytes);

}  // namespace bantam
