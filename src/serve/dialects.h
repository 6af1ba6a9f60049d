// The bodies of other APIs as the members of OpenAI's, which ReadChatRequest and ReadCompletionRequest read.
#pragma once

#include <initializer_list>
#include <span>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace bantam {

// A member of another API and its name in OpenAI's; null: there is none.
struct MemberName {
  std::string_view theirs;
  const char* ours;
};
// Those of the body that have a name and a value go into the other. InvalidArgument for one that is not known, with the nearest that is.
Status TakeMembers(const Json& body, std::span<const MemberName> known, Json* into);

// The same where nothing is taken.
Status CheckMembers(const Json& body, std::initializer_list<std::string_view> known);
Status CheckMembers(const Json& body, std::span<const std::string_view> known);

// Errors: InvalidArgument, naming the member of the body that was sent.
enum class AnthropicUse : uint8_t { kAnswer, kCount };  // where tokens are only counted, max_tokens may be missing
Result<Json> AnthropicToOpenAi(const Json& body, AnthropicUse use);
Result<Json> OllamaChatToOpenAi(const Json& body);
// A prompt as it is, where `raw`; or as a chat.
Result<Json> OllamaPromptToOpenAi(const Json& body, bool raw);

}  // namespace bantam
