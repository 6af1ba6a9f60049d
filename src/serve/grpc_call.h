// One call of gRPC: what the library does with it, by its threads, and what the gateway sees of it, an HttpExchange. For grpc_*.cc.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "net/http_server.h"
#include "serve/call.h"

namespace bantam {

class GrpcCall;

// Calls at once on one connection; of all connections together there may be as many calls as connections, or this many.
inline constexpr size_t kGrpcStreamsMax = 128;

// What calls know of the server.
struct GrpcShared {
  GrpcShared(Gateway& of, const Clock& now, const HttpServerLimits& most) : gateway(of), clock(now), limits(most) {}
  Gateway& gateway;
  const Clock& clock;
  const HttpServerLimits limits;
  std::atomic<uint64_t> bodies_bytes = 0;  // of messages that wait to be read
  std::atomic<size_t> reflections = 0;     // streams of the reflection service
  std::mutex mutex;
  std::condition_variable idle;
  std::set<std::shared_ptr<GrpcCall>> calls;  // under the lock
  bool stopping = false;
};

grpc::Status GrpcError(grpc::StatusCode code, const std::string& message);
std::string BytesOf(const grpc::ByteBuffer& buffer);
grpc::ByteBuffer BufferOf(std::string_view bytes);

// Lives until gRPC and the gateway are both done with it. Whoever starts an operation of the reactor is the only one who may: the lock
// decides who, and is not held meanwhile.
class GrpcCall : public std::enable_shared_from_this<GrpcCall> {
 public:
  GrpcCall(std::shared_ptr<GrpcShared> shared, const Route& route, grpc::GenericCallbackServerContext& context);

  // ---- By gRPC's threads ----
  // Reads the request; or ends at once, where no more calls may be.
  void Begin(grpc::ServerGenericBidiReactor* reactor);
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnCancelled();
  // The reactor is gone after this.
  void OnDone();

  // ---- By any ----
  // Ends what is too slow.
  void Look(int64_t now_ns);
  // Ends it where it stands, whatever waits to be written.
  void Abort(const grpc::Status& status);
  // The same, unless its end was given: nobody is there any more who could.
  void BreakOff();
  // Messages of the answer, and its end. After the end nothing is taken.
  void SetHead(const std::vector<HttpField>& fields);
  void Send(std::string_view message);
  void End(grpc::Status status, int64_t retry_ms = 0);
  void DropBody();
  void Listen(HttpExchange::Listener listener);
  size_t unsent_bytes() const { return unsent_bytes_; }
  const ServerRequest& request() const { return request_; }

 private:
  // Writes the next message, or the end.
  void Advance();

  const std::shared_ptr<GrpcShared> shared_;
  const Route& route_;
  ServerRequest request_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
  std::atomic<size_t> unsent_bytes_ = 0;
  std::atomic<uint64_t> body_bytes_ = 0;

  std::mutex mutex_;
  grpc::GenericCallbackServerContext* context_;  // null: gRPC is done
  grpc::ServerGenericBidiReactor* reactor_ = nullptr;
  HttpExchange::Listener listener_ = {};
  std::vector<HttpField> head_ = {};
  std::deque<std::string> waiting_ = {};
  size_t writing_bytes_ = 0;
  int64_t phase_begin_ns_ = 0;
  int64_t retry_ms_ = 0;
  bool reading_ = false;
  bool writing_ = false;
  bool full_ = false;   // whoever writes waits for taken
  bool gone_ = false;   // the client is
  bool ended_ = false;  // all of the answer was given
  bool finished_ = false;
  grpc::Status status_;
};

// The end that the answer to a request has, as kGrpcDialect wrote it.
class GrpcExchange final : public HttpExchange {
 public:
  explicit GrpcExchange(std::shared_ptr<GrpcCall> call) : call_(std::move(call)) {}
  // One that is dropped before its end breaks off the call.
  ~GrpcExchange() override;
  const ServerRequest& request() const override { return call_->request(); }
  void DropBody() override { call_->DropBody(); }
  void Respond(ServerResponse response) override;
  void Begin(ServerResponse head) override;
  void Write(std::string bytes) override;
  void End() override;
  size_t unsent_bytes() const override { return call_->unsent_bytes(); }
  void Listen(Listener listener) override { call_->Listen(std::move(listener)); }

 private:
  const std::shared_ptr<GrpcCall> call_;
};

}  // namespace bantam
