// An HTTP server: connections, their limits and time-outs, and bytes of answers. What is answered is a handler's business. The libraries
// behind it (Boost.Asio, Boost.Beast, OpenSSL) stay in http_server.cc, server_channel.cc and server_message.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "net/server_message.h"

namespace bantam {

struct HttpServerLimits {
  RequestLimits request = {};
  size_t connections_max = 2560;
  size_t connections_per_address_max = 256;  // but for this machine's own addresses
  uint64_t bodies_bytes_max = 16 << 20;      // of all requests that come or are answered; half for those that come from one address
  int64_t header_timeout_ms = 10'000;        // from a request's first byte to the end of its header; also of a new connection, and of TLS
  int64_t body_timeout_ms = 20'000;          // and more by what has come, at 64 KB a second
  int64_t idle_timeout_ms = 75'000;          // between requests
  int64_t write_timeout_ms = 30'000;         // in which a client that is written to takes 1 KiB, or all
};

// One request and its answer. Every function may be called from any thread, in the order of an answer: Respond, or Begin, Write and End.
// One that is dropped before its end breaks off the connection, so that nobody takes half an answer for a whole one.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const ServerRequest& request() const = 0;
  // Its body is not wanted any more, and makes room for those of others. By whoever reads it.
  virtual void DropBody() = 0;

  // The whole answer.
  virtual void Respond(ServerResponse response) = 0;
  // Or one that is written as it comes, beginning with the body that is there already.
  virtual void Begin(ServerResponse head) = 0;
  virtual void Write(std::string bytes) = 0;
  virtual void End() = 0;

  // Bytes that were given and that the system has not taken yet.
  virtual size_t unsent_bytes() const = 0;
  // More than this: whoever writes had better wait until OnTaken.
  static constexpr size_t kUnsentBytesMax = 64 << 10;

  // Set before the handler returns; called by the server's thread, and never again once the answer has ended. Gone, once: the client has
  // closed the connection or takes nothing any more, and what is written goes nowhere. Taken: unsent_bytes fell to a quarter of its most.
  struct Listener {
    std::function<void()> gone = {};
    std::function<void()> taken = {};
  };
  virtual void Listen(Listener listener) = 0;
};

class HttpServer;

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Called before the first request, with the server that asks; once.
  virtual void Attach(HttpServer&) {}
  // Called by the server's thread, which waits meanwhile: what takes long belongs elsewhere.
  virtual void Handle(std::shared_ptr<HttpExchange> exchange) = 0;
  // What a client, of this address, is told of a request that never became one: not HTTP (400), too late (408), too large (413, 431), too
  // many (503).
  virtual ServerResponse Refuse(int status, std::string_view why, std::string_view client) = 0;
};

struct TlsOptions {
  std::string certificate_file = {};  // PEM, with what leads to its root
  std::string key_file = {};
  std::string client_certificate_file = {};  // certificates of those who vouch for clients; empty: clients need none
};

// Whether they can be used, as Start says it.
Status CheckTlsFiles(const TlsOptions& options);

struct HttpServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;  // 0: any that is free
  int listener = -1;  // a socket that listens already and is the server's from then on, in place of address and port; -1: none
  HttpServerLimits limits = {};
  std::optional<TlsOptions> tls = {};
};

struct HttpServerCounters {
  uint64_t accepted = 0;
  uint64_t refused = 0;    // connections beyond the limits
  uint64_t timed_out = 0;  // connections that were closed for being slow
  size_t connections = 0;  // that are open
  size_t exchanges = 0;    // that are not answered to the end
};

class HttpServer {
 public:
  // Listens at once, in a thread of its own. The handler and the clock outlive it. Errors: InvalidArgument (no such address, certificates
  // that cannot be read), Unavailable (the port is in use), Denied.
  static Result<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options, HttpHandler& handler, const Clock& clock);
  virtual ~HttpServer() = default;
  // Breaks off what is left; nothing calls the handler any more, and what is posted is dropped.
  virtual void Stop() = 0;

  virtual uint16_t port() const = 0;
  virtual HttpServerCounters counters() const = 0;
  // Connections from now on are of these certificates, where they were of some before. Errors as Start says them, which change nothing.
  virtual Status UseTls(const TlsOptions& options) = 0;
  // Runs it in the server's thread, soon.
  virtual void Post(std::function<void()> work) = 0;
  // Until every exchange has ended, at most so long. Whether they have.
  virtual bool AwaitIdle(int64_t timeout_ns) = 0;
};

}  // namespace bantam
