#include "serve/responses_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "engine/json_members.h"
#include "serve/call.h"
#include "serve/chat_request.h"
#include "serve/dialects.h"

namespace bantam {
namespace {

// Those without a name there are read here, or left.
constexpr MemberName kMembers[] = {{"model", "model"},
                                   {"temperature", "temperature"},
                                   {"top_p", "top_p"},
                                   {"parallel_tool_calls", "parallel_tool_calls"},
                                   {"user", "user"},
                                   {"max_output_tokens", "max_tokens"},
                                   {"priority", "priority"},
                                   {"deadline_ms", "deadline_ms"},
                                   {"adapter", "adapter"},
                                   {"confidence_threshold", "confidence_threshold"},
                                   {"cache", "cache"},
                                   {"seed", "seed"},
                                   {"stop", "stop"},
                                   {"min_p", "min_p"},
                                   {"top_k", "top_k"},
                                   {"repetition_penalty", "repetition_penalty"},
                                   {"chat_template_kwargs", "chat_template_kwargs"},
                                   {"input", nullptr},
                                   {"instructions", nullptr},
                                   {"previous_response_id", nullptr},
                                   {"store", nullptr},
                                   {"stream", nullptr},
                                   {"stream_options", nullptr},
                                   {"tools", nullptr},
                                   {"tool_choice", nullptr},
                                   {"text", nullptr},
                                   {"reasoning", nullptr},
                                   {"include", nullptr},
                                   {"top_logprobs", nullptr},
                                   {"truncation", nullptr},
                                   {"background", nullptr},
                                   {"conversation", nullptr},
                                   {"context_management", nullptr},
                                   {"prompt", nullptr},
                                   {"max_tool_calls", nullptr},
                                   {"metadata", nullptr},
                                   {"moderation", nullptr},
                                   {"service_tier", nullptr},
                                   {"safety_identifier", nullptr},
                                   {"prompt_cache_key", nullptr},
                                   {"prompt_cache_options", nullptr},
                                   {"prompt_cache_retention", nullptr}};

Error Refused(std::string_view member, std::string_view why) { return Error(Code::kUnsupported, fmt::format("{}: {}", member, why)); }

// What is echoed is kept until the answer ends, and written with it: it has OpenAI's limits.
Status CheckEchoed(const Json& body) {
  constexpr size_t kEntriesMax = 16;
  constexpr size_t kNameBytesMax = 64;
  constexpr size_t kTextBytesMax = 512;
  const Json& metadata = JsonMember(body, "metadata");
  bool good = metadata.is_null() || (metadata.is_object() && metadata.size() <= kEntriesMax);
  for (const auto& [name, value] : metadata.items()) {
    good = good && name.size() <= kNameBytesMax && value.is_string() && value.get_ref<const std::string&>().size() <= kTextBytesMax;
  }
  if (!good) {
    return WrongMember("metadata", metadata,
                       fmt::format("at most {} texts of {} bytes, by names of {}", kEntriesMax, kTextBytesMax, kNameBytesMax));
  }
  for (const char* name : {"user", "safety_identifier", "prompt_cache_key", "previous_response_id"}) {
    const Json& value = JsonMember(body, name);
    if (value.is_null() || (value.is_string() && value.get_ref<const std::string&>().size() <= kTextBytesMax)) continue;
    return WrongMember(name, value, fmt::format("a text of at most {} bytes", kTextBytesMax));
  }
  return Ok();
}

Status RefuseWhatIsNotHere(const Json& body) {
  constexpr std::pair<const char*, std::string_view> kAbsent[] = {
      {"conversation", "this server keeps no conversations; go on with previous_response_id, or send all items"},
      {"prompt", "this server keeps no prompts; send instructions and input"},
      {"max_tool_calls", "this server has no tools of its own, whose calls it could count"},
      {"context_management", "what does not fit the context is refused here, and nothing is made shorter"},
      {"moderation", "this server has no moderation"}};
  for (const auto& [member, why] : kAbsent) {
    if (!JsonMember(body, member).is_null()) return Refused(member, why);
  }
  if (const Json& background = JsonMember(body, "background"); !background.is_null()) {
    BANTAM_ASSIGN(const bool wanted, ReadFlag("background", background));
    if (wanted) return Refused("background", "answers are made while their client waits; leave it out, or stream");
  }
  const Json& truncation = JsonMember(body, "truncation");
  if (!truncation.is_null() && truncation != "disabled") {
    return Refused("truncation", "what does not fit the context is refused; expected \"disabled\"");
  }
  return CheckEchoed(body);
}

// ---- Items ----

// The parts of a message, or of what a tool gave, as a list.
Result<Json> ReadParts(const std::string& member, const Json& content, bool assistant) {
  const std::string_view own = assistant ? "output_text" : "input_text";
  Json parts = Json::array();
  const auto add = [&](const std::string& text) {
    Json part = {{"type", own}, {"text", text}};
    if (assistant) part["annotations"] = Json::array();
    parts.push_back(std::move(part));
  };
  if (content.is_string()) {
    add(content.get<std::string>());
    return parts;
  }
  constexpr size_t kPartsMax = 1024;
  if (!content.is_array() || content.size() > kPartsMax) {
    return WrongMember(member, content, fmt::format("a text, or a list of at most {} parts", kPartsMax));
  }
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string type = JsonText(content[i], "type").value_or("");
    const bool text_type = type == "input_text" || type == "output_text" || type == "text";
    const auto text = JsonText(content[i], type == "refusal" ? "refusal" : "text");
    if ((!text_type && type != "refusal") || !text) {
      return WrongMember(fmt::format("{}[{}]", member, i), content[i],
                         fmt::format("a part with \"type\": \"{}\" and \"text\": this model reads text only", own));
    }
    add(*text);
  }
  return parts;
}

std::string IdOf(const Json& item, std::string_view prefix) {
  const auto id = JsonText(item, "id");
  return id && !id->empty() ? *id : RandomId(prefix);
}

Result<Json> ReadMessageItem(const std::string& member, const Json& item) {
  const std::string role = JsonText(item, "role").value_or("");
  constexpr std::string_view kRoles[] = {"user", "assistant", "system", "developer"};
  if (std::find(std::begin(kRoles), std::end(kRoles), role) == std::end(kRoles)) {
    return WrongMember(member + ".role", JsonMember(item, "role"), "\"user\", \"assistant\", \"system\" or \"developer\"");
  }
  BANTAM_ASSIGN(Json parts, ReadParts(member + ".content", JsonMember(item, "content"), role == "assistant"));
  return Json{{"id", IdOf(item, "msg_")}, {"type", "message"}, {"status", "completed"}, {"role", role}, {"content", std::move(parts)}};
}

Result<Json> ReadCallItem(const std::string& member, const Json& item) {
  const auto call = JsonText(item, "call_id");
  const auto name = JsonText(item, "name");
  const auto arguments = JsonText(item, "arguments");
  if (!call || !name || !arguments) return WrongMember(member, item, "a call with the texts \"call_id\", \"name\" and \"arguments\"");
  return Json{{"id", IdOf(item, "fc_")}, {"type", "function_call"}, {"status", "completed"},
              {"call_id", *call},        {"name", *name},           {"arguments", *arguments}};
}

Result<Json> ReadCallOutputItem(const std::string& member, const Json& item) {
  const auto call = JsonText(item, "call_id");
  if (!call) return WrongMember(member, item, "what a call gave, with its \"call_id\" and \"output\"");
  const Json& output = JsonMember(item, "output");
  Json read = {{"id", IdOf(item, "fco_")}, {"type", "function_call_output"}, {"status", "completed"}, {"call_id", *call}};
  if (output.is_string()) {
    read["output"] = output;
    return read;
  }
  BANTAM_ASSIGN(read["output"], ReadParts(member + ".output", output, /*assistant=*/false));
  return read;
}

Result<Json> ReadReasoningItem(const std::string& member, const Json& item) {
  Json read = {{"id", IdOf(item, "rs_")}, {"type", "reasoning"}, {"summary", Json::array()}, {"content", Json::array()}};
  for (const char* list : {"summary", "content"}) {
    const Json& parts = JsonMember(item, list);
    if (parts.is_null()) continue;
    const std::string name = fmt::format("{}.{}", member, list);
    if (!parts.is_array()) return WrongMember(name, parts, "a list of parts");
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto type = JsonText(parts[i], "type");
      const auto text = JsonText(parts[i], "text");
      if (!type || !text) return WrongMember(fmt::format("{}[{}]", name, i), parts[i], "a part with \"type\" and \"text\"");
      read[list].push_back({{"type", *type}, {"text", *text}});
    }
  }
  return read;
}

Result<Json> ReadItem(const std::string& member, const Json& item) {
  const bool typed = !JsonMember(item, "type").is_null();
  const std::string type = JsonText(item, "type").value_or("");
  if (item.is_object() && (!typed || type == "message")) return ReadMessageItem(member, item);
  if (type == "function_call") return ReadCallItem(member, item);
  if (type == "function_call_output") return ReadCallOutputItem(member, item);
  if (type == "reasoning") return ReadReasoningItem(member, item);
  if (type == "item_reference") {
    return Refused(member, "references to items are not followed here; send the item itself, or previous_response_id");
  }
  return WrongMember(member, item, "an item of type \"message\", \"function_call\", \"function_call_output\" or \"reasoning\"");
}

// ---- Items as messages ----

std::string JoinTexts(const Json& parts) {
  if (parts.is_string()) return parts.get<std::string>();
  std::string joined;
  for (const Json& part : parts) {
    if (!joined.empty()) joined += '\n';
    joined += JsonText(part, "text").value_or("");
  }
  return joined;
}

// What an assistant said in a row is one message: its reasoning, its text, its calls.
class MessageJoiner {
 public:
  void Add(const Json& item) {
    const std::string type = JsonText(item, "type").value_or("");
    if (type == "reasoning") {
      const Json& content = JsonMember(item, "content");
      Json& assistant = Assistant(/*joins=*/false);
      assistant["reasoning_content"] = JoinTexts(content.empty() ? JsonMember(item, "summary") : content);
    } else if (type == "function_call") {
      Assistant(/*joins=*/true)["tool_calls"].push_back(
          {{"id", item["call_id"]}, {"type", "function"}, {"function", {{"name", item["name"]}, {"arguments", item["arguments"]}}}});
    } else if (type == "function_call_output") {
      messages_.push_back({{"role", "tool"}, {"tool_call_id", item["call_id"]}, {"content", JoinTexts(item["output"])}});
    } else if (item["role"] == "assistant") {
      const bool joins = !messages_.empty() && !messages_.back().contains("tool_calls") && messages_.back()["content"] == "";
      Assistant(joins)["content"] = JoinTexts(item["content"]);
    } else {
      messages_.push_back({{"role", item["role"]}, {"content", JoinTexts(item["content"])}});
    }
  }
  Json Take() { return std::move(messages_); }

 private:
  // The last message where it is an assistant's and may be joined, or a new one.
  Json& Assistant(bool joins) {
    if (!joins || messages_.empty() || messages_.back()["role"] != "assistant") {
      messages_.push_back({{"role", "assistant"}, {"content", ""}});
    }
    return messages_.back();
  }

  Json messages_ = Json::array();
};

// ---- Tools and formats ----

Result<Json> ReadTools(const Json& tools) {
  if (!tools.is_array() || tools.size() > kToolsMax) return WrongMember("tools", tools, fmt::format("a list of at most {}", kToolsMax));
  Json list = Json::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string member = fmt::format("tools[{}]", i);
    const std::string type = JsonText(tools[i], "type").value_or("");
    if (type.empty()) return WrongMember(member, tools[i], "an object with \"type\": \"function\", \"name\" and \"parameters\"");
    if (type != "function") {
      return Refused(member, fmt::format("tools of the server's own ({}) are none here; expected \"type\": \"function\"",
                                         ShortJson(JsonMember(tools[i], "type"))));
    }
    Json function = Json::object();
    for (const char* name : {"name", "description", "parameters", "strict"}) {
      if (const Json& value = JsonMember(tools[i], name); !value.is_null()) function[name] = value;
    }
    list.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return list;
}

// {"type": "allowed_tools", "mode", "tools": [{"type": "function", "name"}]}: only those may be called.
Status ReadAllowedTools(const Json& choice, Json* into) {
  const Json& allowed = JsonMember(choice, "tools");
  const auto mode = JsonText(choice, "mode");
  if (!allowed.is_array() || (mode != "auto" && mode != "required")) {
    return WrongMember("tool_choice", choice, "\"mode\": \"auto\" or \"required\", and a list of \"tools\"");
  }
  Json tools = Json::array();
  for (const Json& tool : JsonMember(*into, "tools")) {
    const auto same = [&](const Json& one) { return JsonText(one, "name") == JsonText(tool["function"], "name"); };
    if (std::any_of(allowed.begin(), allowed.end(), same)) tools.push_back(tool);
  }
  if (tools.size() != allowed.size()) return WrongMember("tool_choice", choice, "names of \"tools\"");
  (*into)["tools"] = std::move(tools);
  (*into)["tool_choice"] = *mode;
  return Ok();
}

Status ReadToolMembers(const Json& body, Json* into) {
  if (const Json& tools = JsonMember(body, "tools"); !tools.is_null()) {
    BANTAM_ASSIGN((*into)["tools"], ReadTools(tools));
  }
  const Json& choice = JsonMember(body, "tool_choice");
  if (choice.is_null()) return Ok();
  const std::string type = JsonText(choice, "type").value_or("");
  if (type == "allowed_tools") return ReadAllowedTools(choice, into);
  if (choice.is_object() && type != "function") return Refused("tool_choice", "only functions can be called here");
  (*into)["tool_choice"] = choice;
  if (choice.is_object()) (*into)["tool_choice"] = {{"type", "function"}, {"function", {{"name", JsonMember(choice, "name")}}}};
  return Ok();
}

Status ReadTextMember(const Json& body, Json* into) {
  const Json& text = JsonMember(body, "text");
  if (text.is_null()) return Ok();
  constexpr MemberName kKnown[] = {{"format", nullptr}, {"verbosity", nullptr}};
  Json none = Json::object();
  if (!text.is_object()) return WrongMember("text", text, "an object with \"format\"");
  BANTAM_TRY(TakeMembers(text, kKnown, &none).With("text"));
  const Json& format = JsonMember(text, "format");
  if (format.is_null()) return Ok();
  if (JsonText(format, "type") == "json_schema") {
    (*into)["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", JsonMember(format, "schema")}}}};
  } else {
    (*into)["response_format"] = format;
  }
  return Ok();
}

Status ReadReasoningMember(const Json& body, Json* into) {
  const Json& reasoning = JsonMember(body, "reasoning");
  if (reasoning.is_null()) return Ok();
  if (!reasoning.is_object()) return WrongMember("reasoning", reasoning, "an object with \"effort\"");
  // There are no summaries: what a model thinks is shown as it is.
  constexpr MemberName kKnown[] = {
      {"effort", "reasoning_effort"}, {"summary", nullptr}, {"generate_summary", nullptr}, {"context", nullptr}};
  return TakeMembers(reasoning, kKnown, into).With("reasoning");
}

Status ReadInclude(const Json& body, Json* into) {
  const Json& include = JsonMember(body, "include");
  if (!include.is_null() && !include.is_array()) return WrongMember("include", include, "a list of texts");
  for (const Json& wanted : include) {
    // What a model thinks is not encrypted here, so whoever sends it back needs nothing else.
    if (wanted == "reasoning.encrypted_content") continue;
    if (wanted != "message.output_text.logprobs") {
      return WrongMember("include", wanted, "\"message.output_text.logprobs\" or \"reasoning.encrypted_content\"");
    }
    (*into)["logprobs"] = true;
  }
  const Json& top = JsonMember(body, "top_logprobs");
  if (top.is_null() || top == 0) return Ok();
  (*into)["logprobs"] = true;
  (*into)["top_logprobs"] = top;
  return Ok();
}

}  // namespace

Result<Json> ReadResponseInput(const Json& body) {
  const Json& input = JsonMember(body, "input");
  Json items = Json::array();
  if (input.is_string()) {
    BANTAM_ASSIGN(Json item, ReadMessageItem("input", {{"role", "user"}, {"content", input}}));
    items.push_back(std::move(item));
    return items;
  }
  if (!input.is_array() || input.empty() || input.size() > kResponseItemsMax) {
    return WrongMember("input", input, fmt::format("a text, or a list of 1 to {} items", kResponseItemsMax));
  }
  for (size_t i = 0; i < input.size(); ++i) {
    BANTAM_ASSIGN(Json item, ReadItem(fmt::format("input[{}]", i), input[i]));
    items.push_back(std::move(item));
  }
  return items;
}

Result<Json> ResponsesToOpenAi(const Json& body, const Json& items) {
  Json into = Json::object();
  BANTAM_TRY(TakeMembers(body, kMembers, &into));
  BANTAM_TRY(RefuseWhatIsNotHere(body));
  BANTAM_TRY(ReadToolMembers(body, &into));
  BANTAM_TRY(ReadTextMember(body, &into));
  BANTAM_TRY(ReadReasoningMember(body, &into));
  BANTAM_TRY(ReadInclude(body, &into));
  if (items.size() > kResponseItemsMax) {
    return Error(Code::kInvalidArgument,
                 fmt::format("input: {} items with those before; expected at most {}", items.size(), kResponseItemsMax));
  }
  MessageJoiner messages;
  if (const Json& instructions = JsonMember(body, "instructions"); !instructions.is_null()) {
    BANTAM_ASSIGN(const std::string text, ReadText("instructions", instructions));
    messages.Add({{"role", "system"}, {"content", text}});
  }
  for (const Json& item : items) messages.Add(item);
  into["messages"] = messages.Take();
  return into;
}

Error NameResponseMembers(const Error& error) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {{"max_tokens", "max_output_tokens"},
                                                                      {"response_format.json_schema", "text.format.schema"},
                                                                      {"response_format", "text.format"},
                                                                      {"reasoning_effort", "reasoning.effort"},
                                                                      {"messages", "input"}};
  std::string message = error.message();
  for (const auto& [theirs, ours] : kNames) {
    const bool begins = message.starts_with(theirs) && message.size() > theirs.size();
    if (!begins || (message[theirs.size()] != ':' && message[theirs.size()] != '[')) continue;
    return Error(error.code(), message.replace(0, theirs.size(), ours), error.where());
  }
  // "tools[0].function.name": here without the object between.
  constexpr std::string_view kBetween = ".function";
  const size_t between = message.find(kBetween);
  if (message.starts_with("tools[") && between < message.find(' ')) message.erase(between, kBetween.size());
  return Error(error.code(), std::move(message), error.where());
}

Json EchoResponseRequest(const Json& body) {
  Json echo = Json::object();
  const auto take = [&](const char* name, Json otherwise) {
    const Json& value = JsonMember(body, name);
    echo[name] = value.is_null() ? std::move(otherwise) : value;
  };
  take("instructions", nullptr);
  take("max_output_tokens", nullptr);
  echo["max_tool_calls"] = nullptr;
  take("metadata", Json::object());
  take("parallel_tool_calls", true);
  take("previous_response_id", nullptr);
  take("reasoning", {{"effort", nullptr}, {"summary", nullptr}});
  take("text", {{"format", {{"type", "text"}}}});
  take("tool_choice", "auto");
  take("tools", Json::array());
  take("top_logprobs", 0);
  echo["truncation"] = "disabled";
  for (const char* name : {"user", "safety_identifier", "prompt_cache_key"}) {
    if (const Json& value = JsonMember(body, name); !value.is_null()) echo[name] = value;
  }
  return echo;
}

}  // namespace bantam
