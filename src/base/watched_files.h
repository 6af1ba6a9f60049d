// Files that must not change between two readings: a digest, say, has to be that of the bytes that were used.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace bantam {

// Reads through `inner`, and remembers of each file which one it was before it was first read: device, inode, length, times of the last
// write and of the last change. Whoever writes to a file, or puts another in its place, changes one of these (a write within a few
// milliseconds of the one before, as coarse as the kernel's clock for files is, may not). Not for several threads at once.
class WatchedFiles final : public FileSystem {
 public:
  explicit WatchedFiles(FileSystem& inner) : inner_(inner) {}

  // Other errors: Unavailable where the file is not what it was when it was first read.
  Result<std::unique_ptr<FileMapping>> Map(const std::string& path) override;
  Result<std::string> ReadText(const std::string& path, size_t size_max) override;
  Result<std::unique_ptr<FileWriter>> Create(const std::string& path) override { return inner_.Create(path); }
  bool Exists(const std::string& path) override { return inner_.Exists(path); }
  Result<std::vector<Entry>> List(const std::string& folder) override { return inner_.List(folder); }
  Status Remove(const std::string& path) override { return inner_.Remove(path); }

  // Unavailable, with its name, where a file that was read is not what it was.
  Status CheckUnchanged() const;

 private:
  struct Identity {
    uint64_t device = 0;
    uint64_t inode = 0;
    int64_t size_bytes = 0;
    int64_t written_ns = 0;
    int64_t changed_ns = 0;
    bool operator==(const Identity&) const = default;
  };
  static std::optional<Identity> IdentityOf(const std::string& path);
  Status Note(const std::string& path);

  FileSystem& inner_;
  std::map<std::string, Identity> seen_;  // by path
};

}  // namespace bantam
