#include "serve/chat_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "base/ascii.h"
#include "base/check.h"
#include "engine/json_members.h"
#include "engine/json_request.h"

namespace bantam {
namespace {

// Tokens of a prompt's end that are looked at for a section that the template left open.
constexpr size_t kPromptEndTokens = 32;
constexpr size_t kToolNameBytesMax = 64;

// What OpenAI's clients send that changes nothing here.
constexpr const char* kLeftMembers[] = {
    "store",     "metadata", "service_tier",  "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "verbosity", "stream",   "stream_options"};

// What OpenAI's API has and this server has not: clients send null for what they do not use.
constexpr const char* kAbsentMembers[] = {"audio",      "functions", "function_call", "prediction", "web_search_options",
                                          "moderation", "best_of",   "suffix"};

Error Wrong(std::string_view member, const Json& value, std::string_view expected) { return WrongMember(member, value, expected); }

// "content" as one text: a string, or parts whose texts are joined.
Result<std::string> ReadContent(const std::string& member, const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return Wrong(member, content, "a text, or a list of parts with \"type\": \"text\"");
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string type = JsonText(content[i], "type").value_or("");
    const auto text = JsonText(content[i], "text");
    if ((type != "text" && type != "input_text" && type != "output_text") || !text) {
      return Wrong(fmt::format("{}[{}]", member, i), content[i], "a part with \"type\": \"text\" and \"text\": this model reads text only");
    }
    if (i > 0) joined += '\n';
    joined += *text;
  }
  return joined;
}

// Calls that an assistant made, with their arguments as objects where templates want those, or as they were sent.
Result<Json> ReadPastCalls(const std::string& member, const Json& calls, bool as_objects) {
  if (!calls.is_array()) return Wrong(member, calls, "a list of calls");
  Json read = Json::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    const Json& function = JsonMember(calls[i], "function");
    const auto name = JsonText(function, "name");
    if (!name) return Wrong(fmt::format("{}[{}]", member, i), calls[i], "a call with \"function\" and its \"name\"");
    Json arguments = JsonMember(function, "arguments");
    if (as_objects && arguments.is_string()) {
      Result<Json> parsed = ParseJson(arguments.get<std::string>());
      if (parsed.ok() && parsed->is_object()) arguments = std::move(parsed).value();
    }
    if (!as_objects && arguments.is_object()) arguments = DumpJson(arguments, /*indent=*/-1);
    Json call = {{"type", "function"}, {"function", {{"name", *name}, {"arguments", std::move(arguments)}}}};
    if (const auto id = JsonText(calls[i], "id")) call["id"] = *id;
    read.push_back(std::move(call));
  }
  return read;
}

Result<Json> ReadMessage(size_t index, const Json& message, bool calls_as_objects) {
  const std::string member = fmt::format("messages[{}]", index);
  const std::string role = JsonText(message, "role").value_or("");
  constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool", "function"};
  if (std::find(std::begin(kRoles), std::end(kRoles), role) == std::end(kRoles)) {
    return Wrong(member + ".role", JsonMember(message, "role"), "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"");
  }
  Json read = {{"role", role == "developer" ? "system" : role == "function" ? "tool" : role}};
  const Json& content = JsonMember(message, "content");
  const Json& calls = JsonMember(message, "tool_calls");
  if (content.is_null()) {
    if (role != "assistant") return Wrong(member + ".content", content, "a text, or a list of parts");
    read["content"] = "";
  } else {
    BANTAM_ASSIGN(std::string text, ReadContent(member + ".content", content));
    read["content"] = std::move(text);
  }
  if (!calls.is_null() && !(calls.is_array() && calls.empty())) {
    BANTAM_ASSIGN(Json past, ReadPastCalls(member + ".tool_calls", calls, calls_as_objects));
    read["tool_calls"] = std::move(past);
  }
  for (const char* name : {"tool_call_id", "name", "reasoning_content"}) {
    if (const auto text = JsonText(message, name)) read[name] = *text;
  }
  return read;
}

Result<Json> ReadMessages(const Json& messages, bool calls_as_objects) {
  if (!messages.is_array() || messages.empty() || messages.size() > kMessagesMax) {
    return Wrong("messages", messages, fmt::format("a list of 1 to {} messages", kMessagesMax));
  }
  Json read = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    BANTAM_ASSIGN(Json message, ReadMessage(i, messages[i], calls_as_objects));
    read.push_back(std::move(message));
  }
  return read;
}

bool IsToolName(std::string_view name) {
  const auto allowed = [](char c) { return IsAlphanumericAscii(c) || c == '_' || c == '-' || c == '.'; };
  return !name.empty() && name.size() <= kToolNameBytesMax && std::all_of(name.begin(), name.end(), allowed);
}

Status CheckTools(const Json& tools) {
  if (!tools.is_array() || tools.size() > kToolsMax) return Wrong("tools", tools, fmt::format("a list of at most {} tools", kToolsMax));
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string member = fmt::format("tools[{}]", i);
    const Json& function = JsonMember(tools[i], "function");
    if (JsonText(tools[i], "type") != "function" || !function.is_object()) {
      return Wrong(member, tools[i], "an object with \"type\": \"function\" and \"function\"");
    }
    const auto name = JsonText(function, "name");
    if (!name || !IsToolName(*name)) {
      return Wrong(member + ".function.name", JsonMember(function, "name"), "1 to 64 letters, digits, '_', '-' and '.'");
    }
    const Json& parameters = JsonMember(function, "parameters");
    if (!parameters.is_null() && !parameters.is_object()) {
      return Wrong(member + ".function.parameters", parameters, "a JSON Schema, as an object");
    }
  }
  return Ok();
}

// What "tool_choice" says.
struct ToolChoice {
  enum class Kind : uint8_t { kAuto, kNone, kRequired } kind = Kind::kAuto;
  std::string name = {};  // of kRequired: this one; empty: any
};
Result<ToolChoice> ReadToolChoice(const Json& choice, const Json& tools) {
  using Kind = ToolChoice::Kind;
  if (choice.is_null() || choice == "auto") return ToolChoice{};
  if (choice == "none") return ToolChoice{Kind::kNone};
  const bool none = !tools.is_array() || tools.empty();
  const auto name = JsonText(JsonMember(choice, "function"), "name");
  if (choice != "required" && !name) {
    return Wrong("tool_choice", choice, "\"none\", \"auto\", \"required\", or an object with \"type\": \"function\" and a function's name");
  }
  if (none) return Wrong("tool_choice", choice, "\"tools\" beside it, of which one can be called");
  if (!name) return ToolChoice{Kind::kRequired};
  const bool known = std::any_of(tools.begin(), tools.end(), [&](const Json& tool) { return tool["function"]["name"] == *name; });
  if (!known) return Wrong("tool_choice", choice, "the name of one of \"tools\"");
  return ToolChoice{Kind::kRequired, *name};
}

// A schema of one call of these tools, or of the one with this name.
Json CallSchema(const Json& tools, const std::string& name) {
  Json calls = Json::array();
  for (const Json& tool : tools) {
    const Json& function = tool["function"];
    if (!name.empty() && function["name"] != name) continue;
    Json parameters = JsonMember(function, "parameters");
    if (parameters.is_null()) parameters = {{"type", "object"}, {"additionalProperties", false}};
    // References of a tool's schema are into itself.
    if (!parameters.contains("$id")) parameters["$id"] = fmt::format("tool:/{}", calls.size());
    calls.push_back({{"type", "object"},
                     {"properties", {{"name", {{"const", function["name"]}}}, {"arguments", std::move(parameters)}}},
                     {"required", {"name", "arguments"}},
                     {"additionalProperties", false}});
  }
  return calls.size() == 1 ? calls[0] : Json{{"anyOf", std::move(calls)}};
}

// For models whose template has no place for tools: said in words, and answered in JSON.
void DescribeTools(const Json& tools, Json* messages) {
  Json functions = Json::array();
  for (const Json& tool : tools) functions.push_back(tool["function"]);
  const std::string text =
      fmt::format("You can call these functions: {}\nTo call one, answer only with JSON: {{\"name\": its name, \"arguments\": an object}}",
                  DumpJson(functions, /*indent=*/-1));
  Json& first = (*messages)[0];
  if (first["role"] == "system") {
    first["content"] = first["content"].get<std::string>() + "\n\n" + text;
  } else {
    messages->insert(messages->begin(), Json{{"role", "system"}, {"content", text}});
  }
}

JsonRequestContext EngineContext(const ChatContext& context, bool tools) {
  const ServedModel& model = context.model;
  return {.tokenizer = *model.tokenizer,
          .chat_template = tools && model.tool_template != nullptr ? model.tool_template : model.chat_template,
          .now = context.now,
          .defaults = model.defaults,
          .constraints = model.constraints,
          .context = model.context};
}

// What llama.cpp's clients call otherwise, or say of its slots and of what they are told on the way.
void TakeLlamaMembers(Json* body) {
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"n_predict", "max_tokens"}, {"cache_prompt", "cache"}, {"repeat_penalty", "repetition_penalty"}};
  for (const auto& [theirs, ours] : kNames) {
    Json value = TakeMember(body, theirs);
    // As long as the context lets it.
    if (value == -1 && std::string_view(theirs) == "n_predict") value = uint64_t{UINT32_MAX};
    if (!value.is_null() && !body->contains(ours)) (*body)[ours] = value;
  }
  const Json schema = TakeMember(body, "json_schema");
  if (!schema.is_null() && !body->contains("response_format")) {
    (*body)["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", schema}}}};
  }
  for (const char* name : {"id_slot", "timings_per_token", "return_progress"}) (void)TakeMember(body, name);
}

Status DropLeftMembers(Json* body) {
  TakeLlamaMembers(body);
  for (const char* name : kLeftMembers) body->erase(name);
  for (const char* name : kAbsentMembers) {
    const Json value = TakeMember(body, name);
    if (!value.is_null())
      return Error(Code::kUnsupported, fmt::format("{}: {}: this server has none; leave it out", name, ShortJson(value)));
  }
  return Ok();
}

Status CheckObject(const Json& body) {
  if (body.is_object()) return Ok();
  return Error(Code::kInvalidArgument, fmt::format("{}: expected an object", ShortJson(body)));
}

// Reads the tools, and brings what they ask for into the other members.
Status ApplyTools(Json* body, const ServedModel& model, ParsePlan* plan) {
  Json tools = TakeMember(body, "tools");
  const Json choice_member = TakeMember(body, "tool_choice");
  const Json parallel = TakeMember(body, "parallel_tool_calls");
  if (!tools.is_null()) BANTAM_TRY(CheckTools(tools));
  BANTAM_ASSIGN(const ToolChoice choice, ReadToolChoice(choice_member, tools));
  if (!parallel.is_null()) {
    BANTAM_ASSIGN(const bool several, ReadFlag("parallel_tool_calls", parallel));
    plan->one_call = !several;
  }
  if (tools.is_null() || tools.empty() || choice.kind == ToolChoice::Kind::kNone) return Ok();
  plan->tools = tools;
  if (choice.kind == ToolChoice::Kind::kRequired) {
    for (const char* name : {"response_format", "grammar", "regex"}) {
      if (!JsonMember(*body, name).is_null()) return Wrong(name, (*body)[name], "nothing beside a tool_choice that demands a call");
    }
    plan->forced_call = true;
    (*body)["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", CallSchema(tools, choice.name)}}}};
  }
  if (model.template_shows_tools) {
    (*body)["tools"] = std::move(tools);
  } else {
    DescribeTools(tools, &(*body)["messages"]);
  }
  return Ok();
}

Status ApplyReasoningEffort(Json* body) {
  const Json effort = TakeMember(body, "reasoning_effort");
  if (effort.is_null()) return Ok();
  BANTAM_ASSIGN(const std::string text, ReadText("reasoning_effort", effort));
  Json& others = (*body)["chat_template_kwargs"];
  if (others.is_null()) others = Json::object();
  if (!others.is_object()) return Ok();  // refused where it is read
  others["reasoning_effort"] = text;
  // Qwen's way to say the same.
  if (text == "none") others["enable_thinking"] = false;
  return Ok();
}

// Some templates take arguments of past calls apart, others write them as they are: what is made of messages, of whichever the template
// takes.
template <typename Made>
Result<Made> WithMessages(const Json& messages, const std::function<Result<Made>(Json read)>& make) {
  std::optional<Error> first;
  for (const bool calls_as_objects : {true, false}) {
    BANTAM_ASSIGN(Json read, ReadMessages(messages, calls_as_objects));
    Result<Made> made = make(std::move(read));
    if (made.ok()) return made;
    const bool other_way = calls_as_objects && made.error().code() == Code::kCorrupt;
    if (!other_way) return first ? *first : made.error();
    first = made.error();
  }
  CHECK(false);
}

}  // namespace

Json TakeMember(Json* object, const char* name) {
  if (!object->is_object()) return nullptr;
  const auto found = object->find(name);
  if (found == object->end()) return nullptr;
  Json taken = std::move(*found);
  object->erase(found);
  return taken;
}

Result<ChatPlan> ReadChatRequest(Json body, const ChatContext& context) {
  BANTAM_TRY(CheckObject(body));
  BANTAM_TRY(DropLeftMembers(&body));
  const Json modalities = TakeMember(&body, "modalities");
  if (!modalities.is_null() && modalities != Json::array({"text"})) return Wrong("modalities", modalities, "[\"text\"]");
  if (!JsonMember(body, "prompt").is_null()) return Wrong("prompt", body["prompt"], "\"messages\" here; prompts go to /v1/completions");
  const Json messages = TakeMember(&body, "messages");
  ChatPlan plan;
  plan.parse.parsed = true;
  BANTAM_TRY(ApplyReasoningEffort(&body));
  const auto read = [&](Json read_messages) -> Result<Request> {
    Json whole = body;
    whole["messages"] = std::move(read_messages);
    BANTAM_TRY(ApplyTools(&whole, context.model, &plan.parse));
    const bool tools = whole.contains("tools");
    return ReadJsonRequest(whole, EngineContext(context, tools));
  };
  BANTAM_ASSIGN(plan.request, WithMessages<Request>(messages, read));
  const std::vector<uint32_t>& tokens = plan.request.tokens;
  const size_t shown = std::min(tokens.size(), kPromptEndTokens);
  plan.parse.prompt_end = context.model.tokenizer->Decode(std::span(tokens).last(shown), /*special=*/true);
  if (!plan.parse.forced_call) plan.request.written = context.model.markers;
  return plan;
}

Result<std::string> RenderChatRequest(Json body, const ChatContext& context) {
  BANTAM_TRY(CheckObject(body));
  BANTAM_TRY(ApplyReasoningEffort(&body));
  const Json messages = TakeMember(&body, "messages");
  const auto render = [&](Json read) -> Result<std::vector<PromptPiece>> {
    Json whole = {{"chat_template_kwargs", JsonMember(body, "chat_template_kwargs")}, {"tools", JsonMember(body, "tools")}};
    whole["messages"] = std::move(read);
    ParsePlan ignored;
    BANTAM_TRY(ApplyTools(&whole, context.model, &ignored));
    const bool tools = whole.contains("tools");
    return RenderMessages(whole, EngineContext(context, tools));
  };
  BANTAM_ASSIGN(const std::vector<PromptPiece> pieces, WithMessages<std::vector<PromptPiece>>(messages, render));
  std::string text;
  for (const PromptPiece& piece : pieces) text += piece.text;
  return text;
}

Result<ChatPlan> ReadCompletionRequest(Json body, const ChatContext& context) {
  BANTAM_TRY(CheckObject(body));
  BANTAM_TRY(DropLeftMembers(&body));
  for (const char* name : {"messages", "tools"}) {
    if (!JsonMember(body, name).is_null()) return Wrong(name, body[name], "\"prompt\" here; chats go to /v1/chat/completions");
  }
  const Json prompt = TakeMember(&body, "prompt");
  // A list of numbers is one prompt.
  const bool several = prompt.is_array() && !prompt.empty() && !prompt[0].is_number();
  if (several && prompt.size() > kPromptsPerBodyMax) {
    return Error(Code::kInvalidArgument,
                 fmt::format("prompt: a list of {} prompts; expected at most {}", prompt.size(), kPromptsPerBodyMax));
  }
  ChatPlan plan;
  for (size_t i = 0; i < (several ? prompt.size() : 1); ++i) {
    body["prompt"] = several ? prompt[i] : prompt;
    BANTAM_ASSIGN(Request request, ReadJsonRequest(body, EngineContext(context, /*tools=*/false)));
    if (i == 0) {
      plan.request = std::move(request);
    } else {
      plan.others.push_back(std::move(request));
    }
  }
  const size_t answers = (1 + plan.others.size()) * std::max(plan.request.choices, plan.request.beams);
  if (several && answers > kPromptsPerBodyMax) {
    return Error(Code::kInvalidArgument,
                 fmt::format("n: {} answers to all prompts together; expected at most {}", answers, kPromptsPerBodyMax));
  }
  return plan;
}

}  // namespace bantam
