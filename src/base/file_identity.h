// Which file something was read from, and whether it is still what it was.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace bantam {

// Whoever writes to a file, or puts another in its place, changes one of these (a write within a few milliseconds of the one before, as
// coarse as the kernel's clock for files is, may not).
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size_bytes = 0;
  int64_t written_ns = 0;  // of the last write, which programs can set
  int64_t changed_ns = 0;  // of the last change to the file or what is said of it

  bool operator==(const FileIdentity&) const = default;
};

// Nothing where there is no such file.
std::optional<FileIdentity> IdentityOf(const std::string& path);
std::optional<FileIdentity> IdentityOf(int descriptor);

// Whether it lies on a file system of this machine on which changed_ns is the kernel's alone, so that nobody can write to it and leave
// everything above as it was.
bool KeepsChangeTimes(int descriptor);

}  // namespace bantam
