// A Hugging Face folder (config.json, safetensors, tokenizer.json) as a model file: its metadata and tensors are named, shaped and ordered
// as a GGUF file of the family has them, so that families, lowering and loading know one form.
#pragma once

#include <string>

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

inline constexpr size_t kHfConfigBytesMax = size_t{8} << 20;
inline constexpr size_t kHfIndexBytesMax = size_t{32} << 20;
inline constexpr size_t kHfShardsMax = 1024;

// Whether `path` is a folder with a config.json.
bool IsHuggingFaceFolder(FileSystem& files, const std::string& path);

// Errors: those of FileSystem; Corrupt and Unsupported name the file and the member or tensor.
Result<ModelFile> OpenHuggingFace(FileSystem& files, const std::string& folder);

}  // namespace bantam
