#include "formats/package_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "formats/gguf.h"
#include "formats/gguf_layout.h"
#include "tensor/panel.h"

namespace bantam {
namespace {

constexpr uint32_t kCritical = 1;
constexpr uint32_t kEncrypted = 2;

struct KindName {
  SectionKind kind;
  std::string_view name;
};
constexpr KindName kNames[] = {{SectionKind::kConfig, "config"},         {SectionKind::kTemplates, "templates"},
                               {SectionKind::kTokenizer, "tokenizer"},   {SectionKind::kTensors, "tensors"},
                               {SectionKind::kWeights, "weights"},       {SectionKind::kSourceVocabulary, "source vocabulary"},
                               {SectionKind::kHints, "hints"},           {SectionKind::kProvenance, "provenance"},
                               {SectionKind::kLicence, "licence"},       {SectionKind::kSignatures, "signatures"},
                               {SectionKind::kEncryption, "encryption"}, {SectionKind::kPolicy, "policy"}};

// What this build reads, or may leave aside.
bool IsKnown(uint32_t kind) {
  return kind >= static_cast<uint32_t>(SectionKind::kConfig) && kind <= static_cast<uint32_t>(SectionKind::kLicence);
}

bool HasLeaves(uint32_t kind) { return kind != static_cast<uint32_t>(SectionKind::kSignatures); }

Status CheckSection(const PackageSection& section, uint32_t flags) {
  const std::string name = SectionName(section.kind);
  if (!HasLeaves(section.kind) && section.root != Digest{}) return PackageDamage(fmt::format("section {}: a root, expected zeros", name));
  if ((flags & ~(kCritical | kEncrypted)) != 0 || section.size_bytes == 0) {
    return PackageDamage(fmt::format("section {}: flags {:#x} and {} bytes make no section", name, flags, section.size_bytes));
  }
  if (section.critical && !IsKnown(section.kind)) {
    return Error(Code::kUnsupported,
                 fmt::format("section {} has to be understood to use this package, and this build does not; update it", name));
  }
  if ((flags & kEncrypted) != 0 && IsKnown(section.kind)) {
    return Error(Code::kUnsupported, fmt::format("section {} is encrypted, which this build cannot read", name));
  }
  return Ok();
}

// Sections follow each other as the format lays them out, to the end of the file.
Status CheckPlaces(const PackageManifest& manifest) {
  uint64_t end = SectionsBegin(manifest);
  for (const PackageSection& section : manifest.sections) {
    const uint64_t begin = RoundUp(end, kPackageSectionAlignment);
    if (section.offset_bytes != begin || section.size_bytes > manifest.file_bytes || begin > manifest.file_bytes - section.size_bytes) {
      return PackageDamage(fmt::format("section {}: {} bytes at {}, expected at {} and within the file's {}", SectionName(section.kind),
                                       section.size_bytes, section.offset_bytes, begin, manifest.file_bytes));
    }
    end = begin + section.size_bytes;
  }
  if (end != manifest.file_bytes) return PackageDamage(fmt::format("sections end at {} of {} bytes", end, manifest.file_bytes));
  return Ok();
}

Status CheckKinds(const PackageManifest& manifest) {
  std::vector<uint32_t> kinds;
  for (const PackageSection& section : manifest.sections) kinds.push_back(section.kind);
  std::sort(kinds.begin(), kinds.end());
  const auto twice = std::adjacent_find(kinds.begin(), kinds.end());
  if (twice != kinds.end()) return PackageDamage(fmt::format("section {} occurs twice", SectionName(*twice)));
  for (const SectionKind needed : {SectionKind::kConfig, SectionKind::kTensors, SectionKind::kWeights}) {
    if (!std::binary_search(kinds.begin(), kinds.end(), static_cast<uint32_t>(needed))) {
      return PackageDamage(fmt::format("section {} is missing", SectionName(static_cast<uint32_t>(needed))));
    }
  }
  return Ok();
}

Result<PackageSection> ReadSection(ByteReader& reader) {
  PackageSection section;
  BANTAM_ASSIGN(section.kind, reader.Read<uint32_t>("a section's kind"));
  BANTAM_ASSIGN(const uint32_t flags, reader.Read<uint32_t>("a section's flags"));
  BANTAM_ASSIGN(section.offset_bytes, reader.Read<uint64_t>("a section's offset"));
  BANTAM_ASSIGN(section.size_bytes, reader.Read<uint64_t>("a section's size"));
  BANTAM_ASSIGN(const uint64_t reserved, reader.Read<uint64_t>("a section's reserved field"));
  BANTAM_ASSIGN(section.root, reader.Read<Digest>("a section's root"));
  section.critical = (flags & kCritical) != 0;
  if (reserved != 0) {
    return Error(Code::kUnsupported,
                 fmt::format("section {}: a field that this build does not know; update it", SectionName(section.kind)));
  }
  BANTAM_TRY(CheckSection(section, flags));
  return section;
}

}  // namespace

std::string SectionName(uint32_t kind) {
  for (const KindName& row : kNames) {
    if (static_cast<uint32_t>(row.kind) == kind) return std::string(row.name);
  }
  return fmt::format("{}", kind);
}

Error PackageDamage(std::string what) { return Error(Code::kCorrupt, std::move(what) + "; the file is damaged, fetch it again"); }

uint64_t PackedTensor::panels_offset() const {
  return has_blocks() ? RoundUp(offset_bytes + info.size_bytes, kPackageTensorAlignment) : offset_bytes;
}

uint64_t PackedTensor::panels_bytes() const { return info.matrices() * MatrixBytes(Info(info.dtype).panel, info.rows(), info.columns()); }

uint64_t PackedTensor::end() const { return has_panels() ? panels_offset() + panels_bytes() : offset_bytes + info.size_bytes; }

LeafPlace LeavesOf(const PackageManifest& manifest, size_t index) {
  LeafPlace place = {kPackageHeaderBytes + manifest.sections.size() * kPackageEntryBytes, 0};
  for (size_t i = 0; i <= index && i < manifest.sections.size(); ++i) {
    place.offset_bytes += place.count * kDigestBytes;
    place.count = HasLeaves(manifest.sections[i].kind) ? PackageChunks(manifest.sections[i].size_bytes) : 0;
  }
  return place;
}

uint64_t SectionsBegin(const PackageManifest& manifest) {
  const LeafPlace last = LeavesOf(manifest, manifest.sections.size() - 1);
  return RoundUp(last.offset_bytes + last.count * kDigestBytes, kPackageSectionAlignment);
}

std::string EncodeManifest(PackageManifest* manifest) {
  uint64_t end = SectionsBegin(*manifest);
  for (PackageSection& section : manifest->sections) {
    section.offset_bytes = RoundUp(end, kPackageSectionAlignment);
    end = section.offset_bytes + section.size_bytes;
  }
  manifest->file_bytes = end;
  std::string header(reinterpret_cast<const char*>(kPackageMagic.data()), kPackageMagic.size());
  AppendLittleEndian(&header, kPackageVersion);
  AppendLittleEndian<uint32_t>(&header, 0);
  AppendLittleEndian(&header, manifest->file_bytes);
  AppendLittleEndian(&header, static_cast<uint32_t>(manifest->sections.size()));
  AppendLittleEndian(&header, static_cast<uint32_t>(kPackageChunkBytes));
  CHECK(header.size() == kPackageDigestAt);
  std::string table;
  for (const PackageSection& section : manifest->sections) {
    AppendLittleEndian(&table, section.kind);
    AppendLittleEndian(&table, section.critical ? kCritical : 0u);
    AppendLittleEndian(&table, section.offset_bytes);
    AppendLittleEndian(&table, section.size_bytes);
    AppendLittleEndian<uint64_t>(&table, 0);
    AppendLittleEndian(&table, section.root);
  }
  manifest->digest = Sha256Of(AsBytes(header + table));
  AppendLittleEndian(&header, manifest->digest);
  return header + table;
}

Result<PackageManifest> DecodeManifest(std::span<const std::byte> bytes, uint64_t file_bytes) {
  PackageManifest manifest;
  ByteReader reader(bytes);
  BANTAM_ASSIGN(const auto magic, reader.Take(kPackageMagic.size(), "the magic"));
  if (std::memcmp(magic.data(), kPackageMagic.data(), magic.size()) != 0) {
    return Error(Code::kUnsupported, "not a Bantam package (its first bytes say so); name a file that bantam pack made");
  }
  BANTAM_ASSIGN(const uint32_t version, reader.Read<uint32_t>("the version"));
  BANTAM_ASSIGN(const uint32_t reserved, reader.Read<uint32_t>("a reserved field"));
  if (version != kPackageVersion || reserved != 0) {
    return Error(Code::kUnsupported,
                 fmt::format("a package of version {}.{}, expected {}.0; update this program", version, reserved, kPackageVersion));
  }
  BANTAM_ASSIGN(manifest.file_bytes, reader.Read<uint64_t>("the file's length"));
  BANTAM_ASSIGN(const uint32_t count, reader.Read<uint32_t>("the number of sections"));
  BANTAM_ASSIGN(const uint32_t chunk_bytes, reader.Read<uint32_t>("the length of chunks"));
  if (manifest.file_bytes != file_bytes || file_bytes > kPackageFileBytesMax) {
    return PackageDamage(fmt::format("{} bytes, expected {}", file_bytes, manifest.file_bytes));
  }
  if (count == 0 || count > kPackageSectionsMax || chunk_bytes != kPackageChunkBytes) {
    return PackageDamage(fmt::format("{} sections in chunks of {} bytes, expected 1 to {} and {}", count, chunk_bytes, kPackageSectionsMax,
                                     kPackageChunkBytes));
  }
  BANTAM_ASSIGN(manifest.digest, reader.Read<Digest>("the digest"));
  BANTAM_ASSIGN(const auto table, reader.Take(count * kPackageEntryBytes, "the section table"));
  const std::string covered = std::string(AsText(bytes.first(kPackageDigestAt))) + std::string(AsText(table));
  if (Sha256Of(AsBytes(covered)) != manifest.digest) return PackageDamage("the manifest's digest is not that of its bytes");
  ByteReader rows(table);
  for (uint32_t i = 0; i < count; ++i) {
    BANTAM_ASSIGN(const PackageSection section, ReadSection(rows));
    if (section.size_bytes > file_bytes) return PackageDamage(fmt::format("section {} is longer than the file", SectionName(section.kind)));
    manifest.sections.push_back(section);
  }
  BANTAM_TRY(CheckKinds(manifest));
  BANTAM_TRY(CheckPlaces(manifest));
  return manifest;
}

std::string EncodePairs(std::span<const PlacedPair> pairs) {
  std::string bytes;
  AppendLittleEndian(&bytes, static_cast<uint32_t>(pairs.size()));
  for (const PlacedPair& pair : pairs) {
    AppendLittleEndian(&bytes, pair.place);
    PutGgufPair(&bytes, pair.entry);
  }
  return bytes;
}

Status DecodePairs(std::span<const std::byte> bytes, std::vector<PlacedPair>* pairs) {
  ByteReader reader(bytes);
  BANTAM_ASSIGN(const uint32_t count, reader.Read<uint32_t>("the number of pairs"));
  if (count > kGgufMetadataMax) return PackageDamage(fmt::format("{} metadata pairs, expected at most {}", count, kGgufMetadataMax));
  for (uint32_t i = 0; i < count; ++i) {
    PlacedPair pair;
    BANTAM_ASSIGN(pair.place, reader.Read<uint32_t>("a pair's place"));
    BANTAM_ASSIGN(pair.entry, ReadGgufPair(reader));
    pairs->push_back(pair);
  }
  if (reader.remaining() != 0) return PackageDamage(fmt::format("{} bytes behind the last pair", reader.remaining()));
  return Ok();
}

std::string EncodeTensors(std::span<const PackedTensor> tensors) {
  std::string bytes;
  AppendLittleEndian(&bytes, static_cast<uint32_t>(tensors.size()));
  for (const PackedTensor& tensor : tensors) {
    PutGgufText(&bytes, tensor.info.name);
    AppendLittleEndian(&bytes, Info(tensor.info.dtype).gguf_id);
    AppendLittleEndian(&bytes, static_cast<uint32_t>(tensor.form));
    AppendLittleEndian(&bytes, tensor.info.n_dimensions);
    for (uint32_t d = 0; d < tensor.info.n_dimensions; ++d) AppendLittleEndian(&bytes, tensor.info.dimensions[d]);
    AppendLittleEndian(&bytes, tensor.offset_bytes);
  }
  return bytes;
}

namespace {

Result<PackedTensor> ReadTensor(ByteReader& reader) {
  PackedTensor tensor = {};
  TensorInfo& info = tensor.info;
  BANTAM_ASSIGN(info.name, ReadGgufName(reader, "a tensor name"));
  BANTAM_ASSIGN(const uint32_t format, reader.Read<uint32_t>(info.name));
  BANTAM_ASSIGN(const uint32_t form, reader.Read<uint32_t>(info.name));
  BANTAM_ASSIGN(info.n_dimensions, reader.Read<uint32_t>(info.name));
  const auto dtype = DTypeFromGguf(format);
  if (!dtype || form > static_cast<uint32_t>(StoredForm::kBlocksAndPanels)) {
    return Error(Code::kUnsupported,
                 fmt::format("tensor {}: format {} in form {} is not known to this build; update it", info.name, format, form));
  }
  info.dtype = *dtype;
  tensor.form = static_cast<StoredForm>(form);
  if (info.n_dimensions == 0 || info.n_dimensions > kTensorDimensionsMax) {
    return PackageDamage(fmt::format("tensor {}: {} dimensions, expected 1 to {}", info.name, info.n_dimensions, kTensorDimensionsMax));
  }
  for (size_t d = 0; d < kTensorDimensionsMax; ++d) {
    info.dimensions[d] = 1;
    if (d < info.n_dimensions) {
      BANTAM_ASSIGN(info.dimensions[d], reader.Read<uint64_t>(info.name));
    }
  }
  BANTAM_TRY(SizeTensor(&info));
  if (tensor.has_panels() && tensor.has_blocks() != PanelsAreLarge(info.dtype)) {
    return PackageDamage(fmt::format("tensor {}: {} in form {}, expected {}", info.name, Info(info.dtype).name, form,
                                     PanelsAreLarge(info.dtype) ? "0 or 2" : "0 or 1"));
  }
  BANTAM_ASSIGN(tensor.offset_bytes, reader.Read<uint64_t>(info.name));
  return tensor;
}

}  // namespace

Result<std::vector<PackedTensor>> DecodeTensors(std::span<const std::byte> bytes, uint64_t weights_bytes) {
  ByteReader reader(bytes);
  BANTAM_ASSIGN(const uint32_t count, reader.Read<uint32_t>("the number of tensors"));
  if (count > kGgufTensorsMax) return PackageDamage(fmt::format("{} tensors, expected at most {}", count, kGgufTensorsMax));
  std::vector<PackedTensor> tensors;
  uint64_t end = 0;
  uint64_t source_end = 0;
  for (uint32_t i = 0; i < count; ++i) {
    BANTAM_ASSIGN(PackedTensor tensor, ReadTensor(reader));
    const uint64_t begin = RoundUp(end, kPackageTensorAlignment);
    const uint64_t size = PackedTensor{tensor.info, tensor.form, /*offset_bytes=*/0}.end();
    if (tensor.offset_bytes != begin || size > weights_bytes || begin > weights_bytes - size) {
      return PackageDamage(fmt::format("tensor {}: {} bytes at {}, expected at {} and within the weights' {}", tensor.info.name, size,
                                       tensor.offset_bytes, begin, weights_bytes));
    }
    end = begin + size;
    tensor.info.offset_bytes = RoundUp(source_end, kPackageTensorAlignment);
    source_end = tensor.info.offset_bytes + tensor.info.size_bytes;
    tensors.push_back(tensor);
  }
  if (reader.remaining() != 0 || end != weights_bytes) {
    return PackageDamage(
        fmt::format("{} bytes behind the tensor list, and weights of {} bytes instead of {}", reader.remaining(), weights_bytes, end));
  }
  return tensors;
}

}  // namespace bantam
