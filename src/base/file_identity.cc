#include "base/file_identity.h"

#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <iterator>

namespace bantam {
namespace {

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

FileIdentity From(const struct stat& info) {
  return {info.st_dev, info.st_ino, info.st_size, Nanoseconds(info.st_mtim), Nanoseconds(info.st_ctim)};
}

}  // namespace

std::optional<FileIdentity> IdentityOf(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return From(info);
}

std::optional<FileIdentity> IdentityOf(int descriptor) {
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) return std::nullopt;
  return From(info);
}

bool KeepsChangeTimes(int descriptor) {
  // Numbers of statfs(2): ext2 to 4, XFS, Btrfs, F2FS, tmpfs, overlayfs, SquashFS, EROFS, ZFS, bcachefs. FAT and its kin have no such time,
  // and over a network others write.
  constexpr unsigned long kKnown[] = {0xef53,     0x58465342, 0x9123683e, 0xf2f52010, 0x01021994,
                                      0x794c7630, 0x73717368, 0xe0f5e1e2, 0x2fc12fc1, 0xca451a4e};
  struct statfs info {};
  if (::fstatfs(descriptor, &info) != 0) return false;
  const auto type = static_cast<unsigned long>(info.f_type) & 0xffffffffUL;
  return std::find(std::begin(kKnown), std::end(kKnown), type) != std::end(kKnown);
}

}  // namespace bantam
