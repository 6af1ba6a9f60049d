// The model folder: what is in it, and removing from it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/disk.h"
#include "base/file.h"
#include "base/result.h"

namespace bantam {

struct StoredModel {
  std::string name;
  bool folder = false;
  bool unfinished = false;  // an interrupted pull left it; `size_bytes` is what has come
  uint64_t size_bytes = 0;  // of all its files
};

// GGUF files, packages, folders of models (Hugging Face's, of a GGUF in parts) and unfinished downloads, by name; none where the folder
// does not exist.
Result<std::vector<StoredModel>> ListStore(FileSystem& files, Disk& disk, const std::string& folder);

// The model of that name, or with .gguf or .bantam after it; or what else has exactly that name, as it keeps a pull from using it.
// NotFound.
Result<StoredModel> FindStored(FileSystem& files, Disk& disk, const std::string& folder, const std::string& name);

// Removes it with what is kept beside it (its tuning, parts of unfinished downloads); interrupted, it leaves an unfinished model.
// Unavailable while it is being fetched.
Status RemoveStored(Disk& disk, const std::string& folder, const StoredModel& model);

}  // namespace bantam
