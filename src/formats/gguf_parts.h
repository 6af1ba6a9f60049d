// GGUF models in several files (docs/formats/gguf.md): NAME-00001-of-00003.gguf and its neighbours are one model.
#pragma once

#include "base/file.h"
#include "base/result.h"
#include "formats/model_file.h"

namespace bantam {

inline constexpr uint32_t kGgufPartsMax = 1000;

// `first` as it is, where its metadata say nothing of parts; else the whole model, whose metadata are the first's. Errors: those of
// OpenGguf for each part; InvalidArgument (another part than the first, by the name that is to be opened), Corrupt (a name that is not
// that of such a part, a part of another model, tensors that are missing or occur twice).
Result<ModelFile> JoinGgufParts(FileSystem& files, ModelFile first);

}  // namespace bantam
