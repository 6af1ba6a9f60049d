// The bodies of other APIs as the members of OpenAI's, which ReadChatRequest and ReadCompletionRequest read.
#pragma once

#include "base/json.h"
#include "base/result.h"

namespace bantam {

// Errors: InvalidArgument, naming the member of the body that was sent.
enum class AnthropicUse : uint8_t { kAnswer, kCount };  // where tokens are only counted, max_tokens may be missing
Result<Json> AnthropicToOpenAi(const Json& body, AnthropicUse use);
Result<Json> OllamaChatToOpenAi(const Json& body);
// A prompt as it is, where `raw`; or as a chat.
Result<Json> OllamaPromptToOpenAi(const Json& body, bool raw);

}  // namespace bantam
