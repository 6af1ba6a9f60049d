#include "serve/gateway.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/ascii.h"
#include "base/json.h"
#include "base/system_limits.h"
#include "serve/routes.h"

namespace bantam {
namespace {

// What clients and proxies may name their requests by.
constexpr size_t kRequestIdBytesMax = 128;
// Of clients on this machine.
constexpr std::string_view kOwnAddress = "127.0.0.1";
// Of one object in a body: more than logit_bias may have.
constexpr size_t kBodyMembersMax = 1100;

std::string NameOfRequest(const ServerRequest& request) {
  std::string id = request.Field("x-request-id").value_or("");
  const auto plain = [](char c) { return IsAlphanumericAscii(c) || c == '-' || c == '_' || c == '.' || c == ':'; };
  if (!id.empty() && id.size() <= kRequestIdBytesMax && std::all_of(id.begin(), id.end(), plain)) return id;
  return RandomId("req_");
}

bool Matches(std::string_view pattern, std::string_view path, std::string* rest) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return path == pattern;
  const std::string_view before = pattern.substr(0, star);
  const std::string_view behind = pattern.substr(star + 1);
  if (path.size() <= before.size() + behind.size() || !path.starts_with(before) || !path.ends_with(behind)) return false;
  *rest = path.substr(before.size(), path.size() - before.size() - behind.size());
  return true;
}

std::string NowText() {
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return UtcText(now.tv_sec, now.tv_nsec / 1'000'000);
}

ApiError Draining() {
  return {.status = 503, .code = "draining", .message = "the server stops; ask another, or again later", .retry_after_s = 5};
}

Error BodyError(const Error& error) { return Error(Code::kInvalidArgument, fmt::format("the body is not JSON: {}", error.message())); }

}  // namespace

const Dialect& DialectOfPath(std::string_view path) {
  if (path.starts_with("/api/")) return kOllamaDialect;
  if (path.starts_with("/v2/")) return kInferenceDialect;
  return path.starts_with("/v1/messages") ? kAnthropicDialect : kOpenAiDialect;
}

std::span<const Route> AllRoutes() {
  static const std::vector<Route> kAll = [] {
    std::vector<Route> all;
    for (const auto routes : {OpenAiRoutes(), ResponsesRoutes(), AnthropicRoutes(), OllamaRoutes(), ServiceRoutes(), ModelRoutes(),
                              InferenceRoutes(), LlamaCppRoutes()}) {
      for (const Route& route : routes) all.push_back(route);
    }
    return all;
  }();
  return kAll;
}

RouteMatch FindRoute(std::string_view method, std::string_view path) {
  RouteMatch match;
  // What answers to GET answers to HEAD.
  const std::string_view wanted = method == "HEAD" ? "GET" : method;
  for (const Route& route : AllRoutes()) {
    std::string rest;
    if (!Matches(route.path, path, &rest)) continue;
    match.methods.push_back(route.method);
    if (route.method != wanted) continue;
    match.route = &route;
    match.rest = std::move(rest);
    return match;
  }
  return match;
}

Gateway::Gateway(GatewayOptions options, ModelCatalog& models, const MemoryBudget& budget, const Clock& clock)
    : options_(std::move(options)),
      models_(models),
      budget_(budget),
      clock_(clock),
      responses_(options_.responses, clock),
      access_(options_.access) {}

Gateway::~Gateway() = default;

Result<std::unique_ptr<Gateway>> Gateway::Make(GatewayOptions options, ModelCatalog& models, const MemoryBudget& budget,
                                               const Clock& clock) {
  std::unique_ptr<Gateway> gateway(new Gateway(std::move(options), models, budget, clock));
  BANTAM_ASSIGN(gateway->readers_, WorkQueue::Make(gateway->options_.readers, gateway->options_.waiting_max));
  return gateway;
}

void Gateway::Drain() {
  draining_ = true;
  // How long loading takes nobody knows, and the model would be there for these alone.
  models_.Interrupt(Error(Code::kCancelled, "the server stops"));
}

void Gateway::CancelAll() {
  models_.Interrupt(Error(Code::kCancelled, "the server stops"));
  server_->Post([this] {
    const auto all = answers_;
    for (const auto& answer : all) answer->Cancel();
  });
}

void Gateway::UseAccess(GatewayAccess access) {
  server_->Post([this, access = std::move(access)] { access_ = access; });
}

void Gateway::NoteRefusal(const Refusal& refusal) {
  metrics_.CountRefusal(refusal.reason);
  if (!options_.access_log) return;
  options_.access_log(DumpJson({{"time", NowText()}, {"client", refusal.client}, {"status", refusal.status}, {"refused", refusal.why}},
                               /*indent=*/-1));
}

ServerResponse Gateway::Refuse(int status, std::string_view why, std::string_view client) {
  constexpr std::pair<int, std::string_view> kReasons[] = {
      {400, "not_http"}, {408, "slow_client"}, {413, "too_large"}, {431, "header_too_large"}, {503, "connections"}};
  const auto known = std::find_if(std::begin(kReasons), std::end(kReasons), [&](const auto& reason) { return reason.first == status; });
  NoteRefusal({status, known == std::end(kReasons) ? "not_http" : known->second, why, client});
  ApiError error = {.status = status, .code = status == 413 ? "request_too_large" : "bad_request", .message = std::string(why)};
  if (status == 503) error.retry_after_s = 1;
  return ErrorResponse(kOpenAiDialect, error);
}

// ---- Access ----

std::optional<ApiError> Gateway::CheckAccess(Call& call) {
  const ServerRequest& request = call.request();
  const std::string host = request.Field("Host").value_or("");
  const bool asks_keys = !access_.keys.empty();
  if (!asks_keys && !host.empty() && !HostAllowed(host, access_.hosts)) {
    return ApiError{.status = 403,
                    .code = "host_not_allowed",
                    .message = fmt::format("the server is not known by the name {}; ask it by its address, or name it under \"hosts\" in "
                                           "its configuration",
                                           host.substr(0, kRequestIdBytesMax))};
  }
  const std::string origin = request.Field("Origin").value_or("");
  if (!OriginAllowed(origin, host, access_.origins)) {
    return ApiError{.status = 403,
                    .code = "origin_not_allowed",
                    .message = "pages of other servers may not ask here; name this one under \"origins\" in the server's configuration"};
  }
  if (!origin.empty() && !access_.origins.empty()) call.allowed_origin = origin;
  if (call.route->role == Role::kAdmin && !asks_keys && request.client != kOwnAddress) {
    return ApiError{
        .status = 403,
        .code = "permission_denied",
        .message = "from another machine this needs a key that may admin, and the server demands no keys; make one (bantam keys)"};
  }
  if (call.route->role == Role::kAnybody || !asks_keys) return std::nullopt;
  const std::string secret = ShownSecret(request);
  const ApiKey* key = secret.empty() ? nullptr : FindKey(access_.keys, secret);
  if (key == nullptr) {
    return ApiError{.status = 401,
                    .code = "invalid_api_key",
                    .message = secret.empty() ? "an API key is needed: send it as \"Authorization: Bearer KEY\"" : "no such API key"};
  }
  const auto same = std::find_if(access_.keys.begin(), access_.keys.end(), [&](const auto& one) { return one.get() == key; });
  call.key = *same;
  call.client = key->name;
  if (key->role < call.route->role) {
    return ApiError{.status = 403,
                    .code = "permission_denied",
                    .message = fmt::format("this key may {}; this needs one that may {}", RoleName(key->role), RoleName(call.route->role))};
  }
  return std::nullopt;
}

bool Gateway::AnswersPreflight(const std::shared_ptr<Call>& call) {
  const ServerRequest& request = call->request();
  const auto origin = request.Field("Origin");
  const bool asked = request.method == "OPTIONS" && origin && request.Field("Access-Control-Request-Method");
  if (!asked || access_.origins.empty() || !OriginAllowed(*origin, "", access_.origins)) return false;
  call->Respond({.status = 204,
                 .fields = {{"Access-Control-Allow-Origin", *origin},
                            {"Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS"},
                            {"Access-Control-Allow-Headers", request.Field("Access-Control-Request-Headers").value_or("content-type")},
                            {"Access-Control-Max-Age", "600"},
                            {"Vary", "Origin"}}});
  return true;
}

// ---- One request ----

std::shared_ptr<Call> Gateway::MakeCall(std::shared_ptr<HttpExchange> exchange) {
  const auto call = std::make_shared<Call>();
  call->exchange = std::move(exchange);
  const ServerRequest& request = call->request();
  call->id = NameOfRequest(request);
  call->begin_ns = clock_.NowNs();
  call->client = request.client;
  call->on_end = [this](Call& ended) { Leave(ended); };
  call->exchange->Listen({.gone =
                              [call] {
                                call->gone = true;
                                if (call->on_gone) std::exchange(call->on_gone, nullptr)();
                              },
                          .taken =
                              [call] {
                                if (call->on_taken) call->on_taken();
                              }});
  return call;
}

void Gateway::HandleRoute(std::shared_ptr<HttpExchange> exchange, const Route& route) {
  const auto call = MakeCall(std::move(exchange));
  call->route = &route;
  Begin(call);
}

void Gateway::Handle(std::shared_ptr<HttpExchange> exchange) {
  const auto call = MakeCall(std::move(exchange));
  const ServerRequest& request = call->request();
  const Route unknown = {.method = request.method, .path = "unknown", .dialect = DialectOfPath(request.path), .handle = nullptr};
  RouteMatch match = FindRoute(request.method, request.path);
  call->route = match.route == nullptr ? &unknown : match.route;
  const auto rest = DecodePercent(match.rest);
  call->rest = rest.value_or(match.rest);
  if (!AnswersPreflight(call)) {
    if (match.route != nullptr) {
      Begin(call);
    } else if (match.methods.empty()) {
      call->Fail({.status = 404, .code = "not_found", .message = fmt::format("there is no {} here", request.path.substr(0, 200))});
    } else {
      ServerResponse response = ErrorResponse(
          unknown.dialect,
          {.status = 405, .code = "method_not_allowed", .message = fmt::format("expected {}", fmt::join(match.methods, " or "))});
      response.fields.push_back({"Allow", fmt::format("{}", fmt::join(match.methods, ", "))});
      call->Respond(std::move(response));
    }
  }
  if (call->route == &unknown) call->route = nullptr;
}

void Gateway::Begin(const std::shared_ptr<Call>& call) {
  if (auto error = CheckAccess(*call)) {
    metrics_.CountRefusal(error->status == 401 ? "no_key" : "access");
    return call->Fail(*error);
  }
  if (call->route->work == RouteWork::kQuick) return call->route->handle(*this, call);
  if (draining_) {
    metrics_.CountRefusal("draining");
    return call->Fail(Draining());
  }
  if (call->key != nullptr) {
    if (auto error = uses_.Enter(*call->key, call->begin_ns)) {
      metrics_.CountRefusal("key_limit");
      call->Fail(*error);
      return;
    }
    call->on_end = [this, key = call->key](Call& ended) {
      const uint64_t tokens = ended.record.prompt_tokens + ended.record.generated_tokens;
      uses_.Leave(*key, tokens, clock_.NowNs());
      Leave(ended);
    };
  }
  ReadSoon(call);
}

void Gateway::ReadSoon(const std::shared_ptr<Call>& call) {
  const bool taken = readers_->Add(
      [this, call] { Read(call); },
      [this, call] {
        metrics_.CountRefusal("memory");
        call->waits_for.clear();
        call->Fail({.status = 503, .code = "out_of_memory", .message = "memory ran out; ask again, or for less", .retry_after_s = 5});
      });
  if (taken) return;
  metrics_.CountRefusal("queue");
  call->Fail({.status = 429, .code = "rate_limit_exceeded", .message = "too many requests come at once; wait", .retry_after_s = 1});
}

void Gateway::Read(const std::shared_ptr<Call>& call) {
  if (call->gone) return call->EndGone();
  call->route->handle(*this, call);
  if (!call->waits_for.empty()) ReadWhenLoaded(call);
}

void Gateway::ReadWhenLoaded(const std::shared_ptr<Call>& call) {
  const std::string name = std::exchange(call->waits_for, "");
  // The rest is for those who read the bodies of others.
  const size_t bytes = call->request().body.size();
  const bool room = waiting_bytes_.fetch_add(bytes) + bytes <= options_.waiting_bytes_max;
  // Counted as long as somebody waits, also where memory ends before anybody does.
  const std::shared_ptr<void> counted(nullptr, [this, bytes](void*) { waiting_bytes_ -= bytes; });
  const auto told = [this, call, counted](const Result<ModelCatalog::Version>& loaded) {
    if (call->gone) return call->EndGone();
    if (loaded.ok()) {
      call->model = *loaded;
      return ReadSoon(call);
    }
    metrics_.CountRefusal(draining_ ? "draining" : "model");
    call->Fail(draining_ ? Draining() : ModelNotThere(loaded.error()));
  };
  if (room && models_.Await(name, told)) return;
  metrics_.CountRefusal("queue");
  call->Fail({.status = 429, .code = "rate_limit_exceeded", .message = "too many requests wait for models", .retry_after_s = 5});
}

void Gateway::Leave(Call& call) {
  metrics_.CountRequest(call.route == nullptr ? "unknown" : call.route->path, call.record.status);
  if (options_.access_log) Log(call);
}

void Gateway::Log(const Call& call) const {
  const ServerRequest& request = call.request();
  const auto ms = [](int64_t ns) { return static_cast<double>(ns / 1000) / 1000; };
  Json line = {{"time", NowText()},
               {"request_id", call.id},
               {"client", request.client},
               {"method", request.method.substr(0, 16)},
               {"path", request.path.substr(0, 200)},
               {"status", call.record.status},
               {"ms", ms(clock_.NowNs() - call.begin_ns)}};
  if (call.key != nullptr) line["key"] = call.key->name;
  if (!call.record.model.empty()) line["model"] = call.record.model;
  if (!call.record.finish.empty()) line["finish"] = call.record.finish;
  if (call.record.prompt_tokens > 0) {
    line["prompt_tokens"] = call.record.prompt_tokens;
    line["cached_tokens"] = call.record.cached_tokens;
    line["generated_tokens"] = call.record.generated_tokens;
    line["queued_ms"] = ms(call.record.queued_ns);
    line["first_token_ms"] = ms(call.record.first_token_ns);
  }
  options_.access_log(DumpJson(line, /*indent=*/-1));
}

// ---- For routes ----

Result<Json> Gateway::ReadObject(const Call& call) {
  Result<Json> json = ParseJsonOfUniqueNames(call.request().body, kBodyMembersMax);
  if (!json.ok()) return BodyError(json.error());
  if (!json->is_object()) return Error(Code::kInvalidArgument, fmt::format("{}: expected an object", ShortJson(*json)));
  return json;
}

std::span<const std::string> Gateway::AllowedTo(const Call& call) {
  if (call.key == nullptr) return {};
  return call.key->limits.models;
}

std::vector<CatalogView> Gateway::ModelsOf(const Call& call) const {
  std::vector<CatalogView> views = models_.Views();
  const auto allowed = AllowedTo(call);
  const auto may_not = [&](const CatalogView& view) {
    return !allowed.empty() && std::find(allowed.begin(), allowed.end(), view.name) == allowed.end();
  };
  views.erase(std::remove_if(views.begin(), views.end(), may_not), views.end());
  return views;
}

Result<std::string> Gateway::NameOf(const Call& call, const Json& name) const {
  if (!name.is_null() && !name.is_string()) return Error(Code::kInvalidArgument, "model: expected the name of one");
  return models_.NameOf(name.is_null() ? "" : name.get<std::string>(), AllowedTo(call));
}

Result<Json> Gateway::ReadBody(Call& call) const {
  BANTAM_ASSIGN(Json body, ReadObject(call));
  BANTAM_TRY(HoldModel(call, JsonMember(body, "model")));
  return body;
}

Status Gateway::HoldModel(Call& call, const Json& named) const {
  BANTAM_ASSIGN(const std::string name, NameOf(call, named));
  // Who waited for it holds it.
  if (call.model == nullptr || call.model->name != name) {
    BANTAM_ASSIGN(call.model, models_.Find(name));
  }
  if (call.model == nullptr) {
    call.waits_for = name;
    return Error(Code::kUnavailable, "the model is being loaded");
  }
  call.record.model = name;
  call.exchange->DropBody();
  return Ok();
}

Result<std::shared_ptr<const ServedModel>> Gateway::AnsweringModelOf(const Call& call) {
  if (call.model->Answers()) return call.model;
  return Error(Code::kUnsupported,
               fmt::format("model: {} makes vectors or classes of texts and writes none; ask /v1/embeddings", call.model->name));
}

void Gateway::AskTexts(const std::shared_ptr<Call>& call, Json body, VectorList form, WriteTexts write) const {
  // Held until the last line: the answer may be there before.
  const auto model = call->model;
  TextService* const texts = model->texts;
  if (texts == nullptr) {
    return call->Fail(Error(Code::kUnsupported, fmt::format("model: {} makes no vectors of texts, and no classes", model->name)));
  }
  const auto done = [call, write](const Result<TextService::Answer>& answer) {
    if (call->gone) return call->EndGone();
    if (!answer.ok()) return call->Fail(answer.error());
    call->record.prompt_tokens = answer->tokens;
    call->Respond({.fields = {{"Content-Type", "application/json"}}, .body = write(DumpJson(call->record.model, /*indent=*/-1), *answer)});
  };
  const auto gone = [call] { return call->gone.load(); };
  if (texts->Ask({.body = std::move(body), .form = form, .gone = gone, .done = done})) return;
  call->Fail({.status = 429, .code = "rate_limit_exceeded", .message = "too many texts wait already; try again", .retry_after_s = 1});
}

void Gateway::AddHeaderMembers(const ServerRequest& request, Json* body) {
  constexpr std::pair<const char*, const char*> kFields[] = {{"X-Bantam-Priority", "priority"}, {"X-Bantam-Adapter", "adapter"}};
  for (const auto& [field, member] : kFields) {
    const auto value = request.Field(field);
    if (value && !body->contains(member)) (*body)[member] = *value;
  }
  constexpr std::pair<const char*, const char*> kNumbers[] = {
      {"X-Bantam-Deadline-Ms", "deadline_ms"}, {"X-Bantam-Confidence-Threshold", "confidence_threshold"}, {"X-Bantam-Cache", "cache"}};
  for (const auto& [field, member] : kNumbers) {
    const auto value = request.Field(field);
    if (!value || body->contains(member)) continue;
    // What is no number and no truth value is refused where the member is read.
    const Result<Json> json = ParseJson(*value);
    (*body)[member] = json.ok() ? *json : Json(*value);
  }
}

ApiError Gateway::NotTaken(const Error& refused, const ServedModel& model, const Refused& request) const {
  if (model.engine->failed()) return EngineFailed(refused);
  ApiError error = ApiErrorOf(refused);
  // Others hold the memory.
  if (refused.code() == Code::kExhausted && request.prompt_tokens < model.context && models_.loaded().size() > 1) {
    error = {.status = 429, .code = "rate_limit_exceeded", .message = error.message, .retry_after_s = 1};
  }
  if (error.status == 404) error = {.status = 400, .code = "adapter_not_found", .message = error.message, .param = "adapter"};
  if (error.status == 429) error.retry_after_s = RetryAfterSeconds(request.predicted_ns);
  return error;
}

void Gateway::Ask(const std::shared_ptr<Call>& call, AnswerRequest asked) {
  Request& first = asked.plan.request;
  // From arrival: the model may have had to be loaded first.
  const bool has_deadline = first.deadline_ns > 0;
  if (has_deadline) first.deadline_ns -= clock_.NowNs() - call->begin_ns;
  if (has_deadline && first.deadline_ns <= 0) {
    return call->Fail({.status = 504, .code = "deadline_exceeded", .message = "the deadline passed before the first token"});
  }
  if (call->key != nullptr) first.priority = std::max(first.priority, call->key->limits.priority);
  // The answer holds it from here on: whoever has read all of it finds the model free.
  const ServedModel& model = *asked.model;
  auto answer = std::make_shared<Answer>(Answer::Parts{.call = call,
                                                       .model = std::move(asked.model),
                                                       .writer = std::move(asked.writer),
                                                       .stream = asked.stream,
                                                       .parse = std::move(asked.plan.parse),
                                                       .prompts = 1 + asked.plan.others.size(),
                                                       .choices = first.choices,
                                                       .beams = first.beams > 0,
                                                       .priority = first.priority,
                                                       .metrics = metrics_,
                                                       .clock = clock_,
                                                       .ended = [this](const auto& ended) { answers_.erase(ended); }});
  const auto came = [server = server_, weak = std::weak_ptr<Answer>(answer)] {
    server->Post([weak] {
      if (const auto self = weak.lock()) self->Pump();
    });
  };
  std::vector<Request> requests = std::move(asked.plan.others);
  for (Request& other : requests) {
    other.deadline_ns = first.deadline_ns;
    other.priority = first.priority;
  }
  requests.insert(requests.begin(), std::move(first));
  EngineThread& engine = *model.engine;
  std::vector<EngineThread::Ticket> tickets;
  size_t prompt_tokens = 0;
  for (Request& request : requests) {
    // Who asks: whoever they say to ask for buys them nothing.
    request.client = call->client;
    request.tenant = call->key == nullptr ? "" : call->key->name;
    const Refused known = {request.tokens.size(), engine.PredictFirstToken(request)};
    Result<EngineThread::Ticket> ticket = engine.Submit(std::move(request), came);
    if (!ticket.ok()) {
      for (const EngineThread::Ticket& taken : tickets) engine.Cancel(taken.id);
      const ApiError error = NotTaken(ticket.error(), model, known);
      if (error.status == 429) metrics_.CountRefusal("admission");
      return call->Fail(error);
    }
    tickets.push_back(std::move(ticket).value());
    prompt_tokens += known.prompt_tokens;
  }
  // Counted from here on, whether its client stays to the end or not.
  call->record.prompt_tokens = prompt_tokens;
  server_->Post([this, begun = std::move(answer), taken = std::move(tickets)] {
    answers_.insert(begun);
    begun->Start(taken);
  });
}

void Gateway::StopReading() { readers_->Stop(); }

std::optional<std::string> Gateway::NotReady() const {
  if (draining_) return "draining";
  for (const CatalogView& view : models_.Views()) {
    const bool failed = view.model != nullptr && view.model->engine != nullptr && view.model->engine->failed();
    const bool missing = view.state == ModelState::kUnloaded && !view.on_demand && !view.error.empty();
    if (failed || missing) return fmt::format("model {} failed", view.name);
  }
  return std::nullopt;
}

void Gateway::WriteModelChanges(MetricsText* text) const {
  const std::vector<CatalogView> views = models_.Views();
  text->Begin("bantam_model_loaded", MetricsText::Kind::kGauge, "Whether a model is in memory.");
  for (const CatalogView& view : views) text->Add({{"model", view.name}}, view.model == nullptr ? 0 : 1);
  text->Begin("bantam_model_changes_total", MetricsText::Kind::kCounter, "What was done with models, and what failed.");
  for (const CatalogView& view : views) {
    const std::pair<std::string, uint64_t> changes[] = {{"load", view.counters.loads},
                                                        {"unload", view.counters.unloads},
                                                        {"swap", view.counters.swaps},
                                                        {"failure", view.counters.failures}};
    for (const auto& [change, count] : changes) text->Add({{"model", view.name}, {"change", change}}, static_cast<double>(count));
  }
}

std::string Gateway::MetricsPage() {
  MetricsText text;
  using Kind = MetricsText::Kind;
  metrics_.Write(&text);
  text.Begin("bantam_memory_limit_bytes", Kind::kGauge, "What the process may hold.");
  text.Add({}, static_cast<double>(budget_.limit_bytes()));
  text.Begin("bantam_memory_used_bytes", Kind::kGauge, "What is reserved of it.");
  text.Add({}, static_cast<double>(budget_.used_bytes()));
  text.Begin("bantam_memory_resident_peak_bytes", Kind::kGauge, "The most that the process had in memory.");
  text.Add({}, static_cast<double>(PeakResidentBytes()));
  text.Begin("bantam_model_planned_bytes", Kind::kGauge, "Memory that is planned for a model.");
  const ServedModels loaded = models_.loaded();
  for (const auto& model : loaded) text.Add({{"model", model->name}}, static_cast<double>(model->facts.planned_bytes));
  WriteModelChanges(&text);
  const auto per_engine = [&](std::string_view name, Kind kind, std::string_view help, auto value) {
    text.Begin(name, kind, help);
    for (const auto& model : loaded) {
      if (model->engine != nullptr) text.Add({{"model", model->name}}, static_cast<double>(value(*model->engine)));
    }
  };
  per_engine("bantam_requests_now", Kind::kGauge, "Requests that wait or run.", [](const auto& engine) { return engine.load().requests; });
  per_engine("bantam_steps_total", Kind::kCounter, "Steps of the model.", [](const auto& engine) { return engine.counters().steps; });
  per_engine("bantam_preemptions_total", Kind::kCounter, "Sequences that lost their KV and computed it anew.",
             [](const auto& engine) { return engine.counters().preemptions; });
  per_engine("bantam_drafted_tokens_total", Kind::kCounter, "Tokens that were guessed.",
             [](const auto& engine) { return engine.counters().drafted_tokens; });
  per_engine("bantam_accepted_tokens_total", Kind::kCounter, "Guesses that were right.",
             [](const auto& engine) { return engine.counters().accepted_tokens; });
  per_engine("bantam_narrowed_requests_total", Kind::kCounter, "Requests with KV of 8 bits, for memory was short.",
             [](const auto& engine) { return engine.counters().narrowed; });
  text.Begin("bantam_adaptive_changes_total", Kind::kCounter, "What the engine changed of itself to keep to its targets.");
  for (const auto& model : loaded) text.Add({{"model", model->name}}, static_cast<double>(model->changes->load()));
  if (options_.access_log_dropped) {
    text.Begin("bantam_access_log_dropped_total", Kind::kCounter, "Lines of the access log that there was no room for.");
    text.Add({}, static_cast<double>(options_.access_log_dropped()));
  }
  const ResponseStore::Load kept = responses_.load();
  text.Begin("bantam_responses_kept", Kind::kGauge, "Answers of the Responses API that are kept.");
  text.Add({}, static_cast<double>(kept.responses));
  text.Begin("bantam_responses_kept_bytes", Kind::kGauge, "What they take of memory.");
  text.Add({}, static_cast<double>(kept.bytes));
  const HttpServerCounters counters = server_->counters();
  text.Begin("bantam_connections_now", Kind::kGauge, "Connections that are open.");
  text.Add({}, static_cast<double>(counters.connections));
  text.Begin("bantam_connections_total", Kind::kCounter, "Connections, by what became of them.");
  text.Add({{"outcome", "accepted"}}, static_cast<double>(counters.accepted));
  text.Add({{"outcome", "refused"}}, static_cast<double>(counters.refused));
  text.Add({{"outcome", "timed_out"}}, static_cast<double>(counters.timed_out));
  return text.text();
}

}  // namespace bantam
