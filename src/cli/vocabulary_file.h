// A vocabulary in whichever format it comes.
#pragma once

#include <string>

#include "base/file.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace bantam {

// `name`: a .gguf file or its name in the model folder, a tokenizer.json (a tokenizer_config.json beside it is read too), a
// SentencePiece .model file, or a folder that holds one of them.
Result<Tokenizer> OpenVocabulary(FileSystem& files, const std::string& name);

}  // namespace bantam
