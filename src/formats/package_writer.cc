#include "formats/package_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "formats/package_layout.h"

namespace bantam {

PackageWriter::PackageWriter(std::unique_ptr<FileWriter> writer, PackageManifest manifest)
    : writer_(std::move(writer)), manifest_(std::move(manifest)), hasher_(kPackageChunkBytes) {}

Result<std::unique_ptr<PackageWriter>> PackageWriter::Make(FileSystem& files, const std::string& path,
                                                           std::span<const SectionPlan> sections) {
  CHECK(!sections.empty() && sections.size() <= kPackageSectionsMax);
  PackageManifest manifest;
  for (const SectionPlan& plan : sections) {
    CHECK(plan.size_bytes > 0);
    manifest.sections.push_back({static_cast<uint32_t>(plan.kind), plan.critical, /*offset_bytes=*/0, plan.size_bytes, /*root=*/{}});
  }
  (void)EncodeManifest(&manifest);  // places the sections
  if (manifest.file_bytes > kPackageFileBytesMax) {
    return Error(Code::kUnsupported,
                 fmt::format("{}: a package of {} bytes, expected at most {}", path, manifest.file_bytes, kPackageFileBytesMax));
  }
  BANTAM_ASSIGN(auto file, files.Create(path));
  std::unique_ptr<PackageWriter> writer(new PackageWriter(std::move(file), std::move(manifest)));
  BANTAM_TRY(writer->PadTo(writer->manifest_.sections[0].offset_bytes));
  // What cannot be written last says so first.
  BANTAM_TRY(writer->writer_->Overwrite(/*offset=*/0, std::as_bytes(std::span(kPackageMagic))));
  return writer;
}

Status PackageWriter::PadTo(uint64_t offset_bytes) {
  const std::string zeros(std::min<uint64_t>(offset_bytes - file_bytes_, kPackageChunkBytes), '\0');
  while (file_bytes_ < offset_bytes) {
    const uint64_t count = std::min<uint64_t>(offset_bytes - file_bytes_, zeros.size());
    BANTAM_TRY(writer_->Append(std::as_bytes(std::span(zeros).first(count))));
    file_bytes_ += count;
  }
  return Ok();
}

Status PackageWriter::Append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    CHECK(current_ < manifest_.sections.size());
    PackageSection& section = manifest_.sections[current_];
    const uint64_t count = std::min<uint64_t>(bytes.size(), section.size_bytes - written_);
    BANTAM_TRY(writer_->Append(bytes.first(count)));
    hasher_.Update(bytes.first(count));
    bytes = bytes.subspan(count);
    written_ += count;
    file_bytes_ += count;
    if (written_ < section.size_bytes) continue;
    const std::vector<Digest> leaves = hasher_.Finish();
    section.root = MerkleRoot(leaves);
    leaves_ += AsText(std::as_bytes(std::span(leaves)));
    written_ = 0;
    if (++current_ < manifest_.sections.size()) BANTAM_TRY(PadTo(manifest_.sections[current_].offset_bytes));
  }
  return Ok();
}

Result<PackageManifest> PackageWriter::Commit() {
  if (current_ != manifest_.sections.size()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("section {}: {} of {} bytes were written", SectionName(manifest_.sections[current_].kind), written_,
                             manifest_.sections[current_].size_bytes));
  }
  const std::string head = EncodeManifest(&manifest_) + leaves_;
  BANTAM_TRY(writer_->Overwrite(/*offset=*/0, std::as_bytes(std::span(head))));
  BANTAM_TRY(writer_->Commit());
  return manifest_;
}

}  // namespace bantam
