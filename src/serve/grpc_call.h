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
#include "serve/grpc_room.h"

namespace bantam {

class GrpcCall;

class GrpcStream;

// What calls know of the server.
struct GrpcShared {
  GrpcShared(Gateway& of, const Clock& now, const HttpServerLimits& most) : gateway(of), clock(now), limits(most), room(most) {}
  Gateway& gateway;
  const Clock& clock;
  const HttpServerLimits limits;
  GrpcRoom room;
  std::atomic<size_t> reflections = 0;  // streams of the reflection service
  std::mutex mutex;
  std::condition_variable idle;
  // Under the lock.
  std::set<std::shared_ptr<GrpcCall>> calls;
  std::set<std::shared_ptr<GrpcStream>> streams;
  size_t asked = 0;  // calls whose message the gateway was given, and that have not ended
  bool stopping = false;
};

// How long a client may take for so many bytes: 64 KB a second beside the time that anything may take, as for bodies.
inline int64_t GrpcPatienceMs(int64_t timeout_ms, uint64_t bytes) { return timeout_ms + static_cast<int64_t>(bytes / 64); }

// "ipv4:127.0.0.1:1234", "ipv6:[::1]:1234" (its brackets may be in percent signs) to the address; this machine's own to one name.
std::string GrpcAddressOf(const std::string& peer);

grpc::Status GrpcError(grpc::StatusCode code, const std::string& message);
// The same with details, and what kGrpcDialect says of an error; to be counted and logged by whoever refuses.
grpc::Status GrpcStatusOf(const ApiError& error);
std::string BytesOf(const grpc::ByteBuffer& buffer);
grpc::ByteBuffer BufferOf(std::string_view bytes);

// Lives until gRPC and the gateway are both done with it. Whoever starts an operation of the reactor is the only one who may: the lock
// decides who, and is not held meanwhile.
class GrpcCall : public std::enable_shared_from_this<GrpcCall> {
 public:
  GrpcCall(std::shared_ptr<GrpcShared> shared, const Route& route, grpc::GenericCallbackServerContext& context);
  ~GrpcCall() { DropBody(); }

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
  // The same, where memory ran out.
  void FailOfMemory();
  // The same, unless its end was given: nobody is there any more who could.
  void BreakOff();
  // Messages of the answer, and its end. After the end nothing is taken.
  void SetHead(const std::vector<HttpField>& fields);
  void Send(std::string_view message);
  void End(grpc::Status status, int64_t retry_ms = 0);
  // By whoever reads the body, once it has come.
  void DropBody();
  void Listen(HttpExchange::Listener listener);
  size_t unsent_bytes() const { return unsent_bytes_; }
  const ServerRequest& request() const { return request_; }

 private:
  // Why the message that came, or did not, is not taken.
  std::optional<ApiError> CheckMessage(bool ok);
  // Ends it with an error that the gateway has not seen.
  void Refuse(const ApiError& error, std::string_view reason);
  // Writes the next message, or the end.
  void Advance();
  // Under the lock.
  void DropWaiting();

  const std::shared_ptr<GrpcShared> shared_;
  const Route& route_;
  ServerRequest request_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
  std::atomic<size_t> unsent_bytes_ = 0;
  uint64_t body_bytes_ = 0;  // of whoever reads the body
  bool entered_ = false;     // it has a place in the room
  bool asked_ = false;       // it counts in GrpcShared

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
  bool slow_ = false;   // it was cancelled for that
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
