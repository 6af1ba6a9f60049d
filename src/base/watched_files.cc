#include "base/watched_files.h"

#include <fmt/format.h>

namespace bantam {
namespace {

Error Changed(const std::string& path) {
  return Error(Code::kUnavailable,
               fmt::format("{}: it changed while it was read; nothing was written, try again when nobody writes to it", path));
}

}  // namespace

Status WatchedFiles::Note(const std::string& path) {
  const std::optional<FileIdentity> identity = IdentityOf(path);
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
