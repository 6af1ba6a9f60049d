// What clients of llama.cpp's server ask beside the other APIs (docs/serve-llama-cpp.md): completions of its own kind, what the server is
// and does, prompts as templates make them; and its other names for routes.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>
#include <limits>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/json_members.h"
#include "serve/dialects.h"
#include "serve/gateway.h"
#include "serve/routes.h"
#include "serve/token_json.h"

namespace bantam {
namespace {

constexpr size_t kProbabilitiesMax = 20;

// ---- Reading ----

// What a completion of this kind says that OpenAI's members do not.
struct LlamaSettings {
  bool stream = false;
  bool return_tokens = false;
  bool ignore_eos = false;
  size_t probabilities = 0;
  std::vector<std::string> response_fields = {};
};

constexpr MemberName kMembers[] = {{"model", nullptr},
                                   {"prompt", nullptr},  // read by ReadPrompt
                                   {"stream", nullptr},  // from here on by ReadSettings
                                   {"return_tokens", nullptr},
                                   {"ignore_eos", nullptr},
                                   {"n_probs", nullptr},
                                   {"response_fields", nullptr},
                                   {"n_predict", nullptr},  // by ReadLength
                                   {"max_tokens", nullptr},
                                   {"logit_bias", nullptr},   // by ReadBias
                                   {"json_schema", nullptr},  // by ReadSchema
                                   {"samplers", nullptr},     // from here on by ReadSampler
                                   {"dynatemp_range", nullptr},
                                   {"dynatemp_exponent", nullptr},
                                   {"top_n_sigma", nullptr},
                                   {"xtc_probability", nullptr},
                                   {"xtc_threshold", nullptr},
                                   {"repeat_last_n", nullptr},
                                   {"dry_multiplier", nullptr},
                                   {"dry_base", nullptr},
                                   {"dry_allowed_length", nullptr},
                                   {"dry_penalty_last_n", nullptr},
                                   {"mirostat", nullptr},
                                   {"mirostat_tau", nullptr},
                                   {"mirostat_eta", nullptr},
                                   {"temperature", "temperature"},
                                   {"top_k", "top_k"},
                                   {"top_p", "top_p"},
                                   {"min_p", "min_p"},
                                   {"typical_p", "typical_p"},
                                   {"repeat_penalty", "repetition_penalty"},
                                   {"presence_penalty", "presence_penalty"},
                                   {"frequency_penalty", "frequency_penalty"},
                                   {"seed", "seed"},
                                   {"stop", "stop"},
                                   {"cache_prompt", "cache"},
                                   {"grammar", "grammar"},
                                   {"n", "n"},
                                   {"priority", "priority"},
                                   {"deadline_ms", "deadline_ms"},
                                   {"adapter", "adapter"},
                                   {"confidence_threshold", "confidence_threshold"},
                                   {"user", "user"},
                                   // Of slots, batches and what is told on the way: nothing here depends on them.
                                   {"id_slot", nullptr},
                                   {"n_keep", nullptr},
                                   {"n_discard", nullptr},
                                   {"n_indent", nullptr},
                                   {"min_keep", nullptr},
                                   {"timings_per_token", nullptr},
                                   {"return_progress", nullptr},
                                   {"post_sampling_probs", nullptr},
                                   {"dry_sequence_breakers", nullptr}};

Status ReadFlagInto(const Json& body, const char* name, bool* into) {
  const Json& value = JsonMember(body, name);
  if (value.is_null()) return Ok();
  BANTAM_ASSIGN(*into, ReadFlag(name, value));
  return Ok();
}

Result<LlamaSettings> ReadSettings(const Json& body) {
  LlamaSettings settings;
  BANTAM_TRY(ReadFlagInto(body, "stream", &settings.stream));
  BANTAM_TRY(ReadFlagInto(body, "return_tokens", &settings.return_tokens));
  BANTAM_TRY(ReadFlagInto(body, "ignore_eos", &settings.ignore_eos));
  bool after_sampling = false;
  BANTAM_TRY(ReadFlagInto(body, "post_sampling_probs", &after_sampling));
  if (after_sampling)
    return WrongMember("post_sampling_probs", true, "false: probabilities are the model's, before any step of the sampler");
  if (const Json& count = JsonMember(body, "n_probs"); !count.is_null()) {
    BANTAM_ASSIGN(settings.probabilities, ReadWhole("n_probs", count, 0, kProbabilitiesMax));
  }
  const Json& fields = JsonMember(body, "response_fields");
  if (!fields.is_null() && !fields.is_array()) return WrongMember("response_fields", fields, "a list of names");
  for (const Json& field : fields) {
    BANTAM_ASSIGN(std::string name, ReadText("response_fields", field));
    settings.response_fields.push_back(std::move(name));
  }
  return settings;
}

// A text, ids, both in turn, or {"prompt_string"}. Names of control tokens mean those tokens: the prompt is the whole of what the model
// sees, as a template would have made it.
Result<Json> ReadPrompt(const Json& prompt, const ServedModel& model) {
  const Tokenizer& tokenizer = *model.tokenizer;
  const Json* wanted = &prompt;
  if (prompt.is_object() && !JsonMember(prompt, "multimodal_data").is_null()) {
    return Error(Code::kUnsupported, "prompt: multimodal_data: this model reads text only");
  }
  if (prompt.is_object()) wanted = &JsonMember(prompt, "prompt_string");
  const Json list = wanted->is_string() ? Json::array({*wanted}) : *wanted;
  if (!list.is_array()) return WrongMember("prompt", prompt, "a text, or a list of token ids and texts that make one prompt");
  size_t bytes = 0;
  for (const Json& part : list) bytes += part.is_string() ? part.get_ref<const std::string&>().size() : 1;
  if (bytes / tokenizer.longest_token() > model.context) {
    return Error(Code::kExhausted, fmt::format("prompt: {} bytes: the request exceeds the available context size ({} tokens); shorten it",
                                               bytes, model.context));
  }
  std::vector<uint32_t> tokens;
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].is_string()) {
      BANTAM_ASSIGN(std::vector<uint32_t> part, tokenizer.Encode(list[i].get_ref<const std::string&>(), /*special=*/true));
      if (i == 0) part = tokenizer.WithPrefix(std::move(part));
      tokens.insert(tokens.end(), part.begin(), part.end());
    } else if (list[i].is_array() || list[i].is_object()) {
      return Error(Code::kUnsupported, "prompt: several prompts in one request are not answered; send a request for each");
    } else {
      BANTAM_ASSIGN(const uint64_t token, ReadWhole("prompt", list[i], 0, tokenizer.size() - 1));
      tokens.push_back(static_cast<uint32_t>(token));
    }
  }
  if (tokens.size() >= model.context) {
    return Error(Code::kExhausted, fmt::format("prompt: {} tokens: the request exceeds the available context size ({} tokens); shorten it",
                                               tokens.size(), model.context));
  }
  return Json(tokens);
}

// "n_predict": -1 is as long as the context allows.
Status ReadLength(const Json& body, Json* members) {
  for (const char* name : {"max_tokens", "n_predict"}) {
    const Json& length = JsonMember(body, name);
    if (length.is_null()) continue;
    // As long as the context lets it.
    (*members)["max_tokens"] = length == -1 ? Json(uint64_t{UINT32_MAX}) : length;
  }
  return Ok();
}

// {id or text: number}, or a list of [id or text, number or false].
Status ReadBias(const Json& bias, const Tokenizer& tokenizer, std::vector<std::pair<uint32_t, float>>* into) {
  if (bias.is_null()) return Ok();
  constexpr size_t kBiasesMax = 1100;
  if ((!bias.is_array() && !bias.is_object()) || bias.size() > kBiasesMax) {
    return WrongMember("logit_bias", bias, "an object from tokens to numbers, or a list of pairs");
  }
  const auto add = [&](const Json& token, const Json& number) -> Status {
    double value = -std::numeric_limits<double>::infinity();
    if (number != false) {
      BANTAM_ASSIGN(value, ReadNumber("logit_bias", number, {-1e4, 1e4}));
    }
    if (!token.is_string()) {
      BANTAM_ASSIGN(const uint64_t id, ReadWhole("logit_bias", token, 0, tokenizer.size() - 1));
      into->emplace_back(static_cast<uint32_t>(id), static_cast<float>(value));
      return Ok();
    }
    BANTAM_ASSIGN(const std::vector<uint32_t> ids, tokenizer.Encode(token.get_ref<const std::string&>(), /*special=*/true));
    for (const uint32_t id : ids) into->emplace_back(id, static_cast<float>(value));
    return Ok();
  };
  if (bias.is_array()) {
    for (const Json& pair : bias) {
      if (!pair.is_array() || pair.size() != 2) return WrongMember("logit_bias", pair, "a pair of a token and a number");
      BANTAM_TRY(add(pair[0], pair[1]));
    }
    return Ok();
  }
  for (const auto& [name, number] : bias.items()) {
    const bool id = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    const Result<Json> read = id ? ParseJson(name) : Result<Json>(Json(name));
    BANTAM_TRY(add(read.ok() ? *read : Json(name), number));
  }
  return Ok();
}

// Names as llama.cpp has them, in the order in which they are applied.
Status ReadOrder(const Json& names, std::vector<SamplerStep>* order) {
  if (names.is_null()) return Ok();
  if (!names.is_array()) return WrongMember("samplers", names, "a list of names");
  constexpr std::pair<std::string_view, SamplerStep> kSteps[] = {{"penalties", SamplerStep::kPenalties},
                                                                 {"dry", SamplerStep::kDry},
                                                                 {"top_n_sigma", SamplerStep::kTopNSigma},
                                                                 {"top_k", SamplerStep::kTopK},
                                                                 {"typ_p", SamplerStep::kTypical},
                                                                 {"typical_p", SamplerStep::kTypical},
                                                                 {"top_p", SamplerStep::kTopP},
                                                                 {"min_p", SamplerStep::kMinP},
                                                                 {"xtc", SamplerStep::kXtc},
                                                                 {"temperature", SamplerStep::kTemperature}};
  std::vector<SamplerStep> steps;
  for (const Json& name : names) {
    const std::string text = name.is_string() ? name.get<std::string>() : "";
    const auto known = std::find_if(std::begin(kSteps), std::end(kSteps), [&](const auto& step) { return step.first == text; });
    if (known == std::end(kSteps) || std::find(steps.begin(), steps.end(), known->second) != steps.end()) {
      return WrongMember("samplers", name, "penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc or temperature, once each");
    }
    steps.push_back(known->second);
  }
  *order = std::move(steps);
  return Ok();
}

// What only this API can say of sampling.
Status ReadSampler(const Json& body, SamplerOptions* sampler) {
  const std::pair<const char*, float*> numbers[] = {
      {"dynatemp_range", &sampler->temperature_range}, {"dynatemp_exponent", &sampler->temperature_exponent},
      {"xtc_probability", &sampler->xtc.probability},  {"xtc_threshold", &sampler->xtc.threshold},
      {"dry_multiplier", &sampler->dry.multiplier},    {"dry_base", &sampler->dry.base},
      {"mirostat_tau", &sampler->mirostat.tau},        {"mirostat_eta", &sampler->mirostat.eta}};
  for (const auto& [name, place] : numbers) {
    if (const Json& value = JsonMember(body, name); !value.is_null()) {
      BANTAM_ASSIGN(const double number, ReadNumber(name, value, {0, 1000}));
      *place = static_cast<float>(number);
    }
  }
  // -1 is none.
  if (const Json& value = JsonMember(body, "top_n_sigma"); !value.is_null()) {
    BANTAM_ASSIGN(const double number, ReadNumber("top_n_sigma", value, {-1, 100}));
    sampler->top_n_sigma = static_cast<float>(std::max(number, 0.0));
  }
  // -1 is all of the context.
  const std::pair<const char*, uint32_t*> windows[] = {{"repeat_last_n", &sampler->penalty_window},
                                                       {"dry_penalty_last_n", &sampler->dry_window},
                                                       {"dry_allowed_length", &sampler->dry.allowed_length}};
  for (const auto& [name, place] : windows) {
    if (const Json& value = JsonMember(body, name); !value.is_null()) {
      BANTAM_ASSIGN(const double number, ReadNumber(name, value, {-1, kSamplerWindowMax}));
      *place = number < 0 ? kSamplerWindowMax : static_cast<uint32_t>(number);
    }
  }
  if (const Json& value = JsonMember(body, "mirostat"); !value.is_null()) {
    BANTAM_ASSIGN(const uint64_t version, ReadWhole("mirostat", value, 0, 2));
    sampler->mirostat.version = static_cast<int>(version);
  }
  return ReadOrder(JsonMember(body, "samplers"), &sampler->order);
}

// ---- Writing ----

double Ms(int64_t ns) { return static_cast<double>(ns) * 1e-6; }

Json SettingsJson(const Request& request, const LlamaSettings& settings) {
  const SamplerOptions& sampler = request.sampler;
  Json bias = Json::array();
  for (const auto& [token, value] : sampler.logit_bias) {
    bias.push_back({{"token", token}, {"bias", std::isinf(value) ? Json(nullptr) : Json(value)}});
  }
  Json order = Json::array();
  for (const SamplerStep step : sampler.order) {
    std::string name(SamplerStepName(step));
    std::replace(name.begin(), name.end(), '-', '_');
    order.push_back(name == "typical" ? "typ_p" : name);
  }
  const size_t length = request.tokens_max;
  return {{"n_predict", length},
          {"max_tokens", length},
          {"seed", sampler.seed},
          {"temperature", sampler.temperature},
          {"dynatemp_range", sampler.temperature_range},
          {"dynatemp_exponent", sampler.temperature_exponent},
          {"top_k", sampler.top_k},
          {"top_p", sampler.top_p},
          {"min_p", sampler.min_p},
          {"top_n_sigma", sampler.top_n_sigma},
          {"xtc_probability", sampler.xtc.probability},
          {"xtc_threshold", sampler.xtc.threshold},
          {"typical_p", sampler.typical},
          {"repeat_last_n", sampler.penalty_window},
          {"repeat_penalty", sampler.penalties.repetition},
          {"presence_penalty", sampler.penalties.presence},
          {"frequency_penalty", sampler.penalties.frequency},
          {"dry_multiplier", sampler.dry.multiplier},
          {"dry_base", sampler.dry.base},
          {"dry_allowed_length", sampler.dry.allowed_length},
          {"dry_penalty_last_n", sampler.dry_window},
          {"mirostat", sampler.mirostat.version},
          {"mirostat_tau", sampler.mirostat.tau},
          {"mirostat_eta", sampler.mirostat.eta},
          {"stop", request.stops},
          {"ignore_eos", settings.ignore_eos},
          {"stream", settings.stream},
          {"n_probs", settings.probabilities},
          {"logit_bias", std::move(bias)},
          {"samplers", std::move(order)}};
}

Json TokenIds(std::span<const TokenInfo> tokens) {
  Json ids = Json::array();
  for (const TokenInfo& token : tokens) ids.push_back(token.chosen.token);
  return ids;
}

Json ProbabilityJson(const Tokenizer& tokenizer, const TokenLogprob& token) {
  const std::string text = TokenBytes(tokenizer, token.token);
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"id", token.token}, {"token", text}, {"bytes", std::move(bytes)}, {"logprob", token.logprob}};
}

Json ProbabilitiesJson(const Tokenizer& tokenizer, std::span<const TokenInfo> tokens) {
  Json list = Json::array();
  for (const TokenInfo& info : tokens) {
    Json one = ProbabilityJson(tokenizer, info.chosen);
    one["top_logprobs"] = Json::array();
    for (const TokenLogprob& top : info.top) one["top_logprobs"].push_back(ProbabilityJson(tokenizer, top));
    list.push_back(std::move(one));
  }
  return list;
}

class LlamaWriter final : public AnswerWriter {
 public:
  struct Setup {
    std::shared_ptr<const ServedModel> model;
    LlamaSettings settings;
    Json generation;     // its settings as JSON
    std::string prompt;  // with the names of control tokens
  };
  explicit LlamaWriter(Setup setup) : setup_(std::move(setup)) {}

  std::string Add(const AnswerDelta& delta) override {
    const size_t before = std::exchange(tokens_, tokens_ + delta.token_count);
    new_line_ = new_line_ || delta.output.content.find('\n') != std::string::npos;
    if (delta.finish != nullptr) finish_ = *delta.finish;
    if (delta.output.content.empty() && delta.tokens.empty()) return "";
    // Its clients count on an event for each token, also where several came at once; the text is with the last of them.
    std::string events;
    const size_t count = std::max<size_t>(delta.tokens.size(), 1);
    for (size_t i = 0; i < count; ++i) {
      const bool last = i + 1 == count;
      const auto tokens = delta.tokens.subspan(std::min(i, delta.tokens.size()), delta.tokens.empty() ? 0 : 1);
      Json event = {
          {"index", delta.choice}, {"content", last ? delta.output.content : ""},        {"tokens", TokenIds(tokens)}, {"stop", false},
          {"id_slot", -1},         {"tokens_predicted", last ? tokens_ : before + i + 1}};
      if (setup_.settings.probabilities > 0) event["completion_probabilities"] = ProbabilitiesJson(*setup_.model->tokenizer, tokens);
      events += Event(event);
    }
    return events;
  }
  std::string End(const AnswerUsage& usage) override { return Event(Last(/*index=*/0, "", {}, finish_, usage)); }
  Json Whole(std::span<const AnswerChoice> choices, const AnswerUsage& usage) override {
    Json list = Json::array();
    for (const AnswerChoice& choice : choices) {
      new_line_ = choice.output.content.find('\n') != std::string::npos;
      list.push_back(Last(list.size(), choice.output.content, choice.tokens, choice.finish, usage));
    }
    return list.size() == 1 ? Json(list[0]) : list;
  }

 private:
  static std::string Event(const Json& json) { return fmt::format("data: {}\n\n", DumpJson(json, /*indent=*/-1)); }

  Json Last(size_t index, const std::string& content, std::span<const TokenInfo> tokens, const Finish& finish,
            const AnswerUsage& usage) const {
    const bool stopped = finish.reason == StopReason::kStopString;
    Json last = {{"index", index},
                 {"content", content},
                 {"tokens", setup_.settings.return_tokens ? TokenIds(tokens) : Json::array()},
                 {"id_slot", -1},
                 {"stop", true},
                 {"model", setup_.model->name},
                 {"tokens_predicted", finish.usage.generated_tokens},
                 {"tokens_evaluated", usage.prompt_tokens},
                 {"generation_settings", setup_.generation},
                 {"prompt", setup_.prompt},
                 {"has_new_line", new_line_},
                 {"truncated", finish.reason == StopReason::kContextFull},
                 {"stop_type", stopped                                   ? "word"
                               : finish.reason == StopReason::kEndOfTurn ? "eos"
                                                                         : "limit"},
                 {"stopping_word", finish.stop},
                 {"tokens_cached", usage.cached_tokens}};
    last["timings"] = LlamaTimings(usage);
    if (setup_.settings.probabilities > 0 && !tokens.empty()) {
      last["completion_probabilities"] = ProbabilitiesJson(*setup_.model->tokenizer, tokens);
    }
    return Chosen(std::move(last));
  }
  // What was asked for of it: "content", "generation_settings/seed".
  Json Chosen(Json whole) const {
    if (setup_.settings.response_fields.empty()) return whole;
    Json chosen = Json::object();
    for (const std::string& field : setup_.settings.response_fields) {
      const size_t slash = field.find('/');
      const Json& outer = JsonMember(whole, field.substr(0, slash).c_str());
      const Json& value = slash == std::string::npos ? outer : JsonMember(outer, field.substr(slash + 1).c_str());
      if (!value.is_null()) chosen[field] = value;
    }
    return chosen;
  }

  const Setup setup_;
  size_t tokens_ = 0;
  bool new_line_ = false;
  Finish finish_ = {};
};

// ---- Routes ----

Result<AnswerRequest> ReadCompletion(const Gateway& gateway, Call& call) {
  BANTAM_ASSIGN(Json body, gateway.ReadBody(call));
  Gateway::AddHeaderMembers(call.request(), &body);
  // What is cached is asked for by another name here.
  if (const Json cache = TakeMember(&body, "cache"); !cache.is_null() && !body.contains("cache_prompt")) body["cache_prompt"] = cache;
  AnswerRequest asked;
  BANTAM_ASSIGN(asked.model, Gateway::AnsweringModelOf(call));
  Json members = Json::object();
  BANTAM_TRY(TakeMembers(body, kMembers, &members));
  BANTAM_ASSIGN(const LlamaSettings settings, ReadSettings(body));
  BANTAM_ASSIGN(members["prompt"], ReadPrompt(JsonMember(body, "prompt"), *asked.model));
  BANTAM_TRY(ReadLength(body, &members));
  if (members.contains("seed") && members["seed"] == -1) members.erase("seed");
  if (const Json& schema = JsonMember(body, "json_schema"); !schema.is_null()) {
    members["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"schema", schema}}}};
  }
  if (settings.probabilities > 0 || settings.return_tokens || settings.stream) members["logprobs"] = settings.probabilities;
  BANTAM_ASSIGN(asked.plan, ReadCompletionRequest(std::move(members), {*asked.model, LocalTime()}));
  Request& request = asked.plan.request;
  BANTAM_TRY(ReadSampler(body, &request.sampler));
  BANTAM_TRY(ReadBias(JsonMember(body, "logit_bias"), *asked.model->tokenizer, &request.sampler.logit_bias));
  request.tokens_max = std::min(request.tokens_max, asked.model->context);
  if (settings.ignore_eos) request.tokens_min = request.tokens_max;
  asked.stream = settings.stream;
  LlamaWriter::Setup setup = {.model = asked.model,
                              .settings = settings,
                              .generation = SettingsJson(request, settings),
                              .prompt = asked.model->tokenizer->Decode(request.tokens, /*special=*/true)};
  asked.writer = std::make_unique<LlamaWriter>(std::move(setup));
  return asked;
}

void Complete(Gateway& gateway, const std::shared_ptr<Call>& call) {
  Result<AnswerRequest> asked = ReadCompletion(gateway, *call);
  if (!asked.ok()) return call->Fail(asked.error());
  gateway.Ask(call, std::move(asked).value());
}

// The model that "?model=NAME" means, or the first.
Result<CatalogView> ViewOf(const Gateway& gateway, const Call& call) {
  constexpr std::string_view kModel = "model=";
  const std::string& query = call.request().query;
  const auto name = query.starts_with(kModel) ? DecodePercent(query.substr(kModel.size(), query.find('&') - kModel.size())) : std::nullopt;
  BANTAM_ASSIGN(const std::string known, gateway.NameOf(call, name ? Json(*name) : Json(nullptr)));
  for (CatalogView& view : gateway.ModelsOf(call)) {
    if (view.name == known && view.model != nullptr) return std::move(view);
  }
  return Error(Code::kUnavailable, fmt::format("model {} is not in memory", known));
}

void ShowProps(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<CatalogView> view = ViewOf(gateway, *call);
  if (!view.ok()) return call->Fail(view.error());
  const ServedModel& model = *view->model;
  const size_t slots = std::max<size_t>(model.facts.sequences, 1);
  call->RespondJson({{"default_generation_settings", {{"n_ctx", model.context}, {"params", SettingsJson(model.defaults, {})}}},
                     {"total_slots", slots},
                     {"model_alias", model.name},
                     // Where it lies is for whoever administers.
                     {"model_path", view->path.substr(view->path.find_last_of('/') + 1)},
                     {"modalities", {{"vision", false}, {"audio", false}}},
                     {"build_info", fmt::format("bantam-{}", gateway.options().version)}});
}

void ShowSlots(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<CatalogView> view = ViewOf(gateway, *call);
  if (!view.ok()) return call->Fail(view.error());
  const ServedModel& model = *view->model;
  const size_t running = model.engine == nullptr ? 0 : model.engine->load().requests;
  Json slots = Json::array();
  for (size_t i = 0; i < std::max<size_t>(model.facts.sequences, 1); ++i) {
    slots.push_back({{"id", i}, {"n_ctx", model.context}, {"is_processing", i < running}});
  }
  call->RespondJson(slots);
}

// What chats have; of it, what templates look at.
Result<Json> TemplateOf(const Gateway& gateway, Call& call) {
  BANTAM_ASSIGN(Json body, gateway.ReadBody(call));
  BANTAM_ASSIGN(const auto model, Gateway::AnsweringModelOf(call));
  const Json add = TakeMember(&body, "add_generation_prompt");
  if (!add.is_null()) {
    BANTAM_ASSIGN(const bool wanted, ReadFlag("add_generation_prompt", add));
    body["chat_template_kwargs"]["add_generation_prompt"] = wanted;
  }
  BANTAM_ASSIGN(std::string prompt, RenderChatRequest(std::move(body), {*model, LocalTime()}));
  return Json{{"prompt", std::move(prompt)}};
}

Result<Json> CountOf(const Gateway& gateway, Call& call) {
  BANTAM_ASSIGN(Json body, gateway.ReadBody(call));
  BANTAM_ASSIGN(const auto model, Gateway::AnsweringModelOf(call));
  BANTAM_ASSIGN(const ChatPlan plan, ReadChatRequest(std::move(body), {*model, LocalTime()}));
  return Json{{"object", "response.input_tokens"}, {"input_tokens", plan.request.tokens.size()}};
}

template <Result<Json> (*Compute)(const Gateway&, Call&)>
void RespondWith(Gateway& gateway, const std::shared_ptr<Call>& call) {
  const Result<Json> json = Compute(gateway, *call);
  if (!json.ok()) return call->Fail(json.error());
  call->RespondJson(*json);
}

// A route of another table by another name.
Route Alias(std::string_view path, std::string_view of) {
  for (const auto routes : {OpenAiRoutes(), ResponsesRoutes(), ServiceRoutes()}) {
    for (Route route : routes) {
      if (route.path != of) continue;
      route.path = path;
      return route;
    }
  }
  CHECK(false);
}

}  // namespace

Json LlamaTimings(const AnswerUsage& usage) {
  const auto each = [](double of, double by) { return by > 0 ? of / by : 0.0; };
  const auto prompt = static_cast<double>(usage.prompt_tokens - std::min(usage.cached_tokens, usage.prompt_tokens));
  const double prompt_ms = Ms(std::max<int64_t>(usage.first_token_ns - usage.queued_ns, 0));
  const double predicted_ms = Ms(std::max<int64_t>(usage.total_ns - usage.first_token_ns, 0));
  // The first token comes with the prompt.
  const double steps = usage.generated_tokens > 1 ? static_cast<double>(usage.generated_tokens - 1) : 0;
  return {{"cache_n", usage.cached_tokens},
          {"prompt_n", static_cast<size_t>(prompt)},
          {"prompt_ms", prompt_ms},
          {"prompt_per_token_ms", each(prompt_ms, prompt)},
          {"prompt_per_second", each(prompt * 1e3, prompt_ms)},
          {"predicted_n", usage.generated_tokens},
          {"predicted_ms", predicted_ms},
          {"predicted_per_token_ms", each(predicted_ms, steps)},
          {"predicted_per_second", each(steps * 1e3, predicted_ms)}};
}

std::span<const Route> LlamaCppRoutes() {
  using enum RouteWork;
  static const Route kRoutes[] = {
      {"POST", "/completion", Role::kUse, kReads, kOpenAiDialect, Complete},
      {"POST", "/completions", Role::kUse, kReads, kOpenAiDialect, Complete},
      {"GET", "/props", Role::kUse, kQuick, kOpenAiDialect, ShowProps},
      {"GET", "/slots", Role::kOperate, kQuick, kOpenAiDialect, ShowSlots},
      {"POST", "/apply-template", Role::kUse, kReads, kOpenAiDialect, RespondWith<TemplateOf>},
      {"POST", "/v1/chat/completions/input_tokens", Role::kUse, kReads, kOpenAiDialect, RespondWith<CountOf>},
      {"POST", "/chat/completions/input_tokens", Role::kUse, kReads, kOpenAiDialect, RespondWith<CountOf>},
      Alias("/chat/completions", "/v1/chat/completions"),
      Alias("/responses", "/v1/responses"),
      Alias("/embeddings", "/v1/embeddings"),
      Alias("/rerank", "/v1/rerank"),
      Alias("/reranking", "/v1/rerank"),
      Alias("/v1/reranking", "/v1/rerank"),
      Alias("/models", "/v1/models"),
      Alias("/v1/health", "/health"),
  };
  return kRoutes;
}

}  // namespace bantam
