// What keeping files that arrive piece by piece needs of the file system, behind a seam of its own so that tests can fake a full disk or a
// power cut. Links are never followed into or out of what is written here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bantam {

// A file that grows, and outlives the process before it is whole.
class PartFile {
 public:
  virtual ~PartFile() = default;
  virtual uint64_t size() const = 0;
  // Bytes from `offset` on, as many as there are and fit; 0 at the end.
  virtual Result<size_t> Read(uint64_t offset, std::span<std::byte> into) = 0;
  virtual Status Append(std::span<const std::byte> bytes) = 0;
  // To at most its size.
  virtual Status Truncate(uint64_t size) = 0;
  // What was appended survives a power cut from here on.
  virtual Status Sync() = 0;
};

// Held for its life, by one process at a time.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

struct DiskEntry {
  enum class Kind { kFile, kFolder };
  std::string name;
  Kind kind = Kind::kFile;
  uint64_t size_bytes = 0;  // of a file
};

// Errors are those of FileSystem (base/file.h); links where a file or a folder is expected are refused with InvalidArgument.
class Disk {
 public:
  virtual ~Disk() = default;

  // For appending, made if it is not there.
  virtual Result<std::unique_ptr<PartFile>> OpenPart(const std::string& path) = 0;
  // The same for what only its owner may read.
  virtual Result<std::unique_ptr<PartFile>> OpenPrivatePart(const std::string& path) = 0;
  // A regular file for reading; through links.
  virtual Result<std::unique_ptr<PartFile>> OpenForReading(const std::string& path) = 0;

  // `root` and everything above it, and the folders of the relative path `below` in it, which may be empty. Below `root` no link is
  // followed.
  virtual Status MakeFolders(const std::string& root, std::string_view below) = 0;

  // Gives `from` the name `to`, in the same folder, so that it survives a power cut. What is at `to` is replaced if both are files.
  virtual Status Rename(const std::string& from, const std::string& to) = 0;

  // A file, a link, or a folder with all that is in it. Nothing to remove is no error.
  virtual Status RemoveTree(const std::string& path) = 0;

  // Regular files and folders, also where a link leads to one, by name.
  virtual Result<std::vector<DiskEntry>> Entries(const std::string& folder) = 0;

  // What a user without privileges may still write.
  virtual Result<uint64_t> FreeBytes(const std::string& folder) = 0;

  // Null when another process holds it. The file is removed with the lock.
  virtual Result<std::unique_ptr<FileLock>> Lock(const std::string& path) = 0;
};

std::unique_ptr<Disk> MakeDisk();

// "a/b" to "a", "b" to ".", "/b" to "/".
std::string FolderOf(const std::string& path);

// What is kept free for everything else on a disk.
inline constexpr uint64_t kDiskReserveBytes = uint64_t{64} << 20;
// Unavailable, with the numbers and the remedy ("remove something or ..."), unless the folder's disk has room for so many bytes more.
Status CheckRoom(Disk& disk, const std::string& folder, uint64_t bytes, std::string_view remedy);

}  // namespace bantam
