// What the Responses API of OpenAI is asked, in the members of its chats, and in the items of a conversation that is kept.
#pragma once

#include "base/json.h"
#include "base/result.h"

namespace bantam {

// Items of one conversation; more are refused.
inline constexpr size_t kResponseItemsMax = 4096;

// "input" as a list of items, each with an id: a text is a user's message, and texts of messages are lists of parts. Errors:
// InvalidArgument, naming the item ("input[2].content[0]").
Result<Json> ReadResponseInput(const Json& body);

// Of a body and all items of the conversation (those of ReadResponseInput the last) what ReadChatRequest reads. Errors: InvalidArgument,
// naming the member of the body that was sent, of what is unknown with the nearest that is known; Unsupported for what this server has not:
// tools of the server's own, conversations, answers in the background.
Result<Json> ResponsesToOpenAi(const Json& body, const Json& items);

// An error of ReadChatRequest, with the names of this API's members.
Error NameResponseMembers(const Error& error);

// What an answer repeats of its request ("instructions", "tools", "text", ...).
Json EchoResponseRequest(const Json& body);

}  // namespace bantam
