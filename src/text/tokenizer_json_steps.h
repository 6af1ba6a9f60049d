// The components of tokenizer.json round its model: each turns a JSON value into a part of a TokenizerSpec. A value that is null
// adds nothing. Errors: Unsupported for a component that this build does not know, Corrupt where a member is missing.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace bantam {

Status ReadNormalizer(const Json& json, TokenizerSpec* spec);
Status ReadPreTokenizer(const Json& json, TokenizerSpec* spec);
Status ReadDecoder(const Json& json, TokenizerSpec* spec);
// After the tokens are known.
Status ReadPostProcessor(const Json& json, TokenizerSpec* spec);

}  // namespace bantam
