// The tokenizer and the chat template that a model file carries.
#pragma once

#include "base/result.h"
#include "formats/model_file.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/tokenizer_bytes.h"

namespace bantam {

// What the file says of its vocabulary and of the names that templates call special tokens by, for those who store it. Errors as below.
Result<StoredTokenizer> ReadStoredTokenizer(const ModelFile& file);

// From a package's tokenizer, or from tokenizer.ggml.* metadata. Errors: NotFound (no vocabulary), Unsupported (another kind of tokenizer),
// Corrupt.
Result<Tokenizer> ReadVocabulary(const ModelFile& file);

// From tokenizer.chat_template, or for requests with `tools` from tokenizer.chat_template.tool_use where the model has it. Whatever kind of
// tokenizer the model has. Errors: Unsupported (no template, or what it says), Corrupt.
Result<ChatTemplate> ReadChatTemplate(const ModelFile& file, bool tools);
// Another template for the same file's tokens.
Result<ChatTemplate> MakeChatTemplate(const ModelFile& file, std::string_view source);

// The text of tokenizer.chat_template, empty where there is none.
Result<std::string> ReadTemplateSource(const ModelFile& file);

}  // namespace bantam
