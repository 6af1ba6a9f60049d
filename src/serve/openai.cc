// OpenAI's API: chat completions, completions, embeddings, models.
#include <fmt/format.h>

#include <cmath>
#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/json_members.h"
#include "engine/json_request.h"
#include "serve/gateway.h"
#include "serve/routes.h"
#include "serve/token_json.h"

namespace bantam {
namespace {

std::string_view ErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

Json ErrorJson(const ApiError& error) {
  Json told = {{"message", error.message}, {"type", ErrorType(error.status)}};
  told["param"] = error.param.empty() ? Json(nullptr) : Json(error.param);
  told["code"] = error.code;
  return {{"error", std::move(told)}};
}
std::string ErrorBody(const ApiError& error) { return DumpJson(ErrorJson(error), /*indent=*/-1); }

std::string Event(const Json& json) { return fmt::format("data: {}\n\n", DumpJson(json, /*indent=*/-1)); }
std::string ErrorEvent(const ApiError& error) { return Event(ErrorJson(error)) + "data: [DONE]\n\n"; }

Json UsageJson(const AnswerUsage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.generated_tokens},
          {"total_tokens", usage.prompt_tokens + usage.generated_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

void AddConfidence(const Finish& finish, Json* choice) {
  if (finish.reason == StopReason::kDeadline) (*choice)["stop_reason"] = "deadline";
  if (!finish.stop.empty()) (*choice)["stop_reason"] = finish.stop;
  if (!finish.confidence) return;
  (*choice)["confidence"] = *finish.confidence;
  (*choice)["low_confidence"] = finish.low_confidence;
}

Json ChatLogprobs(const Tokenizer& tokenizer, std::span<const TokenInfo> tokens) { return {{"content", LogprobsJson(tokenizer, tokens)}}; }

// The tokens of a text: names, probabilities, and where each begins, in bytes of the text.
class TextLogprobs {
 public:
  // Of the prompt, whose text, of so many bytes, is in front. What has no text in it, as the vocabulary's first token, begins where the
  // next one does; and a space that the vocabulary puts in front of every text is none of its bytes.
  void AddPrompt(const Tokenizer& tokenizer, std::span<const TokenInfo> tokens, size_t bytes, size_t* offset) {
    if (tokens.empty()) return;
    TokenStream stream(tokenizer);
    std::vector<size_t> begins;
    size_t streamed = 0;
    for (const TokenInfo& info : tokens) {
      begins.push_back(streamed);
      streamed += stream.Push(info.chosen.token).size();
    }
    streamed += stream.Finish().size();
    const size_t added = streamed - std::min(streamed, bytes);
    for (size_t i = 0; i < tokens.size(); ++i) Add(tokenizer, tokens[i], begins[i] - std::min(begins[i], added));
    *offset = bytes;
  }
  void AddAnswer(const Tokenizer& tokenizer, std::span<const TokenInfo> tokens, size_t* offset) {
    for (const TokenInfo& info : tokens) {
      Add(tokenizer, info, *offset);
      *offset += TokenBytes(tokenizer, info.chosen.token).size();
    }
  }
  Json Take() {
    return {{"tokens", std::move(names_)},
            {"token_logprobs", std::move(logprobs_)},
            {"top_logprobs", std::move(tops_)},
            {"text_offset", std::move(offsets_)}};
  }

 private:
  void Add(const Tokenizer& tokenizer, const TokenInfo& info, size_t offset) {
    names_.push_back(TokenBytes(tokenizer, info.chosen.token));
    logprobs_.push_back(LogprobJson(info.chosen.logprob));
    Json top = Json::object();
    for (const TokenLogprob& one : info.top) top[TokenBytes(tokenizer, one.token)] = one.logprob;
    tops_.push_back(std::isnan(info.chosen.logprob) ? Json(nullptr) : std::move(top));
    offsets_.push_back(offset);
  }

  Json names_ = Json::array();
  Json logprobs_ = Json::array();
  Json tops_ = Json::array();
  Json offsets_ = Json::array();
};

Json CallJson(const ToolCall& call) {
  return {{"id", call.id}, {"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
}

// What both kinds of answers are made with.
struct WriterSetup {
  std::shared_ptr<const ServedModel> model;
  std::string fingerprint = {};  // of this program, which answers alike as long as it is the same
  bool include_usage = false;
  bool logprobs = false;
  // Of completions: answers to each prompt, and bytes of each prompt's text that stand in front of them.
  size_t choices = 1;
  std::vector<size_t> echo_bytes = {};
};

class ChatWriter final : public AnswerWriter {
 public:
  explicit ChatWriter(WriterSetup setup) : setup_(std::move(setup)) {}

  std::string Add(const AnswerDelta& delta) override {
    Json content = Json::object();
    if (delta.first) content["role"] = "assistant";
    if (!delta.output.reasoning.empty()) content["reasoning_content"] = delta.output.reasoning;
    if (!delta.output.content.empty() || delta.first) content["content"] = delta.output.content;
    if (!delta.output.tool_calls.empty()) {
      Json calls = Json::array();
      for (const ToolCall& call : delta.output.tool_calls) {
        Json json = {{"index", calls_[delta.choice]++}};
        json.update(CallJson(call));
        calls.push_back(std::move(json));
      }
      content["tool_calls"] = std::move(calls);
    }
    std::string events;
    if (!content.empty() || !delta.tokens.empty()) {
      Json choice = {{"index", delta.choice}, {"delta", std::move(content)}, {"finish_reason", nullptr}};
      if (setup_.logprobs) choice["logprobs"] = ChatLogprobs(*setup_.model->tokenizer, delta.tokens);
      events += Event(Chunk(Json::array({std::move(choice)})));
    }
    if (delta.finish != nullptr) {
      Json choice = {{"index", delta.choice}, {"delta", Json::object()}, {"finish_reason", FinishReasonOf(*delta.finish, delta.called)}};
      AddConfidence(*delta.finish, &choice);
      events += Event(Chunk(Json::array({std::move(choice)})));
    }
    return events;
  }
  std::string End(const AnswerUsage& usage) override {
    std::string events;
    if (setup_.include_usage) {
      Json chunk = Chunk(Json::array());
      chunk["usage"] = UsageJson(usage);
      chunk["timings"] = LlamaTimings(usage);
      events = Event(chunk);
    }
    return events + "data: [DONE]\n\n";
  }
  Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override {
    Json list = Json::array();
    for (const AnswerChoice& choice : choices) {
      const bool called = !choice.output.tool_calls.empty();
      Json message = {{"role", "assistant"}};
      message["content"] = called && choice.output.content.empty() ? Json(nullptr) : Json(choice.output.content);
      if (!choice.output.reasoning.empty()) message["reasoning_content"] = choice.output.reasoning;
      if (called) {
        message["tool_calls"] = Json::array();
        for (const ToolCall& call : choice.output.tool_calls) message["tool_calls"].push_back(CallJson(call));
      }
      Json json = {{"index", list.size()}, {"message", std::move(message)}, {"finish_reason", FinishReasonOf(choice.finish, called)}};
      json["logprobs"] = setup_.logprobs ? ChatLogprobs(*setup_.model->tokenizer, choice.tokens) : Json(nullptr);
      AddConfidence(choice.finish, &json);
      list.push_back(std::move(json));
    }
    return {{"id", id_},
            {"object", "chat.completion"},
            {"created", created_},
            {"model", setup_.model->name},
            {"system_fingerprint", setup_.fingerprint},
            {"choices", std::move(list)},
            {"usage", UsageJson(usage)},
            {"timings", LlamaTimings(usage)}};
  }

 private:
  Json Chunk(Json choices) const {
    return {{"id", id_},
            {"object", "chat.completion.chunk"},
            {"created", created_},
            {"model", setup_.model->name},
            {"system_fingerprint", setup_.fingerprint},
            {"choices", std::move(choices)}};
  }

  const WriterSetup setup_;
  const std::string id_ = RandomId("chatcmpl-");
  const int64_t created_ = std::time(nullptr);
  std::array<size_t, kChoicesMax> calls_{};
};

class TextWriter final : public AnswerWriter {
 public:
  explicit TextWriter(WriterSetup setup) : setup_(std::move(setup)) {}

  std::string Add(const AnswerDelta& delta) override {
    Json choice = {{"index", delta.choice}, {"text", delta.output.content}};
    if (delta.choice >= offsets_.size()) offsets_.resize(delta.choice + 1);
    choice["logprobs"] = Logprobs(delta.choice, delta.prompt, delta.tokens, &offsets_[delta.choice]);
    choice["finish_reason"] = delta.finish == nullptr ? Json(nullptr) : Json(FinishReasonOf(*delta.finish, /*called=*/false));
    if (delta.finish != nullptr) AddConfidence(*delta.finish, &choice);
    return Event(Completion(Json::array({std::move(choice)})));
  }
  std::string End(const AnswerUsage& usage) override {
    std::string events;
    if (setup_.include_usage) {
      Json last = Completion(Json::array());
      last["usage"] = UsageJson(usage);
      last["timings"] = LlamaTimings(usage);
      events = Event(last);
    }
    return events + "data: [DONE]\n\n";
  }
  Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override {
    Json list = Json::array();
    for (const AnswerChoice& choice : choices) {
      size_t offset = 0;
      Json json = {{"index", list.size()}, {"text", choice.output.content}};
      json["logprobs"] = Logprobs(list.size(), choice.prompt, choice.tokens, &offset);
      json["finish_reason"] = FinishReasonOf(choice.finish, /*called=*/false);
      AddConfidence(choice.finish, &json);
      list.push_back(std::move(json));
    }
    Json whole = Completion(std::move(list));
    whole["usage"] = UsageJson(usage);
    whole["timings"] = LlamaTimings(usage);
    return whole;
  }

 private:
  Json Logprobs(size_t choice, std::span<const TokenInfo> prompt, std::span<const TokenInfo> tokens, size_t* offset) const {
    if (!setup_.logprobs) return nullptr;
    TextLogprobs logprobs;
    logprobs.AddPrompt(*setup_.model->tokenizer, prompt, setup_.echo_bytes[choice / setup_.choices], offset);
    logprobs.AddAnswer(*setup_.model->tokenizer, tokens, offset);
    return logprobs.Take();
  }
  Json Completion(Json choices) const {
    return {{"id", id_},
            {"object", "text_completion"},
            {"created", created_},
            {"model", setup_.model->name},
            {"system_fingerprint", setup_.fingerprint},
            {"choices", std::move(choices)}};
  }

  const WriterSetup setup_;
  const std::string id_ = RandomId("cmpl-");
  const int64_t created_ = std::time(nullptr);
  std::vector<size_t> offsets_;  // by choice
};

struct StreamOptions {
  bool stream = false;
  bool include_usage = false;
};
Result<StreamOptions> ReadStreamOptions(const Json& body) {
  StreamOptions read;
  if (const Json& stream = JsonMember(body, "stream"); !stream.is_null()) {
    BANTAM_ASSIGN(read.stream, ReadFlag("stream", stream));
  }
  const Json& options = JsonMember(body, "stream_options");
  if (options.is_null()) return read;
  if (!options.is_object()) return WrongMember("stream_options", options, "an object, such as {\"include_usage\": true}");
  if (!read.stream) return WrongMember("stream_options", options, "\"stream\": true beside it");
  if (const Json& usage = JsonMember(options, "include_usage"); !usage.is_null()) {
    BANTAM_ASSIGN(read.include_usage, ReadFlag("stream_options.include_usage", usage));
  }
  return read;
}

using ReadPlan = Result<ChatPlan> (*)(Json body, const ChatContext& context);
template <typename Writer>
Result<AnswerRequest> ReadAnswerRequest(const Gateway& gateway, Call& call, ReadPlan read) {
  BANTAM_ASSIGN(Json body, gateway.ReadBody(call));
  Gateway::AddHeaderMembers(call.request(), &body);
  AnswerRequest asked;
  BANTAM_ASSIGN(asked.model, Gateway::AnsweringModelOf(call));
  BANTAM_ASSIGN(const StreamOptions options, ReadStreamOptions(body));
  asked.stream = options.stream;
  BANTAM_ASSIGN(asked.plan, read(std::move(body), {*asked.model, LocalTime()}));
  const Request& request = asked.plan.request;
  WriterSetup setup = {.model = asked.model,
                       .fingerprint = fmt::format("bantam-{}", gateway.options().version),
                       .include_usage = options.include_usage,
                       .logprobs = request.token_details,
                       .choices = request.choices,
                       .echo_bytes = {request.echo.size()}};
  for (const Request& other : asked.plan.others) setup.echo_bytes.push_back(other.echo.size());
  asked.writer = std::make_unique<Writer>(std::move(setup));
  return asked;
}

template <typename Writer>
void Answers(Gateway& gateway, const std::shared_ptr<Call>& call, ReadPlan read) {
  Result<AnswerRequest> asked = ReadAnswerRequest<Writer>(gateway, *call, read);
  if (!asked.ok()) return call->Fail(asked.error());
  gateway.Ask(call, std::move(asked).value());
}
void Chat(Gateway& gateway, const std::shared_ptr<Call>& call) { Answers<ChatWriter>(gateway, call, ReadChatRequest); }
void Complete(Gateway& gateway, const std::shared_ptr<Call>& call) { Answers<TextWriter>(gateway, call, ReadCompletionRequest); }

// What TextRequest reads: vectors, a ranking or classes, by the member that asks for them.
template <TextRequest::Task kTask>
void Encode(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<Json> body = gateway.ReadBody(*call);
  if (!body.ok()) return call->Fail(body.error());
  constexpr const char* kAsking[] = {"input", "classify", "query"};
  const char* asking = kAsking[static_cast<size_t>(kTask)];
  if (JsonMember(*body, asking).is_null()) return call->Fail(WrongMember(asking, nullptr, "what this route is asked for"));
  gateway.AskTexts(call, std::move(body).value(), VectorList::kObjects, [](const std::string& model, const TextService::Answer& answer) {
    return fmt::format("{{\"object\":\"list\",\"model\":{},{}}}", model, answer.members);
  });
}

Json ModelJson(const CatalogView& view) {
  Json json = {{"id", view.name}, {"object", "model"}, {"created", 0}, {"owned_by", "bantam"}, {"status", ModelStateName(view.state)}};
  if (view.model == nullptr) return json;
  json["created"] = view.model->loaded_s;
  json["context"] = view.model->context;
  return json;
}

void ListModels(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Json list = Json::array();
  for (const CatalogView& view : gateway.ModelsOf(*call)) list.push_back(ModelJson(view));
  call->RespondJson({{"object", "list"}, {"data", std::move(list)}});
}

void ShowModel(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const auto name = gateway.NameOf(*call, call->rest);
  if (!name.ok()) return call->Fail(name.error());
  for (const CatalogView& view : gateway.ModelsOf(*call)) {
    if (view.name == *name) return call->RespondJson(ModelJson(view));
  }
}

}  // namespace

const Dialect kOpenAiDialect = {"openai", ErrorBody, ErrorEvent};

std::span<const Route> OpenAiRoutes() {
  static const Route kRoutes[] = {
      {.method = "POST", .path = "/v1/chat/completions", .dialect = kOpenAiDialect, .handle = Chat},
      {.method = "POST", .path = "/v1/completions", .dialect = kOpenAiDialect, .handle = Complete},
      {.method = "POST", .path = "/v1/embeddings", .dialect = kOpenAiDialect, .handle = Encode<TextRequest::Task::kVectors>},
      {.method = "POST", .path = "/v1/rerank", .dialect = kOpenAiDialect, .handle = Encode<TextRequest::Task::kRanking>},
      {.method = "POST", .path = "/v1/classify", .dialect = kOpenAiDialect, .handle = Encode<TextRequest::Task::kClasses>},
      {.method = "GET", .path = "/v1/models", .work = RouteWork::kQuick, .dialect = kOpenAiDialect, .handle = ListModels},
      {.method = "GET", .path = "/v1/models/*", .work = RouteWork::kQuick, .dialect = kOpenAiDialect, .handle = ShowModel},
  };
  return kRoutes;
}

}  // namespace bantam
