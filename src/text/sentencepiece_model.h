// SentencePiece's .model files (sentencepiece_model.proto).
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace bantam {

inline constexpr size_t kSentencePieceBytesMax = size_t{64} << 20;

// Errors: Corrupt (no such file), Unsupported (word and character models).
Result<TokenizerSpec> ReadSentencePieceModel(std::string_view file);

}  // namespace bantam
