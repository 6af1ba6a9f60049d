#include "net/server_connection.h"

#include <algorithm>
#include <utility>

namespace bantam {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr std::string_view kOwnAddress = "127.0.0.1";  // of clients on this machine
constexpr int64_t kLingerMs = 2'000;
constexpr size_t kLingerBytesMax = 1 << 20;
constexpr size_t kWriteProgressBytes = 1024;
constexpr int64_t kBodyBytesPerMs = 64;

}  // namespace

ServerConnection::ServerConnection(ServerShared& shared, uint64_t id, std::unique_ptr<Channel> channel, std::string address)
    : shared_(shared), id_(id), channel_(std::move(channel)), address_(std::move(address)), reader_(shared.limits.request) {
  phase_begin_ns_ = shared_.clock.NowNs();
  deadline_ns_ = phase_begin_ns_ + shared_.limits.header_timeout_ms * kNsPerMs;
}

void ServerConnection::Begin() {
  channel_->Handshake([self = shared_from_this()](const boost::system::error_code& error, size_t) {
    if (error) return self->Close();
    self->open_ = true;
    self->Read();
  });
}

void ServerConnection::Look(int64_t now_ns) {
  if (closed_) return;
  if (writing_ && now_ns > write_deadline_ns_) {
    shared_.count_timeout();
    return Close();
  }
  if (exchange_ || refused_ || now_ns <= deadline_ns_) return;
  if (lingering_ || !open_) return Close();
  shared_.count_timeout();
  if (phase_ == RequestReader::State::kNothing) return Close();
  RefuseRequest(408, "the request did not come in time");
}

bool ServerConnection::HoldBody(uint64_t bytes) {
  const uint64_t before = std::exchange(body_bytes_, bytes);
  const uint64_t all = shared_.bodies_bytes->fetch_add(bytes - before) + bytes - before;
  const auto own = shared_.coming_bytes.try_emplace(address_).first;
  own->second += bytes - before;
  const uint64_t coming = own->second;
  if (coming == 0) shared_.coming_bytes.erase(own);
  // No address alone keeps all others out; this machine's own may be that of a proxy.
  return all <= shared_.limits.bodies_bytes_max &&
         (address_ == kOwnAddress || coming == bytes || coming <= shared_.limits.bodies_bytes_max / 2);
}

void ServerConnection::Close() {
  if (std::exchange(closed_, true)) return;
  HoldBody(0);
  channel_->Close();
  early_.clear();
  if (!writing_) out_.clear();
  if (exchange_) {
    const Exchange ended = std::move(*exchange_);
    exchange_.reset();
    shared_.count_exchanges(-1);
    if (ended.listener.gone) ended.listener.gone();
  }
  shared_.closed(id_);
}

// ---- What comes ----

void ServerConnection::Read() {
  if (reading_ || closed_) return;
  // While a request is answered the next ones may come, but not without end. Reading also tells when the client goes.
  if (!lingering_ && early_.size() > shared_.limits.request.header_bytes_max) return;
  reading_ = true;
  channel_->ReadSome(boost::asio::buffer(buffer_), [self = shared_from_this()](const boost::system::error_code& error, size_t bytes) {
    self->reading_ = false;
    self->OnRead(error, bytes);
  });
}

void ServerConnection::OnRead(const boost::system::error_code& error, size_t bytes) {
  if (closed_) return;
  if (error) {
    // What was answered already still goes out.
    if (refused_ || (exchange_ && exchange_->ended)) return;
    return Close();
  }
  if (lingering_) {
    lingered_bytes_ += bytes;
    return lingered_bytes_ > kLingerBytesMax ? Close() : Read();
  }
  if (refused_) return Read();
  if (exchange_) {
    early_.append(buffer_.data(), bytes);
    return Read();
  }
  reader_.Push({buffer_.data(), bytes});
  Proceed();
}

void ServerConnection::Proceed() {
  const RequestReader::State state = reader_.state();
  if (state == RequestReader::State::kRefused) return RefuseRequest(reader_.refusal().status, reader_.refusal().why);
  if (state == RequestReader::State::kWhole) return BeginExchange();
  if (state != phase_) {
    phase_ = state;
    phase_begin_ns_ = shared_.clock.NowNs();
    const int64_t timeout_ms = state == RequestReader::State::kNothing ? shared_.limits.idle_timeout_ms : shared_.limits.header_timeout_ms;
    deadline_ns_ = phase_begin_ns_ + timeout_ms * kNsPerMs;
  }
  if (state == RequestReader::State::kBody) return ProceedWithBody();
  Read();
}

void ServerConnection::ProceedWithBody() {
  if (!HoldBody(reader_.body_bytes())) return RefuseRequest(503, "too many requests come at once; try again");
  const auto came_ms = static_cast<int64_t>(reader_.body_bytes()) / kBodyBytesPerMs;
  deadline_ns_ = phase_begin_ns_ + (shared_.limits.body_timeout_ms + came_ms) * kNsPerMs;
  if (reader_.TakeExpectation()) Send("HTTP/1.1 100 Continue\r\n\r\n", /*counted=*/0);
  Read();
}

void ServerConnection::RefuseRequest(int status, std::string_view why) {
  ServerResponse response = shared_.handler.Refuse(status, why, address_);
  refused_ = true;
  reader_.Forget();
  HoldBody(0);
  std::string bytes = ResponseHead(response, BodyFraming::kLength, response.body.size(), /*keep_alive=*/false);
  Send(std::move(bytes += response.body), /*counted=*/0);
}

void ServerConnection::BeginExchange() {
  if (!HoldBody(reader_.body_bytes())) return RefuseRequest(503, "too many requests come at once; try again");
  ServerRequest request = reader_.Take();
  // From here on it is the request's, however long somebody holds that.
  HeldBody held(shared_.bodies_bytes, request.body.size());
  HoldBody(0);
  request.client = address_;
  exchange_.emplace();
  exchange_->id = next_exchange_++;
  exchange_->keep_alive = request.keep_alive;
  exchange_->takes_chunks = request.takes_chunks;
  exchange_->only_head = request.method == "HEAD";
  phase_ = RequestReader::State::kWhole;
  shared_.count_exchanges(1);
  shared_.handler.Handle(shared_.make_exchange(std::move(request), std::move(held), id_, exchange_->id));
  Read();
}

// ---- What is answered ----

void ServerConnection::Listen(uint64_t exchange, HttpExchange::Listener listener) {
  if (Exchange* found = Find(exchange)) found->listener = std::move(listener);
}

void ServerConnection::Respond(uint64_t exchange, ServerResponse response) {
  Exchange* found = Find(exchange);
  if (found == nullptr || std::exchange(found->begun, true)) return;
  found->keep_alive = found->keep_alive && !response.close;
  found->ended = true;
  std::string bytes = ResponseHead(response, BodyFraming::kLength, response.body.size(), found->keep_alive);
  if (!found->only_head) bytes += response.body;
  Send(std::move(bytes), /*counted=*/0);
}

void ServerConnection::BeginAnswer(uint64_t exchange, ServerResponse head) {
  Exchange* found = Find(exchange);
  if (found == nullptr || std::exchange(found->begun, true)) return;
  found->framing = found->takes_chunks ? BodyFraming::kChunks : BodyFraming::kUntilClose;
  found->keep_alive = found->keep_alive && !head.close && found->framing == BodyFraming::kChunks;
  Send(ResponseHead(head, found->framing, /*body_bytes=*/0, found->keep_alive), /*counted=*/0);
  if (!head.body.empty()) {
    found->unsent->fetch_add(head.body.size());
    Write(exchange, head.body);
  }
}

void ServerConnection::Write(uint64_t exchange, const std::string& bytes) {
  Exchange* found = Find(exchange);
  if (found == nullptr || !found->begun || found->ended || bytes.empty()) return;
  if (found->only_head) {
    found->unsent->fetch_sub(bytes.size());
    return;
  }
  found->full = found->full || found->unsent->load() > HttpExchange::kUnsentBytesMax;
  Send(found->framing == BodyFraming::kChunks ? Chunk(bytes) : bytes, bytes.size());
}

void ServerConnection::EndAnswer(uint64_t exchange) {
  Exchange* found = Find(exchange);
  if (found == nullptr || !found->begun || std::exchange(found->ended, true)) return;
  if (found->framing == BodyFraming::kChunks && !found->only_head) {
    Send(std::string(kLastChunk), /*counted=*/0);
  } else if (out_.empty()) {
    FinishExchange();
  }
}

void ServerConnection::Drop(uint64_t exchange) {
  Exchange* found = Find(exchange);
  if (found == nullptr || found->ended) return;
  found->listener = {};
  Close();
}

void ServerConnection::FinishExchange() {
  const bool keep_alive = exchange_->keep_alive;
  exchange_.reset();
  shared_.count_exchanges(-1);
  if (!keep_alive) return Linger();
  if (!early_.empty()) reader_.Push(std::exchange(early_, {}));
  Proceed();
}

// ---- Bytes out ----

void ServerConnection::Send(std::string bytes, size_t counted) {
  if (closed_) return;
  out_.push_back({std::move(bytes), counted});
  if (writing_) return;
  write_deadline_ns_ = shared_.clock.NowNs() + shared_.limits.write_timeout_ms * kNsPerMs;
  written_bytes_ = 0;
  WriteMore();
}

void ServerConnection::WriteMore() {
  writing_ = true;
  const Piece& piece = out_.front();
  channel_->WriteSome(boost::asio::buffer(piece.bytes.data() + out_offset_, piece.bytes.size() - out_offset_),
                      [self = shared_from_this()](const boost::system::error_code& error, size_t bytes) { self->OnWritten(error, bytes); });
}

void ServerConnection::OnWritten(const boost::system::error_code& error, size_t bytes) {
  writing_ = false;
  if (closed_) return;
  if (error) return Close();
  out_offset_ += bytes;
  written_bytes_ += bytes;
  if (written_bytes_ >= kWriteProgressBytes) {
    written_bytes_ = 0;
    write_deadline_ns_ = shared_.clock.NowNs() + shared_.limits.write_timeout_ms * kNsPerMs;
  }
  if (out_offset_ == out_.front().bytes.size()) {
    if (exchange_) exchange_->unsent->fetch_sub(out_.front().counted);
    out_.pop_front();
    out_offset_ = 0;
  }
  if (!out_.empty()) WriteMore();
  Sent();
}

void ServerConnection::Sent() {
  if (exchange_ && exchange_->full && exchange_->unsent->load() <= HttpExchange::kUnsentBytesMax / 4) {
    exchange_->full = false;
    if (exchange_->listener.taken) exchange_->listener.taken();
  }
  if (closed_ || !out_.empty()) return;
  if (refused_) return Linger();
  if (exchange_ && exchange_->ended) FinishExchange();
}

void ServerConnection::Linger() {
  if (std::exchange(lingering_, true)) return;
  refused_ = false;
  channel_->EndWriting();
  deadline_ns_ = shared_.clock.NowNs() + kLingerMs * kNsPerMs;
  Read();
}

}  // namespace bantam
