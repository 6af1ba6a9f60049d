// What downloads need, for tests: a folder that goes away, time that passes only in pauses, a disk with as much room as a test wants and
// whose n-th change fails.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "fleet/download.h"
#include "testing/faulty_files.h"
#include "testing/paths.h"

namespace bantam::testing {

// A temporary folder and short ways to look into it.
class Folder final : public TemporaryFolder {
 public:
  std::string operator/(std::string_view name) const { return Path(name); }

  std::string Read(std::string_view name) const {
    std::ifstream file(*this / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  void Write(std::string_view name, std::string_view text) const {
    std::filesystem::create_directories(std::filesystem::path(*this / name).parent_path());
    std::ofstream(*this / name, std::ios::binary) << text;
  }
  bool Has(std::string_view name) const { return std::filesystem::exists(*this / name); }
  size_t entries() const { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(Path("")), {})); }
};

class PausedClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns; }
  int64_t now_ns = 0;
};

class FaultyPart final : public PartFile {
 public:
  FaultyPart(std::unique_ptr<PartFile> inner, Fuse& fuse) : inner_(std::move(inner)), fuse_(fuse) {}
  uint64_t size() const override { return inner_->size(); }
  Result<size_t> Read(uint64_t offset, std::span<std::byte> into) override { return inner_->Read(offset, into); }
  // A full disk takes the first half.
  Status Append(std::span<const std::byte> bytes) override {
    if (Status burnt = fuse_.Burn("append"); !burnt.ok()) {
      (void)inner_->Append(bytes.first(bytes.size() / 2)).ok();
      return burnt;
    }
    return inner_->Append(bytes);
  }
  Status Truncate(uint64_t size) override { return inner_->Truncate(size); }
  // No test can pull the plug, and flushing takes most of a test's time.
  Status Sync() override { return fuse_.Burn("sync"); }

 private:
  std::unique_ptr<PartFile> inner_;
  Fuse& fuse_;
};

class FaultyDisk final : public Disk {
 public:
  explicit FaultyDisk(Fuse& fuse) : fuse_(fuse) {}
  Result<std::unique_ptr<PartFile>> OpenPart(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("open"));
    BANTAM_ASSIGN(auto part, inner_->OpenPart(path));
    return std::unique_ptr<PartFile>(std::make_unique<FaultyPart>(std::move(part), fuse_));
  }
  Result<std::unique_ptr<PartFile>> OpenForReading(const std::string& path) override { return inner_->OpenForReading(path); }
  Status MakeFolders(const std::string& root, std::string_view below) override {
    BANTAM_TRY(fuse_.Burn("make folders"));
    return inner_->MakeFolders(root, below);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    BANTAM_TRY(fuse_.Burn("rename"));
    return inner_->Rename(from, to);
  }
  Status RemoveTree(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("remove"));
    return inner_->RemoveTree(path);
  }
  Result<std::vector<DiskEntry>> Entries(const std::string& folder) override { return inner_->Entries(folder); }
  Result<uint64_t> FreeBytes(const std::string& folder) override {
    BANTAM_TRY(fuse_.Burn("free bytes"));
    return free_bytes.has_value() ? *free_bytes : inner_->FreeBytes(folder);
  }
  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("lock"));
    return inner_->Lock(path);
  }

  std::optional<uint64_t> free_bytes;

 private:
  std::unique_ptr<Disk> inner_ = MakeDisk();
  Fuse& fuse_;
};

// All of it together.
struct Bench {
  Folder folder;
  PausedClock clock;
  Fuse fuse;
  FaultyFiles files{fuse};
  FaultyDisk disk{fuse};
  int pauses = 0;
  DownloadTools tools = {files, disk, clock, [this](int64_t duration_ns) {
                           clock.now_ns += duration_ns;
                           ++pauses;
                           return Ok();
                         }};
};

}  // namespace bantam::testing
