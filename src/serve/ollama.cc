// Ollama's API: chat, generate, embed, tags, show, ps, version, brought into OpenAI's members and back.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/json_members.h"
#include "engine/json_request.h"
#include "serve/dialects.h"
#include "serve/gateway.h"
#include "serve/routes.h"
#include "serve/token_json.h"

namespace bantam {
namespace {

std::string ErrorBody(const ApiError& error) { return DumpJson({{"error", error.message}}, /*indent=*/-1); }
std::string ErrorEvent(const ApiError& error) { return ErrorBody(error) + "\n"; }

// ---- Requests ----

// Those without a name there are another runtime's, and left.
constexpr MemberName kOptions[] = {{"temperature", "temperature"},
                                   {"top_k", "top_k"},
                                   {"top_p", "top_p"},
                                   {"min_p", "min_p"},
                                   {"typical_p", "typical_p"},
                                   {"seed", "seed"},
                                   {"stop", "stop"},
                                   {"repeat_penalty", "repetition_penalty"},
                                   {"presence_penalty", "presence_penalty"},
                                   {"frequency_penalty", "frequency_penalty"},
                                   {"num_predict", "max_tokens"},
                                   {"num_ctx", nullptr},
                                   {"num_keep", nullptr},
                                   {"num_batch", nullptr},
                                   {"num_gpu", nullptr},
                                   {"low_vram", nullptr},
                                   {"f16_kv", nullptr},
                                   {"logits_all", nullptr},
                                   {"vocab_only", nullptr},
                                   {"use_mlock", nullptr},
                                   {"embedding_only", nullptr},
                                   {"main_gpu", nullptr},
                                   {"num_thread", nullptr},
                                   {"use_mmap", nullptr},
                                   {"numa", nullptr},
                                   {"repeat_last_n", nullptr},
                                   {"penalize_newline", nullptr},
                                   {"mirostat", nullptr},
                                   {"mirostat_eta", nullptr},
                                   {"mirostat_tau", nullptr},
                                   {"tfs_z", nullptr}};

Status ReadOptions(const Json& options, Json* into) {
  if (options.is_null()) return Ok();
  if (!options.is_object()) return WrongMember("options", options, "an object");
  BANTAM_TRY(TakeMembers(options, kOptions, into).With("options"));
  // Below 0: as many as there are.
  const Json& most = JsonMember(*into, "max_tokens");
  if (most.is_number_integer() && most.get<int64_t>() < 0) into->erase("max_tokens");
  return Ok();
}

constexpr std::string_view kChatMembers[] = {
    "model", "messages", "tools",        "format",   "options",     "stream",  "keep_alive",
    "think", "logprobs", "top_logprobs", "priority", "deadline_ms", "adapter", "confidence_threshold",
    "cache"};
constexpr std::string_view kGenerateMembers[] = {"model",
                                                 "prompt",
                                                 "system",
                                                 "format",
                                                 "options",
                                                 "stream",
                                                 "raw",
                                                 "keep_alive",
                                                 "think",
                                                 "images",
                                                 "context",
                                                 "suffix",
                                                 "template",
                                                 "logprobs",
                                                 "top_logprobs",
                                                 "priority",
                                                 "deadline_ms",
                                                 "adapter",
                                                 "confidence_threshold",
                                                 "cache"};

// What chats and prompts have in common.
Result<Json> ReadCommon(const Json& body) {
  Json into = Json::object();
  BANTAM_TRY(ReadOptions(JsonMember(body, "options"), &into));
  for (const char* name : {"logprobs", "top_logprobs", "priority", "deadline_ms", "adapter", "confidence_threshold", "cache"}) {
    if (const Json& value = JsonMember(body, name); !value.is_null()) into[name] = value;
  }
  const Json& format = JsonMember(body, "format");
  if (format == "json") {
    into["response_format"] = {{"type", "json_object"}};
  } else if (format.is_object()) {
    into["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", format}}}};
  } else if (!format.is_null() && format != "") {
    return WrongMember("format", format, "\"json\", or a JSON Schema");
  }
  const Json& think = JsonMember(body, "think");
  if (think.is_boolean()) into["chat_template_kwargs"] = {{"enable_thinking", think}};
  if (think.is_string()) into["reasoning_effort"] = think;
  return into;
}

// "1h30m", as Go writes durations, in seconds; nothing for anything else.
std::optional<double> ReadDuration(std::string_view text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {{"ns", 1e-9}, {"us", 1e-6}, {"\u00b5s", 1e-6}, {"\u03bcs", 1e-6},
                                                            {"ms", 1e-3}, {"s", 1},     {"m", 60},         {"h", 3600}};
  const bool below = text.starts_with('-');
  if (below || text.starts_with('+')) text.remove_prefix(1);
  if (text == "0") return 0;
  if (text.empty()) return std::nullopt;
  double seconds = 0;
  while (!text.empty()) {
    double number = 0;
    const char* const end = text.data() + text.size();
    const auto [behind, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
    // It would take signs and "inf", too.
    if (error != std::errc() || ((text[0] < '0' || text[0] > '9') && text[0] != '.')) return std::nullopt;
    text.remove_prefix(static_cast<size_t>(behind - text.data()));
    const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const auto& one) { return text.starts_with(one.first); });
    if (unit == std::end(kUnits)) return std::nullopt;
    text.remove_prefix(unit->first.size());
    seconds += number * unit->second;
  }
  return below ? -seconds : seconds;
}

// How long the model stays behind the answer, in nanoseconds: seconds, or a duration; below 0 for ever. Nothing where nothing is said.
Result<std::optional<int64_t>> ReadKeepAlive(const Json& body) {
  const Json& value = JsonMember(body, "keep_alive");
  if (value.is_null()) return std::optional<int64_t>();
  constexpr double kForEverSeconds = 1e9;
  constexpr double kNsPerSecond = 1e9;
  const std::optional<double> seconds = value.is_number()   ? std::optional(value.get<double>())
                                        : value.is_string() ? ReadDuration(value.get<std::string>())
                                                            : std::nullopt;
  if (!seconds) {
    return WrongMember("keep_alive", value, "seconds, or a duration such as \"10m\" or \"1h30m\"; below 0: as long as the model may stay");
  }
  const bool for_ever = *seconds < 0 || *seconds > kForEverSeconds;
  return std::optional(for_ever ? INT64_MAX : static_cast<int64_t>(*seconds * kNsPerSecond));
}

Status RefuseImages(const std::string& member, const Json& images) {
  if (images.is_null() || (images.is_array() && images.empty())) return Ok();
  return WrongMember(member, "...", "none: this model reads text only");
}

Result<Json> ReadMessages(const Json& list) {
  if (!list.is_array() || list.empty()) return WrongMember("messages", list, "a list of messages");
  Json messages = Json::array();
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& message = list[i];
    if (!message.is_object()) return WrongMember(fmt::format("messages[{}]", i), message, "an object with \"role\" and \"content\"");
    BANTAM_TRY(RefuseImages(fmt::format("messages[{}].images", i), JsonMember(message, "images")));
    Json read = {{"role", JsonMember(message, "role")}, {"content", JsonMember(message, "content")}};
    if (read["content"].is_null()) read["content"] = "";
    if (const Json& calls = JsonMember(message, "tool_calls"); !calls.is_null()) read["tool_calls"] = calls;
    if (const auto name = JsonText(message, "tool_name")) read["name"] = *name;
    if (const auto thinking = JsonText(message, "thinking")) read["reasoning_content"] = *thinking;
    messages.push_back(std::move(read));
  }
  return messages;
}

// ---- Answers ----

class NdjsonWriter final : public AnswerWriter {
 public:
  NdjsonWriter(std::shared_ptr<const ServedModel> model, bool chat, bool logprobs)
      : model_(std::move(model)), chat_(chat), logprobs_(logprobs) {}

  std::string_view stream_type() const override { return "application/x-ndjson"; }
  std::string Add(const AnswerDelta& delta) override {
    if (delta.finish != nullptr) reason_ = DoneReason(*delta.finish);
    const Output& output = delta.output;
    waiting_.insert(waiting_.end(), delta.tokens.begin(), delta.tokens.end());
    if (output.content.empty() && output.reasoning.empty() && output.tool_calls.empty()) return "";
    Json line = Line(output);
    AddLogprobs(&line);
    line["done"] = false;
    return DumpJson(line, /*indent=*/-1) + "\n";
  }
  std::string End(const AnswerUsage& usage) override {
    Json line = Line({});
    AddLogprobs(&line);
    AddEnd(usage, &line);
    return DumpJson(line, /*indent=*/-1) + "\n";
  }
  Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override {
    reason_ = DoneReason(choices[0].finish);
    Json line = Line(choices[0].output);
    waiting_ = choices[0].tokens;
    AddLogprobs(&line);
    AddEnd(usage, &line);
    return line;
  }

 private:
  static std::string_view DoneReason(const Finish& finish) {
    return finish.reason == StopReason::kDeadline ? "length" : FinishReasonName(finish.reason);
  }
  Json Line(const Output& output) const {
    Json line = {{"model", model_->name}, {"created_at", UtcText(std::time(nullptr))}};
    if (!chat_) {
      line["response"] = output.content;
      if (!output.reasoning.empty()) line["thinking"] = output.reasoning;
      return line;
    }
    Json message = {{"role", "assistant"}, {"content", output.content}};
    if (!output.reasoning.empty()) message["thinking"] = output.reasoning;
    for (const ToolCall& call : output.tool_calls) {
      const Result<Json> arguments = ParseJson(call.arguments);
      message["tool_calls"].push_back({{"function", {{"name", call.name}, {"arguments", arguments.ok() ? *arguments : Json::object()}}}});
    }
    line["message"] = std::move(message);
    return line;
  }
  void AddLogprobs(Json* line) {
    if (logprobs_ && !waiting_.empty()) (*line)["logprobs"] = LogprobsJson(*model_->tokenizer, waiting_);
    waiting_.clear();
  }
  void AddEnd(const AnswerUsage& usage, Json* line) const {
    (*line)["done"] = true;
    (*line)["done_reason"] = reason_;
    (*line)["total_duration"] = usage.total_ns;
    (*line)["load_duration"] = 0;
    (*line)["prompt_eval_count"] = usage.prompt_tokens;
    (*line)["prompt_eval_duration"] = std::max<int64_t>(usage.first_token_ns - usage.queued_ns, 0);
    (*line)["eval_count"] = usage.generated_tokens;
    (*line)["eval_duration"] = std::max<int64_t>(usage.total_ns - usage.first_token_ns, 0);
  }

  const std::shared_ptr<const ServedModel> model_;
  const bool chat_;
  const bool logprobs_;
  std::vector<TokenInfo> waiting_;  // of texts that were not written yet
  std::string_view reason_ = "stop";
};

// ---- Routes ----

// What old clients call it is its name, too.
const Json& NamedModel(const Json& body) {
  const Json& model = JsonMember(body, "model");
  return model.is_null() ? JsonMember(body, "name") : model;
}

// The body, its model held, and kept for as long as is asked.
Result<Json> HoldFor(const Gateway& gateway, Call& call, Json body) {
  BANTAM_ASSIGN(const auto keep_ns, ReadKeepAlive(body));
  BANTAM_TRY(gateway.HoldModel(call, NamedModel(body)));
  body.erase("name");
  Gateway::AddHeaderMembers(call.request(), &body);
  if (keep_ns) gateway.models().Keep(call.model->name, *keep_ns);
  return body;
}

Result<Json> ReadBody(const Gateway& gateway, Call& call) {
  BANTAM_ASSIGN(Json body, Gateway::ReadObject(call));
  return HoldFor(gateway, call, std::move(body));
}

Result<AnswerRequest> ReadRequest(const Call& call, const Json& body, bool chat) {
  AnswerRequest asked;
  BANTAM_ASSIGN(asked.model, Gateway::AnsweringModelOf(call));
  asked.stream = true;
  if (const Json& stream = JsonMember(body, "stream"); !stream.is_null()) {
    BANTAM_ASSIGN(asked.stream, ReadFlag("stream", stream));
  }
  const bool raw = !chat && (JsonFlag(body, "raw", false) || asked.model->chat_template == nullptr);
  BANTAM_ASSIGN(Json into, chat ? OllamaChatToOpenAi(body) : OllamaPromptToOpenAi(body, raw));
  const ChatContext context = {*asked.model, LocalTime()};
  BANTAM_ASSIGN(asked.plan, raw ? ReadCompletionRequest(std::move(into), context) : ReadChatRequest(std::move(into), context));
  asked.writer = std::make_unique<NdjsonWriter>(asked.model, chat, asked.plan.request.token_details);
  return asked;
}

// Without a word to answer, clients ask that the model be there; or, where it is not to be kept, that it go.
bool OnlyLoads(const Json& body, bool chat) {
  const Json& words = JsonMember(body, chat ? "messages" : "prompt");
  return words.is_null() || words == "" || words == Json::array();
}
bool OnlyUnloads(const Json& body, bool chat) {
  const auto keep_ns = ReadKeepAlive(body);
  return OnlyLoads(body, chat) && keep_ns.ok() && *keep_ns && **keep_ns == 0;
}

Result<Json> SayDone(const std::string& model, const Json& body, bool chat, std::string_view reason) {
  BANTAM_TRY(chat ? CheckMembers(body, kChatMembers) : CheckMembers(body, kGenerateMembers));
  Json line = {{"model", model}, {"created_at", UtcText(std::time(nullptr))}};
  if (chat) {
    line["message"] = {{"role", "assistant"}, {"content", ""}};
  } else {
    line["response"] = "";
  }
  line.update({{"done", true}, {"done_reason", reason}});
  return line;
}

Result<Json> SayLoaded(const Call& call, const Json& body, bool chat) {
  BANTAM_ASSIGN(const auto model, Gateway::AnsweringModelOf(call));
  return SayDone(model->name, body, chat, "load");
}

// Nothing is loaded for that. What is there to stay stays, and is said to be loaded.
Result<Json> Unload(const Gateway& gateway, Call& call, Json body, bool chat) {
  BANTAM_ASSIGN(call.record.model, gateway.NameOf(call, NamedModel(body)));
  body.erase("name");
  BANTAM_ASSIGN(Json line, SayDone(call.record.model, body, chat, "unload"));
  if (!gateway.models().Keep(call.record.model, /*keep_ns=*/0)) line["done_reason"] = "load";
  return line;
}

template <bool kChat>
void Answers(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const auto respond = [&](const Result<Json>& line) { line.ok() ? call->RespondJson(*line) : call->Fail(line.error()); };
  Result<Json> body = Gateway::ReadObject(*call);
  if (!body.ok()) return call->Fail(body.error());
  if (OnlyUnloads(*body, kChat)) return respond(Unload(gateway, *call, std::move(body).value(), kChat));
  body = HoldFor(gateway, *call, std::move(body).value());
  if (!body.ok()) return call->Fail(body.error());
  if (OnlyLoads(*body, kChat)) return respond(SayLoaded(*call, *body, kChat));
  Result<AnswerRequest> asked = ReadRequest(*call, *body, kChat);
  if (!asked.ok()) return call->Fail(asked.error());
  gateway.Ask(call, std::move(asked).value());
}

void Embed(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<Json> body = ReadBody(gateway, *call);
  if (!body.ok()) return call->Fail(body.error());
  for (const char* name : {"options", "keep_alive"}) body->erase(name);
  gateway.AskTexts(call, std::move(body).value(), VectorList::kPlain, [](const std::string& model, const TextService::Answer& answer) {
    return fmt::format("{{\"model\":{},{},\"prompt_eval_count\":{}}}", model, answer.members, answer.tokens);
  });
}

Json DetailsJson(const ServedModel& model) {
  const ModelFacts& facts = model.facts;
  return {{"parent_model", ""},
          {"format", facts.format},
          {"family", facts.architecture},
          {"families", Json::array({facts.architecture})},
          {"parameter_size", fmt::format("{:.1f}M", static_cast<double>(facts.parameters) / 1e6)},
          {"quantization_level", facts.weights}};
}

template <bool kRunning>
void ListModels(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Json list = Json::array();
  for (const CatalogView& view : gateway.ModelsOf(*call)) {
    const auto& model = view.model;
    // What was never in memory is known by its name alone.
    if (model == nullptr) {
      if (!kRunning) list.push_back({{"name", view.name}, {"model", view.name}});
      continue;
    }
    Json json = {{"name", model->name}, {"model", model->name}, {"size", model->facts.file_bytes}, {"digest", model->facts.digest}};
    json["details"] = DetailsJson(*model);
    if (kRunning) {
      json["context_length"] = model->context;
      json["size_vram"] = 0;
    } else {
      json["modified_at"] = UtcText(model->loaded_s);
    }
    list.push_back(std::move(json));
  }
  call->RespondJson({{"models", std::move(list)}});
}

void Show(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<Json> body = ReadBody(gateway, *call);
  if (!body.ok()) return call->Fail(body.error());
  const ServedModel& model = *call->model;
  Json capabilities = Json::array({model.Answers() ? "completion" : "embedding"});
  if (model.chat_template != nullptr) capabilities.push_back("tools");
  const std::string& family = model.facts.architecture;
  call->RespondJson({{"modified_at", UtcText(model.loaded_s)},
                     {"details", DetailsJson(model)},
                     {"model_info",
                      {{"general.architecture", family},
                       {"general.parameter_count", model.facts.parameters},
                       {fmt::format("{}.context_length", family), model.context}}},
                     {"capabilities", std::move(capabilities)}});
}

void ShowVersion(Gateway& gateway, const std::shared_ptr<Call>& call) { call->RespondJson({{"version", gateway.options().version}}); }

}  // namespace

Result<Json> OllamaChatToOpenAi(const Json& body) {
  BANTAM_TRY(CheckMembers(body, kChatMembers));
  BANTAM_ASSIGN(Json into, ReadCommon(body));
  BANTAM_ASSIGN(into["messages"], ReadMessages(JsonMember(body, "messages")));
  if (const Json& tools = JsonMember(body, "tools"); !tools.is_null()) into["tools"] = tools;
  return into;
}

Result<Json> OllamaPromptToOpenAi(const Json& body, bool raw) {
  BANTAM_TRY(CheckMembers(body, kGenerateMembers));
  BANTAM_TRY(RefuseImages("images", JsonMember(body, "images")));
  for (const char* name : {"suffix", "template", "context"}) {
    const Json& value = JsonMember(body, name);
    if (!value.is_null() && value != "" && !(value.is_array() && value.empty())) {
      return WrongMember(name, "...", "none: it is not known here; send a chat, or a whole prompt with \"raw\": true");
    }
  }
  BANTAM_ASSIGN(Json into, ReadCommon(body));
  BANTAM_ASSIGN(const std::string prompt, ReadText("prompt", JsonMember(body, "prompt")));
  const auto system = JsonText(body, "system");
  if (raw) {
    into["prompt"] = system.value_or("") + prompt;
    return into;
  }
  Json messages = Json::array();
  if (system && !system->empty()) messages.push_back({{"role", "system"}, {"content", *system}});
  messages.push_back({{"role", "user"}, {"content", prompt}});
  into["messages"] = std::move(messages);
  return into;
}

const Dialect kOllamaDialect = {"ollama", ErrorBody, ErrorEvent};

std::span<const Route> OllamaRoutes() {
  using enum RouteWork;
  static const Route kRoutes[] = {
      {"POST", "/api/chat", Role::kUse, kReads, kOllamaDialect, Answers<true>},
      {"POST", "/api/generate", Role::kUse, kReads, kOllamaDialect, Answers<false>},
      {"POST", "/api/embed", Role::kUse, kReads, kOllamaDialect, Embed},
      {"GET", "/api/tags", Role::kUse, kQuick, kOllamaDialect, ListModels<false>},
      {"GET", "/api/ps", Role::kUse, kQuick, kOllamaDialect, ListModels<true>},
      {"POST", "/api/show", Role::kUse, kReads, kOllamaDialect, Show},
      {"GET", "/api/version", Role::kAnybody, kQuick, kOllamaDialect, ShowVersion},
  };
  return kRoutes;
}

}  // namespace bantam
