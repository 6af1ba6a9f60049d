#include "base/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/bytes.h"
#include "base/memory_budget.h"
#include "base/system_error.h"

namespace bantam {

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

namespace {

constexpr int kTreeDepthMax = 32;

class SystemPart final : public PartFile {
 public:
  SystemPart(Descriptor descriptor, std::string path, uint64_t size)
      : descriptor_(std::move(descriptor)), path_(std::move(path)), size_(size) {}

  uint64_t size() const override { return size_; }

  Result<size_t> Read(uint64_t offset, std::span<std::byte> into) override {
    while (true) {
      const ssize_t got = ::pread(descriptor_.get(), into.data(), into.size(), static_cast<off_t>(offset));
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EINTR) return SystemError(path_, "read it", errno);
    }
  }

  Status Append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const ssize_t put = ::pwrite(descriptor_.get(), bytes.data(), bytes.size(), static_cast<off_t>(size_));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return SystemError(path_, "write it", errno);
      size_ += static_cast<uint64_t>(put);
      bytes = bytes.subspan(static_cast<size_t>(put));
    }
    return Ok();
  }

  Status Truncate(uint64_t size) override {
    if (size >= size_) return Ok();
    if (::ftruncate(descriptor_.get(), static_cast<off_t>(size)) != 0) return SystemError(path_, "shorten it", errno);
    size_ = size;
    return Ok();
  }

  Status Sync() override {
    if (::fsync(descriptor_.get()) != 0) return SystemError(path_, "flush it", errno);
    return Ok();
  }

 private:
  Descriptor descriptor_;
  std::string path_;
  uint64_t size_;
};

class SystemLock final : public FileLock {
 public:
  SystemLock(Descriptor descriptor, std::string path) : descriptor_(std::move(descriptor)), path_(std::move(path)) {}
  // The name goes while the lock is held, so that nobody removes the file of the next holder.
  ~SystemLock() override { ::unlink(path_.c_str()); }

 private:
  Descriptor descriptor_;
  std::string path_;
};

constexpr mode_t kAnyone = 0666;  // but for the user's mask
constexpr mode_t kOwner = 0600;

Result<std::unique_ptr<PartFile>> OpenRegular(const std::string& path, int flags, std::string_view action, mode_t mode = kAnyone) {
  // O_NONBLOCK: a FIFO in this place must not hang.
  Descriptor descriptor(::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, mode));
  if (descriptor.get() < 0) return SystemError(path, action, errno);
  struct stat info {};
  if (::fstat(descriptor.get(), &info) != 0) return SystemError(path, "read its size", errno);
  if (!S_ISREG(info.st_mode)) {
    return Error(Code::kInvalidArgument, fmt::format("{}: not a regular file; name a file, not a folder or a device", path));
  }
  // It may have been there, with other readers.
  if (mode == kOwner && ::fchmod(descriptor.get(), mode) != 0) return SystemError(path, "make it its owner's alone", errno);
  return std::unique_ptr<PartFile>(std::make_unique<SystemPart>(std::move(descriptor), path, static_cast<uint64_t>(info.st_size)));
}

Status SyncFolder(const std::string& folder) {
  const Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.get() < 0) return SystemError(folder, "open it", errno);
  // File systems that cannot flush a folder say EINVAL; there is nothing more to do on them.
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL) return SystemError(folder, "flush it", errno);
  return Ok();
}

// What `name` is in the open folder `at`; never through a link.
Status RemoveAt(int at, const std::string& name, const std::string& shown, int depth) {
  struct stat info {};
  if (::fstatat(at, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return errno == ENOENT ? Ok() : SystemError(shown, "remove it", errno);
  if (!S_ISDIR(info.st_mode)) {
    if (::unlinkat(at, name.c_str(), 0) != 0 && errno != ENOENT) return SystemError(shown, "remove it", errno);
    return Ok();
  }
  if (depth == kTreeDepthMax)
    return Error(Code::kUnsupported, fmt::format("{}: folders within folders too deep; remove it by hand", shown));
  const int descriptor = ::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) return SystemError(shown, "open it", errno);
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::fdopendir(descriptor), &::closedir);
  if (open == nullptr) {
    ::close(descriptor);
    return SystemError(shown, "list it", errno);
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(open.get())) {
    const std::string inner = entry->d_name;
    if (inner != "." && inner != "..") names.push_back(inner);
  }
  for (const std::string& inner : names) BANTAM_TRY(RemoveAt(descriptor, inner, fmt::format("{}/{}", shown, inner), depth + 1));
  if (::unlinkat(at, name.c_str(), AT_REMOVEDIR) != 0) return SystemError(shown, "remove it", errno);
  return Ok();
}

class SystemDisk final : public Disk {
 public:
  Result<std::unique_ptr<PartFile>> OpenPart(const std::string& path) override {
    return OpenRegular(path, O_RDWR | O_CREAT | O_NOFOLLOW, "write to it");
  }
  Result<std::unique_ptr<PartFile>> OpenPrivatePart(const std::string& path) override {
    return OpenRegular(path, O_RDWR | O_CREAT | O_NOFOLLOW, "write to it", kOwner);
  }
  Result<std::unique_ptr<PartFile>> OpenForReading(const std::string& path) override { return OpenRegular(path, O_RDONLY, "open it"); }

  Status MakeFolders(const std::string& root, std::string_view below) override {
    for (size_t end = root.find('/', 1);; end = root.find('/', end + 1)) {
      const std::string folder = root.substr(0, end);
      if (!folder.empty() && ::mkdir(folder.c_str(), 0777) != 0 && errno != EEXIST) return SystemError(folder, "make this folder", errno);
      if (end == std::string::npos) break;
    }
    int at = ::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    std::string shown = root;
    while (at >= 0 && !below.empty()) {
      const size_t end = std::min(below.find('/'), below.size());
      const std::string name(below.substr(0, end));
      below.remove_prefix(std::min(end + 1, below.size()));
      const Descriptor above(at);
      shown += fmt::format("/{}", name);
      if (::mkdirat(above.get(), name.c_str(), 0777) != 0 && errno != EEXIST) return SystemError(shown, "make this folder", errno);
      at = ::openat(above.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    }
    if (at < 0) return SystemError(shown, "open this folder", errno);
    ::close(at);
    return Ok();
  }

  Status Rename(const std::string& from, const std::string& to) override {
    if (std::rename(from.c_str(), to.c_str()) != 0) return SystemError(to, "rename to it", errno);
    return SyncFolder(FolderOf(to));
  }

  Status RemoveTree(const std::string& path) override { return RemoveAt(AT_FDCWD, path, path, /*depth=*/0); }

  Result<std::vector<DiskEntry>> Entries(const std::string& folder) override {
    const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), &::closedir);
    if (open == nullptr) return SystemError(folder, "list it", errno);
    std::vector<DiskEntry> entries;
    while (const dirent* entry = ::readdir(open.get())) {
      const std::string name = entry->d_name;
      struct stat info {};
      if (name == "." || name == ".." || ::fstatat(::dirfd(open.get()), entry->d_name, &info, 0) != 0) continue;
      if (S_ISREG(info.st_mode)) entries.push_back({name, DiskEntry::Kind::kFile, static_cast<uint64_t>(info.st_size)});
      if (S_ISDIR(info.st_mode)) entries.push_back({name, DiskEntry::Kind::kFolder, 0});
    }
    std::sort(entries.begin(), entries.end(), [](const DiskEntry& a, const DiskEntry& b) { return a.name < b.name; });
    return entries;
  }

  Result<uint64_t> FreeBytes(const std::string& folder) override {
    struct statvfs info {};
    if (::statvfs(folder.c_str(), &info) != 0) return SystemError(folder, "read the free space of its disk", errno);
    uint64_t bytes = 0;
    return CheckedMultiply(info.f_bavail, info.f_frsize, &bytes) ? bytes : UINT64_MAX;
  }

  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    constexpr int kTriesMax = 10;
    for (int i = 0; i < kTriesMax; ++i) {
      Descriptor descriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
      if (descriptor.get() < 0) return SystemError(path, "open it", errno);
      if (::flock(descriptor.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) return SystemError(path, "lock it", errno);
        return std::unique_ptr<FileLock>();
      }
      // The one who held it may have removed the file that was opened here.
      struct stat mine {};
      struct stat named {};
      const bool same = ::fstat(descriptor.get(), &mine) == 0 && ::stat(path.c_str(), &named) == 0 && mine.st_ino == named.st_ino;
      if (same) return std::unique_ptr<FileLock>(std::make_unique<SystemLock>(std::move(descriptor), path));
    }
    return std::unique_ptr<FileLock>();  // others come and go; one of them has it
  }
};

}  // namespace

std::unique_ptr<Disk> MakeDisk() { return std::make_unique<SystemDisk>(); }

Status CheckRoom(Disk& disk, const std::string& folder, uint64_t bytes, std::string_view remedy) {
  uint64_t wanted = 0;
  BANTAM_ASSIGN(const uint64_t free, disk.FreeBytes(folder));
  if (CheckedAdd(bytes, kDiskReserveBytes, &wanted) && wanted <= free) return Ok();
  return Error(Code::kUnavailable,
               fmt::format("{}: {} more are needed and {} of the disk are free, {} of which stay free; remove something {}", folder,
                           FormatBytes(bytes), FormatBytes(free), FormatBytes(kDiskReserveBytes), remedy));
}

}  // namespace bantam
