// Where tests find their data, and a folder that goes away with the test.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

namespace bantam::testing {

// A file of tests/data.
std::string DataPath(std::string_view name);

// A file of the folder beside the checkout that holds reference data too large to commit. It may be absent.
std::string SharedPath(std::string_view name);

// The demo model, where bantam pull puts it. It may be absent.
inline std::string DemoModelPath() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string root = cache != nullptr && cache[0] == '/' ? cache : std::string(home == nullptr ? "" : home) + "/.cache";
  return root + "/bantam/models/tinyllama-1.1b-chat-iq2_xxs.gguf";
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "bantam-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

}  // namespace bantam::testing

#define SKIP_WITHOUT(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is absent; this test needs it"
