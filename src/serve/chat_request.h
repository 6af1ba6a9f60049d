// From the members of OpenAI's chat completions to what an engine is asked, and how its answer is to be read. The other dialects are
// brought into these members first.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/request.h"
#include "serve/served_model.h"

namespace bantam {

inline constexpr size_t kToolsMax = 128;
inline constexpr size_t kPromptsPerBodyMax = 64;  // and answers, where there are several prompts

// How the text of an answer is taken apart.
struct ParsePlan {
  bool parsed = false;       // into content, reasoning and calls; or it is a text
  bool forced_call = false;  // all of it is one call of a tool, in JSON
  bool one_call = false;     // of several calls the first counts
  Json tools = nullptr;
  std::string prompt_end = {};
};

struct ChatPlan {
  Request request = {};
  std::vector<Request> others = {};  // of completions: one for each further prompt
  ParsePlan parse = {};
};

struct ChatContext {
  const ServedModel& model;
  std::tm now{};
};

// "messages" with text as a string or in parts, "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", and the members of
// ReadJsonRequest; members that say nothing to a local model ("store", "metadata", "service_tier", ...) are taken and left. "stream" and
// "stream_options" are not looked at. Errors name the member.
Result<ChatPlan> ReadChatRequest(Json body, const ChatContext& context);

// "prompt", also a list of texts or of lists of ids, and the members of ReadJsonRequest.
Result<ChatPlan> ReadCompletionRequest(Json body, const ChatContext& context);

// The prompt that a chat becomes, as text: what templates look at of ReadChatRequest's members, the others are not looked at.
Result<std::string> RenderChatRequest(Json body, const ChatContext& context);

// ---- For the other dialects' readers ----

// Takes a member out of an object: null without it.
Json TakeMember(Json* object, const char* name);

}  // namespace bantam
