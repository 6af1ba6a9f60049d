#include "serve/grpc_call.h"

#include <fmt/format.h>
#include <grpc/support/time.h>

#include <algorithm>
#include <utility>

#include "base/ascii.h"
#include "serve/gateway.h"
#include "serve/grpc_routes.h"

namespace bantam {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kMsPerSecond = 1000;
// Behind it a deadline says nothing.
constexpr int64_t kDeadlineMsMax = int64_t{24} * 3'600'000;

// What a message may be that is answered by the server's thread: names.
constexpr size_t kQuickBytesMax = 4096;

void AddDeadline(const grpc::GenericCallbackServerContext& context, ServerRequest* request) {
  // By the library's own clock, for the wall clock jumps. One that is far away is cut to some weeks, and one that is none is far away.
  const int64_t left = gpr_time_to_millis(gpr_convert_clock_type(context.raw_deadline(), GPR_TIMESPAN));
  // The first of its name counts.
  if (left < kDeadlineMsMax) request->fields.push_back({"X-Bantam-Deadline-Ms", std::to_string(std::max<int64_t>(left, 1))});
}

}  // namespace

std::string GrpcAddressOf(const std::string& peer) {
  const std::string decoded = DecodePercent(peer).value_or(peer);
  const size_t scheme = decoded.find(':');
  if (scheme == std::string::npos) return decoded;
  std::string address = decoded.substr(scheme + 1, decoded.rfind(':') - scheme - 1);
  if (address.starts_with('[') && address.ends_with(']')) address = address.substr(1, address.size() - 2);
  if (address.starts_with("::ffff:")) address = address.substr(7);
  return address.starts_with("127.") || address == "::1" ? kGrpcOwnAddress : address;
}

grpc::Status GrpcError(grpc::StatusCode code, const std::string& message) { return {code, message}; }

grpc::Status GrpcStatusOf(const ApiError& error) {
  const GrpcFailure failure = ReadGrpcFailure(kGrpcDialect.error_body(error));
  return {static_cast<grpc::StatusCode>(failure.code), failure.message, failure.details};
}

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::string bytes;
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return bytes;
  bytes.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

grpc::ByteBuffer BufferOf(std::string_view bytes) {
  const grpc::Slice slice(bytes.data(), bytes.size());
  return {&slice, 1};
}

GrpcCall::GrpcCall(std::shared_ptr<GrpcShared> shared, const Route& route, grpc::GenericCallbackServerContext& context)
    : shared_(std::move(shared)), route_(route), context_(&context) {
  request_.method = route.method;
  request_.path = route.path;
  request_.client = GrpcAddressOf(context.peer());
  request_.fields.push_back({"Host", context.host()});
  AddDeadline(context, &request_);
  for (const auto& [name, value] : context.client_metadata()) {
    request_.fields.push_back({std::string(name.data(), name.size()), std::string(value.data(), value.size())});
  }
}

void GrpcCall::Begin(grpc::ServerGenericBidiReactor* reactor) {
  const bool room = shared_->room.Enter(request_.client);
  {
    const std::lock_guard lock(mutex_);
    reactor_ = reactor;
    entered_ = room;
    reading_ = true;
    phase_begin_ns_ = shared_->clock.NowNs();
  }
  bool stopping = false;
  {
    // Whoever stops the server may end it from here on.
    const std::lock_guard lock(shared_->mutex);
    stopping = shared_->stopping;
    shared_->calls.insert(shared_from_this());
  }
  if (!room || stopping) {
    const char* why = stopping ? "the server stops" : "too many calls; end some, or try again";
    return Refuse({.status = 503, .code = "too_many", .message = why, .retry_after_s = 1}, stopping ? "draining" : "connections");
  }
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
  }
  reactor->StartRead(&incoming_);
}

void GrpcCall::Refuse(const ApiError& error, std::string_view reason) {
  shared_->gateway.NoteRefusal({error.status, reason, error.message, request_.client});
  End(GrpcStatusOf(error), error.retry_after_s.value_or(0) * kMsPerSecond);
}

std::optional<ApiError> GrpcCall::CheckMessage(bool ok) {
  if (!ok)
    return ApiError{.status = 400, .code = "no_message", .message = "the call came without its message, or with one that is too large"};
  const uint64_t bytes = incoming_.Length();
  if (route_.work == RouteWork::kQuick && bytes > kQuickBytesMax) {
    return ApiError{
        .status = 413, .code = "request_too_large", .message = fmt::format("expected a message of at most {} bytes", kQuickBytesMax)};
  }
  if (!shared_->room.Hold(request_.client, bytes)) {
    return ApiError{.status = 503, .code = "out_of_memory", .message = "too many messages come at once; try again", .retry_after_s = 1};
  }
  body_bytes_ = bytes;
  request_.body = BytesOf(incoming_);
  return std::nullopt;
}

void GrpcCall::OnRead(bool ok) {
  const std::optional<ApiError> wrong = CheckMessage(ok);
  incoming_.Clear();
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    reading_ = false;
    ended = ended_;
  }
  if (ended) return Advance();
  if (wrong) {
    return Refuse(*wrong, wrong->status == 400 ? "no_message" : wrong->status == 413 ? "too_large" : "memory");
  }
  {
    const std::lock_guard lock(shared_->mutex);
    ++shared_->asked;
    asked_ = true;
  }
  // The body is the gateway's from here on, even if the call ends before.
  const auto exchange = std::make_shared<GrpcExchange>(shared_from_this());
  shared_->gateway.Post([&gateway = shared_->gateway, exchange, route = &route_] { gateway.HandleRoute(exchange, *route); });
}

void GrpcCall::DropBody() {
  request_.body = {};
  const uint64_t bytes = std::exchange(body_bytes_, 0);
  if (bytes > 0) shared_->room.Drop(request_.client, bytes);
}

void GrpcCall::Listen(HttpExchange::Listener listener) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    if (!gone_ && !ended_) {
      listener_ = std::move(listener);
      return;
    }
  }
  // It ended before anybody asked.
  if (listener.gone) shared_->gateway.Post([gone = std::move(listener.gone)] { gone(); });
}

void GrpcCall::OnCancelled() {
  const std::lock_guard lock(mutex_);
  gone_ = true;
  if (ended_ || !listener_.gone) return;
  DropWaiting();
  // In the gateway's thread, and not again. Whoever was told drops the exchange in time, which ends the call.
  shared_->gateway.Post([listener = std::exchange(listener_, {})] { listener.gone(); });
}

void GrpcCall::SetHead(const std::vector<HttpField>& fields) {
  const std::lock_guard lock(mutex_);
  head_ = fields;
}

void GrpcCall::Send(std::string_view message) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_ || gone_ || context_ == nullptr) return;
    waiting_.emplace_back(message);
    unsent_bytes_ += message.size();
    full_ = full_ || unsent_bytes_ > HttpExchange::kUnsentBytesMax;
  }
  Advance();
}

void GrpcCall::End(grpc::Status status, int64_t retry_ms) {
  HttpExchange::Listener listener;  // it holds the call, which holds this
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(ended_, true)) return;
    listener = std::exchange(listener_, {});
    status_ = std::move(status);
    retry_ms_ = retry_ms;
  }
  Advance();
}

void GrpcCall::Abort(const grpc::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    DropWaiting();
    if (ended_ && !finished_) status_ = status;
  }
  OnCancelled();
  End(status);
}

void GrpcCall::FailOfMemory() {
  {
    const std::lock_guard lock(mutex_);
    reading_ = false;
    writing_ = false;
  }
  shared_->gateway.CountRefusal("memory");
  Abort(GrpcError(grpc::StatusCode::RESOURCE_EXHAUSTED, "memory ran out"));
}

void GrpcCall::BreakOff() {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
  }
  Abort(GrpcError(grpc::StatusCode::CANCELLED, "the call was broken off"));
}

void GrpcCall::DropWaiting() {
  for (const std::string& message : waiting_) unsent_bytes_ -= message.size();
  waiting_.clear();
}

void GrpcCall::Advance() {
  enum class Next : uint8_t { kNothing, kWrite, kFinish } next = Next::kNothing;
  {
    const std::lock_guard lock(mutex_);
    if (context_ == nullptr || reactor_ == nullptr || writing_ || finished_) return;
    for (const HttpField& field : std::exchange(head_, {})) {
      // What is HTTP's own is gRPC's business.
      if (field.name == "x-request-id") context_->AddInitialMetadata(field.name, field.value);
    }
    if (!waiting_.empty()) {
      next = Next::kWrite;
      writing_ = true;
      writing_bytes_ = waiting_.front().size();
      phase_begin_ns_ = shared_->clock.NowNs();
      outgoing_ = BufferOf(waiting_.front());
      waiting_.pop_front();
    } else if (ended_) {
      next = Next::kFinish;
      finished_ = true;
      // Clients that try again by themselves wait so long.
      if (retry_ms_ > 0) context_->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(retry_ms_));
    }
  }
  switch (next) {
    case Next::kNothing:
      break;
    case Next::kWrite:
      reactor_->StartWrite(&outgoing_);
      break;
    case Next::kFinish:
      reactor_->Finish(status_);
      break;
  }
}

void GrpcCall::OnWritten(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    unsent_bytes_ -= writing_bytes_;
    if (!ok) DropWaiting();
    if (full_ && unsent_bytes_ < HttpExchange::kUnsentBytesMax / 4 && !ended_) {
      full_ = false;
      if (listener_.taken) shared_->gateway.Post([taken = listener_.taken] { taken(); });
    }
  }
  if (!ok) OnCancelled();
  Advance();
}

void GrpcCall::OnDone() {
  {
    const std::lock_guard lock(mutex_);
    context_ = nullptr;
    reactor_ = nullptr;
    finished_ = true;
  }
  const auto self = shared_from_this();
  if (entered_) shared_->room.Leave(request_.client);
  const std::lock_guard lock(shared_->mutex);
  shared_->calls.erase(self);
  if (asked_) --shared_->asked;
  if (shared_->asked == 0) shared_->idle.notify_all();
}

void GrpcCall::Look(int64_t now_ns) {
  const ApiError late = {.status = 408, .code = "bad_request", .message = "the message did not come in time"};
  bool slow = false;
  {
    const std::lock_guard lock(mutex_);
    const int64_t waited_ms = (now_ns - phase_begin_ns_) / kNsPerMs;
    const HttpServerLimits& limits = shared_->limits;
    // How much of a message has come nobody says.
    if (reading_ && !ended_ && waited_ms > GrpcPatienceMs(limits.body_timeout_ms, limits.request.body_bytes_max)) {
      slow = true;
      ended_ = true;
      status_ = GrpcStatusOf(late);
    }
    // What is written then fails, and ends the call.
    if (writing_ && !slow_ && context_ != nullptr && waited_ms > GrpcPatienceMs(limits.write_timeout_ms, writing_bytes_)) {
      slow = true;
      slow_ = true;
      context_->TryCancel();
    }
  }
  if (!slow) return;
  shared_->gateway.NoteRefusal({408, "slow_client", "the client was too slow", request_.client});
  Advance();
}

// ---- The gateway's side ----

GrpcExchange::~GrpcExchange() { call_->BreakOff(); }

void GrpcExchange::Respond(ServerResponse response) {
  call_->SetHead(response.fields);
  if (response.status == 200) {
    call_->Send(response.body);
    return call_->End(grpc::Status::OK);
  }
  const GrpcFailure failure = ReadGrpcFailure(response.body);
  call_->End({static_cast<grpc::StatusCode>(failure.code), failure.message, failure.details}, failure.retry_ms);
}

void GrpcExchange::Begin(ServerResponse head) {
  call_->SetHead(head.fields);
  Write(std::move(head.body));
}

void GrpcExchange::Write(std::string bytes) {
  for (std::string_view left = bytes; !left.empty();) {
    const GrpcPiece piece = TakeGrpcFrame(&left);
    if (!piece.error) {
      call_->Send(piece.bytes);
      continue;
    }
    const GrpcFailure failure = ReadGrpcFailure(piece.bytes);
    call_->End({static_cast<grpc::StatusCode>(failure.code), failure.message, failure.details}, failure.retry_ms);
  }
}

void GrpcExchange::End() { call_->End(grpc::Status::OK); }

}  // namespace bantam
