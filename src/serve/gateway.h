// Gateway: what the HTTP server's requests are answered by. Routes are tables (routes.h); each dialect has a file.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/memory_budget.h"
#include "net/http_server.h"
#include "serve/access.h"
#include "serve/answer.h"
#include "serve/call.h"
#include "serve/chat_request.h"
#include "serve/key_uses.h"
#include "serve/keys.h"
#include "serve/metrics.h"
#include "serve/model_catalog.h"
#include "serve/response_store.h"
#include "serve/served_model.h"
#include "serve/text_service.h"
#include "serve/work_queue.h"

namespace bantam {

// Who may ask.
struct GatewayAccess {
  std::vector<std::shared_ptr<const ApiKey>> keys = {};  // none: anybody may ask
  std::vector<std::string> hosts = {};                   // names that the server is reached by, beside addresses and localhost
  std::vector<std::string> origins = {};                 // pages of other servers that may ask
};

struct GatewayOptions {
  std::string version = {};
  GatewayAccess access = {};
  ResponseStoreLimits responses = {};
  int readers = 2;                     // threads that read requests
  size_t waiting_max = 512;            // requests that wait for one
  size_t waiting_bytes_max = 4 << 20;  // bodies of requests that wait for models
  // Told one line of JSON for each request, without prompts and answers; any thread may call it, and none may wait there.
  std::function<void(const std::string& line)> access_log = nullptr;
  // Lines that it had no room for; null: it never has none.
  std::function<uint64_t()> access_log_dropped = nullptr;
};

// A request to an engine, before it is asked.
struct AnswerRequest {
  ChatPlan plan;
  std::shared_ptr<const ServedModel> model;
  std::unique_ptr<AnswerWriter> writer;
  bool stream = false;
};

class Gateway final : public HttpHandler {
 public:
  // The models, the budget and the clock outlive it.
  static Result<std::unique_ptr<Gateway>> Make(GatewayOptions options, ModelCatalog& models, const MemoryBudget& budget,
                                               const Clock& clock);
  ~Gateway() override;

  // The server outlives it, stopped or not.
  void Attach(HttpServer& server) override { server_ = &server; }
  // From here on what is new is refused (503), as is who waits for a model; what runs goes on.
  void Drain();
  // Ends what runs.
  void CancelAll();
  // No request is read any more; what was not is dropped. Behind HttpServer::Stop.
  void StopReading();
  // From the next request on. What a key has used counts on under its name.
  void UseAccess(GatewayAccess access);
  bool draining() const { return draining_; }
  // What keys have used.
  KeyUses& uses() { return uses_; }

  void Handle(std::shared_ptr<HttpExchange> exchange) override;
  // The same for a request that came otherwise, and whose route is known; by the server's thread.
  void HandleRoute(std::shared_ptr<HttpExchange> exchange, const Route& route);
  // Runs it in the server's thread, soon; when the server has stopped it is dropped.
  void Post(std::function<void()> work) const { server_->Post(std::move(work)); }
  void CountRefusal(std::string_view reason) { metrics_.CountRefusal(reason); }
  // The same, and a line of the access log: of what never became a request. Any thread may call it.
  struct Refusal {
    int status = 0;
    std::string_view reason;  // as it is counted
    std::string_view why;
    std::string_view client;  // its address
  };
  void NoteRefusal(const Refusal& refusal);
  ServerResponse Refuse(int status, std::string_view why, std::string_view client) override;

  // ---- For routes ----
  ModelCatalog& models() const { return models_; }
  const GatewayOptions& options() const { return options_; }
  const Clock& clock() const { return clock_; }
  ResponseStore& responses() { return responses_; }
  // The body as an object.
  static Result<Json> ReadObject(const Call& call);
  // The same, and Call::model becomes the model that it names and the key may use. Where that is still to be loaded, the call waits for it
  // (Call::waits_for).
  Result<Json> ReadBody(Call& call) const;
  // The part of it that is about the model, for what names it elsewhere: null is the first. Behind it the call has no body any more.
  Status HoldModel(Call& call, const Json& named) const;
  // The call's model; Unsupported for one that writes no answers.
  static Result<std::shared_ptr<const ServedModel>> AnsweringModelOf(const Call& call);
  // Those that the call's key may use.
  std::vector<CatalogView> ModelsOf(const Call& call) const;
  // One of them by name or alias; null: the first. NotFound lists them; Denied for another.
  Result<std::string> NameOf(const Call& call, const Json& name) const;
  // Vectors, classes or a ranking, as the body asks the model that it names; `write` makes the answer's body (the name is JSON).
  using WriteTexts = std::function<std::string(const std::string& model, const TextService::Answer& answer)>;
  void AskTexts(const std::shared_ptr<Call>& call, Json body, VectorList form, WriteTexts write) const;
  // Members that stand in header fields (X-Bantam-Priority and so on) go into the body, unless it has them.
  static void AddHeaderMembers(const ServerRequest& request, Json* body);
  // Asks the engine; the writer writes what it answers.
  void Ask(const std::shared_ptr<Call>& call, AnswerRequest request);
  // Ready to answer; or why not.
  std::optional<std::string> NotReady() const;
  std::string MetricsPage();

 private:
  // A request that an engine did not take, and what is told of it.
  struct Refused {
    size_t prompt_tokens = 0;
    int64_t predicted_ns = 0;
  };
  ApiError NotTaken(const Error& refused, const ServedModel& model, const Refused& request) const;
  Gateway(GatewayOptions options, ModelCatalog& models, const MemoryBudget& budget, const Clock& clock);
  // Names of models; empty: all.
  static std::span<const std::string> AllowedTo(const Call& call);
  // A failure that is found before a route is: nothing otherwise.
  std::optional<ApiError> CheckAccess(Call& call);
  std::shared_ptr<Call> MakeCall(std::shared_ptr<HttpExchange> exchange);
  bool AnswersPreflight(const std::shared_ptr<Call>& call);
  void Begin(const std::shared_ptr<Call>& call);
  // By a thread that reads requests: now, or when the model is there.
  void Read(const std::shared_ptr<Call>& call);
  void ReadSoon(const std::shared_ptr<Call>& call);
  void ReadWhenLoaded(const std::shared_ptr<Call>& call);
  void Log(const Call& call) const;
  void Leave(Call& call);
  void WriteModelChanges(MetricsText* text) const;

  const GatewayOptions options_;
  ModelCatalog& models_;
  const MemoryBudget& budget_;
  const Clock& clock_;
  HttpServer* server_ = nullptr;
  std::atomic<bool> draining_ = false;
  std::atomic<size_t> waiting_bytes_ = 0;
  Metrics metrics_;
  ResponseStore responses_;
  KeyUses uses_;
  // Of the server's thread.
  GatewayAccess access_;
  std::set<std::shared_ptr<Answer>> answers_;
  std::unique_ptr<WorkQueue> readers_;  // the last: its threads use the others
};

// Where a call belongs: the route, its star; or the methods that the path has, none where there is no such path.
struct RouteMatch {
  const Route* route = nullptr;
  std::string rest = {};
  std::vector<std::string_view> methods = {};
};
RouteMatch FindRoute(std::string_view method, std::string_view path);

}  // namespace bantam
