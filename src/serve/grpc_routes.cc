// bantam.v1.Bantam: Generate, Embed, Classify, Models.
#include "serve/grpc_routes.h"

#include <bantam.pb.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "base/base64.h"
#include "base/clock.h"
#include "engine/json_members.h"
#include "serve/answer.h"
#include "serve/gateway.h"
#include "serve/token_json.h"
#include "text/utf8.h"

namespace bantam {
namespace {

// Of "options": as of a body.
constexpr size_t kOptionsMembersMax = 1100;

double Ms(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

template <typename Message>
void RespondMessage(const std::shared_ptr<Call>& call, const Message& message) {
  call->Respond({.body = message.SerializeAsString()});
}

// ---- Generate ----

Json MessageJson(const v1::Message& message) {
  Json json = {{"role", message.role()}, {"content", message.content()}};
  if (!message.tool_call_id().empty()) json["tool_call_id"] = message.tool_call_id();
  for (const v1::ToolCall& call : message.tool_calls()) {
    json["tool_calls"].push_back(
        {{"id", call.id()}, {"type", "function"}, {"function", {{"name", call.name()}, {"arguments", call.arguments()}}}});
  }
  return json;
}

// What the answer has to be.
Status AddForm(const v1::GenerateRequest& request, Json* members) {
  if (!request.json_schema().empty()) {
    Result<Json> schema = ParseJson(request.json_schema());
    if (!schema.ok()) return Error(Code::kInvalidArgument, fmt::format("json_schema: {}", schema.error().message()));
    (*members)["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", std::move(schema).value()}}}};
  }
  if (!request.grammar().empty()) (*members)["grammar"] = request.grammar();
  if (!request.regex().empty()) (*members)["regex"] = request.regex();
  return Ok();
}

Json NumbersJson(const v1::GenerateRequest& request) {
  Json members = Json::object();
  if (request.has_max_tokens()) members["max_tokens"] = request.max_tokens();
  if (request.has_temperature()) members["temperature"] = request.temperature();
  if (request.has_top_p()) members["top_p"] = request.top_p();
  if (request.has_top_k()) members["top_k"] = request.top_k();
  if (request.has_seed()) members["seed"] = request.seed();
  if (request.has_n()) members["n"] = request.n();
  if (request.has_top_logprobs() && request.has_prompt()) members["logprobs"] = request.top_logprobs();
  if (request.has_top_logprobs() && !request.has_prompt()) members.update({{"logprobs", true}, {"top_logprobs", request.top_logprobs()}});
  if (!request.stop().empty()) members["stop"] = std::vector<std::string>(request.stop().begin(), request.stop().end());
  return members;
}

// The members of OpenAI's chats, or completions.
Result<Json> MembersOf(const v1::GenerateRequest& request) {
  Json members = NumbersJson(request);
  if (request.has_prompt() != request.messages().empty()) {
    return Error(Code::kInvalidArgument, "messages: expected these, or a prompt, and not both");
  }
  if (request.has_prompt()) members["prompt"] = request.prompt();
  for (const v1::Message& message : request.messages()) members["messages"].push_back(MessageJson(message));
  BANTAM_TRY(AddForm(request, &members));
  if (request.options().empty()) return members;
  const Result<Json> options = ParseJsonOfUniqueNames(request.options(), kOptionsMembersMax);
  if (!options.ok() || !options->is_object()) return Error(Code::kInvalidArgument, "options: expected a JSON object");
  for (const auto& [name, value] : options->items()) {
    if (members.contains(name) || name == "model" || name == "prompt" || name == "messages" || name == "stream") {
      return Error(Code::kInvalidArgument, fmt::format("options: {} has a field of its own", ReplaceInvalidUtf8(name).substr(0, 100)));
    }
    members[name] = value;
  }
  return members;
}

void WriteToken(const Tokenizer& tokenizer, const TokenLogprob& token, v1::TokenLogprob* into) {
  into->set_token(TokenBytes(tokenizer, token.token));
  into->set_logprob(token.logprob);
}

class GenerateWriter final : public AnswerWriter {
 public:
  GenerateWriter(std::shared_ptr<const ServedModel> model, bool logprobs) : model_(std::move(model)), logprobs_(logprobs) {}

  std::string_view stream_type() const override { return "application/grpc"; }
  std::string Add(const AnswerDelta& delta) override {
    v1::GenerateResponse response;
    response.set_choice(static_cast<uint32_t>(delta.choice));
    response.set_content(ReplaceInvalidUtf8(delta.output.content));
    response.set_reasoning(ReplaceInvalidUtf8(delta.output.reasoning));
    for (const ToolCall& call : delta.output.tool_calls) {
      v1::ToolCall* into = response.add_tool_calls();
      into->set_id(call.id);
      into->set_name(ReplaceInvalidUtf8(call.name));
      into->set_arguments(ReplaceInvalidUtf8(call.arguments));
    }
    if (logprobs_) AddLogprobs(delta.tokens, &response);
    if (delta.finish != nullptr) AddFinish(*delta.finish, delta.called, &response);
    return GrpcFrame(response.SerializeAsString());
  }
  std::string End(const AnswerUsage& usage) override {
    v1::GenerateResponse response;
    v1::Usage& told = *response.mutable_usage();
    told.set_prompt_tokens(usage.prompt_tokens);
    told.set_cached_tokens(usage.cached_tokens);
    told.set_generated_tokens(usage.generated_tokens);
    told.set_queued_ms(Ms(usage.queued_ns));
    told.set_first_token_ms(Ms(usage.first_token_ns));
    told.set_total_ms(Ms(usage.total_ns));
    return GrpcFrame(response.SerializeAsString());
  }
  // Always a stream.
  Json Whole(std::span<const AnswerChoice>, const AnswerUsage&) override { return nullptr; }

 private:
  void AddLogprobs(std::span<const TokenInfo> tokens, v1::GenerateResponse* response) const {
    for (const TokenInfo& info : tokens) {
      v1::TokenLogprob* token = response->add_logprobs();
      WriteToken(*model_->tokenizer, info.chosen, token);
      for (const TokenLogprob& top : info.top) WriteToken(*model_->tokenizer, top, token->add_top());
    }
  }
  static void AddFinish(const Finish& finish, bool called, v1::GenerateResponse* response) {
    response->set_finish_reason(std::string(FinishReasonOf(finish, called)));
    if (finish.reason == StopReason::kDeadline) response->set_stop_reason("deadline");
    if (!finish.stop.empty()) response->set_stop_reason(ReplaceInvalidUtf8(finish.stop));
    if (!finish.confidence) return;
    response->set_confidence(*finish.confidence);
    response->set_low_confidence(finish.low_confidence);
  }

  const std::shared_ptr<const ServedModel> model_;
  const bool logprobs_;
};

Json NameJson(const std::string& name) { return name.empty() ? Json(nullptr) : Json(name); }

Result<AnswerRequest> ReadGenerate(const Gateway& gateway, Call& call) {
  v1::GenerateRequest request;
  BANTAM_TRY(ReadGrpcMessage(call.request().body, &request));
  BANTAM_ASSIGN(Json members, MembersOf(request));
  BANTAM_TRY(gateway.HoldModel(call, NameJson(request.model())));
  Gateway::AddHeaderMembers(call.request(), &members);
  AnswerRequest asked;
  BANTAM_ASSIGN(asked.model, Gateway::AnsweringModelOf(call));
  asked.stream = true;
  const ChatContext context = {*asked.model, LocalTime()};
  BANTAM_ASSIGN(asked.plan,
                request.has_prompt() ? ReadCompletionRequest(std::move(members), context) : ReadChatRequest(std::move(members), context));
  asked.writer = std::make_unique<GenerateWriter>(asked.model, asked.plan.request.token_details);
  return asked;
}

void Generate(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<AnswerRequest> asked = ReadGenerate(gateway, *call);
  if (!asked.ok()) return call->Fail(asked.error());
  gateway.Ask(call, std::move(asked).value());
}

// ---- Embed, Classify ----

// What stands in base64 as f32, the lowest byte first.
void AddFloats(const std::string& base64, v1::Embedding* into) {
  const std::string bytes = DecodeBase64(base64).value_or("");
  into->mutable_values()->Reserve(static_cast<int>(bytes.size() / 4));
  for (size_t at = 0; at + 4 <= bytes.size(); at += 4) {
    uint32_t bits = 0;
    for (size_t i = 4; i-- > 0;) bits = bits << 8 | static_cast<unsigned char>(bytes[at + i]);
    into->add_values(std::bit_cast<float>(bits));
  }
}

std::string WriteVectors(const std::string& model, const TextService::Answer& answer) {
  const Json json = ParseJson(fmt::format("{{{}}}", answer.members)).value();
  v1::EmbedResponse response;
  response.set_model(ReplaceInvalidUtf8(model));
  for (const Json& vector : json["embeddings"]) AddFloats(vector.get_ref<const std::string&>(), response.add_embeddings());
  response.set_prompt_tokens(answer.tokens);
  return response.SerializeAsString();
}

std::string WriteClasses(const std::string& model, const TextService::Answer& answer) {
  const Json json = ParseJson(fmt::format("{{{}}}", answer.members)).value();
  v1::ClassifyResponse response;
  response.set_model(ReplaceInvalidUtf8(model));
  for (const Json& classes : json["labels"]) {
    v1::Labels* labels = response.add_labels();
    for (const Json& one : classes) {
      v1::Label* label = labels->add_labels();
      label->set_name(ReplaceInvalidUtf8(JsonText(one, "label").value_or("")));
      label->set_score(JsonMember(one, one.contains("score") ? "score" : "probability").get<double>());
    }
  }
  response.set_prompt_tokens(answer.tokens);
  return response.SerializeAsString();
}

// The names of models are JSON where texts are written.
Gateway::WriteTexts Named(const Call& call, std::string (*write)(const std::string&, const TextService::Answer&)) {
  return [name = call.record.model, write](const std::string&, const TextService::Answer& answer) { return write(name, answer); };
}

Json TextsJson(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  return std::vector<std::string>(texts.begin(), texts.end());
}

void Embed(Gateway& gateway, const std::shared_ptr<Call>& call) {
  v1::EmbedRequest request;
  Status status = ReadGrpcMessage(call->request().body, &request);
  if (status.ok()) status = gateway.HoldModel(*call, NameJson(request.model()));
  if (!status.ok()) return call->Fail(status.error());
  Json body = {{"input", TextsJson(request.input())}, {"encoding_format", "base64"}};
  if (request.has_dimensions()) body["dimensions"] = request.dimensions();
  if (request.has_normalize()) body["normalize"] = request.normalize();
  if (request.has_prompt_name()) body["prompt_name"] = request.prompt_name();
  if (request.has_truncate()) body["truncate"] = request.truncate();
  gateway.AskTexts(call, std::move(body), VectorList::kPlain, Named(*call, WriteVectors));
}

void Classify(Gateway& gateway, const std::shared_ptr<Call>& call) {
  v1::ClassifyRequest request;
  Status status = ReadGrpcMessage(call->request().body, &request);
  if (status.ok()) status = gateway.HoldModel(*call, NameJson(request.model()));
  if (!status.ok()) return call->Fail(status.error());
  Json body = {{"classify", TextsJson(request.classify())}};
  if (request.has_top_n()) body["top_n"] = request.top_n();
  if (request.has_truncate()) body["truncate"] = request.truncate();
  gateway.AskTexts(call, std::move(body), VectorList::kPlain, Named(*call, WriteClasses));
}

void Models(Gateway& gateway, const std::shared_ptr<Call>& call) {
  v1::ModelsResponse response;
  for (const CatalogView& view : gateway.ModelsOf(*call)) {
    v1::Model* model = response.add_models();
    model->set_name(ReplaceInvalidUtf8(view.name));
    for (const std::string& alias : view.aliases) model->add_aliases(ReplaceInvalidUtf8(alias));
    model->set_state(std::string(ModelStateName(view.state)));
    if (view.model == nullptr) continue;
    model->set_context(view.model->context);
    model->set_generates(view.model->Answers());
  }
  RespondMessage(call, response);
}

}  // namespace

std::span<const Route> GrpcRoutes() {
  using enum RouteWork;
  static const Route kRoutes[] = {
      {"GRPC", "/bantam.v1.Bantam/Generate", Role::kUse, kReads, kGrpcDialect, Generate},
      {"GRPC", "/bantam.v1.Bantam/Embed", Role::kUse, kReads, kGrpcDialect, Embed},
      {"GRPC", "/bantam.v1.Bantam/Classify", Role::kUse, kReads, kGrpcDialect, Classify},
      {"GRPC", "/bantam.v1.Bantam/Models", Role::kUse, kQuick, kGrpcDialect, Models},
  };
  return kRoutes;
}

const Route* FindGrpcRoute(std::string_view path) {
  for (const auto routes : {GrpcRoutes(), GrpcInferenceRoutes(), GrpcHealthRoutes()}) {
    for (const Route& route : routes) {
      if (route.path == path) return &route;
    }
  }
  return nullptr;
}

}  // namespace bantam
