// Writes packages (docs/formats/package.md), section by section: a file larger than memory needs only its leaves in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/package.h"
#include "security/merkle.h"

namespace bantam {

struct SectionPlan {
  SectionKind kind = SectionKind::kConfig;
  bool critical = false;
  uint64_t size_bytes = 0;  // at least 1
};

class PackageWriter {
 public:
  // Nothing stands at `path` before Commit. Errors: those of FileSystem::Create.
  static Result<std::unique_ptr<PackageWriter>> Make(FileSystem& files, const std::string& path, std::span<const SectionPlan> sections);

  // The next bytes of the sections in their order, cut anywhere. Padding comes of itself.
  Status Append(std::span<const std::byte> bytes);

  // InvalidArgument when bytes are missing.
  Result<PackageManifest> Commit();

 private:
  PackageWriter(std::unique_ptr<FileWriter> writer, PackageManifest manifest);
  // Zeros up to `offset_bytes`.
  Status PadTo(uint64_t offset_bytes);

  std::unique_ptr<FileWriter> writer_;
  PackageManifest manifest_;
  ChunkHasher hasher_;
  std::string leaves_;
  size_t current_ = 0;       // the section being written
  uint64_t written_ = 0;     // of it
  uint64_t file_bytes_ = 0;  // appended so far
};

}  // namespace bantam
