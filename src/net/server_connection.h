// One client's connection to the server: requests one after the other, and their answers. For the server's own files; all of it runs in the
// server's thread, but for what is atomic.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "net/http_server.h"
#include "net/server_channel.h"
#include "net/server_message.h"

namespace bantam {

// Counts a body as long as somebody holds it.
class HeldBody {
 public:
  HeldBody(std::shared_ptr<std::atomic<uint64_t>> total, uint64_t bytes) : total_(std::move(total)), bytes_(bytes) {
    total_->fetch_add(bytes);
  }
  HeldBody(HeldBody&& other) noexcept : total_(std::move(other.total_)), bytes_(std::exchange(other.bytes_, 0)) {}
  HeldBody& operator=(HeldBody&&) = delete;
  ~HeldBody() {
    if (total_ != nullptr) total_->fetch_sub(bytes_);
  }

 private:
  std::shared_ptr<std::atomic<uint64_t>> total_;
  uint64_t bytes_;
};

// What connections know of the server.
struct ServerShared {
  const HttpServerLimits limits;
  HttpHandler& handler;
  const Clock& clock;
  // That bodies hold: of all connections and requests, and of requests that come from each address.
  const std::shared_ptr<std::atomic<uint64_t>> bodies_bytes = std::make_shared<std::atomic<uint64_t>>(0);
  std::map<std::string, uint64_t> coming_bytes = {};
  // Makes what the handler gets for a request.
  std::function<std::shared_ptr<HttpExchange>(ServerRequest request, HeldBody held, uint64_t connection, uint64_t exchange)> make_exchange =
      nullptr;
  std::function<void(int change)> count_exchanges = nullptr;
  std::function<void()> count_timeout = nullptr;
  std::function<void(uint64_t connection)> closed = nullptr;
};

class ServerConnection : public std::enable_shared_from_this<ServerConnection> {
 public:
  ServerConnection(ServerShared& shared, uint64_t id, std::unique_ptr<Channel> channel, std::string address);

  void Begin();
  // Closes what is too slow.
  void Look(int64_t now_ns);
  // Breaks it off.
  void Close();
  const std::string& address() const { return address_; }

  // ---- Of the exchange of this number; of another one nothing happens ----
  void Listen(uint64_t exchange, HttpExchange::Listener listener);
  void Respond(uint64_t exchange, ServerResponse response);
  void BeginAnswer(uint64_t exchange, ServerResponse head);
  void Write(uint64_t exchange, const std::string& bytes);
  void EndAnswer(uint64_t exchange);
  // Whoever was to answer is gone.
  void Drop(uint64_t exchange);
  // Counts what was given and is not taken, of the exchange that goes on.
  std::shared_ptr<std::atomic<size_t>> unsent() const { return exchange_->unsent; }

 private:
  struct Exchange {
    uint64_t id = 0;
    HttpExchange::Listener listener = {};
    std::shared_ptr<std::atomic<size_t>> unsent = std::make_shared<std::atomic<size_t>>(0);
    BodyFraming framing = BodyFraming::kLength;
    bool keep_alive = true;
    bool takes_chunks = true;
    bool only_head = false;
    bool begun = false;  // its head was given
    bool ended = false;  // all of it was given
    bool full = false;   // whoever writes waits for OnTaken
  };
  struct Piece {
    std::string bytes;
    size_t counted = 0;  // of HttpExchange::unsent_bytes
  };

  Exchange* Find(uint64_t exchange) { return exchange_ && exchange_->id == exchange ? &*exchange_ : nullptr; }
  void Read();
  void OnRead(const boost::system::error_code& error, size_t bytes);
  // Goes on with what the reader has.
  void Proceed();
  void ProceedWithBody();
  void BeginExchange();
  void FinishExchange();
  void RefuseRequest(int status, std::string_view why);
  void Send(std::string bytes, size_t counted);
  void WriteMore();
  void OnWritten(const boost::system::error_code& error, size_t bytes);
  void Sent();
  // The last bytes of the client are read, so that the system does not throw away ours.
  void Linger();
  // Counts what has come of a body. False: there is too much of them.
  bool HoldBody(uint64_t bytes);

  ServerShared& shared_;
  const uint64_t id_;
  std::unique_ptr<Channel> channel_;
  const std::string address_;
  RequestReader reader_;
  std::string early_;  // bytes of the next requests, while one is answered: they are not looked at
  std::array<char, 4096> buffer_{};
  bool open_ = false;  // TLS is agreed on
  bool closed_ = false;
  bool reading_ = false;
  bool lingering_ = false;
  bool refused_ = false;  // the answer that is written is the last
  size_t lingered_bytes_ = 0;
  RequestReader::State phase_ = RequestReader::State::kNothing;  // that the deadline is of
  int64_t phase_begin_ns_ = 0;
  int64_t deadline_ns_ = 0;
  uint64_t body_bytes_ = 0;  // counted in ServerShared::bodies_bytes
  std::optional<Exchange> exchange_;
  uint64_t next_exchange_ = 1;
  std::deque<Piece> out_;
  size_t out_offset_ = 0;  // of the first piece
  bool writing_ = false;
  int64_t write_deadline_ns_ = 0;
  size_t written_bytes_ = 0;  // since the write deadline was set
};

}  // namespace bantam
