// Files behind a seam: everything that reads or writes takes a FileSystem, so that tests can make the n-th call fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file_identity.h"
#include "base/result.h"

namespace bantam {

// A file mapped read-only, from one descriptor that stays open. Movable; unmaps at the end of its life.
// If another process shortens the file, touching the lost pages raises SIGBUS: only the program handles that signal.
class FileMapping {
 public:
  virtual ~FileMapping() = default;
  std::span<const std::byte> bytes() const { return bytes_; }

  // Tells the kernel that the pages wholly inside [offset, offset + size) will not be read again soon.
  virtual void Release(uint64_t offset, uint64_t size) const = 0;

  // Of the file that is mapped, as it is now; nothing where changes to it may go unnoticed (KeepsChangeTimes).
  virtual std::optional<FileIdentity> identity() const { return std::nullopt; }

 protected:
  std::span<const std::byte> bytes_;
};

// Writes beside the target and renames at Commit, so that nobody sees half a file; without Commit nothing stays behind.
// A target that exists keeps its permissions, and through a link the file it leads to is replaced. A target that is not a
// regular file (a pipe, /dev/null) is written to directly.
class FileWriter {
 public:
  virtual ~FileWriter() = default;
  virtual Status Append(std::span<const std::byte> bytes) = 0;
  // Takes the place of bytes that were appended before. Unsupported where the target is not a regular file.
  virtual Status Overwrite(uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual Status Commit() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Errors: NotFound, Denied, Unsupported (a folder, a device), Corrupt (empty), Exhausted (no address space), Unavailable.
  virtual Result<std::unique_ptr<FileMapping>> Map(const std::string& path) = 0;

  // The whole file as text. Exhausted when it is longer than `size_max`.
  virtual Result<std::string> ReadText(const std::string& path, size_t size_max) = 0;

  // Starts a file that will be at `path` once it is committed.
  virtual Result<std::unique_ptr<FileWriter>> Create(const std::string& path) = 0;

  virtual bool Exists(const std::string& path) = 0;

  // The regular files of a folder, by name. NotFound when there is no such folder.
  struct Entry {
    std::string name;
    uint64_t size_bytes = 0;
  };
  virtual Result<std::vector<Entry>> List(const std::string& folder) = 0;

  virtual Status Remove(const std::string& path) = 0;
};

// The operating system's files.
std::unique_ptr<FileSystem> MakeFileSystem();

}  // namespace bantam
