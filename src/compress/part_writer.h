// A file in the making that survives whoever makes it: PATH.part, and PATH.part.json with what it is to become and how much of it is safe
// (as downloads have it, ADR 0016). Whoever makes the same again goes on behind that.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/disk.h"
#include "base/file.h"

namespace bantam {

// Bytes that an interruption may cost.
inline constexpr uint64_t kPartSyncBytes = uint64_t{64} << 20;

class PartWriter : public FileWriter {
 public:
  // `plan` names what is made: a part of another plan is begun again. Unavailable when another process makes the file now.
  static Result<std::unique_ptr<PartWriter>> Make(FileSystem& files, Disk& disk, const std::string& path, const std::string& plan);

  // Bytes that were appended, by this call or an earlier one.
  uint64_t position() const { return position_; }
  // How much an earlier call left. Append takes the very bytes there again; Kept gives them.
  uint64_t kept() const { return kept_; }
  Result<size_t> Kept(uint64_t offset, std::span<std::byte> into) { return part_->Read(offset, into); }

  // Corrupt where bytes differ from those that are kept.
  Status Append(std::span<const std::byte> bytes) override;
  // Never: what was kept is not known to be written over.
  Status Overwrite(uint64_t offset, std::span<const std::byte> bytes) override;
  // Everything up to here is worth keeping: made safe when enough came since the last time.
  Status Mark(uint64_t sync_bytes = kPartSyncBytes);
  // Gives the part its name.
  Status Commit() override;

 private:
  PartWriter(FileSystem& files, Disk& disk, std::string path, std::string plan)
      : files_(files), disk_(disk), path_(std::move(path)), plan_(std::move(plan)) {}
  std::string PartPath() const { return path_ + ".part"; }
  std::string NotePath() const { return path_ + ".part.json"; }
  // What the note says is kept, of the same plan.
  uint64_t ReadNote();
  Status WriteNote(uint64_t bytes);

  FileSystem& files_;
  Disk& disk_;
  const std::string path_;
  const std::string plan_;
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<PartFile> part_;
  uint64_t kept_ = 0;
  uint64_t position_ = 0;
  uint64_t safe_ = 0;
};

}  // namespace bantam
