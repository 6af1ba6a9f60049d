#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/system_error.h"

namespace bantam {
namespace {

Result<Descriptor> OpenRegular(const std::string& path, uint64_t* size) {
  // O_NONBLOCK: opening a FIFO without a writer must not hang; it has no effect on regular files.
  Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (descriptor.get() < 0) return SystemError(path, "open it", errno);
  struct stat info {};
  if (::fstat(descriptor.get(), &info) != 0) return SystemError(path, "read its size", errno);
  if (!S_ISREG(info.st_mode)) {
    return Error(Code::kUnsupported, fmt::format("{}: not a regular file; name a file, not a folder or a device", path));
  }
  *size = static_cast<uint64_t>(info.st_size);
  return descriptor;
}

class SystemMapping final : public FileMapping {
 public:
  SystemMapping(Descriptor descriptor, void* address, size_t size) : descriptor_(std::move(descriptor)) {
    bytes_ = {static_cast<const std::byte*>(address), size};
  }
  ~SystemMapping() override { ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size()); }
  SystemMapping(const SystemMapping&) = delete;
  SystemMapping& operator=(const SystemMapping&) = delete;

  void Release(uint64_t offset, uint64_t size) const override {
    const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const uint64_t begin = (offset + page - 1) / page * page;
    const uint64_t end = (offset + size) / page * page;
    if (begin >= end || end > bytes_.size()) return;
    // Only advice: a failure costs memory, never correctness.
    (void)::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_DONTNEED);
  }

  std::optional<FileIdentity> identity() const override {
    return KeepsChangeTimes(descriptor_.get()) ? IdentityOf(descriptor_.get()) : std::nullopt;
  }

 private:
  Descriptor descriptor_;
};

class SystemWriter final : public FileWriter {
 public:
  // `part` is empty when the target is written to directly.
  SystemWriter(Descriptor descriptor, std::string path, std::string part)
      : descriptor_(std::move(descriptor)), path_(std::move(path)), part_(std::move(part)) {}
  ~SystemWriter() override {
    if (!part_.empty()) ::unlink(part_.c_str());
  }

  Status SetMode(mode_t mode) {
    if (::fchmod(descriptor_.get(), mode) != 0) return SystemError(path_, "set its permissions", errno);
    return Ok();
  }

  Status Append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const ssize_t put = ::write(descriptor_.get(), bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return SystemError(path_, "write it", errno);
      bytes = bytes.subspan(static_cast<size_t>(put));
    }
    return Ok();
  }

  Status Overwrite(uint64_t offset, std::span<const std::byte> bytes) override {
    if (part_.empty()) {
      return Error(Code::kUnsupported, fmt::format("{}: not a regular file; name one, for its beginning is written last", path_));
    }
    while (!bytes.empty()) {
      const ssize_t put = ::pwrite(descriptor_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return SystemError(path_, "write it", errno);
      bytes = bytes.subspan(static_cast<size_t>(put));
      offset += static_cast<uint64_t>(put);
    }
    return Ok();
  }

  Status Commit() override {
    if (part_.empty()) return Ok();
    if (::fsync(descriptor_.get()) != 0) return SystemError(path_, "flush it", errno);
    if (std::rename(part_.c_str(), path_.c_str()) != 0) return SystemError(path_, "rename to it", errno);
    part_.clear();
    return Ok();
  }

 private:
  Descriptor descriptor_;
  std::string path_;
  std::string part_;
};

class SystemFiles final : public FileSystem {
 public:
  Result<std::unique_ptr<FileMapping>> Map(const std::string& path) override {
    uint64_t size = 0;
    BANTAM_ASSIGN(Descriptor descriptor, OpenRegular(path, &size));
    if (size == 0) return Error(Code::kCorrupt, fmt::format("{}: the file is empty; fetch or copy it again", path));
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
    if (address == MAP_FAILED) return SystemError(path, "map it", errno);
    return std::unique_ptr<FileMapping>(std::make_unique<SystemMapping>(std::move(descriptor), address, size));
  }

  Result<std::string> ReadText(const std::string& path, size_t size_max) override {
    uint64_t size = 0;
    BANTAM_ASSIGN(Descriptor descriptor, OpenRegular(path, &size));
    std::string text;
    char buffer[1 << 16];
    // Read to the end instead of trusting the size: files below /proc and /sys report 0.
    while (true) {
      const ssize_t got = ::read(descriptor.get(), buffer, sizeof(buffer));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return SystemError(path, "read it", errno);
      if (got == 0) return text;
      text.append(buffer, static_cast<size_t>(got));
      if (text.size() > size_max) {
        return Error(Code::kExhausted, fmt::format("{}: longer than the limit of {} bytes; split it", path, size_max));
      }
    }
  }

  Result<std::unique_ptr<FileWriter>> Create(const std::string& path) override {
    if (path.empty()) return Error(Code::kInvalidArgument, "an empty file name; give the path of a file");
    struct stat info {};
    const bool exists = ::stat(path.c_str(), &info) == 0;
    if (exists && !S_ISREG(info.st_mode)) {
      Descriptor descriptor(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
      if (descriptor.get() < 0) return SystemError(path, "write to it", errno);
      return std::unique_ptr<FileWriter>(std::make_unique<SystemWriter>(std::move(descriptor), path, /*part=*/""));
    }
    std::string target = path;
    if (exists) {
      // Through a link, the file it leads to is the target.
      const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr), &std::free);
      if (resolved != nullptr) target = resolved.get();
    }
    std::string part = target + ".part-XXXXXX";
    Descriptor descriptor(::mkostemp(part.data(), O_CLOEXEC));
    if (descriptor.get() < 0) return SystemError(path, "create it", errno);
    auto writer = std::make_unique<SystemWriter>(std::move(descriptor), target, part);
    // mkostemp made it private: an existing file keeps its mode, a new one gets the usual one.
    const mode_t mask = ::umask(0);
    ::umask(mask);
    BANTAM_TRY(writer->SetMode(exists ? info.st_mode & 07777u : 0666u & ~mask));
    return std::unique_ptr<FileWriter>(std::move(writer));
  }

  bool Exists(const std::string& path) override { return ::access(path.c_str(), F_OK) == 0; }

  Result<std::vector<Entry>> List(const std::string& folder) override {
    const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), &::closedir);
    if (open == nullptr) return SystemError(folder, "list it", errno);
    std::vector<Entry> entries;
    while (const dirent* entry = ::readdir(open.get())) {
      struct stat info {};
      if (::fstatat(::dirfd(open.get()), entry->d_name, &info, 0) != 0 || !S_ISREG(info.st_mode)) continue;
      entries.push_back({entry->d_name, static_cast<uint64_t>(info.st_size)});
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    return entries;
  }

  Status Remove(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) return SystemError(path, "remove it", errno);
    return Ok();
  }
};

}  // namespace

std::unique_ptr<FileSystem> MakeFileSystem() { return std::make_unique<SystemFiles>(); }

}  // namespace bantam
