// gRPC beside HTTP: the same gateway, keys, limits and log, for clients that speak the services of proto/ (docs/serve.md, ADR 0029). A part
// that builds may leave out: no_grpc.cc stands in its place.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "net/http_server.h"
#include "serve/gateway.h"

namespace bantam {

struct GrpcServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;             // 0: any that is free
  HttpServerLimits limits = {};  // a message is limited as a body, metadata as a header
  std::optional<TlsOptions> tls = {};
};

class GrpcServer {
 public:
  // False: this build has none, and Start fails.
  static bool Built();
  // What it may hold beside what its calls do: for the plan of the memory.
  static uint64_t PlannedBytes(const HttpServerLimits& limits);
  // Listens at once. The gateway, whose server runs already, and the clock outlive it. Errors: Unsupported where it is not built;
  // InvalidArgument (no such address, certificates that cannot be read), Unavailable (the port is in use), Denied.
  static Result<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options, Gateway& gateway, const Clock& clock);
  virtual ~GrpcServer() = default;
  // Breaks off what is left; before the gateway's server stops.
  virtual void Stop() = 0;

  // Connections from a second later on are of these certificates, where they were of some before. Errors as Start says them, and
  // InvalidArgument where clients would need certificates that needed none, or the other way round; they change nothing.
  virtual Status UseTls(const TlsOptions& options) = 0;

  virtual uint16_t port() const = 0;
  // Connections that are open, and calls that have not ended.
  virtual size_t connections() const = 0;
  // Until every call whose message has come has ended, at most so long. Whether they have.
  virtual bool AwaitIdle(int64_t timeout_ns) = 0;
};

}  // namespace bantam
