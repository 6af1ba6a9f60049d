#include "net/http.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <functional>
#include <future>
#include <limits>

#include "testing/certificate.h"
#include "testing/http_server.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using testing::Answer;
using testing::Certificate;
using ::testing::HasSubstr;
using testing::HttpServer;
using testing::MakeCertificate;
using ::testing::Not;
using testing::ServerConnection;
using testing::ServerRequest;

// Fetches a text as a caller does.
struct Client {
  HttpOptions options;
  MonotonicClock clock;
  std::string authorization;

  Result<std::string> Get(const std::string& url, size_t bytes_max = 1 << 20) {
    const auto transport = MakeHttpTransport(options, clock);
    HttpRequest request;
    BANTAM_ASSIGN(request.url, ParseUrl(url));
    request.authorization = authorization;
    BANTAM_ASSIGN(const std::unique_ptr<HttpReply> reply, Fetch(*transport, request, options.limits));
    return ReadBody(*reply, bytes_max);
  }

  // What it says when it fails.
  std::string Failure(const std::string& url, Code code, size_t bytes_max = 1 << 20) {
    const auto got = Get(url, bytes_max);
    if (got.ok()) return "no failure";
    EXPECT_EQ(static_cast<int>(got.error().code()), static_cast<int>(code)) << got.error().message();
    return got.error().message();
  }
};

HttpServer::Handler Says(std::string answer) {
  return [answer = std::move(answer)](const ServerRequest&, ServerConnection& connection) { connection.Send(answer); };
}

TEST(Http, FetchesABody) {
  HttpServer server(Says(Answer("hello")));
  Client client;
  EXPECT_EQ(client.Get(server.Url("/x?y=z")).value(), "hello");
  ASSERT_EQ(server.requests().size(), 1u);
  const ServerRequest request = server.requests()[0];
  EXPECT_EQ(request.method, "GET");
  EXPECT_EQ(request.target, "/x?y=z");
  EXPECT_EQ(request.Field("Host"), fmt::format("127.0.0.1:{}", server.port()));
  EXPECT_EQ(request.Field("Accept-Encoding"), "identity");
  EXPECT_EQ(request.Field("Authorization"), "");
}

TEST(Http, FetchesByNameOfTheHost) {
  HttpServer server(Says(Answer("hello")));
  EXPECT_EQ(Client().Get(fmt::format("http://localhost:{}/", server.port())).value(), "hello");
}

TEST(Http, FetchesChunksAndBodiesUpToTheEnd) {
  HttpServer chunked(Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"));
  EXPECT_EQ(Client().Get(chunked.Url("/")).value(), "hello");
  HttpServer unmarked(Says("HTTP/1.1 200 OK\r\n\r\nhello"));
  EXPECT_EQ(Client().Get(unmarked.Url("/")).value(), "hello");
  HttpServer empty(Says(Answer("")));
  EXPECT_EQ(Client().Get(empty.Url("/")).value(), "");
}

TEST(Http, FetchesLargeBodies) {
  std::string body(3'000'000, '\0');
  for (size_t i = 0; i < body.size(); ++i) body[i] = static_cast<char>(i * 2654435761u >> 13);
  HttpServer server(Says(Answer(body)));
  EXPECT_EQ(Client().Get(server.Url("/"), body.size()).value(), body);
}

TEST(Http, ABodyThatEndsEarlyIsAnError) {
  HttpServer truncated(Says("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"));
  EXPECT_THAT(Client().Failure(truncated.Url("/"), Code::kUnavailable), HasSubstr("closed the connection before its end"));
  HttpServer chunked(Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"));
  EXPECT_THAT(Client().Failure(chunked.Url("/"), Code::kUnavailable), HasSubstr("closed the connection before its end"));
  HttpServer silent(Says(""));
  EXPECT_THAT(Client().Failure(silent.Url("/"), Code::kUnavailable), HasSubstr("closed the connection"));
  HttpServer half_header(Says("HTTP/1.1 200 OK\r\nContent-"));
  EXPECT_THAT(Client().Failure(half_header.Url("/"), Code::kUnavailable), HasSubstr("closed the connection"));
}

TEST(Http, WhatIsNoHttpIsAnError) {
  for (const char* answer :
       {"SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/1.1 200 OK\r\nbad line\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"}) {
    HttpServer server(Says(answer));
    EXPECT_THAT(Client().Failure(server.Url("/"), Code::kCorrupt), HasSubstr("not HTTP")) << answer;
  }
}

TEST(Http, LimitsTheHeader) {
  Client client;
  client.options.limits.header_bytes_max = 4096;
  HttpServer giant(Says("HTTP/1.1 200 OK\r\nX: " + std::string(10'000, 'x') + "\r\n\r\n"));
  EXPECT_THAT(client.Failure(giant.Url("/"), Code::kCorrupt), HasSubstr("4096 bytes"));
  // Without an end: as many fields as the client reads.
  HttpServer endless([](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\n");
    while (connection.Send("X: y\r\n")) {
    }
  });
  EXPECT_THAT(client.Failure(endless.Url("/"), Code::kCorrupt), HasSubstr("4096 bytes"));
}

TEST(Http, LimitsTheBody) {
  HttpServer announced(Says("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"));
  EXPECT_THAT(Client().Failure(announced.Url("/"), Code::kExhausted, 100), HasSubstr("100 bytes"));
  HttpServer endless([](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    while (connection.Send("5\r\nhello\r\n")) {
    }
  });
  EXPECT_THAT(Client().Failure(endless.Url("/"), Code::kExhausted, 100), HasSubstr("100 bytes"));
}

TEST(Http, RefusesCompressedBodies) {
  HttpServer server(Says(Answer("\x1f\x8b", "Content-Encoding: gzip\r\n")));
  EXPECT_THAT(Client().Failure(server.Url("/"), Code::kUnsupported), HasSubstr("compressed (gzip)"));
}

TEST(Http, GivesUpWhenNothingComes) {
  Client client;
  client.options.limits.stall_timeout_ms = 50;
  HttpServer no_header([](const ServerRequest&, ServerConnection& connection) { connection.Stall(); });
  EXPECT_THAT(client.Failure(no_header.Url("/"), Code::kUnavailable), HasSubstr("nothing came for 0.05 s"));
  HttpServer half_body([](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    connection.Stall();
  });
  EXPECT_THAT(client.Failure(half_body.Url("/"), Code::kUnavailable), HasSubstr("nothing came for 0.05 s"));
}

class FakeClock final : public Clock {
 public:
  explicit FakeClock(std::function<int64_t()> now_ns) : now_ns_(std::move(now_ns)) {}
  int64_t NowNs() const override { return now_ns_(); }

 private:
  std::function<int64_t()> now_ns_;
};

// A machine that slept past the deadline finds the answer there when it wakes.
TEST(Http, WhatCameMeanwhileCounts) {
  std::promise<void> asleep;
  std::promise<void> sent;
  std::atomic<bool> asked = false;
  HttpServer server([&](const ServerRequest&, ServerConnection& connection) {
    asked = true;
    asleep.get_future().wait();
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    sent.set_value();
  });
  bool slept = false;
  int calls = 0;
  const FakeClock clock([&] {
    // Not where the deadline is set but where it is looked at.
    if (asked && !slept && ++calls == 2) {
      slept = true;
      asleep.set_value();
      sent.get_future().wait();
    }
    return slept ? int64_t{3'600'000'000'000} : 0;
  });
  const auto transport = MakeHttpTransport({}, clock);
  const auto reply = transport->Get(ParseUrl(server.Url("/")).value(), {});
  ASSERT_TRUE(reply.ok()) << reply.error().message();
  EXPECT_EQ(ReadBody(**reply, 100).value(), "hello");
}

// Bytes that come one by one, each before the time is up.
TEST(Http, GivesUpOnDrips) {
  HttpServer server(Says(Answer(std::string(10'000, 'x'))));
  int64_t now_ns = 0;
  const FakeClock clock([&] { return now_ns += 1'000'000'000; });
  const auto transport = MakeHttpTransport({}, clock);
  const auto reply = transport->Get(ParseUrl(server.Url("/")).value(), {});
  ASSERT_TRUE(reply.ok()) << reply.error().message();
  std::byte byte{};
  Result<size_t> got = size_t{0};
  int reads = 0;
  do {
    got = (*reply)->Read({&byte, 1});
  } while (got.ok() && *got > 0 && ++reads < 10'000);
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.error().code(), Code::kUnavailable);
  EXPECT_THAT(got.error().message(), HasSubstr("bytes came in 12"));
  EXPECT_LT(reads, 130);
}

TEST(Http, StopsWhenAsked) {
  std::atomic<bool> stopped = false;
  Client client;
  client.options.stopped = [&] { return stopped.load(); };
  HttpServer server([&](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    stopped = true;
    connection.Stall();
  });
  EXPECT_THAT(client.Failure(server.Url("/"), Code::kCancelled), HasSubstr("interrupted"));
}

TEST(Http, NobodyThere) {
  int port = 0;
  { port = HttpServer(Says("")).port(); }
  EXPECT_THAT(Client().Failure(fmt::format("http://127.0.0.1:{}/x?secret", port), Code::kUnavailable),
              ::testing::AllOf(HasSubstr("cannot connect"), Not(HasSubstr("secret"))));
}

TEST(Http, StatusesAreErrors) {
  const std::pair<const char*, Code> cases[] = {{"404 Not Found", Code::kNotFound},     {"410 Gone", Code::kNotFound},
                                                {"401 Unauthorized", Code::kDenied},    {"403 Forbidden", Code::kDenied},
                                                {"429 Too Many", Code::kUnavailable},   {"500 Oh", Code::kUnavailable},
                                                {"503 Later", Code::kUnavailable},      {"416 Range", Code::kInvalidArgument},
                                                {"204 No Content", Code::kUnsupported}, {"400 Bad", Code::kUnsupported}};
  for (const auto& [status, code] : cases) {
    HttpServer server(Says(Answer("", "", status)));
    EXPECT_THAT(Client().Failure(server.Url("/?hunter2"), code),
                ::testing::AllOf(HasSubstr(std::string(status).substr(0, 3)), Not(HasSubstr("hunter2"))));
  }
}

TEST(Http, FollowsRedirections) {
  HttpServer server([](const ServerRequest& request, ServerConnection& connection) {
    if (request.target == "/a/b") return void(connection.Send(Answer("", "Location: ../c?d\r\n", "302 Found")));
    connection.Send(Answer(request.target));
  });
  Client client;
  client.authorization = "Bearer t";
  EXPECT_EQ(client.Get(server.Url("/a/b")).value(), "/c?d");
  // The same origin may see it.
  EXPECT_EQ(server.requests().at(1).Field("Authorization"), "Bearer t");
}

TEST(Http, AnotherHostDoesNotSeeTheAuthorization) {
  HttpServer other(Says(Answer("other")));
  HttpServer server(Says(Answer("", fmt::format("Location: {}\r\n", other.Url("/")), "307 Temporary Redirect")));
  Client client;
  client.authorization = "Bearer hunter2";
  EXPECT_EQ(client.Get(server.Url("/")).value(), "other");
  EXPECT_EQ(server.requests().at(0).Field("Authorization"), "Bearer hunter2");
  EXPECT_EQ(other.requests().at(0).head.find("hunter2"), std::string::npos);
}

TEST(Http, RefusesBadRedirections) {
  HttpServer circle(Says(Answer("", "Location: /x\r\n", "301 Moved")));
  EXPECT_THAT(Client().Failure(circle.Url("/"), Code::kUnavailable), HasSubstr("more than 10 redirections"));
  EXPECT_EQ(circle.requests().size(), 11u);
  HttpServer nowhere(Says(Answer("", "", "301 Moved")));
  EXPECT_THAT(Client().Failure(nowhere.Url("/"), Code::kCorrupt), HasSubstr("redirects to nowhere"));
  HttpServer file(Says(Answer("", "Location: file:///etc/passwd\r\n", "301 Moved")));
  EXPECT_THAT(Client().Failure(file.Url("/"), Code::kInvalidArgument), HasSubstr("redirects"));
  // http to another machine, without leave.
  HttpServer out(Says(Answer("", "Location: http://192.0.2.1/\r\n", "301 Moved")));
  EXPECT_THAT(Client().Failure(out.Url("/"), Code::kInvalidArgument), HasSubstr("--insecure-http"));
}

TEST(Http, PlainNeedsLeaveOffThisMachine) {
  const Url plain = ParseUrl("http://192.0.2.1/").value();
  EXPECT_FALSE(CheckPlain(plain, /*plain_allowed=*/false).ok());
  EXPECT_TRUE(CheckPlain(plain, /*plain_allowed=*/true).ok());
  EXPECT_TRUE(CheckPlain(ParseUrl("http://127.0.0.1/").value(), /*plain_allowed=*/false).ok());
}

class Tls : public ::testing::Test {
 protected:
  // A client that trusts the certificate besides what the system does.
  Client Trusting(const Certificate& certificate) const {
    Client client;
    client.options.certificate_file = folder_.Path("trusted.pem");
    std::ofstream(client.options.certificate_file) << certificate.pem;
    return client;
  }

 private:
  testing::TemporaryFolder folder_;
};

TEST_F(Tls, FetchesFromWhoProvesItsName) {
  const Certificate certificate = MakeCertificate("IP:127.0.0.1");
  HttpServer server(Says(Answer("hello")), &certificate);
  EXPECT_EQ(Trusting(certificate).Get(server.Url("/")).value(), "hello");
}

TEST_F(Tls, NamesAreSentAndVerified) {
  const Certificate certificate = MakeCertificate("DNS:localhost");
  HttpServer server(Says(Answer("hello")), &certificate);
  EXPECT_EQ(Trusting(certificate).Get(fmt::format("https://localhost:{}/", server.port())).value(), "hello");
}

TEST_F(Tls, RefusesStrangers) {
  const Certificate certificate = MakeCertificate("IP:127.0.0.1");
  HttpServer server(Says(Answer("hello")), &certificate);
  EXPECT_THAT(Client().Failure(server.Url("/"), Code::kDenied), HasSubstr("self-signed"));
  EXPECT_TRUE(server.requests().empty());
}

TEST_F(Tls, RefusesAnotherName) {
  const Certificate address = MakeCertificate("IP:127.0.0.2");
  HttpServer server(Says(Answer("hello")), &address);
  EXPECT_THAT(Trusting(address).Failure(server.Url("/"), Code::kDenied), HasSubstr("IP address mismatch"));
  const Certificate name = MakeCertificate("DNS:other.test");
  HttpServer named(Says(Answer("hello")), &name);
  EXPECT_THAT(Trusting(name).Failure(fmt::format("https://localhost:{}/", named.port()), Code::kDenied), HasSubstr("hostname mismatch"));
}

TEST_F(Tls, RefusesTheExpiredAndTheFuture) {
  const Certificate expired = MakeCertificate("IP:127.0.0.1", -7200, -3600);
  HttpServer server(Says(Answer("hello")), &expired);
  EXPECT_THAT(Trusting(expired).Failure(server.Url("/"), Code::kDenied), HasSubstr("expired"));
  const Certificate future = MakeCertificate("IP:127.0.0.1", 3600, 7200);
  HttpServer early(Says(Answer("hello")), &future);
  EXPECT_THAT(Trusting(future).Failure(early.Url("/"), Code::kDenied), HasSubstr("not yet valid"));
}

// Where the very certificate is known, its names, dates and issuer say nothing; and any other is refused, however good.
TEST_F(Tls, TheCertificateThatIsAskedFor) {
  for (const auto& [subject, begin_s] : {std::pair<const char*, long>{"DNS:edge.test", -3600}, {"IP:127.0.0.1", 1800}}) {
    const Certificate certificate = MakeCertificate(subject, begin_s);
    HttpServer server(Says(Answer("hello")), &certificate);
    Client client;
    client.options.server_certificate_file = Trusting(certificate).options.certificate_file;
    EXPECT_EQ(client.Get(server.Url("/")).value(), "hello");
    const Certificate other = MakeCertificate("IP:127.0.0.1");
    HttpServer another(Says(Answer("hello")), &other);
    EXPECT_THAT(client.Failure(another.Url("/"), Code::kDenied), HasSubstr("shows another certificate than that in"));
    EXPECT_TRUE(another.requests().empty());
    client.options.server_certificate_file = "/nonexistent.pem";
    EXPECT_THAT(client.Failure(server.Url("/"), Code::kInvalidArgument), HasSubstr("/nonexistent.pem"));
  }
}

TEST_F(Tls, NeverGoesFromHttpsToHttp) {
  HttpServer plain(Says(Answer("hello")));
  const Certificate certificate = MakeCertificate("IP:127.0.0.1");
  HttpServer server(Says(Answer("", fmt::format("Location: {}\r\n", plain.Url("/")), "302 Found")), &certificate);
  EXPECT_THAT(Trusting(certificate).Failure(server.Url("/"), Code::kDenied), HasSubstr("from https to http://"));
  EXPECT_TRUE(plain.requests().empty());
}

TEST_F(Tls, AServerWithoutTlsIsAnError) {
  // It waits for the end of a header that a client of TLS does not send.
  HttpServer plain(Says(Answer("hello")));
  Client client;
  client.options.limits.connect_timeout_ms = 1'000;
  EXPECT_THAT(client.Failure(fmt::format("https://127.0.0.1:{}/", plain.port()), Code::kUnavailable), HasSubstr("agree on TLS"));
}

TEST_F(Tls, ACertificateFileThatIsNone) {
  Client client;
  client.options.certificate_file = "/nonexistent.pem";
  EXPECT_THAT(client.Failure("https://127.0.0.1:1/", Code::kUnavailable), HasSubstr("cannot connect"));
  const Certificate certificate = MakeCertificate("IP:127.0.0.1");
  HttpServer server(Says(Answer("hello")), &certificate);
  EXPECT_THAT(client.Failure(server.Url("/"), Code::kInvalidArgument), HasSubstr("/nonexistent.pem"));
}

TEST(Http, GoesThroughAProxy) {
  HttpServer proxy([](const ServerRequest& request, ServerConnection& connection) { connection.Send(Answer(request.target)); });
  Client client;
  client.options.proxy.http = fmt::format("http://127.0.0.1:{}", proxy.port());
  client.options.proxy.https = client.options.proxy.http;
  {
    const auto transport = MakeHttpTransport(client.options, client.clock);
    HttpRequest request;
    request.url = ParseUrl("http://example.test/x").value();
    request.plain_allowed = true;
    const auto reply = Fetch(*transport, request, client.options.limits);
    ASSERT_TRUE(reply.ok()) << reply.error().message();
    EXPECT_EQ(ReadBody(**reply, 100).value(), "http://example.test/x");
  }
  // TLS goes through a tunnel; this proxy gives one that ends at once.
  EXPECT_THAT(client.Failure("https://example.test/", Code::kUnavailable), HasSubstr("agree on TLS"));
  EXPECT_EQ(proxy.requests().at(1).method, "CONNECT");
  EXPECT_EQ(proxy.requests().at(1).target, "example.test:443");
  HttpServer refusing(Says(Answer("", "", "407 Proxy Authentication Required")));
  client.options.proxy.https = fmt::format("127.0.0.1:{}", refusing.port());
  EXPECT_THAT(client.Failure("https://example.test/", Code::kUnavailable), HasSubstr("answers 407"));
}

TEST(Proxy, NamesHaveNoCase) {
  const Url url = ParseUrl("https://Models.Example.TEST/x").value();
  for (const char* none : {"*", "a,models.example.test", "Example.Test", " .EXAMPLE.test ", "MODELS.EXAMPLE.TEST"}) {
    EXPECT_FALSE(ProxyFor({"http://p.test", "", none}, url)->has_value()) << none;
  }
  for (const char* none : {"", "ample.test", "other.test", "x.models.example.test"}) {
    EXPECT_TRUE(ProxyFor({"http://p.test", "", none}, url)->has_value()) << none;
  }
}

TEST(ContentRange, IsReadAsWritten) {
  const auto range = ParseContentRange("bytes 100-199/1000");
  ASSERT_TRUE(range.has_value());
  EXPECT_EQ(range->first, 100u);
  EXPECT_EQ(range->last, 199u);
  EXPECT_EQ(range->total, 1000u);
  EXPECT_FALSE(ParseContentRange("bytes 0-9/*")->total.has_value());
  for (const char* bad :
       {"", "bytes", "bytes ", "bytes */1000", "bytes 5-4/10", "bytes 0-10/10", "bytes 0-9/10x", "bytes -9/10", "items 0-9/10",
        "bytes 0-18446744073709551615/*", "bytes 0-9/99999999999999999999", "bytes +1-9/10", "bytes 0 -9/10"}) {
    EXPECT_FALSE(ParseContentRange(bad).has_value()) << bad;
  }
}

TEST(UnsatisfiedRange, IsTheLength) {
  EXPECT_EQ(ParseUnsatisfiedRange("bytes */1000"), 1000u);
  for (const char* bad : {"", "bytes */", "bytes */*", "bytes 0-9/10", "bytes */10x", "items */10", "bytes */99999999999999999999"}) {
    EXPECT_FALSE(ParseUnsatisfiedRange(bad).has_value()) << bad;
  }
}

TEST(NextLink, IsTheEntryThatSaysSo) {
  EXPECT_EQ(NextLink("<https://h/x?cursor=y>; rel=\"next\""), "https://h/x?cursor=y");
  EXPECT_EQ(NextLink("<a>; rel=\"prev\", <b>; title=\"x, y\"; rel=next"), "b");
  for (const char* none : {"", "<a>", "<a>; rel=\"prev\"", "a; rel=next", "<a; rel=next", "<a>, b; rel=next"}) {
    EXPECT_FALSE(NextLink(none).has_value()) << none;
  }
}

}  // namespace
}  // namespace bantam
