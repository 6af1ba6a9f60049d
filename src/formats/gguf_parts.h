// GGUF models in several files (docs/formats/gguf.md): NAME-00001-of-00003.gguf and its neighbours are one model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

inline constexpr uint32_t kGgufPartsMax = 1000;

// What the name of a part says: STEM-00002-of-00003.gguf.
struct GgufPartName {
  std::string_view stem;  // with its folders
  uint32_t number = 0;    // from 1
  uint32_t count = 0;
};

// Nothing for other names, and for a number above the count.
std::optional<GgufPartName> ParseGgufPartName(std::string_view path);
std::string GgufPartPath(std::string_view stem, uint32_t number, uint32_t count);

// All parts of the model whose first part is `path`. InvalidArgument for another part than the first, and for more than kGgufPartsMax.
Result<std::vector<std::string>> GgufPartPaths(std::string_view path);

// The first part of the model in several files that a folder holds; nothing where it holds none. Errors: those of FileSystem::List;
// InvalidArgument for several models.
Result<std::optional<std::string>> FindGgufParts(FileSystem& files, const std::string& folder);

// The model of a GGUF file: of a first part, the whole, whose metadata are the first's. Errors: those of OpenGguf for each part;
// InvalidArgument (another part than the first, by the name that is to be opened), Corrupt (a name that is not that of such a part, a part
// of another model, tensors that are missing or occur twice).
Result<ModelFile> OpenGgufModel(FileSystem& files, const std::string& path);

}  // namespace bantam
