#include "formats/package.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "formats/package_layout.h"
#include "security/merkle.h"

namespace bantam {
namespace {

// A section's bytes as they are mapped, its leaves, and which of its chunks were found to be what the leaves say.
class CheckedSection {
 public:
  CheckedSection(std::string name, std::span<const std::byte> bytes, std::vector<Digest> leaves)
      : name_(std::move(name)), bytes_(bytes), leaves_(std::move(leaves)), checked_(leaves_.size()), left_out_(leaves_.size()) {}

  const std::string& name() const { return name_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  size_t chunks() const { return leaves_.size(); }

  // Chunks with nothing else in them are checked whenever they are read, and AllChecked() does not wait for them.
  void LeaveOut(uint64_t begin, uint64_t end) {
    const uint64_t last = end / kPackageChunkBytes;
    for (uint64_t chunk = (begin + kPackageChunkBytes - 1) / kPackageChunkBytes; chunk < last; ++chunk) left_out_[chunk] = true;
  }
  void Trust() {
    for (size_t chunk = 0; chunk < checked_.size(); ++chunk) {
      if (!left_out_[chunk]) checked_[chunk].store(true, std::memory_order_release);
    }
    trusted_ = true;
  }
  bool AllChecked() const {
    bool all = !trusted_;
    for (size_t chunk = 0; chunk < checked_.size(); ++chunk) all = all && (left_out_[chunk] || checked_[chunk].load());
    return all;
  }
  // A chunk's bytes, wherever they are.
  Status CheckCopy(size_t chunk, std::span<const std::byte> copy) const {
    return MerkleLeaf(copy) == leaves_[chunk] ? Ok() : Status(Damage(chunk));
  }
  // A part of the section.
  Status CheckRange(std::span<const std::byte> part) {
    if (part.empty()) return Ok();
    const auto begin = static_cast<uint64_t>(part.data() - bytes_.data());
    return CheckChunks(begin / kPackageChunkBytes, (begin + part.size() - 1) / kPackageChunkBytes + 1);
  }
  // Chunks [begin, end), two at a time.
  Status CheckChunks(size_t begin, size_t end) {
    size_t waiting = end;  // for a second one
    for (size_t chunk = begin; chunk < end; ++chunk) {
      if (checked_[chunk].load(std::memory_order_acquire)) continue;
      if (waiting == end) {
        waiting = chunk;
        continue;
      }
      const auto [first, second] = MerkleLeaves(Chunk(waiting), Chunk(chunk));
      BANTAM_TRY(Compare(waiting, first));
      BANTAM_TRY(Compare(chunk, second));
      waiting = end;
    }
    return waiting == end ? Ok() : Compare(waiting, MerkleLeaf(Chunk(waiting)));
  }

 private:
  std::span<const std::byte> Chunk(size_t chunk) const {
    const uint64_t begin = chunk * kPackageChunkBytes;
    return bytes_.subspan(begin, std::min(kPackageChunkBytes, bytes_.size() - begin));
  }
  Status Compare(size_t chunk, const Digest& leaf) {
    if (leaf != leaves_[chunk]) return Damage(chunk);
    checked_[chunk].store(true, std::memory_order_release);
    return Ok();
  }
  Error Damage(size_t chunk) const {
    const uint64_t begin = chunk * kPackageChunkBytes;
    return PackageDamage(fmt::format("section {}, bytes {} to {}: not those that the manifest has the digest of", name_, begin,
                                     std::min<uint64_t>(begin + kPackageChunkBytes, bytes_.size()) - 1));
  }

  std::string name_;
  std::span<const std::byte> bytes_;
  std::vector<Digest> leaves_;
  std::vector<std::atomic<bool>> checked_;
  std::vector<bool> left_out_;
  bool trusted_ = false;
};

// The file as far as it is known before any section is read.
struct Opened {
  std::unique_ptr<FileMapping> mapping;
  PackageManifest manifest;

  const PackageSection* Find(SectionKind kind) const {
    for (const PackageSection& section : manifest.sections) {
      if (section.kind == static_cast<uint32_t>(kind)) return &section;
    }
    return nullptr;
  }
  // Its leaves are checked against its root.
  Result<CheckedSection> Section(const PackageSection& section) const {
    const size_t index = static_cast<size_t>(&section - manifest.sections.data());
    const LeafPlace place = LeavesOf(manifest, index);
    std::vector<Digest> leaves(place.count);
    if (!leaves.empty()) std::memcpy(leaves.data(), mapping->bytes().data() + place.offset_bytes, place.count * kDigestBytes);
    std::string name = SectionName(section.kind);
    if (!leaves.empty() && MerkleRoot(leaves) != section.root)
      return PackageDamage(fmt::format("section {}: its leaves make another root", name));
    return CheckedSection(std::move(name), mapping->bytes().subspan(section.offset_bytes, section.size_bytes), std::move(leaves));
  }
  // Copies the section to `out`, and checks the copy.
  Status Copy(const PackageSection& section, std::span<std::byte> out) const {
    BANTAM_ASSIGN(const CheckedSection checked, Section(section));
    std::memcpy(out.data(), checked.bytes().data(), section.size_bytes);
    mapping->Release(section.offset_bytes, section.size_bytes);
    for (size_t chunk = 0; chunk < checked.chunks(); ++chunk) {
      const uint64_t begin = chunk * kPackageChunkBytes;
      BANTAM_TRY(checked.CheckCopy(chunk, out.subspan(begin, std::min(kPackageChunkBytes, section.size_bytes - begin))));
    }
    return Ok();
  }
};

Result<Opened> Open(FileSystem& files, const std::string& path) {
  Opened opened;
  BANTAM_ASSIGN(opened.mapping, files.Map(path));
  const auto bytes = opened.mapping->bytes();
  // From a copy, which nobody else can write to.
  const std::string head(
      AsText(bytes.first(std::min<size_t>(bytes.size(), kPackageHeaderBytes + kPackageSectionsMax * kPackageEntryBytes))));
  BANTAM_ASSIGN(opened.manifest, DecodeManifest(std::as_bytes(std::span(head)), bytes.size()).With(path));
  return opened;
}

class PackageSource final : public TensorSource {
 public:
  PackageSource(Opened opened, CheckedSection weights, std::vector<PackedTensor> tensors)
      : mapping_(std::move(opened.mapping)),
        file_(mapping_->identity()),
        digest_(opened.manifest.digest),
        weights_(std::move(weights)),
        tensors_(std::move(tensors)) {
    // Where memory has room for large panels, nobody reads the blocks beside them.
    for (const PackedTensor& tensor : tensors_) {
      if (tensor.form == StoredForm::kBlocksAndPanels) weights_.LeaveOut(tensor.offset_bytes, tensor.offset_bytes + tensor.info.size_bytes);
    }
  }

  // Of blocks as they are in the file; those of panels are made.
  Result<std::span<const std::byte>> View(uint64_t offset_bytes, uint64_t size_bytes) override {
    const Range range = Find(offset_bytes, size_bytes);
    if (range.tensor == nullptr) {
      return Error(Code::kInvalidArgument, fmt::format("bytes {} to {} are in no tensor", offset_bytes, offset_bytes + size_bytes));
    }
    if (!range.tensor->has_blocks()) return Gather(range, size_bytes);
    const auto bytes = weights_.bytes().subspan(range.tensor->offset_bytes + range.begin, size_bytes);
    BANTAM_TRY(weights_.CheckRange(bytes));
    return bytes;
  }

  void Release(uint64_t offset_bytes, uint64_t size_bytes) override {
    const Range range = Find(offset_bytes, size_bytes);
    if (range.tensor == nullptr || size_bytes == 0) return;
    uint64_t begin = range.begin;
    uint64_t end = range.begin + size_bytes;
    if (!range.tensor->has_blocks()) {
      const Rows rows(range.tensor->info);
      begin = rows.PanelOffset(begin / rows.row_bytes);
      end = rows.PanelOffset(end / rows.row_bytes);  // rows that begin behind it may need its panel
    }
    const uint64_t section = static_cast<uint64_t>(weights_.bytes().data() - mapping_->bytes().data());
    if (begin < end) mapping_->Release(section + range.tensor->offset_bytes + begin, end - begin);
  }

  std::optional<std::span<const std::byte>> PlaceOf(const TensorInfo& info, Form form) const override {
    const Range range = Find(info.offset_bytes, info.size_bytes);
    if (range.tensor == nullptr) return std::nullopt;
    const PackedTensor& tensor = *range.tensor;
    if (form == Form::kPanels && tensor.has_panels()) return weights_.bytes().subspan(tensor.panels_offset(), tensor.panels_bytes());
    if (form == Form::kBlocks && tensor.has_blocks()) return weights_.bytes().subspan(tensor.offset_bytes, tensor.info.size_bytes);
    return std::nullopt;
  }

  Status Check(std::span<const std::byte> part) override { return weights_.CheckRange(part); }
  void Trust() override { weights_.Trust(); }

  std::optional<Contents> contents() const override {
    if (!file_ || mapping_->identity() != file_) return std::nullopt;
    return Contents{digest_, *file_};
  }
  bool AllChecked() const override { return weights_.AllChecked(); }

  uint64_t held_bytes() const override {
    return weights_.chunks() * (kDigestBytes + sizeof(std::atomic<bool>)) + tensors_.size() * sizeof(PackedTensor);
  }

 private:
  struct Range {
    const PackedTensor* tensor = nullptr;
    uint64_t begin = 0;  // bytes of its blocks
  };
  // How rows of blocks lie in panels, counted through all matrices.
  struct Rows {
    explicit Rows(const TensorInfo& info)
        : row_bytes(RowBytes(info.dtype, info.columns())),
          rows(info.rows()),
          matrix_bytes(MatrixBytes(Info(info.dtype).panel, info.rows(), info.columns())),
          panel_bytes(PanelBytes(Info(info.dtype).panel, info.columns())) {}
    uint64_t PanelOffset(uint64_t row) const { return row / rows * matrix_bytes + row % rows / kPanelRows * panel_bytes; }
    uint64_t row_bytes;
    uint64_t rows;
    uint64_t matrix_bytes;
    uint64_t panel_bytes;
  };

  Range Find(uint64_t offset_bytes, uint64_t size_bytes) const {
    const auto after = std::upper_bound(tensors_.begin(), tensors_.end(), offset_bytes,
                                        [](uint64_t offset, const PackedTensor& tensor) { return offset < tensor.info.offset_bytes; });
    if (after == tensors_.begin()) return {};
    const PackedTensor& tensor = *(after - 1);
    const uint64_t begin = offset_bytes - tensor.info.offset_bytes;
    if (begin > tensor.info.size_bytes || size_bytes > tensor.info.size_bytes - begin) return {};
    return {&tensor, begin};
  }

  Result<std::span<const std::byte>> Gather(const Range& range, uint64_t size_bytes) {
    const TensorInfo& info = range.tensor->info;
    const Rows layout(info);
    const uint64_t first = range.begin / layout.row_bytes;
    const uint64_t last = (range.begin + size_bytes + layout.row_bytes - 1) / layout.row_bytes;
    gathered_.resize((last - first) * layout.row_bytes);
    for (uint64_t row = first; row < last; ++row) {
      const auto panel = weights_.bytes().subspan(range.tensor->offset_bytes + layout.PanelOffset(row), layout.panel_bytes);
      BANTAM_TRY(weights_.CheckRange(panel));
      UnpackPanelBlocks(info.dtype, reinterpret_cast<const uint8_t*>(panel.data()), row % layout.rows % kPanelRows, info.columns(),
                        reinterpret_cast<uint8_t*>(gathered_.data()) + (row - first) * layout.row_bytes);
    }
    return std::span<const std::byte>(gathered_).subspan(range.begin - first * layout.row_bytes, size_bytes);
  }

  std::unique_ptr<FileMapping> mapping_;
  const std::optional<FileIdentity> file_;
  const Digest digest_;  // of the manifest, which has those of all sections
  CheckedSection weights_;
  std::vector<PackedTensor> tensors_;
  std::vector<std::byte> gathered_;
};

// The sections that are read when a package is opened, one behind the other in the model file's header.
Result<std::vector<std::pair<SectionKind, std::span<const std::byte>>>> CopyParts(const Opened& opened, const PackageOptions& options,
                                                                                  ModelFile* file) {
  std::vector<SectionKind> wanted = {SectionKind::kConfig, SectionKind::kTemplates, SectionKind::kTokenizer, SectionKind::kTensors};
  if (options.source_vocabulary) wanted.push_back(SectionKind::kSourceVocabulary);
  std::erase_if(wanted, [&](SectionKind kind) { return opened.Find(kind) == nullptr; });
  for (const SectionKind kind : wanted) {
    const uint64_t size = opened.Find(kind)->size_bytes;
    if (size > kPackagePartBytesMax) {
      return PackageDamage(
          fmt::format("section {}: {} bytes, expected at most {}", SectionName(static_cast<uint32_t>(kind)), size, kPackagePartBytesMax));
    }
    file->header_bytes += size;
  }
  file->header = std::make_unique_for_overwrite<std::byte[]>(file->header_bytes);
  std::vector<std::pair<SectionKind, std::span<const std::byte>>> parts;
  std::span<std::byte> free(file->header.get(), file->header_bytes);
  for (const SectionKind kind : wanted) {
    const PackageSection& section = *opened.Find(kind);
    BANTAM_TRY(opened.Copy(section, free.first(section.size_bytes)));
    parts.emplace_back(kind, free.first(section.size_bytes));
    free = free.subspan(section.size_bytes);
  }
  return parts;
}

Result<Metadata> MergePairs(std::vector<PlacedPair> pairs) {
  std::sort(pairs.begin(), pairs.end(), [](const PlacedPair& a, const PlacedPair& b) { return a.place < b.place; });
  std::vector<MetadataEntry> entries;
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (i > 0 && pairs[i].place == pairs[i - 1].place) return PackageDamage(fmt::format("two metadata pairs in place {}", pairs[i].place));
    entries.push_back(pairs[i].entry);
  }
  return Metadata::Make(std::move(entries));
}

Result<ModelFile> Read(Opened opened, const PackageOptions& options) {
  ModelFile file;
  file.format = "Bantam package v1";
  file.size_bytes = opened.manifest.file_bytes;
  BANTAM_ASSIGN(const auto parts, CopyParts(opened, options, &file));
  BANTAM_ASSIGN(CheckedSection weights, opened.Section(*opened.Find(SectionKind::kWeights)));
  std::vector<PlacedPair> pairs;
  std::vector<PackedTensor> tensors;
  for (const auto& [kind, bytes] : parts) {
    if (kind == SectionKind::kTokenizer) {
      file.tokenizer = bytes;
    } else if (kind == SectionKind::kTensors) {
      BANTAM_ASSIGN(tensors, DecodeTensors(bytes, weights.bytes().size()));
    } else {
      BANTAM_TRY(DecodePairs(bytes, &pairs));
    }
  }
  BANTAM_ASSIGN(file.metadata, MergePairs(std::move(pairs)));
  std::vector<TensorInfo> infos;
  for (PackedTensor& tensor : tensors) {
    infos.push_back(tensor.info);
    tensor.info.name = {};  // the source may outlive what names view
  }
  BANTAM_ASSIGN(file.directory, TensorDirectory::Make(std::move(infos)));
  file.source = std::make_unique<PackageSource>(std::move(opened), std::move(weights), std::move(tensors));
  return file;
}

// The zeros between what the manifest speaks of.
Status CheckGaps(const Opened& opened) {
  const PackageManifest& manifest = opened.manifest;
  const LeafPlace last = LeavesOf(manifest, manifest.sections.size() - 1);
  uint64_t end = last.offset_bytes + last.count * kDigestBytes;
  for (const PackageSection& section : manifest.sections) {
    for (uint64_t at = end; at < section.offset_bytes; ++at) {
      if (opened.mapping->bytes()[at] != std::byte{0})
        return PackageDamage(fmt::format("byte {} in front of section {} is not zero", at, SectionName(section.kind)));
    }
    end = section.offset_bytes + section.size_bytes;
  }
  return Ok();
}

// Chunks of a section between two reports of progress.
constexpr size_t kChunksAtOnce = 64;

// All chunks, on all threads. The first damaged one that was found is named.
Status CheckAll(CheckedSection& section, ThreadPool& pool, const std::function<bool(uint64_t done)>& going_on) {
  for (size_t begin = 0; begin < section.chunks(); begin += kChunksAtOnce) {
    const size_t count = std::min(kChunksAtOnce, section.chunks() - begin);
    std::mutex mutex;
    std::optional<Error> found;
    pool.Run([&](int thread) {
      const auto [first, last] = Share(count, thread, pool.size());
      Status status = section.CheckChunks(begin + first, begin + last);
      if (status.ok()) return;
      const std::lock_guard lock(mutex);
      if (!found) found = status.error();
    });
    if (found) return *found;
    if (!going_on(std::min<uint64_t>((begin + count) * kPackageChunkBytes, section.bytes().size()))) {
      return Error(Code::kCancelled, "checking was interrupted");
    }
  }
  return Ok();
}

}  // namespace

bool IsPackage(FileSystem& files, const std::string& path) {
  const auto mapping = files.Map(path);
  if (!mapping.ok() || (*mapping)->bytes().size() < kPackageMagic.size()) return false;
  return std::memcmp((*mapping)->bytes().data(), kPackageMagic.data(), kPackageMagic.size()) == 0;
}

Result<ModelFile> OpenPackage(FileSystem& files, const std::string& path, const PackageOptions& options) {
  BANTAM_ASSIGN(Opened opened, Open(files, path));
  BANTAM_ASSIGN(ModelFile file, Read(std::move(opened), options).With(path));
  file.path = path;
  return file;
}

Result<PackageTexts> ReadPackageTexts(FileSystem& files, const std::string& path) {
  PackageTexts texts;
  BANTAM_ASSIGN(const Opened opened, Open(files, path));
  const auto read = [&](SectionKind kind, std::string* text) -> Status {
    const PackageSection* section = opened.Find(kind);
    if (section == nullptr) return Ok();
    if (section->size_bytes > kPackageTextBytesMax) {
      return PackageDamage(
          fmt::format("section {}: {} bytes, expected at most {}", SectionName(section->kind), section->size_bytes, kPackageTextBytesMax));
    }
    text->resize(section->size_bytes);
    return opened.Copy(*section, std::as_writable_bytes(std::span(*text)));
  };
  BANTAM_TRY(read(SectionKind::kHints, &texts.hints).With(path));
  BANTAM_TRY(read(SectionKind::kProvenance, &texts.provenance).With(path));
  BANTAM_TRY(read(SectionKind::kLicence, &texts.licence).With(path));
  texts.manifest = opened.manifest;
  return texts;
}

Result<PackageManifest> VerifyPackage(FileSystem& files, const std::string& path, ThreadPool& pool, const Progress& progress) {
  BANTAM_ASSIGN(const Opened opened, Open(files, path));
  BANTAM_TRY(CheckGaps(opened).With(path));
  for (const PackageSection& section : opened.manifest.sections) {
    BANTAM_ASSIGN(CheckedSection checked, opened.Section(section).With(path));
    const auto going_on = [&](uint64_t done) {
      return !progress || progress("checking", section.offset_bytes + done, opened.manifest.file_bytes);
    };
    BANTAM_TRY(CheckAll(checked, pool, going_on).With(path));
    opened.mapping->Release(section.offset_bytes, section.size_bytes);
  }
  return opened.manifest;
}

}  // namespace bantam
