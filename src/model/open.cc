#include "model/open.h"

#include <fmt/format.h>

#include <utility>

#include "formats/gguf_parts.h"
#include "formats/package.h"
#include "model/huggingface/folder.h"

namespace bantam {

Result<ModelFile> OpenModel(FileSystem& files, const std::string& path) {
  if (IsHuggingFaceFolder(files, path)) return OpenHuggingFace(files, path);
  if (path.ends_with(".safetensors")) {
    return Error(Code::kUnsupported, fmt::format("{}: weights without their config.json; name the folder that holds both", path));
  }
  if (files.List(path).ok()) {
    BANTAM_ASSIGN(const auto first, FindGgufParts(files, path));
    if (!first.has_value()) {
      return Error(Code::kNotFound,
                   fmt::format("{}: a folder without config.json and without a GGUF in parts; name a .gguf or .bantam file, or "
                               "the folder of a model",
                               path));
    }
    return OpenGgufModel(files, *first);
  }
  if (IsPackage(files, path)) return OpenPackage(files, path);
  return OpenGgufModel(files, path);
}

}  // namespace bantam
