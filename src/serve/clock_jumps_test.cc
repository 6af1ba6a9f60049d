// Whoever sets the wall clock, by hours in either direction, changes what logs and answers show of it, and nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "serve/gateway.h"
#include "testing/gateway_fixture.h"
#include "testing/http_client.h"
#include "testing/wall_clock.h"

namespace bantam {
namespace {

using testing::ClientSocket;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using testing::kHello;
using testing::ShiftWallClock;

constexpr int64_t kHour = 3600;
constexpr int64_t kJumps[] = {10 * kHour, -10 * kHour, 400 * 24 * kHour, -400 * 24 * kHour, 0};

class ClockJumps : public testing::GatewayTest {
 protected:
  ~ClockJumps() override { ShiftWallClock(0); }
};

TEST_F(ClockJumps, WhatAKeyHasUsedItHasUsed) {
  GatewayOptions options;
  const auto key = [](const std::string& name, KeyLimits limits) {
    return std::make_shared<const ApiKey>(ApiKey{name, Role::kUse, DigestOfSecret(name), std::move(limits)});
  };
  options.access.keys = {key("minute", {.requests_per_minute = 1}), key("tokens", {.tokens_per_minute = 1}),
                         key("day", {.tokens_per_day = 1})};
  Start(std::move(options));
  const auto ask = [&](const std::string& name) {
    return Chat(std::string(kHello) + R"(,"max_tokens":2)", "Authorization: Bearer " + name + "\r\n");
  };
  for (const char* name : {"minute", "tokens", "day"}) EXPECT_EQ(ask(name).status, 200) << name;
  for (const int64_t jump : kJumps) {
    ShiftWallClock(jump);
    for (const char* name : {"minute", "tokens", "day"}) {
      const HttpAnswer refused = ask(name);
      EXPECT_EQ(refused.status, 429) << name << " " << jump;
      const int64_t wait_s = ParseJson(refused.fields.at("retry-after")).value().get<int64_t>();
      EXPECT_GE(wait_s, 1) << name << " " << jump;
      EXPECT_LE(wait_s, kHour) << name << " " << jump;
    }
  }
}

TEST_F(ClockJumps, AnswersAreKeptAsLongAsTheyAre) {
  Start();
  const std::string id = Post("/v1/responses", R"({"input":"Once upon a time","max_output_tokens":2})").json()["id"];
  for (const int64_t jump : kJumps) {
    ShiftWallClock(jump);
    EXPECT_EQ(Get("/v1/responses/" + id).status, 200) << jump;
  }
}

TEST_F(ClockJumps, NobodyIsIdleBefore) {
  std::atomic<int> looks = 0;
  catalog_options_.tick_ns = 1'000'000;
  catalog_options_.memory_share = [&] {
    ++looks;
    return 0.5;
  };
  StartCatalog({{.name = "stories", .path = "v1", .idle_s = kHour}});
  for (const int64_t jump : kJumps) {
    ShiftWallClock(jump);
    for (const int seen = looks; looks < seen + 3;) std::this_thread::yield();
    EXPECT_EQ(ModelNow()["state"], "loaded") << jump;
  }
  EXPECT_EQ(loads_, 1);
}

TEST_F(ClockJumps, ConnectionsAndAnswersGoOn) {
  Start();
  const auto live = [](ClientSocket& client) {
    client.Send("GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    return client.ReceiveUntil("\r\n\r\n");
  };
  ClientSocket kept(server_->port());
  EXPECT_THAT(live(kept), HasSubstr("200 OK"));
  for (const int64_t jump : kJumps) {
    ShiftWallClock(0);
    ClientSocket running(server_->port());
    running.Send(testing::HttpRequestText("POST", "/v1/chat/completions",
                                          "{" + std::string(kHello) + R"(,"max_tokens":300,"min_tokens":300,"stream":true})",
                                          "X-Bantam-Deadline-Ms: 600000\r\n"));
    EXPECT_THAT(running.ReceiveUntil("data: "), HasSubstr("200 OK"));
    ShiftWallClock(jump);
    const std::string rest = running.ReceiveAll();
    EXPECT_THAT(rest, HasSubstr("\"finish_reason\":\"length\"")) << jump;
    EXPECT_THAT(rest, HasSubstr("[DONE]")) << jump;
    EXPECT_THAT(live(kept), HasSubstr("200 OK")) << jump;
  }
}

TEST_F(ClockJumps, ShownTimesFollowAndDurationsDoNot) {
  const int64_t begin_s = std::time(nullptr);
  Start();
  for (const int64_t jump : kJumps) {
    ShiftWallClock(jump);
    const int64_t made_s = Chat(std::string(kHello) + R"(,"max_tokens":2)").json()["created"].get<int64_t>();
    EXPECT_GE(made_s, begin_s + jump);
    EXPECT_LT(made_s, begin_s + jump + kHour);
    const std::lock_guard lock(mutex_);
    const Json line = ParseJson(log_.back()).value();
    // The request ended a moment after it was made, which may be tomorrow.
    const std::string ended = UtcText(std::time(nullptr)).substr(0, 10);
    EXPECT_THAT(line["time"].get<std::string>().substr(0, 10), ::testing::AnyOf(UtcText(made_s).substr(0, 10), ended));
    for (const char* duration : {"ms", "queued_ms", "first_token_ms"}) {
      EXPECT_GE(line[duration].get<double>(), 0) << line;
      EXPECT_LT(line[duration].get<double>(), kHour * 1000.0) << line;
    }
  }
}

}  // namespace
}  // namespace bantam
