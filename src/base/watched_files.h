// Files that must not change between two readings: a digest, say, has to be that of the bytes that were used.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_identity.h"
#include "base/result.h"

namespace bantam {

// Reads through `inner`, and remembers of each file which one it was before it was first read (FileIdentity). Not for several threads at
// once.
class WatchedFiles final : public FileSystem {
 public:
  explicit WatchedFiles(FileSystem& inner) : inner_(inner) {}

  // Other errors: Unavailable where the file is not what it was when it was first read.
  Result<std::unique_ptr<FileMapping>> Map(const std::string& path) override;
  Result<std::string> ReadText(const std::string& path, size_t size_max) override;
  Result<std::unique_ptr<FileWriter>> Create(const std::string& path) override { return inner_.Create(path); }
  bool Exists(const std::string& path) override { return inner_.Exists(path); }
  Result<std::vector<Entry>> List(const std::string& folder) override { return inner_.List(folder); }
  Status Remove(const std::string& path) override { return inner_.Remove(path); }

  // Unavailable, with its name, where a file that was read is not what it was.
  Status CheckUnchanged() const;

 private:
  Status Note(const std::string& path);

  FileSystem& inner_;
  std::map<std::string, FileIdentity> seen_;  // by path
};

}  // namespace bantam
