#include "cli/out_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "base/file_identity.h"
#include "base/system_limits.h"

namespace bantam {

Status CheckOut(FileSystem& files, const std::string& model, const std::vector<std::string>& further, const std::string& out, bool force) {
  std::error_code error;
  const auto there = IdentityOf(out);
  if (!there || !std::filesystem::is_regular_file(out, error)) return Ok();
  std::vector<std::string> sources = further;
  sources.push_back(model);
  if (const auto entries = files.List(model); entries.ok()) {
    for (const FileSystem::Entry& entry : *entries) sources.push_back(fmt::format("{}/{}", model, entry.name));
  }
  for (const std::string& source : sources) {
    const auto identity = IdentityOf(source);
    if (!identity || identity->device != there->device || identity->inode != there->inode) continue;
    return Error(Code::kInvalidArgument, fmt::format("{}: a file of the model itself; name another for what is made of it", out));
  }
  if (force) return Ok();
  return Error(Code::kInvalidArgument, fmt::format("{}: there already; --force replaces it", out));
}

Status CheckNewFile(const std::string& out, const std::vector<std::string>& inputs) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::symlink_status(out, error);
  if (!std::filesystem::exists(status)) return Ok();
  if (!std::filesystem::is_regular_file(status)) {
    return Error(Code::kInvalidArgument, fmt::format("{}: {}; expected a file, or a name that nothing has", out,
                                                     std::filesystem::is_directory(status) ? "a folder"
                                                     : std::filesystem::is_symlink(status) ? "a link"
                                                                                           : "no regular file"));
  }
  const auto there = IdentityOf(out);
  for (const std::string& input : inputs) {
    const auto identity = IdentityOf(input);
    if (!there || !identity || identity->device != there->device || identity->inode != there->inode) continue;
    return Error(Code::kInvalidArgument, fmt::format("{}: would be written over {}; name another file", out, input));
  }
  return Ok();
}

Result<std::unique_ptr<ThreadPool>> MakePool(FileSystem& files, int threads) {
  const SystemLimits limits = ReadSystemLimits(files, /*root=*/"", AffinityProcessors());
  return ThreadPool::Make(std::clamp(threads == 0 ? limits.cores : threads, 1, ThreadPool::kThreadsMax));
}

}  // namespace bantam
