// Where models live, and the demo model.
#pragma once

#include <string>

#include "base/file.h"
#include "base/result.h"

namespace bantam {

// The demo model's name in the catalogue, and of its file.
inline constexpr char kDemoName[] = "tinyllama-1.1b-chat-iq2_xxs";
inline constexpr char kDemoModel[] = "tinyllama-1.1b-chat-iq2_xxs.gguf";

// ${XDG_CACHE_HOME:-~/.cache}/bantam
std::string CacheFolder();

// Models of it.
std::string ModelFolder();

// A path as it is, or a name in the model folder (with or without .gguf or .bantam). NotFound says where it looked, InvalidArgument
// refuses an empty name.
Result<std::string> FindModel(FileSystem& files, const std::string& name);

// NotFound says how to fetch it.
Result<std::string> FindDemoModel(FileSystem& files);

}  // namespace bantam
