// One request on its way through the gateway: what is answered goes through here, so that each is counted and logged once.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "net/http_server.h"
#include "serve/api_error.h"
#include "serve/keys.h"
#include "serve/served_model.h"

namespace bantam {

struct Call;

// How an API tells errors.
struct Dialect {
  std::string_view name;
  std::string (*error_body)(const ApiError& error);
  // Of a stream that breaks: what is written last.
  std::string (*error_event)(const ApiError& error);
};

class Gateway;

// What a route may wait for.
enum class RouteWork : uint8_t {
  kQuick,  // answered at once, by the server's thread
  kReads,  // by a thread that reads requests; not while the server drains
};

struct Route {
  std::string_view method;
  std::string_view path;  // "/v1/models/*": what stands for the star, if there is one, is Call::rest
  Role role = Role::kUse;
  RouteWork work = RouteWork::kReads;
  const Dialect& dialect;
  void (*handle)(Gateway& gateway, const std::shared_ptr<Call>& call);
};

// For the access log; nothing of prompts and answers.
struct CallRecord {
  int status = 0;
  std::string model = {};
  std::string finish = {};
  size_t prompt_tokens = 0;
  size_t cached_tokens = 0;
  size_t generated_tokens = 0;
  int64_t queued_ns = 0;
  int64_t first_token_ns = 0;
};

struct Call {
  std::shared_ptr<HttpExchange> exchange;
  const Route* route = nullptr;
  std::string id;                     // x-request-id
  std::string rest;                   // of the path, where the route has a star
  std::shared_ptr<const ApiKey> key;  // null: none is asked for
  std::string client;                 // the key's name or the address: for fairness, and whose prefixes are shared
  std::string allowed_origin;         // a page of another server that may read the answer; empty: none
  int64_t begin_ns = 0;
  CallRecord record;
  std::shared_ptr<const ServedModel> model;  // that the body names (Gateway::ReadBody), until it is answered
  // The name of a model that is being loaded: who reads the body fails with kUnavailable, of which nobody is told, and the call is read
  // again when it is there.
  std::string waits_for;
  std::atomic<bool> gone = false;

  // Of the server's thread.
  std::function<void()> on_gone;
  std::function<void()> on_taken;
  std::function<void(Call& call)> on_end;  // once

  const ServerRequest& request() const { return exchange->request(); }

  // The whole answer; fields of its own are added.
  void Respond(ServerResponse response);
  void RespondJson(const Json& json);
  void Fail(const ApiError& error);
  void Fail(const Error& error);
  // Or one that is written as it comes.
  void Begin(std::string_view content_type, std::string first);
  void End();
  // It ended otherwise: the client is gone.
  void EndGone();

 private:
  void AddFields(ServerResponse* response) const;
};

// The answer to an error, in a dialect.
ServerResponse ErrorResponse(const Dialect& dialect, const ApiError& error);

// "PREFIX" and 24 random hexadecimal digits.
std::string RandomId(std::string_view prefix);

}  // namespace bantam
