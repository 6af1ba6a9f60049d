#include "fleet/download.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "fleet/retry.h"
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

// Sends the rest of one version from where it is asked for, and closes each connection after so many bytes.
auto DropsAfter(const std::string& body, size_t answer_bytes) {
  return [&body, answer_bytes](const ServerRequest& request, ServerConnection& connection) {
    const size_t start = request.RangeStart();
    const std::string tag = "ETag: \"v1\"\r\n";
    const std::string range = fmt::format("Content-Range: bytes {}-{}/{}\r\n", start, body.size() - 1, body.size());
    std::string answer = start == 0 ? Answer(body, tag) : Answer(body.substr(start), tag + range, "206 Partial Content");
    answer.resize(std::min(answer.size(), answer_bytes));
    connection.Send(answer);
  };
}

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
  std::atomic<int> server_requests = 0;
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
// What nobody vouches for is looked at before it has its name.
TEST_F(DownloadTest, WhatIsNotAccepted) {
  const std::string body = Body(1000);
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  target.accept = [&](const std::string& path) {
    EXPECT_EQ(path, bench.folder / "m.gguf.part");
    EXPECT_FALSE(bench.folder.Has("m.gguf"));
    return bench.folder.Read("m.gguf.part") == body ? Status(Error(Code::kCorrupt, "a page")) : Ok();
  };
  EXPECT_THAT(Failure(server, Code::kCorrupt), HasSubstr("is no whole model; it was deleted, try again or try another source: a page"));
  EXPECT_EQ(bench.folder.entries(), 0u);
  // Whoever knows the digest knows what it is.
  target.digest = DigestOfText(body);
  EXPECT_TRUE(Get(server).ok());
}

TEST_F(DownloadTest, GoesOnAfterDrops) {
  const std::string body = Body(300'000);
  HttpServer server(DropsAfter(body, /*answer_bytes=*/100'000));
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

// Nobody waits in front of a screen that says nothing, and for a name that does not exist.
TEST_F(DownloadTest, SaysThatItTriesAgain) {
  HttpServer server([](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer("", "", "503 Later")); });
  std::vector<std::string> steps;
  bench.tools.progress = [&](std::string_view step, uint64_t, uint64_t) {
    steps.emplace_back(step);
    return true;
  };
  bench.tools.idle_retries_max = 2;
  EXPECT_THAT(Failure(server, Code::kUnavailable), HasSubstr("503"));
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_THAT(steps[0], AllOf(HasSubstr("trying again in 2 s"), HasSubstr("answers 503"), Not(HasSubstr("hunter2"))));
  EXPECT_THAT(steps[1], HasSubstr("trying again in 4 s"));
}

TEST(Retry, OnlyWhatMayPass) {
  Bench bench;
  const Error unknown_host(Code::kNotFound, "no such host");
  EXPECT_EQ(Retry(bench.tools).After(unknown_host, /*brought=*/false).error().message(), "no such host");
  EXPECT_FALSE(Retry(bench.tools).After(Error(Code::kDenied, "no"), /*brought=*/true).ok());
  EXPECT_EQ(bench.pauses, 0);
  // It was known a moment ago: the network is gone.
  Retry known(bench.tools);
  EXPECT_TRUE(known.After(Error(Code::kUnavailable, "dropped"), /*brought=*/true).ok());
  EXPECT_TRUE(known.After(unknown_host, /*brought=*/false).ok());
  EXPECT_EQ(bench.pauses, 2);
}

// 0 is an unknown total; a part of one is no share of it.
TEST_F(DownloadTest, AnUnknownLengthIsNoTotal) {
  HttpServer server([](const ServerRequest&, ServerConnection& connection) {
    connection.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
  });
  std::vector<uint64_t> totals;
  bench.tools.progress = [&](std::string_view, uint64_t, uint64_t total) {
    totals.push_back(total);
    return true;
  };
  ASSERT_TRUE(Get(server).ok());
  EXPECT_EQ(totals, std::vector<uint64_t>{0});
}

// What an interruption says of the next call is what the next call does.
TEST_F(DownloadTest, SaysWhetherItCanGoOn) {
  const std::string body = Body(600'000);
  for (const bool tagged : {true, false}) {
    HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
      if (tagged) return SendFile(request, connection, body);
      connection.Send(Answer(body));
    });
    bench.tools.progress = [](std::string_view, uint64_t done, uint64_t) { return done < 200'000; };
    EXPECT_THAT(Failure(server, Code::kCancelled), HasSubstr(tagged ? "goes on where this one stopped" : "starts again"));
    bench.tools.progress = [](std::string_view, uint64_t, uint64_t) { return true; };
    const auto got = Get(server);
    ASSERT_TRUE(got.ok()) << got.error().message();
    EXPECT_EQ(got->resumed_bytes > 0, tagged);
    std::filesystem::remove(bench.folder / "m.gguf");
  }
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
  // As an interruption leaves it: the first half of `body`, of the version `tag`. A digest tells more than a source.
  void Leave(std::string_view body, std::string_view tag, std::optional<Digest> digest, std::string_view source = {}) {
    bench.folder.Write("m.gguf.part", body.substr(0, body.size() / 2));
    const std::string identity = digest.has_value() ? fmt::format("- {}", HexOf(*digest)) : fmt::format("{} -", source);
    bench.folder.Write("m.gguf.part.json",
                       fmt::format(R"({{"version": 1, "source": "{}", "tag": "{}", "bytes": {}}})", identity, tag, body.size() / 2));
  }
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

// Killed after the last byte of a file of unknown length: 416 says that nothing is missing, if it is of the same version.
TEST_F(Resumed, NothingIsMissing) {
  const std::string body = Body(1000);
  for (const std::string tag : {"\"v1\"", "\"v2\""}) {
    HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
      if (request.RangeStart() == 0) return void(connection.Send(Answer("another", fmt::format("ETag: {}\r\n", tag))));
      connection.Send(Answer("", fmt::format("ETag: {}\r\nContent-Range: bytes */500\r\n", tag), "416 Range Not Satisfiable"));
    });
    Leave(body, "\\\"v1\\\"", std::nullopt, server.Url("/m.gguf"));
    ASSERT_TRUE(Get(server).ok());
    EXPECT_EQ(bench.folder.Read("m.gguf"), tag == "\"v1\"" ? body.substr(0, 500) : "another");
    std::filesystem::remove(bench.folder / "m.gguf");
  }
}

// A copy goes on where a digest will tell whether that was right.
TEST_F(Resumed, OfThisMachine) {
  const std::string body = Body(1000);
  bench.folder.Write("source", body);
  const auto origin = MakeFileOrigin(bench.disk, bench.folder / "source");
  target.path = bench.folder / "m.gguf";
  target.shown = "m.gguf";
  for (const bool known : {true, false}) {
    if (known) target.digest = DigestOfText(body);
    if (!known) target.digest.reset();
    Leave(body, "", target.digest, origin->Name());
    const auto got = Download(*origin, target, bench.tools);
    ASSERT_TRUE(got.ok()) << got.error().message();
    EXPECT_EQ(got->resumed_bytes, known ? 500u : 0u);
    EXPECT_EQ(bench.folder.Read("m.gguf"), body);
  }
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
  // A part of the part, by a server that does not tell of how much: not the end of the file.
  HttpServer unmarked([&](const ServerRequest& request, ServerConnection& connection) {
    const size_t start = request.RangeStart();
    const size_t last = std::min<size_t>(start + 299, body.size() - 1);
    if (start == body.size()) {
      return void(connection.Send(Answer("", "ETag: \"v1\"\r\nContent-Range: bytes */1000\r\n", "416 Range Not Satisfiable")));
    }
    connection.Send(Answer(body.substr(start, last - start + 1),
                           fmt::format("ETag: \"v1\"\r\nContent-Range: bytes {}-{}/*\r\n", start, last), "206 Partial Content"));
  });
  Leave(body, "\\\"v1\\\"", std::nullopt, unmarked.Url("/m.gguf"));
  ASSERT_TRUE(Get(unmarked).ok());
  EXPECT_EQ(bench.folder.Read("m.gguf"), body);
  std::filesystem::remove(bench.folder / "m.gguf");
  // An answer to a question that was not asked.
  HttpServer unasked([&](const ServerRequest&, ServerConnection& connection) {
    connection.Send(Answer(body, "Content-Range: bytes 0-999/1000\r\n", "206 Partial Content"));
  });
  EXPECT_THAT(Failure(unasked, Code::kCorrupt), HasSubstr("asked for bytes from 0 on"));
}

// A file does not change its length without becoming another, and what was known of it stays known.
TEST_F(DownloadTest, TheFirstLengthHolds) {
  const std::string body = Body(1000);
  for (const std::string total : {"*", "900"}) {
    HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
      const size_t start = request.RangeStart();
      if (start == 0) {
        const std::string answer = Answer(body, "ETag: \"v1\"\r\n");
        // Later connections bring all of it.
        return void(connection.Send(server_requests++ == 0 ? answer.substr(0, answer.size() - 500) : answer));
      }
      connection.Send(Answer(body.substr(start, 900 - start),
                             fmt::format("ETag: \"v1\"\r\nContent-Range: bytes {}-899/{}\r\n", start, total), "206 Partial Content"));
    });
    server_requests = 0;
    bench.tools.idle_retries_max = 2;
    (void)Get(server);
    EXPECT_TRUE(!bench.folder.Has("m.gguf") || bench.folder.Read("m.gguf") == body) << total;
    std::filesystem::remove(bench.folder / "m.gguf");
    std::filesystem::remove(bench.folder / "m.gguf.part");
    std::filesystem::remove(bench.folder / "m.gguf.part.json");
  }
}

// Neither a digest nor a strong tag: nobody can say that the rest belongs to what is here.
TEST_F(DownloadTest, DropsWithoutATagStartAgain) {
  const std::string old = Body(1000);
  const std::string body = "new " + Body(996);
  for (const auto& [first_tag, later_tag] : {std::pair("", ""), std::pair("ETag: \"v1\"\r\n", "ETag: W/\"v2\"\r\n"),
                                             std::pair("ETag: \"v1\"\r\n", ""), std::pair("ETag: W/\"v1\"\r\n", "")}) {
    server_requests = 0;
    HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
      if (server_requests++ == 0) {
        const std::string answer = Answer(old, first_tag);
        return void(connection.Send(answer.substr(0, answer.size() - 500)));
      }
      // It has another file now, and heeds ranges but not If-Range.
      const size_t start = request.RangeStart();
      if (start == 0) return void(connection.Send(Answer(body, later_tag)));
      connection.Send(
          Answer(body.substr(start), fmt::format("{}Content-Range: bytes {}-999/1000\r\n", later_tag, start), "206 Partial Content"));
    });
    const auto got = Get(server);
    ASSERT_TRUE(got.ok()) << got.error().message();
    EXPECT_EQ(bench.folder.Read("m.gguf"), body) << first_tag << later_tag;
    std::filesystem::remove(bench.folder / "m.gguf");
  }
}

// Cut off as the process was just about to fetch the rest of what an older state knew: that state no longer speaks for the part.
TEST_F(Resumed, WhatIsDiscardedIsNotTakenUpLater) {
  const std::string body = Body(1000);
  std::string state_then;
  HttpServer server([&](const ServerRequest& request, ServerConnection& connection) {
    state_then = bench.folder.Read("m.gguf.part.json");
    SendFile(request, connection, body, "\"v2\"");
  });
  const std::string url = server.Url("/m.gguf");
  // Another source's, one without a tag, one longer than its part.
  for (const std::string& state : {std::string(R"({"version": 1, "source": "https://other/m.gguf -", "tag": "\"v1\"", "bytes": 500})"),
                                   fmt::format(R"({{"version": 1, "source": "{} -", "tag": "", "bytes": 500}})", url),
                                   fmt::format(R"({{"version": 1, "source": "{} -", "tag": "\"v2\"", "bytes": 900}})", url)}) {
    bench.folder.Write("m.gguf.part", std::string(500, 'x'));
    bench.folder.Write("m.gguf.part.json", state);
    (void)Get(server);
    EXPECT_THAT(state_then, AllOf(Not(HasSubstr("other")), Not(HasSubstr("900")))) << state;
    if (state.find("900") == std::string::npos) {
      EXPECT_THAT(state_then, HasSubstr("\"bytes\": 0")) << state;
    }
  }
  // Another version, which is seen only in the answer: the state is of no bytes before the first of them is written.
  Leave(body, "\\\"v1\\\"", std::nullopt, url);
  bench.tools.progress = [&](std::string_view, uint64_t, uint64_t) {
    state_then = bench.folder.Read("m.gguf.part.json");
    return true;
  };
  ASSERT_TRUE(Get(server).ok());
  EXPECT_THAT(state_then, HasSubstr("\"bytes\": 0"));
}

// What a wrong server says costs nothing of what is here.
TEST_F(Resumed, AWrongAnswerLeavesThePart) {
  const std::string body = Body(1000);
  target.size_bytes = body.size();
  target.digest = DigestOfText(body);
  HttpServer portal([](const ServerRequest&, ServerConnection& connection) { connection.Send(Answer("please sign in")); });
  Leave(body, "", target.digest, portal.Url("/m.gguf"));
  EXPECT_THAT(Failure(portal, Code::kCorrupt), HasSubstr("the server has 14"));
  EXPECT_EQ(bench.folder.Read("m.gguf.part"), body.substr(0, 500));
  EXPECT_THAT(bench.folder.Read("m.gguf.part.json"), HasSubstr("500"));
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
  // Who gives the digest knows what to expect.
  const std::string body = Body(3000);
  HttpServer known([&](const ServerRequest& request, ServerConnection& connection) { SendFile(request, connection, body); });
  target.digest = DigestOfText(body);
  EXPECT_TRUE(Get(known).ok());
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

// The power goes at any moment: what has the name is whole, and what was noted of a part is true. Only a tag, so that no digest would tell.
TEST_F(DownloadTest, PowerCuts) {
  const std::string body = Body(4'000);
  HttpServer server(DropsAfter(body, /*answer_bytes=*/2'000));
  HttpRequest request;
  request.url = ParseUrl(server.Url("/m.gguf")).value();
  const auto transport = MakeHttpTransport({}, real_clock);
  const auto origin = MakeHttpOrigin(*transport, request, {});
  target.shown = "m.gguf";
  bool blown = true;
  uint64_t resumed = 0;
  for (int n = 1; blown && n < 100; ++n) {
    Bench fresh;
    target.path = fresh.folder / "m.gguf";
    fresh.fuse.Set(n, /*lasting=*/true);
    (void)Download(*origin, target, fresh.tools).ok();
    blown = fresh.fuse.TakeBlown();
    fresh.fuse.Set(0);
    fresh.disk.CutPower();
    if (!fresh.folder.Has("m.gguf")) {
      const auto second = Download(*origin, target, fresh.tools);
      ASSERT_TRUE(second.ok()) << n << ": " << second.error().message();
      resumed = std::max(resumed, second->resumed_bytes);
    }
    EXPECT_EQ(fresh.folder.Read("m.gguf"), body) << n;
  }
  EXPECT_FALSE(blown);
  EXPECT_GT(resumed, 2'000u);
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
    std::filesystem::remove(bench.folder / "m.gguf");
    std::filesystem::create_symlink(bench.folder / "victim", bench.folder / name);
    (void)Get(server).ok();
    EXPECT_EQ(bench.folder.Read("victim"), "mine") << name;
    std::filesystem::remove(bench.folder / name);
  }
}

}  // namespace
}  // namespace bantam
