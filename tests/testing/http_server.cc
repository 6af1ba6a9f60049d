#include "testing/http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <utility>

#include "base/ascii.h"
#include "base/check.h"

namespace bantam::testing {
namespace {

class Connection final : public ServerConnection {
 public:
  Connection(int client, int stop, const Certificate* certificate) : client_(client), stop_(stop) {
    if (certificate == nullptr) return;
    context_.reset(::SSL_CTX_new(::TLS_server_method()));
    CHECK(::SSL_CTX_use_certificate(context_.get(), certificate->certificate.get()) == 1);
    CHECK(::SSL_CTX_use_PrivateKey(context_.get(), certificate->key.get()) == 1);
    tls_.reset(::SSL_new(context_.get()));
    ::SSL_set_fd(tls_.get(), client_);
  }
  ~Connection() override {
    if (tls_ != nullptr && agreed_) ::SSL_shutdown(tls_.get());
    tls_.reset();
    // What was sent arrives before the end does, even if the client's last bytes were never read.
    ::shutdown(client_, SHUT_WR);
    char rest[4096];
    while (Readable() && ::recv(client_, rest, sizeof(rest), 0) > 0) {
    }
    ::close(client_);
  }

  bool Agree() {
    agreed_ = tls_ == nullptr || (Readable() && ::SSL_accept(tls_.get()) == 1);
    return agreed_;
  }

  // Up to the blank line that ends a header; empty when the client goes before.
  std::string ReadHead() {
    std::string head;
    while (!head.ends_with("\r\n\r\n")) {
      char byte = 0;
      if ((tls_ == nullptr || ::SSL_pending(tls_.get()) == 0) && !Readable()) return "";
      const ssize_t got = tls_ != nullptr ? ::SSL_read(tls_.get(), &byte, 1) : ::recv(client_, &byte, 1, 0);
      if (got != 1) return "";
      head += byte;
    }
    return head;
  }

  bool Send(std::string_view bytes) override {
    while (!bytes.empty()) {
      pollfd waiting[2] = {{client_, POLLOUT, 0}, {stop_, POLLIN, 0}};
      if (::poll(waiting, 2, /*timeout_ms=*/-1) < 0 || waiting[1].revents != 0) return false;
      const size_t size = std::min<size_t>(bytes.size(), 16 << 10);
      const ssize_t put = tls_ != nullptr ? ::SSL_write(tls_.get(), bytes.data(), static_cast<int>(size))
                                          : ::send(client_, bytes.data(), size, MSG_NOSIGNAL);
      if (put <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(put));
    }
    return true;
  }

  void Stall() override {
    pollfd waiting[2] = {{client_, POLLRDHUP, 0}, {stop_, POLLIN, 0}};
    (void)::poll(waiting, 2, /*timeout_ms=*/-1);
  }

 private:
  // Waits for bytes or the client's end; false when the server is to stop.
  bool Readable() {
    pollfd waiting[2] = {{client_, POLLIN, 0}, {stop_, POLLIN, 0}};
    return ::poll(waiting, 2, /*timeout_ms=*/-1) > 0 && waiting[1].revents == 0;
  }

  int client_;
  int stop_;
  bool agreed_ = false;
  std::unique_ptr<SSL_CTX, decltype(&::SSL_CTX_free)> context_ = {nullptr, &::SSL_CTX_free};
  std::unique_ptr<SSL, decltype(&::SSL_free)> tls_ = {nullptr, &::SSL_free};
};

}  // namespace

std::string ServerRequest::Field(std::string_view name) const {
  std::string_view rest = head;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find("\r\n"), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 2, rest.size()));
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos && EqualsIgnoringCase(line.substr(0, colon), name))
      return std::string(TrimmedAscii(line.substr(colon + 1)));
  }
  return "";
}

size_t ServerRequest::RangeStart() const {
  const std::string range = Field("Range");
  constexpr std::string_view kUnit = "bytes=";
  size_t start = 0;
  if (range.starts_with(kUnit)) std::from_chars(range.data() + kUnit.size(), range.data() + range.size(), start);
  return start;
}

HttpServer::HttpServer(Handler handler, const Certificate* certificate) : handler_(std::move(handler)), certificate_(certificate) {
  std::signal(SIGPIPE, SIG_IGN);  // OpenSSL writes without MSG_NOSIGNAL
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(listener_, 16) == 0);
  CHECK(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port_ = ntohs(address.sin_port);
  CHECK(::pipe(stop_) == 0);
  thread_ = std::thread([this] { Serve(); });
}

HttpServer::~HttpServer() {
  CHECK(::write(stop_[1], "", 1) == 1);
  thread_.join();
  for (const int descriptor : {listener_, stop_[0], stop_[1]}) ::close(descriptor);
}

std::string HttpServer::Url(std::string_view target) const {
  return fmt::format("{}://127.0.0.1:{}{}", certificate_ == nullptr ? "http" : "https", port_, target);
}

std::vector<ServerRequest> HttpServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

void HttpServer::Serve() {
  while (true) {
    pollfd waiting[2] = {{listener_, POLLIN, 0}, {stop_[0], POLLIN, 0}};
    if (::poll(waiting, 2, /*timeout_ms=*/-1) <= 0 || waiting[1].revents != 0) return;
    const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client >= 0) Answer(client);
  }
}

void HttpServer::Answer(int client) {
  Connection connection(client, stop_[0], certificate_);
  if (!connection.Agree()) return;
  ServerRequest request;
  request.head = connection.ReadHead();
  if (request.head.empty()) return;
  const size_t method = request.head.find(' ');
  const size_t target = request.head.find(' ', method + 1);
  request.method = request.head.substr(0, method);
  request.target = request.head.substr(method + 1, target - method - 1);
  {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
  }
  handler_(request, connection);
}

std::string Answer(std::string_view body, std::string_view fields, std::string_view status) {
  return fmt::format("HTTP/1.1 {}\r\nContent-Length: {}\r\n{}\r\n{}", status, body.size(), fields, body);
}

void SendFile(const ServerRequest& request, ServerConnection& connection, std::string_view body, std::string_view tag) {
  const size_t start = request.RangeStart();
  const std::string wanted = request.Field("If-Range");
  const std::string field = fmt::format("ETag: {}\r\n", tag);
  if (start == 0 || (!wanted.empty() && wanted != tag)) {
    connection.Send(Answer(body, field));
  } else if (start >= body.size()) {
    connection.Send(Answer("", fmt::format("Content-Range: bytes */{}\r\n", body.size()), "416 Range Not Satisfiable"));
  } else {
    connection.Send(Answer(body.substr(start),
                           fmt::format("{}Content-Range: bytes {}-{}/{}\r\n", field, start, body.size() - 1, body.size()),
                           "206 Partial Content"));
  }
}

}  // namespace bantam::testing
