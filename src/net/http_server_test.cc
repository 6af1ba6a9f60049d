#include "net/http_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>

#include <atomic>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "testing/certificate.h"
#include "testing/client_socket.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using testing::ClientSocket;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Time that passes when a test says so.
class SetClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_.load(); }
  void Pass(int64_t ms) { now_ns_.fetch_add(ms * 1'000'000); }

 private:
  std::atomic<int64_t> now_ns_ = 0;
};

// What happens in the server's thread, awaited by the test's.
class Signal {
 public:
  void Set() {
    const std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  bool Await() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

class FunctionHandler final : public HttpHandler {
 public:
  std::function<void(std::shared_ptr<HttpExchange>)> handle = [](const std::shared_ptr<HttpExchange>& exchange) {
    const ServerRequest& request = exchange->request();
    exchange->Respond({.body = request.method + " " + request.path + " " + request.body + "\n"});
  };
  void Handle(std::shared_ptr<HttpExchange> exchange) override { handle(std::move(exchange)); }
  ServerResponse Refuse(int status, std::string_view why, std::string_view) override {
    return {.status = status, .body = std::string(why)};
  }
};

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) { server_ = HttpServer::Start(options, handler_, clock_).value(); }
  ClientSocket Connect() { return ClientSocket(server_->port()); }
  static std::string Post(std::string_view body, std::string_view fields = "") {
    return "POST /x HTTP/1.1\r\nHost: a\r\n" + std::string(fields) + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
           std::string(body);
  }

  SetClock clock_;
  FunctionHandler handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersOneRequestAfterTheOther) {
  Start();
  ClientSocket client = Connect();
  ASSERT_TRUE(client.Send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_THAT(client.ReceiveUntil("GET /a \n"), StartsWith("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: keep-alive\r\n\r\n"));
  ASSERT_TRUE(client.Send("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n" + Post("two", "Connection: close\r\n")));
  const std::string rest = client.ReceiveAll();
  EXPECT_THAT(rest, StartsWith("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: keep-alive\r\n\r\nHTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(rest, HasSubstr("Connection: close\r\n\r\nPOST /x two\n"));
  EXPECT_TRUE(server_->AwaitIdle(20'000'000'000));
  EXPECT_EQ(server_->counters().accepted, 1u);
}

// Requests that come together are answered in their order, also where the first is answered late and by another thread.
TEST_F(HttpServerTest, Pipelined) {
  std::thread slow;
  handler_.handle = [&](std::shared_ptr<HttpExchange> exchange) {
    if (exchange->request().body != "first") return exchange->Respond({.body = "second answer"});
    slow = std::thread([exchange = std::move(exchange)] {
      exchange->Begin({.body = "first "});
      exchange->Write("answer");
      exchange->End();
    });
  };
  Start();
  ClientSocket client = Connect();
  ASSERT_TRUE(client.Send(Post("first") + Post("second", "Connection: close\r\n")));
  const std::string all = client.ReceiveAll();
  slow.join();
  EXPECT_THAT(all,
              HasSubstr("Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n6\r\nfirst \r\n6\r\nanswer\r\n0\r\n\r\nHTTP/1.1 200"));
  EXPECT_THAT(all, HasSubstr("second answer"));
}

TEST_F(HttpServerTest, OldClientsGetNoChunks) {
  handler_.handle = [](const std::shared_ptr<HttpExchange>& exchange) {
    exchange->Begin({});
    exchange->Write("all of it");
    exchange->End();
  };
  Start();
  ClientSocket client = Connect();
  ASSERT_TRUE(client.Send("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_EQ(client.ReceiveAll(), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it");
}

TEST_F(HttpServerTest, RefusesAndEnds) {
  Start({.limits = {.request = {.body_bytes_max = 10}}});
  for (const auto& [bytes, status] :
       {std::pair("nonsense\r\n\r\n", "400"), {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "413"}}) {
    ClientSocket client = Connect();
    ASSERT_TRUE(client.Send(bytes));
    // More may be on its way: the answer comes through all the same.
    client.Send(std::string(100'000, 'x'));
    EXPECT_THAT(client.ReceiveAll(), StartsWith(std::string("HTTP/1.1 ") + status));
  }
}

TEST_F(HttpServerTest, WaitsForBodiesThatAreAnnounced) {
  Start();
  ClientSocket client = Connect();
  ASSERT_TRUE(client.Send("POST /b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"));
  EXPECT_EQ(client.ReceiveUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(client.Send("ok"));
  EXPECT_THAT(client.ReceiveAll(), HasSubstr("POST /b ok"));
}

// Whoever sends a byte now and then holds a connection no longer than the limits say.
TEST_F(HttpServerTest, SlowClients) {
  Start({.limits = {.header_timeout_ms = 1000, .body_timeout_ms = 1000, .idle_timeout_ms = 1000}});
  ClientSocket silent = Connect();
  ClientSocket slow_header = Connect();
  ClientSocket slow_body = Connect();
  ClientSocket idle = Connect();
  ASSERT_TRUE(slow_header.Send("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET / HT"));
  ASSERT_TRUE(slow_body.Send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\nab"));
  ASSERT_TRUE(idle.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
  // Each has been read so far.
  EXPECT_THAT(idle.ReceiveUntil("GET / \n"), HasSubstr("200"));
  EXPECT_THAT(slow_body.ReceiveUntil("\r\n\r\n"), HasSubstr("100"));
  EXPECT_THAT(slow_header.ReceiveUntil("GET /a \n"), HasSubstr("200"));
  while (server_->counters().timed_out < 4) clock_.Pass(1001);
  EXPECT_EQ(silent.ReceiveAll(), "");
  EXPECT_THAT(slow_body.ReceiveAll(), StartsWith("HTTP/1.1 408"));
  EXPECT_EQ(idle.ReceiveAll(), "");
  const std::string header = slow_header.ReceiveAll();
  EXPECT_THAT(header, StartsWith("HTTP/1.1 408"));
}

TEST_F(HttpServerTest, TooManyConnections) {
  Start({.limits = {.connections_max = 2}});
  ClientSocket first = Connect();
  ClientSocket second = Connect();
  ASSERT_TRUE(second.Send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_THAT(second.ReceiveUntil("GET /a \n"), HasSubstr("200"));
  ClientSocket third = Connect();
  EXPECT_THAT(third.ReceiveAll(), StartsWith("HTTP/1.1 503"));
  EXPECT_EQ(server_->counters().refused, 1u);
}

// What is only announced holds no place and gets no time; what has come must fit the limit together, as long as somebody holds it.
TEST_F(HttpServerTest, TooManyBodies) {
  Start({.limits = {.bodies_bytes_max = 150, .body_timeout_ms = 1000}});
  const auto begin = [&](size_t announced, size_t sent) {
    ClientSocket client = Connect();
    EXPECT_TRUE(client.Send(fmt::format("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n{}", announced,
                                        std::string(sent, 'y'))));
    return client;
  };
  const std::string go_on = "100 Continue\r\n\r\n";
  ClientSocket first = begin(100, 99);
  EXPECT_THAT(first.ReceiveUntil(go_on), HasSubstr("100"));
  ClientSocket empty = begin(4'000'000, 0);
  EXPECT_THAT(empty.ReceiveUntil(go_on), HasSubstr("100"));
  {
    ClientSocket second = Connect();
    ASSERT_TRUE(second.Send(Post(std::string(60, 'x'))));
    EXPECT_THAT(second.ReceiveAll(), StartsWith("HTTP/1.1 503"));
    ClientSocket small = Connect();
    ASSERT_TRUE(small.Send(Post(std::string(40, 'x'))));
    EXPECT_THAT(small.ReceiveUntil("x\n"), StartsWith("HTTP/1.1 200"));
  }
  ASSERT_TRUE(first.Send("y"));
  EXPECT_THAT(first.ReceiveUntil("y\n"), StartsWith("HTTP/1.1 200"));
  ASSERT_TRUE(first.Send(Post(std::string(110, 'z'))));
  EXPECT_THAT(first.ReceiveUntil("z\n"), StartsWith("HTTP/1.1 200"));
  while (server_->counters().timed_out < 1) clock_.Pass(1001);
  EXPECT_THAT(empty.ReceiveAll(), StartsWith("HTTP/1.1 408"));
}

// A request that nobody answers yet holds its body, whether its client is there or not; of those behind it nothing is read but some bytes.
TEST_F(HttpServerTest, BodiesAreHeldWithTheirRequests) {
  std::atomic<bool> keeps = true;
  std::shared_ptr<HttpExchange> kept;
  Signal asked;
  handler_.handle = [&](std::shared_ptr<HttpExchange> exchange) {
    if (!keeps) return exchange->Respond({.body = exchange->request().body + "\n"});
    kept = std::move(exchange);
    asked.Set();
  };
  Start({.limits = {.bodies_bytes_max = 150}});
  {
    ClientSocket first = Connect();
    ASSERT_TRUE(first.Send(Post(std::string(100, 'x')) + Post(std::string(100, 'y'))));
    ASSERT_TRUE(asked.Await());
  }
  while (server_->counters().connections > 0) std::this_thread::yield();
  ClientSocket second = Connect();
  ASSERT_TRUE(second.Send(Post(std::string(100, 'z'))));
  EXPECT_THAT(second.ReceiveAll(), StartsWith("HTTP/1.1 503"));
  kept.reset();
  keeps = false;
  ClientSocket third = Connect();
  ASSERT_TRUE(third.Send(Post(std::string(100, 'z'))));
  EXPECT_THAT(third.ReceiveUntil("z\n"), StartsWith("HTTP/1.1 200"));
}

// The handler hears that nobody listens any more, whether the client closes or falls.
TEST_F(HttpServerTest, ClientsThatGo) {
  for (const bool reset : {false, true}) {
    Signal asked;
    Signal gone;
    std::shared_ptr<HttpExchange> kept;
    handler_.handle = [&](std::shared_ptr<HttpExchange> exchange) {
      exchange->Listen({.gone = [&] { gone.Set(); }});
      exchange->Begin({.body = "begun"});
      kept = std::move(exchange);
      asked.Set();
    };
    Start();
    ClientSocket client = Connect();
    ASSERT_TRUE(client.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    ASSERT_TRUE(asked.Await());
    reset ? client.Reset() : client.Close();
    EXPECT_TRUE(gone.Await());
    kept->Write("nobody reads this");
    kept->End();
    EXPECT_TRUE(server_->AwaitIdle(20'000'000'000));
    server_.reset();
    kept->Write("nor this");
  }
}

// Whoever takes nothing is written no more than what is unsent, holds nobody up, and is gone in the end.
TEST_F(HttpServerTest, BackPressure) {
  Signal full;
  Signal taken;
  Signal gone;
  std::shared_ptr<HttpExchange> kept;
  handler_.handle = [&](std::shared_ptr<HttpExchange> exchange) {
    exchange->Listen({.gone = [&] { gone.Set(); }, .taken = [&] { taken.Set(); }});
    exchange->Begin({});
    // As much as the system takes, and more.
    while (exchange->unsent_bytes() <= 16 * HttpExchange::kUnsentBytesMax) exchange->Write(std::string(1 << 20, 'x'));
    kept = std::move(exchange);
    full.Set();
  };
  Start({.limits = {.write_timeout_ms = 1000}});
  ClientSocket client = Connect();
  ASSERT_TRUE(client.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
  ASSERT_TRUE(full.Await());
  // Reads on until the handler is told to write again.
  std::thread reader([&] {
    while (!client.Receive().empty()) {
    }
  });
  EXPECT_TRUE(taken.Await());
  ::shutdown(client.fd(), SHUT_RD);
  reader.join();
  // From here on it takes nothing. What the system takes for it is not known: it is filled up.
  Signal filled;
  server_->Post([&] {
    for (int i = 0; i < 32; ++i) kept->Write(std::string(1 << 20, 'y'));
    filled.Set();
  });
  ASSERT_TRUE(filled.Await());
  while (server_->counters().exchanges > 0) clock_.Pass(2000);
  EXPECT_TRUE(gone.Await());
  EXPECT_EQ(server_->counters().timed_out, 1u);
}

// An exchange that is dropped breaks the connection off: no client takes half an answer for a whole one.
TEST_F(HttpServerTest, DroppedExchanges) {
  handler_.handle = [](const std::shared_ptr<HttpExchange>& exchange) {
    if (exchange->request().path == "/half") exchange->Begin({.body = "half"});
  };
  Start();
  ClientSocket half = Connect();
  ASSERT_TRUE(half.Send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_THAT(half.ReceiveAll(), ::testing::Not(HasSubstr("0\r\n\r\n")));
  ClientSocket nothing = Connect();
  ASSERT_TRUE(nothing.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_EQ(nothing.ReceiveAll(), "");
}

// The fetching side trusts the certificate, and gets its answer.
// A certificate of its own, with its key, in a folder.
void WriteCertificate(const testing::TemporaryFolder& folder) {
  const testing::Certificate certificate = testing::MakeCertificate("IP:127.0.0.1");
  std::ofstream(folder.Path("certificate.pem")) << certificate.pem;
  const std::unique_ptr<BIO, decltype(&::BIO_free)> key(::BIO_new_file(folder.Path("key.pem").c_str(), "w"), &::BIO_free);
  ASSERT_EQ(::PEM_write_bio_PrivateKey(key.get(), certificate.key.get(), nullptr, nullptr, 0, nullptr, nullptr), 1);
  ASSERT_EQ(BIO_flush(key.get()), 1);
}
TlsOptions TlsFiles(const testing::TemporaryFolder& folder) {
  return {.certificate_file = folder.Path("certificate.pem"), .key_file = folder.Path("key.pem")};
}

TEST_F(HttpServerTest, Tls) {
  const testing::TemporaryFolder folder;
  WriteCertificate(folder);
  Start({.tls = TlsFiles(folder)});
  HttpOptions options;
  options.certificate_file = folder.Path("certificate.pem");
  const MonotonicClock clock;
  const auto transport = MakeHttpTransport(options, clock);
  const Url url = ParseUrl("https://127.0.0.1:" + std::to_string(server_->port()) + "/secret").value();
  for (int i = 0; i < 2; ++i) {
    const auto reply = transport->Get(url, {});
    ASSERT_TRUE(reply.ok()) << reply.error().message();
    EXPECT_EQ(ReadBody(**reply, /*bytes_max=*/100).value(), "GET /secret \n");
  }
  // What is said in the clear is no TLS.
  ClientSocket plain = Connect();
  ASSERT_TRUE(plain.Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
  EXPECT_THAT(plain.ReceiveAll(), ::testing::Not(HasSubstr("200")));
}

TEST_F(HttpServerTest, CertificatesAreReadAgain) {
  const testing::TemporaryFolder first;
  const testing::TemporaryFolder second;
  WriteCertificate(first);
  WriteCertificate(second);
  Start({.tls = TlsFiles(first)});
  const MonotonicClock clock;
  const Url url = ParseUrl("https://127.0.0.1:" + std::to_string(server_->port()) + "/").value();
  const auto trusts = [&](const testing::TemporaryFolder& folder) {
    HttpOptions options;
    options.certificate_file = folder.Path("certificate.pem");
    return MakeHttpTransport(options, clock)->Get(url, {}).ok();
  };
  EXPECT_TRUE(trusts(first));
  EXPECT_FALSE(trusts(second));
  // What cannot be read changes nothing.
  EXPECT_FALSE(server_->UseTls({.certificate_file = "/nothing", .key_file = "/nothing"}).ok());
  EXPECT_TRUE(trusts(first));
  ASSERT_TRUE(server_->UseTls(TlsFiles(second)).ok());
  EXPECT_TRUE(trusts(second));
  EXPECT_FALSE(trusts(first));
}

// As a service manager hands it over.
TEST_F(HttpServerTest, TakesASocketThatListens) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener, 8), 0);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  // Who came before the server waits in the socket.
  ClientSocket early(ntohs(address.sin_port));
  ASSERT_TRUE(early.Send("GET /early HTTP/1.1\r\nHost: a\r\n\r\n"));
  Start({.listener = listener});
  EXPECT_EQ(server_->port(), ntohs(address.sin_port));
  EXPECT_THAT(early.ReceiveUntil("GET /early \n"), HasSubstr("200 OK"));
  EXPECT_FALSE(HttpServer::Start({.listener = 10'000}, handler_, clock_).ok());
}

TEST_F(HttpServerTest, PlacesThatCannotBeListenedAt) {
  EXPECT_EQ(HttpServer::Start({.address = "nowhere"}, handler_, clock_).error().code(), Code::kInvalidArgument);
  Start();
  const auto taken = HttpServer::Start({.port = server_->port()}, handler_, clock_);
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().code(), Code::kUnavailable);
  EXPECT_THAT(taken.error().message(), HasSubstr("cannot listen there"));
  const auto tls = HttpServer::Start({.tls = TlsOptions{.certificate_file = "/nothing", .key_file = "/nothing"}}, handler_, clock_);
  ASSERT_FALSE(tls.ok());
  EXPECT_THAT(tls.error().message(), HasSubstr("/nothing"));
}

}  // namespace
}  // namespace bantam
