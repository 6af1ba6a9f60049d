#include "serve/grpc_server.h"

#include <fmt/format.h>
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <new>
#include <utility>

#include "serve/grpc_call.h"
#include "serve/grpc_certificates.h"
#include "serve/grpc_listener.h"
#include "serve/grpc_routes.h"
#include "serve/grpc_stream.h"

namespace bantam {
namespace {

// Clients whose machine is gone without a word are found out within a minute.
constexpr int kKeepAliveMs = 30'000;
constexpr int kKeepAliveTimeoutMs = 20'000;
constexpr int kPingMs = 10'000;               // clients may ask as often whether the server lives
constexpr unsigned kCertificatesSeconds = 1;  // how often the library looks at its copy of them
// In which clients are told that the server stops.
constexpr int64_t kStopMs = 500;
// What the library holds of connections and streams, beside messages, which it has while we copy them.
constexpr uint64_t kLibraryBytes = 16 << 20;

class CallReactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit CallReactor(std::shared_ptr<GrpcCall> call) : call_(std::move(call)) { call_->Begin(this); }
  // The outermost frames of the library's threads: what there is no memory for ends its call, and not the process.
  void OnReadDone(bool ok) override {
    try {
      call_->OnRead(ok);
    } catch (const std::bad_alloc&) {
      call_->FailOfMemory();
    }
  }
  void OnWriteDone(bool ok) override {
    try {
      call_->OnWritten(ok);
    } catch (const std::bad_alloc&) {
      call_->FailOfMemory();
    }
  }
  void OnCancel() override { call_->OnCancelled(); }
  void OnDone() override {
    call_->OnDone();
    delete this;
  }

 private:
  const std::shared_ptr<GrpcCall> call_;
};

class RefusalReactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit RefusalReactor(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

class Service final : public grpc::CallbackGenericService {
 public:
  explicit Service(std::shared_ptr<GrpcShared> shared) : shared_(std::move(shared)) {}
  // The library deletes nothing: a reactor does so itself when it is done.
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    const std::string& path = context->method();
    if (const auto kind = FindGrpcStream(path)) return GrpcStream::Start(shared_, *kind, *context);
    const Route* route = FindGrpcRoute(path);
    if (route == nullptr) {
      const ApiError error = {.status = 405, .code = "not_found", .message = fmt::format("there is no {} here", path.substr(0, 200))};
      shared_->gateway.NoteRefusal({error.status, "unknown_method", error.message, GrpcAddressOf(context->peer())});
      return new RefusalReactor(GrpcStatusOf(error));
    }
    return new CallReactor(std::make_shared<GrpcCall>(shared_, *route, *context));
  }

 private:
  const std::shared_ptr<GrpcShared> shared_;
};

std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const GrpcCertificates* certificates) {
  if (certificates == nullptr) return grpc::InsecureServerCredentials();
  namespace ge = grpc::experimental;
  const std::string identity = certificates->identity_path();
  const auto files =
      std::make_shared<ge::FileWatcherCertificateProvider>(identity, identity, certificates->roots_path(), kCertificatesSeconds);
  ge::TlsServerCredentialsOptions options(files);
  options.watch_identity_key_cert_pairs();
  if (!certificates->roots_path().empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return ge::TlsServerCredentials(options);
}

int Limit(uint64_t value) { return static_cast<int>(std::min<uint64_t>(value, std::numeric_limits<int>::max())); }

// The library writes to standard error otherwise.
void SilenceLibraries() {
  gpr_set_log_function([](gpr_log_func_args*) {});
  google::protobuf::SetLogHandler(nullptr);
}

class Server final : public GrpcServer {
 public:
  Server(const HttpServerLimits& limits, Gateway& gateway, const Clock& clock)
      : shared_(std::make_shared<GrpcShared>(gateway, clock, limits)), service_(shared_) {}
  ~Server() override { Stop(); }

  Status Start(const GrpcServerOptions& options);
  void Stop() override;
  Status UseTls(const TlsOptions& options) override;
  uint16_t port() const override { return listener_->port(); }
  size_t connections() const override { return listener_->connections(); }
  bool AwaitIdle(int64_t timeout_ns) override {
    std::unique_lock lock(shared_->mutex);
    return shared_->idle.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [&] { return shared_->asked == 0; });
  }

 private:
  void SetArguments(grpc::ServerBuilder* builder) const;
  struct Open {
    std::vector<std::shared_ptr<GrpcCall>> calls;
    std::vector<std::shared_ptr<GrpcStream>> streams;
  };
  Open Calls(bool stopping);
  void Tick();

  // Who still holds a call holds it.
  const std::shared_ptr<GrpcShared> shared_;
  Service service_;
  std::unique_ptr<GrpcCertificates> certificates_;  // or none
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GrpcListener> listener_;
  int64_t looked_ns_ = 0;
};

void Server::SetArguments(grpc::ServerBuilder* builder) const {
  const HttpServerLimits& limits = shared_->limits;
  builder->SetMaxReceiveMessageSize(Limit(limits.request.body_bytes_max));
  // What is compressed may be larger than any limit.
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_MAX_METADATA_SIZE, Limit(limits.request.header_bytes_max)},
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, static_cast<int>(kGrpcStreamsMax)},
      {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Limit(static_cast<uint64_t>(limits.header_timeout_ms))},
      {GRPC_ARG_MAX_CONNECTION_IDLE_MS, Limit(static_cast<uint64_t>(limits.idle_timeout_ms))},
      {GRPC_ARG_KEEPALIVE_TIME_MS, kKeepAliveMs},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepAliveTimeoutMs},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kPingMs},
  };
  for (const auto& [name, value] : arguments) builder->AddChannelArgument(name, value);
  grpc::ResourceQuota quota("bantam");
  quota.Resize(GrpcServer::PlannedBytes(limits));
  builder->SetResourceQuota(quota);
}

Status Server::Start(const GrpcServerOptions& options) {
  SilenceLibraries();
  if (options.tls) {
    certificates_ = std::make_unique<GrpcCertificates>();
    BANTAM_TRY(certificates_->Use(*options.tls));
  }
  grpc::ServerBuilder builder;
  SetArguments(&builder);
  builder.RegisterCallbackGenericService(&service_);
  using Type = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  acceptor_ = builder.experimental().AddExternalConnectionAcceptor(Type::FROM_FD, CredentialsOf(certificates_.get()));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return Error(Code::kUnavailable, "grpc: the library could not start its server");
  BANTAM_ASSIGN(listener_, GrpcListener::Start({.address = options.address,
                                                .port = options.port,
                                                .connections_max = options.limits.connections_max,
                                                .connections_per_address_max = options.limits.connections_per_address_max,
                                                .accepted =
                                                    [this](int listener, int connection) {
                                                      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters taken;
                                                      taken.listener_fd = listener;
                                                      taken.fd = connection;
                                                      acceptor_->HandleNewConnection(&taken);
                                                    },
                                                .refused =
                                                    [this](const std::string& address) {
                                                      shared_->gateway.NoteRefusal({503, "connections", "too many connections", address});
                                                    },
                                                .tick = [this] { Tick(); }}));
  return Ok();
}

Server::Open Server::Calls(bool stopping) {
  const std::lock_guard lock(shared_->mutex);
  shared_->stopping = shared_->stopping || stopping;
  return {{shared_->calls.begin(), shared_->calls.end()}, {shared_->streams.begin(), shared_->streams.end()}};
}

void Server::Tick() {
  constexpr int64_t kEveryNs = 100'000'000;
  const int64_t now_ns = shared_->clock.NowNs();
  if (now_ns - looked_ns_ < kEveryNs) return;
  looked_ns_ = now_ns;
  const Open open = Calls(/*stopping=*/false);
  for (const auto& call : open.calls) call->Look(now_ns);
  for (const auto& stream : open.streams) stream->Look(now_ns);
}

Status Server::UseTls(const TlsOptions& options) {
  if (certificates_ != nullptr) return certificates_->Use(options);
  return Error(Code::kInvalidArgument, "certificates: gRPC was started without; start the server again");
}

void Server::Stop() {
  if (server_ == nullptr) return;
  if (listener_ != nullptr) listener_->Stop();
  const grpc::Status status = GrpcError(grpc::StatusCode::UNAVAILABLE, "the server stops");
  const Open open = Calls(/*stopping=*/true);
  for (const auto& call : open.calls) call->Abort(status);
  for (const auto& stream : open.streams) stream->End(status);
  server_->Shutdown(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(kStopMs, GPR_TIMESPAN)));
  server_->Wait();
  server_.reset();
  if (listener_ != nullptr) listener_->CloseAll();
}

}  // namespace

bool GrpcServer::Built() { return true; }

uint64_t GrpcServer::PlannedBytes(const HttpServerLimits& limits) { return 2 * limits.bodies_bytes_max + kLibraryBytes; }

Result<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options, Gateway& gateway, const Clock& clock) {
  auto server = std::make_unique<Server>(options.limits, gateway, clock);
  BANTAM_TRY(server->Start(options));
  return std::unique_ptr<GrpcServer>(std::move(server));
}

}  // namespace bantam
