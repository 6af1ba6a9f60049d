#include "base/watched_files.h"

#include <fmt/format.h>
#include <sys/stat.h>

namespace bantam {
namespace {

Error Changed(const std::string& path) {
  return Error(Code::kUnavailable,
               fmt::format("{}: it changed while it was read; nothing was written, try again when nobody writes to it", path));
}

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

std::optional<WatchedFiles::Identity> WatchedFiles::IdentityOf(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return Identity{info.st_dev, info.st_ino, info.st_size, Nanoseconds(info.st_mtim), Nanoseconds(info.st_ctim)};
}

Status WatchedFiles::Note(const std::string& path) {
  const std::optional<Identity> identity = IdentityOf(path);
  if (!identity.has_value()) return Ok();  // reading it says why
  const auto [seen, is_new] = seen_.try_emplace(path, *identity);
  return is_new || seen->second == *identity ? Ok() : Status(Changed(path));
}

Result<std::unique_ptr<FileMapping>> WatchedFiles::Map(const std::string& path) {
  BANTAM_TRY(Note(path));
  return inner_.Map(path);
}

Result<std::string> WatchedFiles::ReadText(const std::string& path, size_t size_max) {
  BANTAM_TRY(Note(path));
  return inner_.ReadText(path, size_max);
}

Status WatchedFiles::CheckUnchanged() const {
  for (const auto& [path, identity] : seen_) {
    if (IdentityOf(path) != identity) return Changed(path);
  }
  return Ok();
}

}  // namespace bantam
