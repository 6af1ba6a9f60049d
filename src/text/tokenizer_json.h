// The tokenizers library's tokenizer.json, and the tokenizer_config.json beside it.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace bantam {

inline constexpr size_t kTokenizerJsonBytesMax = size_t{128} << 20;
inline constexpr size_t kTokenizerConfigBytesMax = size_t{8} << 20;

// `config` may be empty: then the special tokens' roles are those that the post-processor and the tokens' names tell.
// Errors: Corrupt (malformed, ids out of order), Unsupported (a component that this build does not know, by its name).
Result<TokenizerSpec> ReadTokenizerJson(std::string_view tokenizer, std::string_view config);

}  // namespace bantam
