// The tokenizer that a model file carries.
#pragma once

#include "base/result.h"
#include "formats/model_file.h"
#include "text/tokenizer.h"

namespace bantam {

// From tokenizer.ggml.* metadata. Errors: NotFound (no vocabulary), Unsupported (another kind of tokenizer), Corrupt.
Result<Tokenizer> ReadVocabulary(const ModelFile& file);

}  // namespace bantam
