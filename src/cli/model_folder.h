// Where models live, and the demo model.
#pragma once

#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"

namespace bantam {

inline constexpr char kDemoModel[] = "tinyllama-1.1b-chat-iq2_xxs.gguf";

// ${XDG_CACHE_HOME:-~/.cache}/bantam/models
std::string ModelFolder();

// The .gguf files there, by name; none when the folder does not exist. Errors: those of FileSystem::List.
Result<std::vector<FileSystem::Entry>> ListModels(FileSystem& files);

// A path as it is, or a name in the model folder (with or without .gguf). NotFound says where it looked, InvalidArgument
// refuses an empty name.
Result<std::string> FindModel(FileSystem& files, const std::string& name);

// NotFound says how to fetch it.
Result<std::string> FindDemoModel(FileSystem& files);

}  // namespace bantam
