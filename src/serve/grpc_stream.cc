#include "serve/grpc_stream.h"

#include <grpc/health/v1/health.pb.h>

#include <algorithm>
#include <new>
#include <utility>

#include "serve/gateway.h"
#include "serve/grpc_routes.h"

namespace bantam {
namespace {

// Streams of the reflection service, of all connections together: each holds a description of some 20 KB.
constexpr size_t kReflectionsMax = 64;
constexpr size_t kMessageBytesMax = 4096;  // names
constexpr int64_t kNsPerMs = 1'000'000;
constexpr std::string_view kWatchPath = "/grpc.health.v1.Health/Watch";

}  // namespace

std::optional<GrpcStreamKind> FindGrpcStream(std::string_view path) {
  if (path == kWatchPath) return GrpcStreamKind::kHealthWatch;
  const bool described = std::find(std::begin(kReflectionPaths), std::end(kReflectionPaths), path) != std::end(kReflectionPaths);
  return described ? std::optional(GrpcStreamKind::kReflection) : std::nullopt;
}

grpc::ServerGenericBidiReactor* GrpcStream::Start(std::shared_ptr<GrpcShared> shared, GrpcStreamKind kind,
                                                  grpc::GenericCallbackServerContext& context) {
  const std::shared_ptr<GrpcStream> stream(new GrpcStream(std::move(shared), kind, context));
  stream->Begin();
  return stream.get();
}

void GrpcStream::Begin() {
  entered_ = shared_->room.Enter(address_);
  bool room = entered_;
  if (kind_ == GrpcStreamKind::kReflection) {
    counted_ = true;
    room = ++shared_->reflections <= kReflectionsMax && room;
  }
  bool stopping = false;
  {
    const std::lock_guard lock(shared_->mutex);
    stopping = shared_->stopping;
    shared_->streams.insert(shared_from_this());
  }
  if (room && !stopping) return Read();
  if (!room) shared_->gateway.NoteRefusal({503, "connections", "too many streams", address_});
  End(GrpcError(grpc::StatusCode::UNAVAILABLE, stopping ? "the server stops" : "too many streams; end some, or try again"));
}

void GrpcStream::Read() {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    reading_ = true;
    phase_begin_ns_ = shared_->clock.NowNs();
  }
  StartRead(&incoming_);
}

void GrpcStream::Write(const std::string& message) {
  grpc::ByteBuffer buffer = BufferOf(message);
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || writing_) return;
    writing_ = true;
    phase_begin_ns_ = shared_->clock.NowNs();
    outgoing_.Swap(&buffer);
  }
  StartWrite(&outgoing_);
}

void GrpcStream::End(const grpc::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(ended_, true)) return;
    status_ = status;
    // Whoever writes starts that just now, perhaps: its end is the stream's.
    if (writing_) return;
  }
  Finish(status);
}

std::optional<std::string> GrpcStream::Answer(std::string_view message) {
  if (kind_ == GrpcStreamKind::kReflection) return AnswerReflection(message);
  grpc::health::v1::HealthCheckRequest request;
  if (!ReadGrpcMessage(message, &request).ok()) return std::nullopt;
  const int status = GrpcHealthOf(shared_->gateway, request.service());
  {
    const std::lock_guard lock(mutex_);
    watched_ = request.service();
    told_ = status;
  }
  return GrpcHealthMessage(status);
}

void GrpcStream::OnReadDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    reading_ = false;
  }
  // Who asks for descriptions no more has had all of them.
  if (!ok)
    return End(kind_ == GrpcStreamKind::kReflection ? grpc::Status::OK : GrpcError(grpc::StatusCode::INVALID_ARGUMENT, "no message"));
  try {
    const bool large = incoming_.Length() > kMessageBytesMax;
    const std::optional<std::string> answer = large ? std::nullopt : Answer(BytesOf(incoming_));
    incoming_.Clear();
    if (!answer) return End(GrpcError(grpc::StatusCode::INVALID_ARGUMENT, "the message is too large, or not of this service"));
    Write(*answer);
  } catch (const std::bad_alloc&) {
    // The outermost frame of the library's thread.
    End(GrpcError(grpc::StatusCode::RESOURCE_EXHAUSTED, "memory ran out"));
  }
}

void GrpcStream::OnWriteDone(bool ok) {
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    ended = ended_;
  }
  if (ended) return Finish(status_);
  if (!ok) return End(GrpcError(grpc::StatusCode::CANCELLED, "the client is gone"));
  // One message begins to watch; what has changed meanwhile is seen at the next look.
  if (kind_ == GrpcStreamKind::kReflection) Read();
}

void GrpcStream::OnCancel() { End(GrpcError(grpc::StatusCode::CANCELLED, "the client is gone")); }

void GrpcStream::OnDone() {
  {
    const std::lock_guard lock(mutex_);
    context_ = nullptr;
  }
  if (counted_) --shared_->reflections;
  if (entered_) shared_->room.Leave(address_);
  const auto self = shared_from_this();
  const std::lock_guard lock(shared_->mutex);
  shared_->streams.erase(self);
}

void GrpcStream::Look(int64_t now_ns) {
  const HttpServerLimits& limits = shared_->limits;
  bool late = false;
  std::optional<std::string> watched;
  int told = 0;
  {
    const std::lock_guard lock(mutex_);
    const int64_t waited_ms = (now_ns - phase_begin_ns_) / kNsPerMs;
    // Who is described to may think between questions.
    late = reading_ && waited_ms > (kind_ == GrpcStreamKind::kReflection ? limits.idle_timeout_ms : limits.body_timeout_ms);
    // What is written then fails, and ends the stream.
    if (writing_ && context_ != nullptr && waited_ms > limits.write_timeout_ms) context_->TryCancel();
    if (!writing_ && !ended_) watched = watched_;
    told = told_;
  }
  if (late) return End(GrpcError(grpc::StatusCode::DEADLINE_EXCEEDED, "the message did not come in time"));
  if (!watched) return;
  const int status = GrpcHealthOf(shared_->gateway, *watched);
  if (status == told) return;
  {
    const std::lock_guard lock(mutex_);
    told_ = status;
  }
  Write(GrpcHealthMessage(status));
}

}  // namespace bantam
