#include "cli/model_folder.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include "fleet/download.h"

namespace bantam {

std::string CacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return fmt::format("{}/bantam", cache);  // relative ones are to be ignored
  const char* home = std::getenv("HOME");
  // Without it, as under some service managers, the user's entry tells.
  const passwd* user = home == nullptr ? ::getpwuid(::getuid()) : nullptr;
  if (user != nullptr) home = user->pw_dir;
  return fmt::format("{}/.cache/bantam", home == nullptr ? "" : home);
}

std::string ModelFolder() { return fmt::format("{}/models", CacheFolder()); }

Result<std::string> FindDemoModel(FileSystem& files) {
  std::string path = fmt::format("{}/{}", ModelFolder(), kDemoModel);
  if (files.Exists(path)) return path;
  return Error(Code::kNotFound, fmt::format("no model was named and the demo model is not at {}; fetch it with bantam pull {} "
                                            "(./dev run does) or name a model",
                                            path, kDemoName));
}

Result<std::string> FindModel(FileSystem& files, const std::string& name) {
  if (name.empty())
    return Error(Code::kInvalidArgument, "an empty model name; give the path of a .gguf or .bantam file or of a Hugging Face folder");
  if (name.find('/') != std::string::npos || files.Exists(name)) {
    // Files that are kept beside a folder are named after it.
    return name.size() > 1 && name.ends_with('/') ? name.substr(0, name.find_last_not_of('/') + 1) : name;
  }
  const std::string folder = ModelFolder();
  for (const std::string& path :
       {fmt::format("{}/{}", folder, name), fmt::format("{}/{}.gguf", folder, name), fmt::format("{}/{}.bantam", folder, name)}) {
    if (files.Exists(path)) return path;
  }
  for (const char* ending : {"", ".gguf", ".bantam"}) {
    if (!files.Exists(PartPath(fmt::format("{}/{}{}", folder, name, ending)))) continue;
    return Error(Code::kNotFound, fmt::format("{}: its download is not finished; the same bantam pull goes on", name));
  }
  return Error(Code::kNotFound, fmt::format("{}: no such file here or in {}; give the path of a .gguf or .bantam file or of a Hugging Face "
                                            "folder, or a name that bantam list shows",
                                            name, folder));
}

}  // namespace bantam
