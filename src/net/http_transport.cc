// The adapter round Boost.Asio, Boost.Beast and OpenSSL: the only file that includes them, and where their exceptions end.
#include <fmt/format.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "net/http.h"

namespace bantam {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace ssl = boost::asio::ssl;
using boost::system::error_code;
using Tcp = asio::ip::tcp;

// How long a wait goes on before it looks whether it is to stop.
constexpr std::chrono::milliseconds kSlice(20);
constexpr int64_t kNsPerMs = 1'000'000;

// getaddrinfo cannot be stopped, so it runs in a thread that nobody waits for.
struct Lookup {
  std::mutex mutex;
  std::condition_variable changed;
  bool ended = false;
  int error = 0;
  std::vector<Tcp::endpoint> endpoints;
};

void LookUp(const std::shared_ptr<Lookup>& lookup, const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_ADDRCONFIG;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  const std::lock_guard lock(lookup->mutex);
  lookup->error = error;
  constexpr size_t kAddressesMax = 8;
  for (const addrinfo* one = error == 0 ? found : nullptr; one != nullptr && lookup->endpoints.size() < kAddressesMax; one = one->ai_next) {
    Tcp::endpoint endpoint;
    if (one->ai_addrlen > endpoint.capacity()) continue;
    std::copy_n(reinterpret_cast<const char*>(one->ai_addr), one->ai_addrlen, reinterpret_cast<char*>(endpoint.data()));
    endpoint.resize(one->ai_addrlen);
    endpoint.port(port);
    lookup->endpoints.push_back(endpoint);
  }
  if (error == 0) ::freeaddrinfo(found);
  lookup->ended = true;
  lookup->changed.notify_all();
}

// One connection, from the name of a host to the end of a body.
class Connection final : public HttpReply {
 public:
  Connection(const HttpOptions& options, const Clock& clock, Url requested)
      : options_(options), clock_(clock), context_(ssl::context::tls_client), socket_(io_), stream_(socket_, context_) {
    url = std::move(requested);
  }

  Status Open(const std::vector<HttpField>& wanted) {
    BANTAM_ASSIGN(proxy_, ProxyFor(options_.proxy, url));
    BANTAM_TRY(Connect(proxy_.has_value() ? *proxy_ : url));
    if (url.secure) {
      if (proxy_.has_value()) BANTAM_TRY(OpenTunnel());
      BANTAM_TRY(options_.server_certificate_file.empty() ? Secure() : SecureByCertificate());
    }
    BANTAM_TRY(SendRequest(wanted));
    return ReadHeader();
  }

  Result<size_t> Read(std::span<std::byte> into) override {
    try {
      return url.secure ? ReadFrom(stream_, into) : ReadFrom(socket_, into);
    } catch (const std::exception& error) {
      return Foreign(error);
    }
  }

  Error Foreign(const std::exception& error) const {
    return Error(Code::kUnavailable, fmt::format("{}: {}; try again", ShownUrl(url), error.what()));
  }

 private:
  Error Problem(std::string_view action, std::string_view reason) const {
    return Error(Code::kUnavailable, fmt::format("{}: cannot {}: {}; check the network and try again", ShownUrl(url), action, reason));
  }
  Error Stopped() const { return Error(Code::kCancelled, fmt::format("{}: interrupted", ShownUrl(url))); }
  Error TimedOut(std::string_view action, int64_t timeout_ms) const {
    return Problem(action, fmt::format("nothing came for {:g} s", static_cast<double>(timeout_ms) * 1e-3));
  }

  struct Deadline {
    int64_t ns = 0;
    int64_t timeout_ms = 0;  // that it is the end of
  };
  Deadline In(int64_t timeout_ms) const { return {clock_.NowNs() + timeout_ms * kNsPerMs, timeout_ms}; }

  // Starts an operation and runs it to its end, which is what `start` hands to its argument, unless that takes too long or a stop comes
  // first. A Status is what ended the wait; what the operation itself says is in `error`.
  template <typename Start>
  Status Await(std::string_view action, const Deadline& deadline, error_code* error, const Start& start) {
    bool ended = false;
    const auto handler = [&ended, error](const error_code& result, const auto&...) {
      *error = result;
      ended = true;
    };
    io_.restart();
    start(handler);
    while (!ended) {
      io_.run_one_for(kSlice);
      if (ended) break;
      const bool stopped = options_.stopped();
      if (!stopped && clock_.NowNs() < deadline.ns) continue;
      // What came while this process did not run (it was stopped, the machine slept) counts.
      while (!stopped && !ended && io_.poll_one() > 0) {
      }
      if (ended) break;
      error_code ignored;
      socket_.close(ignored);
      // The operation ends with an error now; its handler refers to this frame.
      while (!ended && io_.run_one() > 0) {
      }
      return stopped ? Stopped() : TimedOut(action, deadline.timeout_ms);
    }
    return Ok();
  }

  Result<std::vector<Tcp::endpoint>> Addresses(const Url& to) {
    error_code error;
    const asio::ip::address address = asio::ip::make_address(to.host, error);
    if (!error) return std::vector<Tcp::endpoint>{{address, to.port}};
    const auto lookup = std::make_shared<Lookup>();
    std::thread([lookup, host = to.host, port = to.port] { LookUp(lookup, host, port); }).detach();
    const int64_t deadline_ns = clock_.NowNs() + options_.limits.connect_timeout_ms * kNsPerMs;
    std::unique_lock lock(lookup->mutex);
    while (!lookup->ended) {
      lookup->changed.wait_for(lock, kSlice);
      if (options_.stopped()) return Stopped();
      if (!lookup->ended && clock_.NowNs() >= deadline_ns) {
        return TimedOut(fmt::format("find {}", to.host), options_.limits.connect_timeout_ms);
      }
    }
    if (lookup->error == EAI_NONAME) {
      return Error(Code::kNotFound, fmt::format("{}: cannot find {}: {}; check the network, and the name of the server", ShownUrl(url),
                                                to.host, ::gai_strerror(EAI_NONAME)));
    }
    if (lookup->error != 0) return Problem(fmt::format("find {}", to.host), ::gai_strerror(lookup->error));
    return lookup->endpoints;
  }

  Status Connect(const Url& to) {
    BANTAM_ASSIGN(const std::vector<Tcp::endpoint> addresses, Addresses(to));
    const std::string action = fmt::format("connect to {}", HostField(to));
    Status last = Problem(action, "it has no address");
    for (const Tcp::endpoint& address : addresses) {
      error_code error;
      socket_.close(error);
      last = Await(action, In(options_.limits.connect_timeout_ms), &error, [&](auto handler) { socket_.async_connect(address, handler); });
      if (last.ok() && !error) return Ok();
      if (last.ok()) last = Problem(action, error.message());
      if (last.error().code() == Code::kCancelled) return last;
    }
    return last;
  }

  // Asks the proxy to pass bytes on to the host.
  Status OpenTunnel() {
    const std::string host = url.host.find(':') == std::string::npos ? url.host : fmt::format("[{}]", url.host);
    const std::string target = fmt::format("{}:{}", host, url.port);
    http::request<http::empty_body> request(http::verb::connect, target, /*version=*/11);
    request.set(http::field::host, target);
    request.set(http::field::user_agent, options_.user_agent);
    const std::string action = fmt::format("pass through the proxy {}", HostField(*proxy_));
    error_code error;
    BANTAM_TRY(
        Await(action, In(options_.limits.stall_timeout_ms), &error, [&](auto handler) { http::async_write(socket_, request, handler); }));
    http::response_parser<http::empty_body> parser;
    parser.header_limit(options_.limits.header_bytes_max);
    parser.skip(true);
    beast::flat_buffer buffer(options_.limits.header_bytes_max + 1);
    if (!error) {
      BANTAM_TRY(Await(action, In(options_.limits.stall_timeout_ms), &error,
                       [&](auto handler) { http::async_read_header(socket_, buffer, parser, handler); }));
    }
    if (error) return Problem(action, error.message());
    if (parser.get().result() != http::status::ok) return Problem(action, fmt::format("it answers {}", parser.get().result_int()));
    return Ok();
  }

  Status Trust() {
    error_code error;
    context_.set_default_verify_paths(error);  // heeds SSL_CERT_FILE and SSL_CERT_DIR
    if (!error && !options_.certificate_file.empty()) context_.load_verify_file(options_.certificate_file, error);
    if (error) {
      return Error(
          Code::kInvalidArgument,
          fmt::format("{}: cannot read the certificates to trust: {}; install ca-certificates or name a file of certificates in PEM",
                      options_.certificate_file, error.message()));
    }
    return Ok();
  }

  // TLS, with a certificate that somebody trusted vouches for and that is for this host.
  Status Secure() {
    BANTAM_TRY(Trust());
    // The stream was made with the context before it knew what to trust; the store is shared, the parameters are the stream's own.
    SSL* tls = stream_.native_handle();
    error_code error;
    const bool is_address = !(asio::ip::make_address(url.host, error), error);
    X509_VERIFY_PARAM* parameters = ::SSL_get0_param(tls);
    const int named = is_address ? ::X509_VERIFY_PARAM_set1_ip_asc(parameters, url.host.c_str()) : ::SSL_set1_host(tls, url.host.c_str());
    ::SSL_set_hostflags(tls, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    ::SSL_set_verify(tls, SSL_VERIFY_PEER, nullptr);
    std::string name = url.host;
    const bool sent = is_address || ::SSL_ctrl(tls, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name.data()) == 1;
    if (named != 1 || !sent) {
      return Error(Code::kInvalidArgument, fmt::format("{}: a host name that TLS cannot verify; check it", ShownUrl(url)));
    }
    BANTAM_TRY(ShakeHands(&error));
    if (!error) return Ok();
    const long verified = ::SSL_get_verify_result(tls);
    if (verified == X509_V_OK) return Problem("agree on TLS", error.message());
    return Error(Code::kDenied, fmt::format("{}: the server cannot prove that it is {}: {}; for a private server name its certificate in "
                                            "SSL_CERT_FILE, and check this machine's date",
                                            ShownUrl(url), url.host, ::X509_verify_cert_error_string(verified)));
  }

  Status ShakeHands(error_code* error) {
    if (::SSL_ctrl(stream_.native_handle(), SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, nullptr) != 1) {
      return Error(Code::kInternal, "TLS 1.2 is not there");
    }
    return Await("agree on TLS", In(options_.limits.connect_timeout_ms), error,
                 [&](auto handler) { stream_.async_handshake(ssl::stream_base::client, handler); });
  }

  // TLS with whoever shows this very certificate, for the one who does has its key.
  Status SecureByCertificate() {
    const std::string& path = options_.server_certificate_file;
    const std::unique_ptr<BIO, decltype(&::BIO_free)> file(::BIO_new_file(path.c_str(), "r"), &::BIO_free);
    const std::unique_ptr<X509, decltype(&::X509_free)> wanted(
        file == nullptr ? nullptr : ::PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr), &::X509_free);
    if (wanted == nullptr) {
      return Error(Code::kInvalidArgument, fmt::format("{}: cannot read the server's certificate; expected a file in PEM", path));
    }
    SSL* tls = stream_.native_handle();
    ::SSL_set_verify(tls, SSL_VERIFY_NONE, nullptr);
    error_code error;
    BANTAM_TRY(ShakeHands(&error));
    if (error) return Problem("agree on TLS", error.message());
    const std::unique_ptr<X509, decltype(&::X509_free)> shown(::SSL_get1_peer_certificate(tls), &::X509_free);
    if (shown != nullptr && ::X509_cmp(shown.get(), wanted.get()) == 0) return Ok();
    return Error(Code::kDenied, fmt::format("{}: the server shows another certificate than that in {}; is it another server, or has it not "
                                            "read the file again yet?",
                                            ShownUrl(url), path));
  }

  Status SendRequest(const std::vector<HttpField>& wanted) {
    const bool through_proxy = proxy_.has_value() && !url.secure;
    http::request<http::empty_body> request(http::verb::get, through_proxy ? UrlText(url) : url.target, /*version=*/11);
    request.set(http::field::host, HostField(url));
    request.set(http::field::user_agent, options_.user_agent);
    request.set(http::field::accept_encoding, "identity");
    request.set(http::field::connection, "close");
    for (const HttpField& field : wanted) request.set(field.name, field.value);
    error_code error;
    BANTAM_TRY(Await("send the request", In(options_.limits.stall_timeout_ms), &error, [&](auto handler) {
      if (url.secure) {
        http::async_write(stream_, request, handler);
      } else {
        http::async_write(socket_, request, handler);
      }
    }));
    if (error) return Problem("send the request", error.message());
    return Ok();
  }

  Error NotHttp(const error_code& error) const {
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      return Error(Code::kCorrupt, fmt::format("{}: the answer's header is longer than the limit of {} bytes; is this the right server?",
                                               ShownUrl(url), options_.limits.header_bytes_max));
    }
    return Error(Code::kCorrupt, fmt::format("{}: the answer is not HTTP ({}); is this the right server?", ShownUrl(url), error.message()));
  }

  // What the library says of a connection that ended or of bytes that are not HTTP.
  Error ReadProblem(const error_code& error) const {
    const bool is_format = error.category() == http::make_error_code(http::error::bad_value).category();
    const bool is_end =
        error == http::error::end_of_stream || error == http::error::partial_message || error == ssl::error::stream_truncated;
    if (is_end) return Problem("read the answer", "the server closed the connection before its end");
    return is_format ? NotHttp(error) : Problem("read the answer", error.message());
  }

  Status ReadHeader() {
    parser_.header_limit(options_.limits.header_bytes_max);
    parser_.body_limit(boost::none);  // who reads the body knows how much it may be
    error_code error;
    BANTAM_TRY(Await("read the answer", In(options_.limits.stall_timeout_ms), &error, [&](auto handler) {
      if (url.secure) {
        http::async_read_header(stream_, buffer_, parser_, handler);
      } else {
        http::async_read_header(socket_, buffer_, parser_, handler);
      }
    }));
    if (error) return ReadProblem(error);
    status = parser_.get().result_int();
    for (const auto& field : parser_.get()) fields.push_back({std::string(field.name_string()), std::string(field.value())});
    if (const auto length = parser_.content_length(); length.has_value()) body_bytes = *length;
    const std::string encoding = Field("Content-Encoding").value_or("identity");
    if (encoding != "identity") {
      return Error(Code::kUnsupported, fmt::format("{}: the answer is compressed ({}), which was not asked for; try another server",
                                                   ShownUrl(url), encoding.substr(0, 20)));
    }
    return Ok();
  }

  template <typename Stream>
  Result<size_t> ReadFrom(Stream& stream, std::span<std::byte> into) {
    CHECK(!into.empty());
    const int64_t start_ns = clock_.NowNs();
    // One for all that it takes: what frames a body is not the body.
    const Deadline deadline = In(options_.limits.stall_timeout_ms);
    while (!parser_.is_done()) {
      parser_.get().body().data = into.data();
      parser_.get().body().size = into.size();
      parser_.get().body().more = true;
      error_code error;
      BANTAM_TRY(
          Await("read the answer", deadline, &error, [&](auto handler) { http::async_read_some(stream, buffer_, parser_, handler); }));
      const size_t got = into.size() - parser_.get().body().size;
      if (error && error != http::error::need_buffer) return ReadProblem(error);
      if (got == 0) continue;
      BANTAM_TRY(CheckPace(got, clock_.NowNs() - start_ns));
      return got;
    }
    return size_t{0};
  }

  // A byte now and then is no stall, but would keep a connection for ever. Only time spent waiting counts: who reads may be slow.
  Status CheckPace(size_t bytes, int64_t waited_ns) {
    constexpr int64_t kTimeouts = 4;  // that are looked at together, so that a pause within them is none
    constexpr uint64_t kBytesPerTimeout = 1024;
    paced_bytes_ += bytes;
    paced_ns_ += waited_ns;
    if (paced_ns_ < kTimeouts * options_.limits.stall_timeout_ms * kNsPerMs) return Ok();
    if (paced_bytes_ < kTimeouts * kBytesPerTimeout) {
      return Problem("read the answer", fmt::format("only {} bytes came in {:.0f} s", paced_bytes_, static_cast<double>(paced_ns_) * 1e-9));
    }
    paced_bytes_ = 0;
    paced_ns_ = 0;
    return Ok();
  }

  const HttpOptions& options_;
  const Clock& clock_;
  asio::io_context io_;
  ssl::context context_;
  Tcp::socket socket_;
  ssl::stream<Tcp::socket&> stream_;
  std::optional<Url> proxy_;
  // More than a header may have, and what of the body came with it.
  static constexpr size_t kBufferBytes = size_t{128} << 10;
  beast::flat_buffer buffer_{kBufferBytes};
  http::response_parser<http::buffer_body> parser_;
  uint64_t paced_bytes_ = 0;  // that came in
  int64_t paced_ns_ = 0;
};

class Transport final : public HttpTransport {
 public:
  Transport(HttpOptions options, const Clock& clock) : options_(std::move(options)), clock_(clock) {}

  Result<std::unique_ptr<HttpReply>> Get(const Url& url, const std::vector<HttpField>& fields) override {
    try {
      auto connection = std::make_unique<Connection>(options_, clock_, url);
      BANTAM_TRY(connection->Open(fields));
      return std::unique_ptr<HttpReply>(std::move(connection));
    } catch (const std::exception& error) {
      return Error(Code::kUnavailable, fmt::format("{}: {}; try again", ShownUrl(url), error.what()));
    }
  }

 private:
  const HttpOptions options_;
  const Clock& clock_;
};

}  // namespace

std::unique_ptr<HttpTransport> MakeHttpTransport(HttpOptions options, const Clock& clock) {
  return std::make_unique<Transport>(std::move(options), clock);
}

}  // namespace bantam
