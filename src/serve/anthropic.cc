// Anthropic's API: messages and count_tokens, brought into OpenAI's members and back.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "engine/json_members.h"
#include "engine/json_request.h"
#include "serve/dialects.h"
#include "serve/gateway.h"
#include "serve/routes.h"

namespace bantam {
namespace {

// ---- Errors ----

std::string_view ErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

std::string ErrorBody(const ApiError& error) {
  return DumpJson({{"type", "error"}, {"error", {{"type", ErrorType(error.status)}, {"message", error.message}}}}, /*indent=*/-1);
}
std::string ErrorEvent(const ApiError& error) { return fmt::format("event: error\ndata: {}\n\n", ErrorBody(error)); }

// ---- Requests ----

// The texts of a list of blocks, or a text.
Result<std::string> ReadTextBlocks(const std::string& member, const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return WrongMember(member, content, "a text, or a list of blocks");
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    const auto text = JsonText(content[i], "text");
    if (JsonText(content[i], "type") != "text" || !text) {
      return WrongMember(fmt::format("{}[{}]", member, i), content[i], "a block with \"type\": \"text\": this model reads text only");
    }
    joined += (i > 0 ? "\n" : "") + *text;
  }
  return joined;
}

// What the blocks of one message are in OpenAI's members: results of tools are messages of their own.
struct ReadBlocks {
  std::string text = {};
  std::string thinking = {};
  Json calls = Json::array();
  Json results = Json::array();
};
Status ReadBlock(const std::string& member, const Json& block, bool assistant, ReadBlocks* read) {
  const std::string type = JsonText(block, "type").value_or("");
  if (type == "text" && JsonText(block, "text")) {
    if (!read->text.empty()) read->text += '\n';
    read->text += *JsonText(block, "text");
  } else if (assistant && type == "tool_use" && JsonText(block, "id") && JsonText(block, "name")) {
    const Json& input = JsonMember(block, "input");
    read->calls.push_back({{"id", *JsonText(block, "id")},
                           {"type", "function"},
                           {"function", {{"name", *JsonText(block, "name")}, {"arguments", input.is_null() ? Json::object() : input}}}});
  } else if (assistant && type == "thinking" && JsonText(block, "thinking")) {
    read->thinking += *JsonText(block, "thinking");
  } else if (assistant && type == "redacted_thinking") {
    return Ok();
  } else if (!assistant && type == "tool_result" && JsonText(block, "tool_use_id")) {
    const Json& content = JsonMember(block, "content");
    BANTAM_ASSIGN(std::string text, content.is_null() ? Result<std::string>("") : ReadTextBlocks(member + ".content", content));
    read->results.push_back({{"role", "tool"}, {"tool_call_id", *JsonText(block, "tool_use_id")}, {"content", std::move(text)}});
  } else {
    return WrongMember(member, block,
                       assistant ? "a block of text, thinking or tool_use, with its members"
                                 : "a block of text or tool_result, with its members: this model reads text only");
  }
  return Ok();
}

Status ReadMessage(const std::string& member, const Json& message, Json* messages) {
  const std::string role = JsonText(message, "role").value_or("");
  if (role != "user" && role != "assistant") {
    return WrongMember(member + ".role", JsonMember(message, "role"), "\"user\" or \"assistant\"");
  }
  const Json& content = JsonMember(message, "content");
  ReadBlocks read;
  if (content.is_string()) {
    read.text = content.get<std::string>();
  } else if (content.is_array()) {
    for (size_t i = 0; i < content.size(); ++i) {
      BANTAM_TRY(ReadBlock(fmt::format("{}.content[{}]", member, i), content[i], role == "assistant", &read));
    }
  } else {
    return WrongMember(member + ".content", content, "a text, or a list of blocks");
  }
  for (Json& result : read.results) messages->push_back(std::move(result));
  if (!read.results.empty() && read.text.empty()) return Ok();
  Json said = {{"role", role}, {"content", std::move(read.text)}};
  if (!read.thinking.empty()) said["reasoning_content"] = std::move(read.thinking);
  if (!read.calls.empty()) said["tool_calls"] = std::move(read.calls);
  messages->push_back(std::move(said));
  return Ok();
}

Result<Json> ReadMessages(const Json& body) {
  Json messages = Json::array();
  if (const Json& system = JsonMember(body, "system"); !system.is_null()) {
    BANTAM_ASSIGN(std::string text, ReadTextBlocks("system", system));
    if (!text.empty()) messages.push_back({{"role", "system"}, {"content", std::move(text)}});
  }
  const Json& list = JsonMember(body, "messages");
  if (!list.is_array() || list.empty() || list.size() > kMessagesMax) {
    return WrongMember("messages", list, fmt::format("a list of 1 to {} messages", kMessagesMax));
  }
  for (size_t i = 0; i < list.size(); ++i) BANTAM_TRY(ReadMessage(fmt::format("messages[{}]", i), list[i], &messages));
  return messages;
}

Status ReadTools(const Json& body, Json* into) {
  const Json& tools = JsonMember(body, "tools");
  if (tools.is_null()) return Ok();
  if (!tools.is_array() || tools.size() > kToolsMax) return WrongMember("tools", tools, fmt::format("a list of at most {}", kToolsMax));
  Json list = Json::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    const auto name = JsonText(tools[i], "name");
    const Json& schema = JsonMember(tools[i], "input_schema");
    if (!name || !schema.is_object()) {
      return WrongMember(fmt::format("tools[{}]", i), tools[i],
                         "an object with \"name\" and \"input_schema\": tools of the server are none");
    }
    Json function = {{"name", *name}, {"parameters", schema}};
    if (const auto description = JsonText(tools[i], "description")) function["description"] = *description;
    list.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  (*into)["tools"] = std::move(list);
  const Json& choice = JsonMember(body, "tool_choice");
  if (choice.is_null()) return Ok();
  const std::string type = JsonText(choice, "type").value_or("");
  if (type == "tool" && JsonText(choice, "name")) {
    (*into)["tool_choice"] = {{"type", "function"}, {"function", {{"name", *JsonText(choice, "name")}}}};
  } else if (type == "auto" || type == "none" || type == "any") {
    (*into)["tool_choice"] = type == "any" ? "required" : type;
  } else {
    return WrongMember("tool_choice", choice, "an object with \"type\": \"auto\", \"any\", \"none\", or \"tool\" and its \"name\"");
  }
  if (JsonFlag(choice, "disable_parallel_tool_use", false)) (*into)["parallel_tool_calls"] = false;
  return Ok();
}

// "thinking": models that can leave it do, where it is disabled.
Status ReadThinking(const Json& body, Json* into) {
  const Json& thinking = JsonMember(body, "thinking");
  if (thinking.is_null()) return Ok();
  const std::string type = JsonText(thinking, "type").value_or("");
  if (type != "enabled" && type != "disabled" && type != "adaptive") {
    return WrongMember("thinking", thinking, "an object with \"type\": \"enabled\" or \"disabled\"");
  }
  (*into)["chat_template_kwargs"] = {{"enable_thinking", type != "disabled"}};
  return Ok();
}

// ---- Answers ----

std::string Event(std::string_view type, Json json) {
  Json whole = {{"type", type}};
  whole.update(json);
  return fmt::format("event: {}\ndata: {}\n\n", type, DumpJson(whole, /*indent=*/-1));
}

std::string_view StopReasonOf(const Finish& finish, bool called) {
  switch (finish.reason) {
    case StopReason::kEndOfTurn:
      return called ? "tool_use" : "end_turn";
    case StopReason::kStopString:
      return "stop_sequence";
    case StopReason::kLength:
    case StopReason::kContextFull:
    case StopReason::kDeadline:
    case StopReason::kCancelled:
    case StopReason::kError:
      return "max_tokens";
  }
  return "max_tokens";
}

Json StopJson(const Finish& finish, bool called) {
  return {{"stop_reason", StopReasonOf(finish, called)},
          {"stop_sequence", finish.reason == StopReason::kStopString ? Json(finish.stop) : Json(nullptr)}};
}

Json UsageJson(const AnswerUsage& usage) {
  return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.cached_tokens},
          {"output_tokens", usage.generated_tokens}};
}

Json InputOf(const ToolCall& call) {
  const Result<Json> input = ParseJson(call.arguments);
  return input.ok() && input->is_object() ? *input : Json::object();
}

class MessageWriter final : public AnswerWriter {
 public:
  MessageWriter(std::shared_ptr<const ServedModel> model, size_t prompt_tokens) : model_(std::move(model)), prompt_tokens_(prompt_tokens) {}

  std::string Begin() override {
    Json message = Message(Json::array());
    message["stop_reason"] = nullptr;
    message["stop_sequence"] = nullptr;
    message["usage"] = UsageJson({.prompt_tokens = prompt_tokens_});
    return Event("message_start", {{"message", std::move(message)}});
  }
  std::string Add(const AnswerDelta& delta) override {
    std::string events;
    if (!delta.output.reasoning.empty()) {
      events += Open(Block::kThinking, {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
      events += Delta({{"type", "thinking_delta"}, {"thinking", delta.output.reasoning}});
    }
    if (!delta.output.content.empty()) {
      events += Open(Block::kText, {{"type", "text"}, {"text", ""}});
      events += Delta({{"type", "text_delta"}, {"text", delta.output.content}});
    }
    for (const ToolCall& call : delta.output.tool_calls) {
      events += Close();
      events += Open(Block::kCall, {{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", Json::object()}});
      events += Delta({{"type", "input_json_delta"}, {"partial_json", call.arguments}});
      events += Close();
    }
    if (delta.finish != nullptr) {
      events += Close();
      stop_ = StopJson(*delta.finish, delta.called);
    }
    return events;
  }
  std::string End(const AnswerUsage& usage) override {
    return Event("message_delta", {{"delta", stop_}, {"usage", UsageJson(usage)}}) + Event("message_stop", Json::object());
  }
  Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override {
    const AnswerChoice& choice = choices[0];
    Json content = Json::array();
    if (!choice.output.reasoning.empty()) {
      content.push_back({{"type", "thinking"}, {"thinking", choice.output.reasoning}, {"signature", ""}});
    }
    if (!choice.output.content.empty()) content.push_back({{"type", "text"}, {"text", choice.output.content}});
    for (const ToolCall& call : choice.output.tool_calls) {
      content.push_back({{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", InputOf(call)}});
    }
    Json message = Message(std::move(content));
    message.update(StopJson(choice.finish, !choice.output.tool_calls.empty()));
    message["usage"] = UsageJson(usage);
    return message;
  }

 private:
  enum class Block : uint8_t { kNone, kThinking, kText, kCall };
  Json Message(Json content) const {
    return {{"id", id_}, {"type", "message"}, {"role", "assistant"}, {"model", model_->name}, {"content", std::move(content)}};
  }
  std::string Open(Block block, Json start) {
    if (block_ == block) return "";
    std::string events = Close();
    block_ = block;
    return events + Event("content_block_start", {{"index", index_}, {"content_block", std::move(start)}});
  }
  std::string Delta(Json delta) const { return Event("content_block_delta", {{"index", index_}, {"delta", std::move(delta)}}); }
  std::string Close() {
    if (std::exchange(block_, Block::kNone) == Block::kNone) return "";
    return Event("content_block_stop", {{"index", index_++}});
  }

  const std::shared_ptr<const ServedModel> model_;
  const size_t prompt_tokens_;
  const std::string id_ = RandomId("msg_");
  Block block_ = Block::kNone;
  size_t index_ = 0;
  Json stop_ = Json::object();
};

// ---- Routes ----

Result<AnswerRequest> ReadRequest(const Gateway& gateway, Call& call, AnthropicUse use) {
  BANTAM_ASSIGN(Json body, gateway.ReadBody(call));
  Gateway::AddHeaderMembers(call.request(), &body);
  AnswerRequest asked;
  BANTAM_ASSIGN(asked.model, Gateway::AnsweringModelOf(call));
  if (const Json& stream = JsonMember(body, "stream"); !stream.is_null()) {
    BANTAM_ASSIGN(asked.stream, ReadFlag("stream", stream));
  }
  BANTAM_ASSIGN(Json into, AnthropicToOpenAi(body, use));
  BANTAM_ASSIGN(asked.plan, ReadChatRequest(std::move(into), {*asked.model, LocalTime()}));
  asked.writer = std::make_unique<MessageWriter>(asked.model, asked.plan.request.tokens.size());
  return asked;
}

void Messages(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<AnswerRequest> asked = ReadRequest(gateway, *call, AnthropicUse::kAnswer);
  if (!asked.ok()) return call->Fail(asked.error());
  gateway.Ask(call, std::move(asked).value());
}

void CountTokens(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<AnswerRequest> asked = ReadRequest(gateway, *call, AnthropicUse::kCount);
  if (!asked.ok()) return call->Fail(asked.error());
  call->RespondJson({{"input_tokens", asked->plan.request.tokens.size()}});
}

// "output_config": {"format": {"type": "json_schema", "schema": ...}}; how much effort to take is the model's affair.
Status ReadOutputConfig(const Json& body, Json* into) {
  const Json& config = JsonMember(body, "output_config");
  if (config.is_null()) return Ok();
  if (!config.is_object()) return WrongMember("output_config", config, "an object with \"format\"");
  const Json& format = JsonMember(config, "format");
  if (format.is_null()) return Ok();
  const Json& schema = JsonMember(format, "schema");
  if (JsonText(format, "type") != "json_schema" || schema.is_null()) {
    return WrongMember("output_config.format", format, "an object with \"type\": \"json_schema\" and \"schema\"");
  }
  (*into)["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", schema}}}};
  return Ok();
}

}  // namespace

Result<Json> AnthropicToOpenAi(const Json& body, AnthropicUse use) {
  // Those without a name there are read here, or left.
  constexpr MemberName kMembers[] = {{"model", "model"},
                                     {"max_tokens", "max_tokens"},
                                     {"temperature", "temperature"},
                                     {"top_p", "top_p"},
                                     {"top_k", "top_k"},
                                     {"stop_sequences", "stop"},
                                     {"priority", "priority"},
                                     {"deadline_ms", "deadline_ms"},
                                     {"adapter", "adapter"},
                                     {"confidence_threshold", "confidence_threshold"},
                                     {"cache", "cache"},
                                     {"seed", "seed"},
                                     {"messages", nullptr},
                                     {"system", nullptr},
                                     {"tools", nullptr},
                                     {"tool_choice", nullptr},
                                     {"thinking", nullptr},
                                     {"output_config", nullptr},
                                     {"stream", nullptr},
                                     {"metadata", nullptr},
                                     {"service_tier", nullptr}};
  Json into = Json::object();
  BANTAM_TRY(TakeMembers(body, kMembers, &into));
  if (use == AnthropicUse::kAnswer && !into.contains("max_tokens")) {
    return WrongMember("max_tokens", nullptr, "the most tokens of the answer");
  }
  BANTAM_ASSIGN(into["messages"], ReadMessages(body));
  BANTAM_TRY(ReadTools(body, &into));
  BANTAM_TRY(ReadThinking(body, &into));
  BANTAM_TRY(ReadOutputConfig(body, &into));
  if (const auto user = JsonText(JsonMember(body, "metadata"), "user_id")) into["user"] = *user;
  return into;
}

const Dialect kAnthropicDialect = {"anthropic", ErrorBody, ErrorEvent};

std::span<const Route> AnthropicRoutes() {
  static const Route kRoutes[] = {
      {.method = "POST", .path = "/v1/messages", .dialect = kAnthropicDialect, .handle = Messages},
      {.method = "POST", .path = "/v1/messages/count_tokens", .dialect = kAnthropicDialect, .handle = CountTokens},
  };
  return kRoutes;
}

}  // namespace bantam
