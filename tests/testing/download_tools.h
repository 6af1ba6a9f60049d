// What downloads need, for tests: a folder that goes away, time that passes only in pauses, a disk with as much room as a test wants and
// whose n-th change fails.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
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

// How much of each file would be there after a power cut, by path.
using FlushedBytes = std::map<std::string, uint64_t, std::less<>>;

class FaultyPart final : public PartFile {
 public:
  FaultyPart(std::unique_ptr<PartFile> inner, Fuse& fuse, FlushedBytes& flushed, std::string path)
      : inner_(std::move(inner)), fuse_(fuse), flushed_(flushed), path_(std::move(path)) {
    flushed_.emplace(path_, inner_->size());
  }
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
  Status Truncate(uint64_t size) override {
    if (fuse_.off()) return fuse_.Burn("truncate");
    flushed_[path_] = std::min(flushed_[path_], size);
    return inner_->Truncate(size);
  }
  // Only noted: flushing would take most of a test's time.
  Status Sync() override {
    BANTAM_TRY(fuse_.Burn("sync"));
    flushed_[path_] = inner_->size();
    return Ok();
  }

 private:
  std::unique_ptr<PartFile> inner_;
  Fuse& fuse_;
  FlushedBytes& flushed_;
  const std::string path_;
};

class FaultyDisk final : public Disk {
 public:
  explicit FaultyDisk(Fuse& fuse) : fuse_(fuse) {}
  Result<std::unique_ptr<PartFile>> OpenPrivatePart(const std::string& path) override { return OpenPart(path); }
  Result<std::unique_ptr<PartFile>> OpenPart(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("open"));
    BANTAM_ASSIGN(auto part, inner_->OpenPart(path));
    return std::unique_ptr<PartFile>(std::make_unique<FaultyPart>(std::move(part), fuse_, flushed_, path));
  }
  Result<std::unique_ptr<PartFile>> OpenForReading(const std::string& path) override { return inner_->OpenForReading(path); }
  Status MakeFolders(const std::string& root, std::string_view below) override {
    BANTAM_TRY(fuse_.Burn("make folders"));
    return inner_->MakeFolders(root, below);
  }
  Status Rename(const std::string& from, const std::string& to) override {
    BANTAM_TRY(fuse_.Burn("rename"));
    auto moved = flushed_.extract(from);
    flushed_.erase(to);
    if (!moved.empty()) {
      moved.key() = to;
      flushed_.insert(std::move(moved));
    }
    return inner_->Rename(from, to);
  }
  Status RemoveTree(const std::string& path) override {
    BANTAM_TRY(fuse_.Burn("remove"));
    if (removed) removed(path);
    flushed_.erase(path);
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

  // What was not flushed is zeros then, as some file systems leave it.
  void CutPower() {
    for (const auto& [path, bytes] : flushed_) {
      if (!std::filesystem::exists(path) || std::filesystem::file_size(path) <= bytes) continue;
      std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
      file.seekp(static_cast<std::streamoff>(bytes));
      file << std::string(std::filesystem::file_size(path) - bytes, '\0');
    }
    flushed_.clear();
  }

  std::optional<uint64_t> free_bytes;
  std::function<void(const std::string& path)> removed;  // told before it is

 private:
  std::unique_ptr<Disk> inner_ = MakeDisk();
  Fuse& fuse_;
  FlushedBytes flushed_;
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
