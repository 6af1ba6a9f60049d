// A name for what a model computes: of all its weights and of what its file says of them.
#pragma once

#include <cstdint>
#include <optional>

#include "base/file.h"
#include "base/progress.h"
#include "base/result.h"
#include "formats/model_file.h"
#include "security/sha256.h"

namespace bantam {

// SHA-256 over metadata and tensors, in the order of the file: equal digests mean equal logits, on the same options. Reads all of the file
// (2 GB in a second on a processor with instructions for it). Errors: Cancelled, those of the source.
Result<Digest> DigestModel(const ModelFile& file, const Progress& progress = nullptr);

// A name for the files that a model was opened from, without reading its weights: of metadata and of what the kernel says of each file.
// Equal ones mean equal digests. Nothing where a change to a file may go unnoticed: on file systems that keep no times of changes, and
// where one changed within the last minute (`now_ns` since 1970): it could be another than the one that was opened, or be written again
// within one tick of the kernel's clock.
std::optional<Digest> NameFiles(FileSystem& files, const ModelFile& file, int64_t now_ns);

}  // namespace bantam
