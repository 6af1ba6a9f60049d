#include "model/open.h"

#include <fmt/format.h>

#include <algorithm>

#include "formats/gguf_parts.h"
#include "formats/package.h"
#include "model/huggingface/folder.h"

namespace bantam {

namespace {

// The folder of a GGUF in parts. It is the model's path, so that what is kept beside a model lies beside the folder.
Result<ModelFile> OpenPartsFolder(FileSystem& files, const std::string& path) {
  const std::string folder = path.substr(0, std::max<size_t>(path.find_last_not_of('/') + 1, 1));
  BANTAM_ASSIGN(const auto first, FindGgufParts(files, folder));
  if (!first.has_value()) {
    return Error(Code::kNotFound,
                 fmt::format("{}: a folder without config.json and without a GGUF in parts; name a .gguf or .bantam file, or "
                             "the folder of a model",
                             path));
  }
  BANTAM_ASSIGN(ModelFile file, OpenGgufModel(files, *first));
  file.further_paths.insert(file.further_paths.begin(), *first);
  file.path = folder;
  return file;
}

}  // namespace

Result<ModelFile> OpenModel(FileSystem& files, const std::string& path) {
  if (IsHuggingFaceFolder(files, path)) return OpenHuggingFace(files, path);
  if (path.ends_with(".safetensors")) {
    return Error(Code::kUnsupported, fmt::format("{}: weights without their config.json; name the folder that holds both", path));
  }
  if (files.List(path).ok()) return OpenPartsFolder(files, path);
  if (IsPackage(files, path)) return OpenPackage(files, path);
  return OpenGgufModel(files, path);
}

}  // namespace bantam
