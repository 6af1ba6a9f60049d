#include "serve/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/gateway.h"

namespace bantam {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSecond = 1'000'000'000;

TEST(Access, Hosts) {
  const std::vector<std::string> hosts = {"edge.example"};
  for (const char* good : {"127.0.0.1", "127.0.0.1:8080", "[::1]:8080", "[::1]", "localhost", "LocalHost:1", "a.localhost", "10.0.0.7:80",
                           "edge.example", "Edge.Example:8080"}) {
    EXPECT_TRUE(HostAllowed(good, hosts)) << good;
  }
  for (const char* bad :
       {"evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "", "edge.example.evil"}) {
    EXPECT_FALSE(HostAllowed(bad, hosts)) << bad;
  }
}

TEST(Access, Origins) {
  const std::vector<std::string> origins = {"https://app.example"};
  EXPECT_TRUE(OriginAllowed("", "127.0.0.1:80", origins));
  EXPECT_TRUE(OriginAllowed("http://127.0.0.1:80", "127.0.0.1:80", origins));
  EXPECT_TRUE(OriginAllowed("https://app.example", "127.0.0.1:80", origins));
  EXPECT_FALSE(OriginAllowed("https://evil.example", "127.0.0.1:80", origins));
  EXPECT_FALSE(OriginAllowed("http://127.0.0.1:81", "127.0.0.1:80", origins));
  EXPECT_FALSE(OriginAllowed("null", "127.0.0.1:80", origins));
  EXPECT_TRUE(OriginAllowed("https://any.example", "a", std::vector<std::string>{"*"}));
}

TEST(Access, ShownSecrets) {
  const auto shown = [](std::string name, std::string value) {
    ServerRequest request;
    request.fields = {{std::move(name), std::move(value)}};
    return ShownSecret(request);
  };
  EXPECT_EQ(shown("authorization", "Bearer abc"), "abc");
  EXPECT_EQ(shown("Authorization", "bearer  abc "), "abc");
  EXPECT_EQ(shown("X-Api-Key", "abc"), "abc");
  EXPECT_EQ(shown("Authorization", "Basic abc"), "");
  EXPECT_EQ(shown("Authorization", "Bearer"), "");
  EXPECT_EQ(shown("Cookie", "abc"), "");
}

TEST(KeyUse, RequestsOfAMinute) {
  KeyUse use;
  const KeyLimits limits = {.requests_per_minute = 2};
  EXPECT_FALSE(use.Enter(limits, 0));
  EXPECT_FALSE(use.Enter(limits, 0));
  const auto refused = use.Enter(limits, 0);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_EQ(refused->retry_after_s, 30);
  EXPECT_TRUE(use.Enter(limits, 29 * kSecond));
  EXPECT_FALSE(use.Enter(limits, 31 * kSecond));
}

TEST(KeyUse, TokensOfAMinuteAndADay) {
  KeyUse use;
  const KeyLimits limits = {.tokens_per_minute = 60, .tokens_per_day = 200};
  EXPECT_FALSE(use.Enter(limits, 0));
  use.Leave(limits, 90, 0);
  // Thirty in debt, at one a second.
  const auto refused = use.Enter(limits, 10 * kSecond);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->retry_after_s, 21);
  EXPECT_FALSE(use.Enter(limits, 32 * kSecond));
  use.Leave(limits, 110, 32 * kSecond);
  const auto tomorrow = use.Enter(limits, 3600 * kSecond);
  ASSERT_TRUE(tomorrow);
  EXPECT_THAT(tomorrow->message, HasSubstr("200 tokens a day"));
  EXPECT_FALSE(use.Enter(limits, 25 * 3600 * kSecond));
}

TEST(KeyUse, AtOnce) {
  KeyUse use;
  const KeyLimits limits = {.concurrent = 1};
  EXPECT_FALSE(use.Enter(limits, 0));
  EXPECT_TRUE(use.Enter(limits, 0));
  use.Leave(limits, 5, 0);
  EXPECT_FALSE(use.Enter(limits, 0));
}

TEST(Keys, WrittenAndReadAgain) {
  const std::string secret = MakeSecret().value();
  EXPECT_EQ(secret.size(), 7u + 43u);
  EXPECT_NE(secret, MakeSecret().value());
  const KeyLimits limits = {.requests_per_minute = 5, .concurrent = 2, .priority = Priority::kLow, .models = {"a"}};
  const std::string text = WriteKeys({{.name = "kiosk", .role = Role::kOperate, .digest = DigestOfSecret(secret), .limits = limits}});
  EXPECT_EQ(text.find(secret), std::string::npos);
  const auto keys = ReadKeys(text);
  ASSERT_TRUE(keys.ok()) << keys.error().message();
  EXPECT_EQ(WriteKeys(*keys), text);
  const std::vector<std::shared_ptr<const ApiKey>> shared = {std::make_shared<const ApiKey>(ApiKey{.name = "other"}),
                                                             std::make_shared<const ApiKey>((*keys)[0])};
  EXPECT_EQ(FindKey(shared, secret), shared[1].get());
  EXPECT_EQ(FindKey(shared, secret + "x"), nullptr);
  EXPECT_EQ(FindKey(shared, ""), nullptr);
}

TEST(Keys, FilesThatAreRefused) {
  const std::string digest(64, 'a');
  const std::pair<std::string, const char*> kCases[] = {
      {"", "line 1"},
      {"[]", "expected an object"},
      {R"({"keys": [{"name": "a"}]})", "key 1"},
      {R"({"keys": [{"name": "a", "sha256": "12"}]})", "64 hexadecimal"},
      {R"({"keys": [{"name": "", "sha256": ")" + digest + R"("}]})", "1 to 64"},
      {R"({"keys": [{"name": "a", "sha256": ")" + digest + R"(", "role": "root"}]})", "\"admin\""},
      {R"({"keys": [{"name": "a", "sha256": ")" + digest + R"(", "concurent": 1}]})", "concurrent"},
      {R"({"keys": [{"name": "a", "sha256": ")" + digest + R"("}, {"name": "a", "sha256": ")" + digest + R"("}]})", "another one"},
  };
  for (const auto& [text, message] : kCases) {
    const auto keys = ReadKeys(text);
    ASSERT_FALSE(keys.ok()) << text;
    EXPECT_THAT(keys.error().message(), HasSubstr(message));
  }
}

TEST(ApiError, NamesTheMember) {
  EXPECT_EQ(MemberOf("temperature: \"x\": expected a number"), "temperature");
  EXPECT_EQ(MemberOf("messages[2].content: null: expected"), "messages[2].content");
  EXPECT_EQ(MemberOf("\"tempratur\": no member of a request; the nearest is temperature"), "tempratur");
  EXPECT_EQ(MemberOf("the prompt has 5 tokens: too many"), "");
  EXPECT_EQ(MemberOf(""), "");
  EXPECT_EQ(ApiErrorOf(Error(Code::kUnavailable, "x")).status, 429);
  EXPECT_EQ(ApiErrorOf(Error(Code::kExhausted, "x")).status, 400);
  EXPECT_EQ(ApiErrorOf(Error(Code::kInternal, "x")).status, 500);
  EXPECT_EQ(RetryAfterSeconds(0), 1);
  EXPECT_EQ(RetryAfterSeconds(2 * kSecond + 1), 3);
  EXPECT_EQ(RetryAfterSeconds(INT64_MAX / 2), 3600);
}

TEST(Routes, FoundByMethodAndPath) {
  EXPECT_NE(FindRoute("POST", "/v1/chat/completions").route, nullptr);
  EXPECT_NE(FindRoute("HEAD", "/health").route, nullptr);
  EXPECT_EQ(FindRoute("GET", "/v1/models/a%2Fb").rest, "a%2Fb");
  EXPECT_EQ(FindRoute("GET", "/v1/models/").route, nullptr);
  EXPECT_EQ(FindRoute("GET", "/v1/messages").methods, std::vector<std::string_view>{"POST"});
  EXPECT_TRUE(FindRoute("GET", "/v1/nothing").methods.empty());
}

}  // namespace
}  // namespace bantam
