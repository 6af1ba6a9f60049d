// A name for what a model computes: of all its weights and of what its file says of them.
#pragma once

#include "base/progress.h"
#include "base/result.h"
#include "formats/model_file.h"
#include "security/sha256.h"

namespace bantam {

// SHA-256 over metadata and tensors, in the order of the file: equal digests mean equal logits, on the same options. Reads all of the file
// (2 GB in a second on a processor with instructions for it). Errors: Cancelled, those of the source.
Result<Digest> DigestModel(const ModelFile& file, const Progress& progress = nullptr);

}  // namespace bantam
