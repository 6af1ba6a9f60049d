#include "fleet/download.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "testing/download_tools.h"
#include "testing/http_server.h"

namespace bantam {
namespace {

using ::testing::AllOf;
using testing::Answer;
using testing::Bench;
using ::testing::HasSubstr;
using testing::HttpServer;
using ::testing::Not;
using testing::SendFile;
using testing::ServerConnection;
using testing::ServerRequest;

// Bytes that do not repeat, so that a piece in the wrong place shows.
std::string Body(size_t size) {
  std::string body(size, '\0');
  for (size_t i = 0; i < size; ++i) body[i] = static_cast<char>((i * 2654435761u) >> 24);
  return body;
}

Digest DigestOfText(std::string_view text) { return Sha256Of(std::as_bytes(std::span(text))); }

class DownloadTest : public ::testing::Test {
 protected:
  // From what a server offers under /m.gguf, into the folder's m.gguf.
  Result<Downloaded> Get(const HttpServer& server) {
    HttpOptions options;
    options.limits.stall_timeout_ms = stall_timeout_ms;
    options.stopped = [this] { return stopped.load(); };
    const auto transport = MakeHttpTransport(options, real_clock);
    HttpRequest request;
    request.url = ParseUrl(server.Url("/m.gguf?signature=hunter2")).value();
    const auto origin = MakeHttpOrigin(*transport, request, options.limits);
    target.path = bench.folder / "m.gguf";
    target.shown = "m.gguf";
    return Download(*origin, target, bench.tools);
  }

  std::string Failure(const HttpServer& server, Code code) {
    const auto got = Get(server);
    if (got.ok()) return "no failure";
    EXPECT_EQ(static_cast<int>(got.error().code()), static_cast<int>(code)) << got.error().message();
    EXPECT_THAT(got.error().message(), Not(HasSubstr("hunter2")));
    EXPECT_FALSE(bench.folder.Has("m.gguf"));
    return got.error().message();
  }

  Bench bench;
  DownloadTarget target;
  MonotonicClock real_clock;
  std::atomic<bool> stopped = false;
  int64_t stall_timeout_ms = 30'000;
};

TEST_F(DownloadTest, AWholeFile) {
  const std::string body = Body(1'000'000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  target.size_bytes = body.size();
  target.digest = DigestOfText(body);
  const auto got = Get(server);
  ASSERT_TRUE(got.ok()) << got.error().message();
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
  EXPECT_EQ(got->bytes, body.size());
  EXPECT_EQ(got->resumed_bytes, 0u);
  EXPECT_EQ(got->digest, DigestOfText(body));
  EXPECT_EQ(bench.folder.entries(), 1u);
}

TEST_F(DownloadTest, OfUnknownLengthAndOfNone) {
  HttpServer server([](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
  });
  ASSERT_TRUE(Get(server).ok());
  EXPECT_EQ(bench.folder.Read("m.gguf"), "hello");
  HttpServer empty([](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer("")); });
  target.size_bytes = 0;
  ASSERT_TRUE(Get(empty).ok());
  EXPECT_EQ(bench.folder.Read("m.gguf"), "");
}

// A connection that breaks is taken up where it broke, with the version that it was.
TEST_F(DownloadTest, GoesOnAfterDrops) {
  const std::string body = Body(300'000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
    const size_t start = request.RangeStart();
    std::string answer = start == 0
                             ? Answer(body, "ETag: \"v1\"\r\n")
                             : Answer(body.substr(start),
                                      fmt::format("ETag: \"v1\"\r\nContent-Range: bytes {}-{}/{}\r\n", start, body.size() - 1, body.size()),
                                      "206 Partial Content");
    answer.resize(std::min<size_t>(answer.size(), 100'000));
    connection.Send(answer);
  });
  const auto got = Get(server);
  ASSERT_TRUE(got.ok()) << got.error().message();
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
  const auto requests = server.requests();
  EXPECT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].Field("Range"), "");
  EXPECT_THAT(requests[1].Field("Range"), HasSubstr("bytes=99"));
  EXPECT_EQ(requests[1].Field("If-Range"), "\"v1\"");
  EXPECT_EQ(bench.pauses, 3);
}

TEST_F(DownloadTest, GivesUpOnServersThatBringNothing) {
  HttpServer server(
      [](const ServerRequest&, ServerConnection& connection) { connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"); });
  EXPECT_THAT(Failure(server, Code::kUnavailable), HasSubstr("closed the connection"));
  EXPECT_EQ(server.requests().size(), 1u + kIdleRetriesMax);
  // 1, 2, 4, 8 and 16 seconds, at least.
  EXPECT_GE(bench.clock.now_ns, 31 * int64_t{1'000'000'000});
}

TEST_F(DownloadTest, GivesUpOnAServerThatStalls) {
  stall_timeout_ms = 30;
  bench.tools.idle_retries_max = 1;
  HttpServer server([](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    connection.Stall();
  });
  EXPECT_THAT(Failure(server, Code::kUnavailable), HasSubstr("nothing came"));
}

// The whole story of an interruption: the part stays, the next call fetches only the rest.
TEST_F(DownloadTest, InterruptedAndTakenUp) {
  const std::string body = Body(600'000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  bench.tools.progress = [](std::string_view, uint64_t done, uint64_t) { return done < 200'000; };
  EXPECT_THAT(Failure(server, Code::kCancelled), HasSubstr("interrupted"));
  const size_t kept = bench.folder.Read("m.gguf.part").size();
  EXPECT_GE(kept, 200'000u);
  EXPECT_EQ(bench.folder.Read("m.gguf.part"), body.substr(0, kept));
  EXPECT_THAT(bench.folder.Read("m.gguf.part.json"), Not(HasSubstr("hunter2")));
  bench.tools.progress = [](std::string_view, uint64_t, uint64_t) { return true; };
  const auto got = Get(server);
  ASSERT_TRUE(got.ok()) << got.error().message();
  EXPECT_EQ(got->resumed_bytes, kept);
  EXPECT_EQ(got->digest, DigestOfText(body));
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
  EXPECT_EQ(server.requests().at(1).RangeStart(), kept);
}

class Resumed : public DownloadTest {
 protected:
  // As an interruption leaves it: the first half of `body`, of the version "v1".
  void Leave(std::string_view body, std::string_view tag, std::optional<Digest> digest, std::string_view source = {}) {
    bench.folder.Write("m.gguf.part", body.substr(0, body.size() / 2));
    source_ = std::string(source);
    bench.folder.Write("m.gguf.part.json", fmt::format(R"({{"version": 1, "source": "{} {}", "tag": "{}", "bytes": {}}})", source,
                                                       digest.has_value() ? HexOf(*digest) : "-", tag, body.size() / 2));
  }
  std::string source_;
};

TEST_F(Resumed, AnotherVersionStartsAgain) {
  const std::string old = Body(1000);
  const std::string body = "new " + Body(2000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body, "\"v2\""); });
  Leave(old, "\\\"v1\\\"", std::nullopt, server.Url("/m.gguf"));
  const auto got = Get(server);
  ASSERT_TRUE(got.ok()) << got.error().message();
  EXPECT_EQ(server.requests().at(0).Field("If-Range"), "\"v1\"");
  EXPECT_EQ(got->resumed_bytes, 0u);
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
}

// 206 in spite of If-Range, of another version: asked again from the start.
TEST_F(Resumed, AServerThatIgnoresIfRange) {
  const std::string body = "new " + Body(1000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
    const size_t start = request.RangeStart();
    if (start == 0) return SendFile(request, connection, body, "\"v2\"");
    connection.Send(Answer(body.substr(start),
                           fmt::format("ETag: \"v2\"\r\nContent-Range: bytes {}-{}/{}\r\n", start, body.size() - 1, body.size()),
                           "206 Partial Content"));
  });
  Leave(Body(1004), "\\\"v1\\\"", std::nullopt, server.Url("/m.gguf"));
  ASSERT_TRUE(Get(server).ok());
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
  EXPECT_EQ(server.requests().size(), 2u);
}

// 200 in place of 206, and 416.
TEST_F(Resumed, AServerWithoutRanges) {
  const std::string body = Body(1000);
  HttpServer server([&](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer(body)); });
  Leave("other" + body, "\\\"v1\\\"", std::nullopt, server.Url("/m.gguf"));
  ASSERT_TRUE(Get(server).ok());
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
  HttpServer shorter([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, "tiny", "\"v1\""); });
  Leave(body, "\\\"v1\\\"", std::nullopt, shorter.Url("/m.gguf"));
  ASSERT_TRUE(Get(shorter).ok());
  EXPECT_EQ(bench.folder.Read("m.gguf"), "tiny");
}

TEST_F(Resumed, RangesThatLieAreRefused) {
  const std::string body = Body(1000);
  for (const char* range :
       {"bytes 0-999/1000", "bytes 501-999/1000", "bytes 500-900/1000", "bytes 500-999/900", "", "bytes */1000", "nonsense"}) {
    HttpServer server([&](const ServerRequest&, ServerConnection& connection) {
      connection.Send(Answer(body.substr(500), fmt::format("ETag: \"v1\"\r\nContent-Range: {}\r\n", range), "206 Partial Content"));
    });
    Leave(body, "\\\"v1\\\"", std::nullopt, server.Url("/m.gguf"));
    EXPECT_THAT(Failure(server, Code::kCorrupt), HasSubstr("asked for bytes from 500 on")) << range;
  }
  // An answer to a question that was not asked.
  HttpServer unasked([&](const ServerRequest&, ServerConnection& connection) {
    connection.Send(Answer(body, "Content-Range: bytes 0-999/1000\r\n", "206 Partial Content"));
  });
  EXPECT_THAT(Failure(unasked, Code::kCorrupt), HasSubstr("asked for bytes from 0 on"));
}

// A part of which nobody can say what it is of is not used.
TEST_F(Resumed, StatesThatDoNotFit) {
  const std::string body = Body(1000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  const std::string url = server.Url("/m.gguf");
  const std::string states[] = {"",
                                "{",
                                "[]",
                                "3",
                                R"({"version": 1})",
                                fmt::format(R"({{"version": 2, "source": "{} -", "tag": "\"v1\"", "bytes": 500}})", url),
                                fmt::format(R"({{"version": 1, "source": "{} -", "tag": "", "bytes": 500}})", url),
                                fmt::format(R"({{"version": 1, "source": "{} -", "tag": "\"v1\"", "bytes": -1}})", url),
                                fmt::format(R"({{"version": 1, "source": "{} -", "tag": "\"v1\"", "bytes": "500"}})", url),
                                R"({"version": 1, "source": "https://other/m.gguf -", "tag": "\"v1\"", "bytes": 500})",
                                std::string(100'000, ' ')};
  for (const std::string& state : states) {
    bench.folder.Write("m.gguf.part", std::string(500, 'x'));
    bench.folder.Write("m.gguf.part.json", state);
    ASSERT_TRUE(Get(server).ok()) << state;
    EXPECT_EQ(bench.folder.Read("m.gguf"), body) << state;
    EXPECT_EQ(server.requests().back().RangeStart(), 0u) << state;
  }
}

// After a power cut a part may be longer than what was flushed: what is past that is not trusted.
TEST_F(Resumed, OnlyWhatWasFlushedCounts) {
  const std::string body = Body(1000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  Leave(body, "\\\"v1\\\"", std::nullopt, server.Url("/m.gguf"));
  bench.folder.Write("m.gguf.part", body.substr(0, 500) + std::string(400, '\0'));
  const auto got = Get(server);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->resumed_bytes, 500u);
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
}

TEST_F(DownloadTest, WrongDigestsAreDeleted) {
  const std::string body = Body(1000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  target.digest = DigestOfText("something else");
  EXPECT_THAT(Failure(server, Code::kCorrupt), AllOf(HasSubstr("deleted"), HasSubstr(HexOf(DigestOfText(body)))));
  EXPECT_EQ(bench.folder.entries(), 0u);
}

TEST_F(DownloadTest, LengthsThatLie) {
  HttpServer server([](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, "hello"); });
  target.size_bytes = 6;
  EXPECT_THAT(Failure(server, Code::kCorrupt), HasSubstr("expected 6 bytes, the server has 5"));
  // More than was announced, with no length in the answer.
  HttpServer endless([](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    while (connection.Send("5\r\nhello\r\n")) {
    }
  });
  target.size_bytes = 1000;
  EXPECT_THAT(Failure(endless, Code::kCorrupt), HasSubstr("more than 1000 bytes"));
  target.size_bytes.reset();
  target.bytes_max = 2000;
  EXPECT_THAT(Failure(endless, Code::kCorrupt), HasSubstr("more than 2000 bytes"));
  HttpServer large(
      [](const ServerRequest&, ServerConnection& connection) { connection.Send("HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n"); });
  EXPECT_THAT(Failure(large, Code::kExhausted), HasSubstr("limit of 2000"));
}

TEST_F(DownloadTest, LooksForRoomFirst) {
  HttpServer server([](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, Body(1000)); });
  bench.disk.free_bytes = kDiskReserveBytes + 999;
  EXPECT_THAT(Failure(server, Code::kUnavailable), HasSubstr("1000 bytes more are needed"));
  EXPECT_EQ(server.requests().size(), 1u);  // trying again makes no room
  bench.disk.free_bytes = kDiskReserveBytes + 1000;
  EXPECT_TRUE(Get(server).ok());
}

TEST_F(DownloadTest, LimitsTheRate) {
  const std::string body = Body(100'000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  bench.tools.rate_bytes_per_s = 10'000;
  ASSERT_TRUE(Get(server).ok());
  EXPECT_NEAR(static_cast<double>(bench.clock.now_ns) * 1e-9, 10.0, 0.2);
}

// Whatever fails, and however often: either the file is not there and a later call completes it, or it is whole.
TEST_F(DownloadTest, EveryFaultLeavesNothingOrAWholeFile) {
  const std::string body = Body(20'000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  target.size_bytes = body.size();
  target.digest = DigestOfText(body);
  bool blown = true;
  for (int n = 1; blown && n < 100; ++n) {
    Bench fresh;
    target.path = fresh.folder / "m.gguf";
    HttpRequest request;
    request.url = ParseUrl(server.Url("/m.gguf")).value();
    const auto transport = MakeHttpTransport({}, real_clock);
    const auto origin = MakeHttpOrigin(*transport, request, {});
    fresh.fuse.Set(n);
    const auto first = Download(*origin, target, fresh.tools);
    blown = fresh.fuse.blown();
    if (fresh.folder.Has("m.gguf")) {
      EXPECT_EQ(fresh.folder.Read("m.gguf"), body) << n;
      continue;
    }
    EXPECT_FALSE(first.ok()) << n;
    fresh.fuse.Set(0);
    const auto second = Download(*origin, target, fresh.tools);
    ASSERT_TRUE(second.ok()) << n << ": " << second.error().message();
    EXPECT_EQ(fresh.folder.Read("m.gguf"), body) << n;
    EXPECT_EQ(fresh.folder.entries(), 1u) << n;
  }
  EXPECT_FALSE(blown);
}

// A link in the part's place would lead out of the folder.
TEST_F(DownloadTest, LinksAreNotFollowed) {
  HttpServer server([](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, "hello"); });
  bench.folder.Write("victim", "mine");
  std::filesystem::create_symlink(bench.folder / "victim", bench.folder / "m.gguf.part");
  EXPECT_THAT(Failure(server, Code::kInvalidArgument), HasSubstr("m.gguf.part"));
  EXPECT_EQ(bench.folder.Read("victim"), "mine");
  std::filesystem::remove(bench.folder / "m.gguf.part");
  for (const char* name : {"m.gguf.part.json", "m.gguf.part.json.part-new", "m.gguf"}) {
    std::filesystem::create_symlink(bench.folder / "victim", bench.folder / name);
    (void)Get(server).ok();
    EXPECT_EQ(bench.folder.Read("victim"), "mine") << name;
    std::filesystem::remove(bench.folder / name);
  }
}

}  // namespace
}  // namespace bantam
