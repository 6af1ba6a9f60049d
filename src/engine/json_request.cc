#include "engine/json_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <iterator>

#include "engine/json_members.h"

namespace bantam {
namespace {

Status ReadStops(std::string_view member, const Json& value, Request* request) {
  if (value.is_string()) {
    request->stops = {value.get<std::string>()};
    return Ok();
  }
  if (!value.is_array()) return WrongMember(member, value, "a text, or a list of texts");
  for (const Json& stop : value) {
    BANTAM_ASSIGN(std::string text, ReadText(member, stop));
    request->stops.push_back(std::move(text));
  }
  return Ok();
}

Status ReadLogitBias(std::string_view member, const Json& value, Request* request) {
  if (!value.is_object()) return WrongMember(member, value, "an object from token ids to numbers");
  for (const auto& [name, bias] : value.items()) {
    uint64_t id = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != name.data() + name.size() || id > UINT32_MAX) {
      return Error(Code::kInvalidArgument, fmt::format("{}: {}: expected a token's id", member, ShortJson(name)));
    }
    BANTAM_ASSIGN(const double number, ReadNumber(member, bias, {-100, 100}));
    // As OpenAI has it, -100 bans.
    request->sampler.logit_bias.push_back({static_cast<uint32_t>(id), number == -100 ? -INFINITY : static_cast<float>(number)});
  }
  return Ok();
}

Status ReadPriority(std::string_view member, const Json& value, Request* request) {
  const auto priority = value.is_string() ? PriorityFromName(value.get<std::string>()) : std::nullopt;
  if (!priority) return WrongMember(member, value, "\"high\", \"normal\", \"low\" or \"batch\"");
  request->priority = *priority;
  return Ok();
}

Status ReadKv(std::string_view member, const Json& value, Request* request) {
  request->kv_type = value.is_string() ? KvTypeFromName(value.get<std::string>()) : std::nullopt;
  return request->kv_type ? Ok() : Status(WrongMember(member, value, KvTypeNames()));
}

// "logprobs": true or false of chats; a number of the likeliest tokens of completions.
Status ReadLogprobs(std::string_view member, const Json& value, Request* request) {
  if (value.is_boolean()) {
    request->token_details = value.get<bool>();
    return Ok();
  }
  BANTAM_ASSIGN(request->top_logprobs, ReadWhole(member, value, 0, kTopLogprobsMax));
  request->token_details = true;
  return Ok();
}

using Read = std::function<Status(std::string_view member, const Json& value, Request* request)>;

Read NumberInto(float SamplerOptions::*place, NumberRange range) {
  return [place, range](std::string_view member, const Json& value, Request* request) -> Status {
    BANTAM_ASSIGN(const double number, ReadNumber(member, value, range));
    request->sampler.*place = static_cast<float>(number);
    return Ok();
  };
}
Read NumberInto(float Request::*place, NumberRange range) {
  return [place, range](std::string_view member, const Json& value, Request* request) -> Status {
    BANTAM_ASSIGN(const double number, ReadNumber(member, value, range));
    request->*place = static_cast<float>(number);
    return Ok();
  };
}
Read TextInto(std::string Request::*place) {
  return [place](std::string_view member, const Json& value, Request* request) -> Status {
    BANTAM_ASSIGN(request->*place, ReadText(member, value));
    return Ok();
  };
}
Read PenaltyInto(float PenaltyOptions::*place, NumberRange range) {
  return [place, range](std::string_view member, const Json& value, Request* request) -> Status {
    BANTAM_ASSIGN(const double number, ReadNumber(member, value, range));
    request->sampler.penalties.*place = static_cast<float>(number);
    return Ok();
  };
}
Read WholeInto(size_t Request::*place, uint64_t low, uint64_t high) {
  return [=](std::string_view member, const Json& value, Request* request) -> Status {
    BANTAM_ASSIGN(request->*place, ReadWhole(member, value, low, high));
    return Ok();
  };
}
Status Ignore(std::string_view, const Json&, Request*) { return Ok(); }

struct Member {
  std::string_view name;
  Read read;
};

const std::vector<Member>& Members() {
  static const std::vector<Member> members = {
      {"prompt", Ignore},  // read by ReadPrompt
      {"messages", Ignore},
      {"tools", Ignore},
      {"chat_template_kwargs", Ignore},
      {"response_format", Ignore},  // read by ReadConstraint, as are the next two
      {"echo", Ignore},             // read by ReadEcho
      {"grammar", Ignore},
      {"regex", Ignore},
      {"model", Ignore},
      {"stream", Ignore},
      {"max_tokens", WholeInto(&Request::tokens_max, 0, UINT32_MAX)},
      {"max_completion_tokens", WholeInto(&Request::tokens_max, 0, UINT32_MAX)},
      {"min_tokens", WholeInto(&Request::tokens_min, 0, UINT32_MAX)},
      {"n", WholeInto(&Request::choices, 1, kChoicesMax)},
      {"top_logprobs", WholeInto(&Request::top_logprobs, 0, kTopLogprobsMax)},
      {"temperature", NumberInto(&SamplerOptions::temperature, {0, 100})},
      {"top_p",
       [](std::string_view member, const Json& value, Request* request) -> Status {
         // As OpenAI has it 0 leaves the likeliest token, and so does the least that a sampler takes.
         constexpr double kLeast = 1e-6;
         BANTAM_ASSIGN(const double number, ReadNumber(member, value, {0, 1}));
         request->sampler.top_p = static_cast<float>(std::max(number, kLeast));
         return Ok();
       }},
      {"min_p", NumberInto(&SamplerOptions::min_p, {0, 1})},
      {"typical_p", NumberInto(&SamplerOptions::typical, {1e-6, 1})},
      {"frequency_penalty", PenaltyInto(&PenaltyOptions::frequency, {-100, 100})},
      {"presence_penalty", PenaltyInto(&PenaltyOptions::presence, {-100, 100})},
      {"repetition_penalty", PenaltyInto(&PenaltyOptions::repetition, {1e-6, 100})},
      {"top_k",
       [](std::string_view member, const Json& value, Request* request) -> Status {
         BANTAM_ASSIGN(const uint64_t k, ReadWhole(member, value, 0, UINT32_MAX));
         request->sampler.top_k = static_cast<uint32_t>(k);
         return Ok();
       }},
      {"seed",
       [](std::string_view member, const Json& value, Request* request) -> Status {
         if (!value.is_number_integer()) return WrongMember(member, value, "a whole number");
         request->sampler.seed = value.is_number_unsigned() ? value.get<uint64_t>() : static_cast<uint64_t>(value.get<int64_t>());
         return Ok();
       }},
      {"deadline_ms",
       [](std::string_view member, const Json& value, Request* request) -> Status {
         BANTAM_ASSIGN(const uint64_t ms, ReadWhole(member, value, 1, uint64_t{1} << 40));
         request->deadline_ns = static_cast<int64_t>(ms) * 1'000'000;
         return Ok();
       }},
      {"confidence_threshold", NumberInto(&Request::confidence_min, {0, 1})},
      {"exit_confidence", NumberInto(&Request::exit_confidence, {0, 1})},
      {"cache",
       [](std::string_view member, const Json& value, Request* request) -> Status {
         BANTAM_ASSIGN(request->cache, ReadFlag(member, value));
         return Ok();
       }},
      {"user", TextInto(&Request::client)},
      {"adapter", TextInto(&Request::adapter)},
      {"beams", WholeInto(&Request::beams, 0, kBeamsMax)},
      {"length_penalty", NumberInto(&Request::length_penalty, {-double{kLengthPenaltyMax}, double{kLengthPenaltyMax}})},
      {"kv", ReadKv},
      {"stop", ReadStops},
      {"logit_bias", ReadLogitBias},
      {"logprobs", ReadLogprobs},
      {"priority", ReadPriority},
  };
  return members;
}

Error Unknown(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Member& member : Members()) names.push_back(member.name);
  return UnknownMember(name, names);
}

Status CheckSize(size_t bytes, const JsonRequestContext& context) {
  if (bytes / context.tokenizer.longest_token() <= context.context) return Ok();
  return Error(Code::kExhausted, fmt::format("a prompt of {} bytes cannot fit the context of {} tokens; shorten it or raise --context",
                                             bytes, context.context));
}

Result<std::vector<uint32_t>> ReadPrompt(const Json& prompt, const JsonRequestContext& context) {
  std::vector<uint32_t> tokens;
  if (prompt.is_array()) {
    if (prompt.size() > context.context) {
      return Error(Code::kExhausted, fmt::format("a prompt of {} tokens cannot fit the context of {}; shorten it or raise --context",
                                                 prompt.size(), context.context));
    }
    for (const Json& id : prompt) {
      BANTAM_ASSIGN(const uint64_t token, ReadWhole("prompt", id, 0, context.tokenizer.size() - 1));
      tokens.push_back(static_cast<uint32_t>(token));
    }
    return tokens;
  }
  if (!prompt.is_string()) return WrongMember("prompt", prompt, "a text, or a list of token ids");
  const std::string& text = prompt.get_ref<const std::string&>();
  BANTAM_TRY(CheckSize(text.size(), context));
  BANTAM_ASSIGN(tokens, context.tokenizer.Encode(text, /*special=*/false));
  return context.tokenizer.WithPrefix(std::move(tokens));
}

// What "response_format" asks for; nothing for plain text.
struct WantedConstraint {
  ConstraintKind kind = ConstraintKind::kJsonObject;
  std::string source = {};
};
Result<std::optional<WantedConstraint>> ReadResponseFormat(const Json& format) {
  const std::string type = JsonText(format, "type").value_or("");
  if (type == "text") return std::optional<WantedConstraint>();
  // With a schema of its own, as llama.cpp's server has it.
  const Json& own = JsonMember(format, "schema");
  if (type == "json_object" && own.is_null()) return std::optional<WantedConstraint>(WantedConstraint{});
  if (type == "json_object" && (own.is_object() || own.is_boolean())) {
    return std::optional<WantedConstraint>(WantedConstraint{ConstraintKind::kJsonSchema, DumpJson(own, /*indent=*/-1)});
  }
  if (type == "json_object") return WrongMember("response_format.schema", own, "a JSON Schema, as an object");
  if (type != "json_schema") {
    return WrongMember("response_format", format, "an object with \"type\": \"text\", \"json_object\" or \"json_schema\"");
  }
  const Json& schema = JsonMember(JsonMember(format, "json_schema"), "schema");
  if (!schema.is_object() && !schema.is_boolean()) {
    return WrongMember("response_format.json_schema", JsonMember(format, "json_schema"), "an object with \"schema\"");
  }
  return std::optional<WantedConstraint>(WantedConstraint{ConstraintKind::kJsonSchema, DumpJson(schema, /*indent=*/-1)});
}

Result<std::shared_ptr<TokenMasks>> ReadConstraint(const Json& body, const JsonRequestContext& context) {
  std::optional<WantedConstraint> wanted;
  size_t given = 0;
  if (const Json& format = JsonMember(body, "response_format"); !format.is_null()) {
    BANTAM_ASSIGN(wanted, ReadResponseFormat(format));
    given += wanted ? 1 : 0;
  }
  for (const auto& [member, kind] : {std::pair("grammar", ConstraintKind::kGbnf), {"regex", ConstraintKind::kRegex}}) {
    const Json& value = JsonMember(body, member);
    if (value.is_null()) continue;
    BANTAM_ASSIGN(std::string source, ReadText(member, value));
    wanted = {kind, std::move(source)};
    ++given;
  }
  if (given > 1) return Error(Code::kInvalidArgument, "response_format, grammar and regex: an answer can follow only one of them");
  if (!wanted) return std::shared_ptr<TokenMasks>();
  if (context.constraints == nullptr) return Error(Code::kUnsupported, "structured output is not available here");
  return context.constraints->Get(wanted->kind, wanted->source);
}

// The prompt's text in front of the answer, as completions have it.
Status ReadEcho(const Json& body, const JsonRequestContext& context, Request* request) {
  const Json& echo = JsonMember(body, "echo");
  if (echo.is_null()) return Ok();
  BANTAM_ASSIGN(const bool wanted, ReadFlag("echo", echo));
  if (!wanted) return Ok();
  const Json& prompt = JsonMember(body, "prompt");
  if (prompt.is_null())
    return Error(Code::kInvalidArgument, "echo: only a \"prompt\" has a text to repeat; leave it out with \"messages\"");
  request->prompt_details = request->token_details;
  if (prompt.is_string()) {
    request->echo = prompt.get<std::string>();
  } else {
    TokenStream text(context.tokenizer);
    for (const uint32_t token : request->tokens) request->echo += text.Push(token);
    request->echo += text.Finish();
  }
  return Ok();
}

}  // namespace

Result<std::vector<PromptPiece>> RenderMessages(const Json& body, const JsonRequestContext& context) {
  const Json& messages = JsonMember(body, "messages");
  if (!messages.is_array() || messages.empty() || messages.size() > kMessagesMax) {
    return WrongMember("messages", messages, fmt::format("a list of 1 to {} messages", kMessagesMax));
  }
  size_t bytes = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::optional<std::string> role = JsonText(messages[i], "role");
    if (!role) return WrongMember(fmt::format("messages[{}]", i), messages[i], "an object with \"role\" and \"content\"");
    bytes += JsonText(messages[i], "content").value_or("").size();
  }
  BANTAM_TRY(CheckSize(bytes, context));
  if (context.chat_template == nullptr) {
    return Error(Code::kUnsupported, "messages: the model has no chat template; give a \"prompt\"");
  }
  Json request = {{"messages", messages}};
  if (const Json& others = JsonMember(body, "chat_template_kwargs"); !others.is_null()) {
    if (!others.is_object()) return WrongMember("chat_template_kwargs", others, "an object of what the chat template looks at");
    for (const auto& [name, value] : others.items()) {
      if (name != "messages" && name != "tools") request[name] = value;
    }
  }
  if (const Json& tools = JsonMember(body, "tools"); !tools.is_null()) request["tools"] = tools;
  return context.chat_template->RenderRequest(request, context.now);
}

Result<Request> ReadJsonRequest(const Json& body, const JsonRequestContext& context) {
  if (!body.is_object()) {
    return Error(Code::kInvalidArgument, fmt::format("{}: expected an object with \"messages\" or \"prompt\"", ShortJson(body)));
  }
  Request request = context.defaults;
  for (const auto& [name, value] : body.items()) {
    const std::string& wanted = name;
    const auto member = std::find_if(Members().begin(), Members().end(), [&](const Member& m) { return m.name == wanted; });
    if (member == Members().end()) return Unknown(name);
    if (!value.is_null()) BANTAM_TRY(member->read(name, value, &request));
  }
  BANTAM_ASSIGN(request.constraint, ReadConstraint(body, context));
  const Json& prompt = JsonMember(body, "prompt");
  const Json& messages = JsonMember(body, "messages");
  if (prompt.is_null() == messages.is_null()) {
    return Error(Code::kInvalidArgument, "expected either \"messages\" or \"prompt\"");
  }
  if (prompt.is_null()) {
    BANTAM_ASSIGN(const std::vector<PromptPiece> pieces, RenderMessages(body, context));
    BANTAM_ASSIGN(std::vector<uint32_t> tokens, context.tokenizer.Encode(pieces));
    request.tokens = context.tokenizer.WithPrefix(std::move(tokens));
  } else {
    BANTAM_ASSIGN(request.tokens, ReadPrompt(prompt, context));
  }
  BANTAM_TRY(ReadEcho(body, context, &request));
  if (request.tokens_max == 0 && !request.prompt_details) {
    const char* const name = JsonMember(body, "max_tokens").is_null() ? "max_completion_tokens" : "max_tokens";
    return WrongMember(name, 0, "a whole number from 1, or 0 with echo and logprobs");
  }
  return request;
}

void ChoiceResult::Add(Event event) {
  text += event.text;
  tokens.insert(tokens.end(), std::move_iterator(event.prompt.begin()), std::move_iterator(event.prompt.end()));
  tokens.insert(tokens.end(), std::move_iterator(event.tokens.begin()), std::move_iterator(event.tokens.end()));
  if (event.finish) finish = std::move(event.finish);
}

std::string_view FinishReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfTurn:
    case StopReason::kStopString:
      return "stop";
    case StopReason::kLength:
    case StopReason::kContextFull:
      return "length";
    case StopReason::kCancelled:
      return "cancelled";
    case StopReason::kDeadline:
      return "deadline";
    case StopReason::kError:
      return "error";
  }
  return "error";
}

Json LogprobJson(float logprob) { return std::isnan(logprob) ? Json(nullptr) : Json(logprob); }

Json WriteAnswer(std::span<const ChoiceResult> choices, const Tokenizer& tokenizer) {
  Json list = Json::array();
  Json usage;
  size_t completion = 0;
  const auto token_json = [&](const TokenLogprob& token) {
    std::string bytes;
    tokenizer.AppendRaw(token.token, /*special=*/true, &bytes);
    return Json{{"token", tokenizer.Unmark(bytes)}, {"id", token.token}, {"logprob", LogprobJson(token.logprob)}};
  };
  for (const ChoiceResult& result : choices) {
    const Finish& finish = *result.finish;
    Json choice = {{"index", list.size()}, {"text", result.text}, {"finish_reason", FinishReasonName(finish.reason)}};
    if (!result.tokens.empty()) {
      Json content = Json::array();
      for (const TokenInfo& info : result.tokens) {
        Json token = token_json(info.chosen);
        if (!info.top.empty()) {
          token["top_logprobs"] = Json::array();
          for (const TokenLogprob& top : info.top) token["top_logprobs"].push_back(token_json(top));
        }
        content.push_back(std::move(token));
      }
      choice["logprobs"] = {{"content", std::move(content)}};
    }
    if (finish.confidence) {
      choice["confidence"] = *finish.confidence;
      choice["low_confidence"] = finish.low_confidence;
      if (finish.computed_confidence) choice["computed_confidence"] = *finish.computed_confidence;
    }
    if (finish.beam_score) choice["score"] = *finish.beam_score;
    if (finish.error) choice["error"] = WriteError(*finish.error);
    list.push_back(std::move(choice));
    completion += finish.usage.generated_tokens;
    usage = {{"prompt_tokens", finish.usage.prompt_tokens},
             {"completion_tokens", completion},
             {"total_tokens", finish.usage.prompt_tokens + completion},
             {"cached_tokens", finish.usage.cached_tokens}};
    if (finish.usage.exited_tokens > 0) usage["exited_tokens"] = finish.usage.exited_tokens;
    if (finish.usage.kv_type) usage["kv"] = KvTypeName(*finish.usage.kv_type);
  }
  return {{"choices", std::move(list)}, {"usage", std::move(usage)}};
}

Json WriteError(const Error& error) {
  constexpr std::string_view kCodes[] = {"invalid_argument", "not_found",   "corrupt",   "unsupported", "exhausted",
                                         "denied",           "unavailable", "cancelled", "internal"};
  return {{"message", error.message()}, {"code", kCodes[static_cast<size_t>(error.code())]}};
}

}  // namespace bantam
