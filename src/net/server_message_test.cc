#include "net/server_message.h"

#include <gtest/gtest.h>

namespace bantam {
namespace {

using State = RequestReader::State;

const RequestLimits kLimits = {.header_bytes_max = 512, .body_bytes_max = 100};

// All requests of these bytes, given in pieces of `step`; and how it ended.
struct Read {
  std::vector<ServerRequest> requests = {};
  State state = State::kNothing;
  int refused = 0;
};
Read ReadAll(std::string_view bytes, size_t step) {
  RequestReader reader(kLimits);
  Read read;
  for (size_t at = 0; at < bytes.size(); at += step) {
    reader.Push(bytes.substr(at, step));
    while (reader.state() == State::kWhole) read.requests.push_back(reader.Take());
    EXPECT_LE(reader.waiting_bytes(), std::max(bytes.size(), kLimits.header_bytes_max));
  }
  read.state = reader.state();
  if (read.state == State::kRefused) read.refused = reader.refusal().status;
  return read;
}

TEST(RequestReader, RequestsHoweverTheyAreCut) {
  const std::string bytes =
      "GET /health?full=1 HTTP/1.1\r\nHost: a\r\nX-Thing: one\r\n\r\n"
      "\r\nPOST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
      "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n"
      "GET http://other:80/path HTTP/1.0\r\n\r\n";
  for (size_t step = 1; step <= bytes.size(); step += step < 40 ? 1 : 37) {
    const Read read = ReadAll(bytes, step);
    ASSERT_EQ(read.requests.size(), 4u) << step;
    EXPECT_EQ(read.state, State::kNothing);
    EXPECT_EQ(read.requests[0].method, "GET");
    EXPECT_EQ(read.requests[0].path, "/health");
    EXPECT_EQ(read.requests[0].query, "full=1");
    EXPECT_EQ(read.requests[0].Field("x-thing"), "one");
    EXPECT_FALSE(read.requests[0].Field("y").has_value());
    EXPECT_TRUE(read.requests[0].keep_alive);
    EXPECT_EQ(read.requests[1].body, "hello");
    EXPECT_EQ(read.requests[2].body, "abcdefg");
    EXPECT_EQ(read.requests[3].path, "/path");
    EXPECT_FALSE(read.requests[3].keep_alive);
    EXPECT_FALSE(read.requests[3].takes_chunks);
  }
}

TEST(RequestReader, StatesOnTheWay) {
  RequestReader reader(kLimits);
  EXPECT_EQ(reader.state(), State::kNothing);
  reader.Push("POST / HTTP/1.1\r\nHost");
  EXPECT_EQ(reader.state(), State::kHeader);
  EXPECT_EQ(reader.body_bytes(), 0u);
  reader.Push(": a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(reader.state(), State::kBody);
  EXPECT_EQ(reader.body_bytes(), 0u) << "what is only announced";
  EXPECT_TRUE(reader.TakeExpectation());
  EXPECT_FALSE(reader.TakeExpectation());
  reader.Push("abcdGET ");
  EXPECT_EQ(reader.state(), State::kWhole);
  EXPECT_EQ(reader.waiting_bytes(), 4u);
  EXPECT_EQ(reader.Take().body, "abcd");
  EXPECT_EQ(reader.state(), State::kHeader);
}

TEST(RequestReader, WhatIsRefused) {
  const std::string long_text(600, 'x');
  const std::pair<std::string, int> kCases[] = {
      {"hello\r\n\r\n", 400},
      {std::string("\x16\x03\x01\x02\x00", 5) + "\r\n\r\n", 400},  // TLS where it is not spoken
      {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
      {"GET / HTTP/1.1\r\n\r\n", 400},  // no Host
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: a\r\n folded\r\nBad Name: x\r\n\r\n", 400},
      {"GET /" + long_text + " HTTP/1.1\r\nHost: a\r\n\r\n", 431},
      {"GET / HTTP/1.1\r\nHost: a\r\nX: " + long_text + "\r\n\r\n", 431},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", 413},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400},
      // Two readers would not agree on where such a request ends.
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n", 413},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
  };
  for (const auto& [bytes, status] : kCases) {
    for (const size_t step : {size_t{1}, size_t{7}, bytes.size()}) {
      const Read read = ReadAll(bytes, step);
      EXPECT_EQ(read.refused, status) << bytes << " by " << step;
      EXPECT_TRUE(read.requests.empty());
    }
  }
}

// One field after the other, each short: all of them count.
TEST(RequestReader, HeadersWithoutEndAreBounded) {
  RequestReader reader(kLimits);
  reader.Push("GET / HTTP/1.1\r\nHost: a\r\n");
  size_t fields = 0;
  for (; reader.state() == State::kHeader && fields < 1000; ++fields) reader.Push("A: b\r\n");
  EXPECT_EQ(reader.refusal().status, 431);
  EXPECT_LE(fields, kLimits.header_bytes_max / 6 + 1);
}

TEST(RequestReader, ChunkHeadersWithoutEndAreBounded) {
  RequestReader reader(kLimits);
  reader.Push("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;");
  for (int i = 0; i < 10'000 && reader.state() == State::kBody; ++i) reader.Push("xxxxxxxxxx");
  EXPECT_EQ(reader.state(), State::kRefused);
}

TEST(ServerMessage, HeadsAndChunks) {
  const ServerResponse response = {.status = 200, .fields = {{"Content-Type", "text/plain\r\nEvil: 1"}}};
  EXPECT_EQ(ResponseHead(response, BodyFraming::kLength, 5, /*keep_alive=*/true),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain  Evil: 1\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(ResponseHead({.status = 429}, BodyFraming::kChunks, 0, /*keep_alive=*/false),
            "HTTP/1.1 429 Too Many Requests\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(Chunk(std::string(17, 'a')), "11\r\naaaaaaaaaaaaaaaaa\r\n");
}

TEST(ServerMessage, Percent) {
  EXPECT_EQ(DecodePercent("a%2Fb%20c"), "a/b c");
  EXPECT_EQ(DecodePercent("plain"), "plain");
  EXPECT_FALSE(DecodePercent("a%2").has_value());
  EXPECT_FALSE(DecodePercent("a%zz").has_value());
}

}  // namespace
}  // namespace bantam
