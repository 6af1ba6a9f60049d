// From a path to a model file, whatever its format.
#pragma once

#include <string>

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

// A GGUF file (of several the first, or the folder of them), a Bantam package, or a Hugging Face folder. Errors: those of the format's
// reader; a folder of neither says what was looked for.
Result<ModelFile> OpenModel(FileSystem& files, const std::string& path);

}  // namespace bantam
