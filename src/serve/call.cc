#include "serve/call.h"

#include <fmt/format.h>

#include <utility>

#include "base/rng.h"

namespace bantam {

ServerResponse ErrorResponse(const Dialect& dialect, const ApiError& error) {
  ServerResponse response = {.status = error.status, .fields = {{"Content-Type", "application/json"}}, .body = dialect.error_body(error)};
  if (error.retry_after_s) response.fields.push_back({"Retry-After", std::to_string(*error.retry_after_s)});
  if (error.status == 401) response.fields.push_back({"WWW-Authenticate", "Bearer"});
  return response;
}

std::string RandomId(std::string_view prefix) { return fmt::format("{}{:016x}{:08x}", prefix, RandomSeed(), RandomSeed() >> 32); }

void Call::AddFields(ServerResponse* response) const {
  response->fields.push_back({"x-request-id", id});
  if (allowed_origin.empty()) return;
  response->fields.push_back({"Access-Control-Allow-Origin", allowed_origin});
  response->fields.push_back({"Vary", "Origin"});
}

void Call::Respond(ServerResponse response) {
  record.status = response.status;
  model = nullptr;
  AddFields(&response);
  // First: who has the answer may ask again, in the place that this one gives back.
  if (on_end) std::exchange(on_end, nullptr)(*this);
  exchange->Respond(std::move(response));
}

void Call::RespondJson(const Json& json) {
  Respond({.fields = {{"Content-Type", "application/json"}}, .body = DumpJson(json, /*indent=*/-1)});
}

void Call::Fail(const ApiError& error) {
  if (!waits_for.empty()) return;
  if (record.finish.empty()) record.finish = error.code;
  Respond(ErrorResponse(route->dialect, error));
}

void Call::Fail(const Error& error) {
  // Before the model is there, nothing else can be unavailable.
  Fail(model == nullptr && error.code() == Code::kUnavailable ? ModelNotThere(error) : ApiErrorOf(error));
}

void Call::Begin(std::string_view content_type, std::string first) {
  record.status = 200;
  ServerResponse head = {.fields = {{"Content-Type", std::string(content_type)},
                                    {"Cache-Control", "no-cache"},
                                    {"X-Accel-Buffering", "no"}},  // a proxy in front passes pieces on as they come
                         .body = std::move(first)};
  AddFields(&head);
  exchange->Begin(std::move(head));
}

void Call::End() {
  model = nullptr;
  if (on_end) std::exchange(on_end, nullptr)(*this);
  exchange->End();
}

void Call::EndGone() {
  record.status = 499;
  record.finish = "client gone";
  model = nullptr;
  if (on_end) std::exchange(on_end, nullptr)(*this);
}

}  // namespace bantam
