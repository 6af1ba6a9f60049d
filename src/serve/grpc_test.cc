// The gateway over gRPC, asked by the library's own client.
#include <bantam.pb.h>
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/rpc/status.pb.h>
#include <grpc/health/v1/health.pb.h>
#include <grpc/reflection/v1/reflection.pb.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <kserve.pb.h>
#include <openssl/pem.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "serve/grpc_room.h"
#include "serve/grpc_server.h"
#include "testing/certificate.h"
#include "testing/gateway_fixture.h"

namespace bantam {
namespace {

using grpc::StatusCode;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::kHello;

constexpr char kGenerate[] = "/bantam.v1.Bantam/Generate";
constexpr char kInfer[] = "/inference.GRPCInferenceService/ModelInfer";

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

// One call, step by step.
class ClientCall {
 public:
  ClientCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& path,
             const std::map<std::string, std::string>& metadata = {}, int64_t deadline_ms = 0)
      : stub_(channel) {
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    if (deadline_ms > 0) context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(deadline_ms));
    stream_ = stub_.PrepareCall(&context, path, &queue_);
    stream_->StartCall(nullptr);
    started_ = Next();
  }
  ~ClientCall() {
    if (started_ && !finished_) {
      context.TryCancel();
      (void)Finish();
    }
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) continue;
  }
  bool Write(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    stream_->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    return Next();
  }
  std::optional<std::string> Read() {
    grpc::ByteBuffer buffer;
    stream_->Read(&buffer, nullptr);
    if (!Next()) return std::nullopt;
    return BytesOf(buffer);
  }
  grpc::Status Finish() {
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    (void)Next();
    finished_ = true;
    return status;
  }
  grpc::ClientContext context;

 private:
  bool Next() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool started_ = false;
  bool finished_ = false;
};

struct Answer {
  grpc::Status status;
  std::vector<std::string> messages;
  std::multimap<std::string, std::string> metadata;  // both
};

class GrpcTest : public testing::GatewayTest {
 protected:
  void StartGrpc(GatewayOptions options = {}, HttpServerLimits limits = {}, std::optional<TlsOptions> tls = {}) {
    Start(std::move(options));
    StartGrpcOnly(limits, std::move(tls));
  }
  void StartGrpcOnly(HttpServerLimits limits = {}, std::optional<TlsOptions> tls = {}) {
    grpc_ = GrpcServer::Start({.limits = limits, .tls = std::move(tls)}, *gateway_, clock_).value();
    channel_ = MakeChannel(grpc::InsecureChannelCredentials());
  }
  ~GrpcTest() override { grpc_.reset(); }
  // Until a call's message has come.
  void AwaitAsked() {
    while (grpc_->AwaitIdle(0)) std::this_thread::yield();
  }
  // Until a line of the access log has it.
  void AwaitLog(const std::string& text) {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        for (const std::string& line : log_) {
          if (line.find(text) != std::string::npos) return;
        }
      }
      std::this_thread::yield();
    }
  }
  std::shared_ptr<grpc::Channel> MakeChannel(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    // The library's client takes megabytes that nobody has read, where it finds the connection fast.
    arguments.SetInt("grpc.http2.bdp_probe", 0);
    // A connection of its own.
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);
    arguments.SetInt("grpc.enable_retries", 0);
    // What is not read is not taken by the library either.
    arguments.SetInt("grpc.http2.bdp_probe", 0);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(grpc_->port()), credentials, arguments);
  }
  Answer Ask(const std::string& path, const std::string& bytes, const std::map<std::string, std::string>& metadata = {},
             int64_t deadline_ms = 0) {
    ClientCall call(channel_, path, metadata, deadline_ms);
    Answer answer;
    (void)call.Write(bytes);
    while (auto message = call.Read()) answer.messages.push_back(*message);
    answer.status = call.Finish();
    for (const auto& list : {call.context.GetServerInitialMetadata(), call.context.GetServerTrailingMetadata()}) {
      for (const auto& [name, value] : list) {
        answer.metadata.emplace(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
      }
    }
    return answer;
  }
  template <typename Response>
  Response AskOne(const std::string& path, const google::protobuf::Message& request) {
    const Answer answer = Ask(path, request.SerializeAsString());
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    Response response;
    EXPECT_EQ(answer.messages.size(), 1u);
    EXPECT_TRUE(!answer.messages.empty() && response.ParseFromString(answer.messages[0]));
    return response;
  }

  std::unique_ptr<GrpcServer> grpc_;
  std::shared_ptr<grpc::Channel> channel_;
};

std::vector<v1::GenerateResponse> Responses(const Answer& answer) {
  std::vector<v1::GenerateResponse> responses;
  for (const std::string& bytes : answer.messages) EXPECT_TRUE(responses.emplace_back().ParseFromString(bytes));
  return responses;
}
std::string TextOf(const Answer& answer) {
  std::string text;
  for (const auto& response : Responses(answer)) text += response.content();
  return text;
}

v1::GenerateRequest Prompt(uint32_t tokens = 20) {
  v1::GenerateRequest request;
  request.set_prompt("Once upon a time");
  request.set_max_tokens(tokens);
  return request;
}

TEST_F(GrpcTest, GeneratesWhatHttpDoes) {
  StartGrpc();
  const Answer answer = Ask(kGenerate, Prompt().SerializeAsString(), {{"x-request-id", "mine-7"}});
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  const Json http = Post("/v1/completions", R"({"prompt":"Once upon a time","max_tokens":20})").json();
  EXPECT_EQ(TextOf(answer), http["choices"][0]["text"]);
  const auto responses = Responses(answer);
  ASSERT_GE(responses.size(), 2u);
  EXPECT_EQ(responses[responses.size() - 2].finish_reason(), "length");
  EXPECT_EQ(responses.back().usage().generated_tokens(), 20u);
  EXPECT_EQ(responses.back().usage().prompt_tokens(), http["usage"]["prompt_tokens"]);
  EXPECT_THAT(answer.metadata, Contains(std::pair<const std::string, std::string>("x-request-id", "mine-7")));

  v1::GenerateRequest chat;
  v1::Message* message = chat.add_messages();
  message->set_role("user");
  message->set_content("Once upon a time");
  chat.set_model("stories");
  chat.set_options(R"({"max_tokens":9,"temperature":1,"min_p":0.1})");
  chat.set_seed(3);
  chat.set_n(2);
  chat.set_top_logprobs(2);
  const Answer chatted = Ask(kGenerate, chat.SerializeAsString());
  ASSERT_TRUE(chatted.status.ok()) << chatted.status.error_message();
  const Json whole = Chat(std::string(kHello) + R"(,"max_tokens":9,"temperature":1,"min_p":0.1,"seed":3,"n":2)").json();
  std::map<uint32_t, std::string> texts;
  size_t logprobs = 0;
  for (const auto& response : Responses(chatted)) {
    if (response.has_usage()) continue;
    texts[response.choice()] += response.content();
    logprobs += static_cast<size_t>(response.logprobs_size());
    EXPECT_TRUE(response.logprobs_size() == 0 || response.logprobs(0).top_size() == 2);
  }
  EXPECT_EQ(logprobs, 18u);
  for (uint32_t choice : {0, 1}) EXPECT_EQ(texts[choice], whole["choices"][choice]["message"]["content"]);
  // The log has it, without texts.
  const std::lock_guard lock(mutex_);
  ASSERT_FALSE(log_.empty());
  EXPECT_THAT(log_[0], HasSubstr("\"path\":\"/bantam.v1.Bantam/Generate\""));
  for (const std::string& line : log_) EXPECT_THAT(line, ::testing::Not(HasSubstr("Once")));
}

TEST_F(GrpcTest, ToolsAndSchemas) {
  StartGrpc();
  v1::GenerateRequest request;
  v1::Message* message = request.add_messages();
  message->set_role("user");
  message->set_content("x");
  request.set_options(R"({"tools":[{"type":"function","function":{"name":"light","parameters":{"type":"object","properties":{"on":)"
                      R"({"type":"boolean"}},"required":["on"],"additionalProperties":false}}}],"tool_choice":"required"})");
  const auto responses = Responses(Ask(kGenerate, request.SerializeAsString()));
  ASSERT_GT(responses.size(), 1u);
  EXPECT_EQ(responses[responses.size() - 2].finish_reason(), "tool_calls");
  const v1::ToolCall* called = nullptr;
  for (const auto& response : responses) {
    if (response.tool_calls_size() > 0) called = &response.tool_calls(0);
  }
  ASSERT_NE(called, nullptr);
  EXPECT_EQ(called->name(), "light");
  EXPECT_TRUE(ParseJson(called->arguments()).value()["on"].is_boolean());
  request.clear_options();
  request.set_json_schema(R"({"enum":["yes","no"]})");
  EXPECT_THAT(TextOf(Ask(kGenerate, request.SerializeAsString())), ::testing::AnyOf("\"yes\"", "\"no\""));
}

// Each code, and what its details say.
TEST_F(GrpcTest, Errors) {
  GatewayOptions options;
  options.access.keys.push_back(
      std::make_shared<const ApiKey>(ApiKey{"once", Role::kUse, DigestOfSecret("secret"), {.requests_per_minute = 4}}));
  HttpServerLimits limits;
  limits.request.body_bytes_max = 4096;
  StartGrpc(std::move(options), limits);
  const auto with = [](auto set) {
    v1::GenerateRequest request = Prompt();
    set(request);
    return request.SerializeAsString();
  };
  const std::map<std::string, std::string> key = {{"authorization", "Bearer secret"}};
  const auto code = [&](const std::string& bytes, const std::map<std::string, std::string>& metadata) {
    return Ask(kGenerate, bytes, metadata).status.error_code();
  };
  EXPECT_EQ(code(Prompt().SerializeAsString(), {}), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code(Prompt().SerializeAsString(), {{"x-api-key", "other"}}), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code(with([](auto& request) { request.set_model("nobody"); }), key), StatusCode::NOT_FOUND);
  EXPECT_EQ(code("\xff\xff", key), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(with([](auto& request) { request.set_prompt(std::string(5000, 'x')); }), key), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Ask("/bantam.v1.Bantam/Other", "", key).status.error_code(), StatusCode::UNIMPLEMENTED);
  const Answer wrong = Ask(kGenerate, with([](auto& request) { request.set_top_p(7); }), key);
  EXPECT_EQ(wrong.status.error_code(), StatusCode::INVALID_ARGUMENT);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(wrong.status.error_details()));
  EXPECT_EQ(details.message(), wrong.status.error_message());
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  ASSERT_EQ(details.details_size(), 2);
  ASSERT_TRUE(details.details(0).UnpackTo(&info) && details.details(1).UnpackTo(&bad));
  EXPECT_EQ(info.reason(), "invalid_value");
  EXPECT_EQ(bad.field_violations(0).field(), "top_p");
  // The fourth that counted; then its minute is used up.
  EXPECT_EQ(code(with([](auto& request) { request.set_options(R"({"prompt":"x"})"); }), key), StatusCode::INVALID_ARGUMENT);
  const Answer late = Ask(kGenerate, Prompt().SerializeAsString(), key);
  EXPECT_EQ(late.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.ParseFromString(late.status.error_details()));
  ASSERT_EQ(details.details_size(), 2);
  ASSERT_TRUE(details.details(1).UnpackTo(&retry));
  EXPECT_GE(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(late.metadata.count("grpc-retry-pushback-ms"), 1u);
}

// Every kind of damage is an error of the client, or an answer.
TEST_F(GrpcTest, DamagedMessages) {
  StartGrpc();
  inference::ModelInferRequest infer;
  auto* input = infer.add_inputs();
  input->set_name("text_input");
  input->set_datatype("BYTES");
  input->add_shape(1);
  input->mutable_contents()->add_bytes_contents("Once");
  (*infer.mutable_parameters())["max_tokens"].set_int64_param(2);
  const std::pair<const char*, std::string> kWhole[] = {{kGenerate, Prompt(2).SerializeAsString()}, {kInfer, infer.SerializeAsString()}};
  Rng rng(5);
  for (int i = 0; i < 200; ++i) {
    auto [path, bytes] = kWhole[rng.Next() % 2];
    for (size_t damage = rng.Next() % 3 + 1; damage > 0; --damage) {
      const size_t at = rng.Next() % bytes.size();
      rng.Next() % 3 == 0 ? bytes.resize(at + 1) : static_cast<void>(bytes[at] = static_cast<char>(rng.Next()));
    }
    const grpc::Status status = Ask(path, bytes).status;
    EXPECT_TRUE(status.ok() || status.error_code() == StatusCode::INVALID_ARGUMENT || status.error_code() == StatusCode::NOT_FOUND)
        << status.error_code() << status.error_message();
  }
}

// A client that goes, or whose time is over, takes its request with it.
TEST_F(GrpcTest, CancelsAndDeadlines) {
  StartGrpc();
  v1::GenerateRequest request = Prompt(400);
  request.set_options(R"({"min_tokens":400})");
  request.set_n(4);
  {
    ClientCall call(channel_, kGenerate);
    ASSERT_TRUE(call.Write(request.SerializeAsString()));
    ASSERT_TRUE(call.Read());
    const uint64_t before = engine_->counters().generated_tokens;
    call.context.TryCancel();
    EXPECT_EQ(call.Finish().error_code(), StatusCode::CANCELLED);
    AwaitNothing();
    // All would be 1600 tokens.
    EXPECT_LT(engine_->counters().generated_tokens - before, 800u);
    AwaitLog("\"status\":499");
  }
  EXPECT_TRUE(grpc_->AwaitIdle(20'000'000'000));
  // Refused at once, where the prediction says so, or ended by its deadline; nothing runs on.
  EXPECT_THAT(Ask(kGenerate, request.SerializeAsString(), {}, /*deadline_ms=*/30).status.error_code(),
              ::testing::AnyOf(StatusCode::DEADLINE_EXCEEDED, StatusCode::RESOURCE_EXHAUSTED));
  AwaitNothing();
  EXPECT_TRUE(grpc_->AwaitIdle(20'000'000'000));
}

// Who reads nothing holds nothing: what it does not take waits within a bound, and its time ends.
TEST_F(GrpcTest, ReadersThatDoNotRead) {
  HttpServerLimits limits;
  limits.write_timeout_ms = 300;
  StartGrpc({}, limits);
  v1::GenerateRequest request = Prompt(450);
  request.set_options(R"({"min_tokens":450})");
  request.set_n(16);
  request.set_top_logprobs(20);
  ClientCall call(channel_, kGenerate);
  ASSERT_TRUE(call.Write(request.SerializeAsString()));
  // It has come.
  AwaitAsked();
  EXPECT_TRUE(grpc_->AwaitIdle(60'000'000'000));
  AwaitNothing();
  // What had been sent by then is a part of it.
  size_t bytes = 0;
  while (const auto message = call.Read()) bytes += message->size();
  EXPECT_LT(bytes, size_t{1} << 20);
  EXPECT_FALSE(call.Finish().ok());
}

TEST_F(GrpcTest, ConnectionsAndCallsHaveLimits) {
  HttpServerLimits limits;
  limits.connections_max = 1;
  limits.body_timeout_ms = 200;
  limits.request.body_bytes_max = 4096;  // which a slow client may take a moment for
  StartGrpc({}, limits);
  EXPECT_TRUE(Ask(kGenerate, Prompt(2).SerializeAsString()).status.ok());
  EXPECT_EQ(grpc_->connections(), 1u);
  const auto other = MakeChannel(grpc::InsecureChannelCredentials());
  {
    ClientCall refused(other, kGenerate);
    (void)refused.Write(Prompt(2).SerializeAsString());
    EXPECT_EQ(refused.Finish().error_code(), StatusCode::UNAVAILABLE);
  }
  {
    // One that sends no message is told so, when its time is over.
    ClientCall slow(channel_, kGenerate);
    EXPECT_EQ(slow.Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
    AwaitLog("\"status\":408");
  }
  // The place of a connection that ended is free again.
  channel_.reset();
  while (grpc_->connections() > 0) std::this_thread::yield();
  channel_ = MakeChannel(grpc::InsecureChannelCredentials());
  EXPECT_TRUE(Ask(kGenerate, Prompt(2).SerializeAsString()).status.ok());
}

// As many calls at once as one connection may have, each answered as if it were alone, and one more when there is room.
TEST_F(GrpcTest, ManyCallsOfOneConnection) {
  StartCatalog({{.name = "stories", .path = "v1", .on_demand = true}});
  StartGrpcOnly();
  // Nobody is answered before all have asked.
  gate_open_ = false;
  const std::string prompt = Prompt(3).SerializeAsString();
  std::vector<std::unique_ptr<ClientCall>> calls;
  for (size_t i = 0; i < kGrpcStreamsMax; ++i) {
    calls.push_back(std::make_unique<ClientCall>(channel_, kGenerate));
    ASSERT_TRUE(calls.back()->Write(prompt)) << i;
  }
  Answer late;
  std::thread one_more([&] { late = Ask(kGenerate, prompt); });
  EXPECT_EQ(grpc_->connections(), 1u);
  gate_open_ = true;
  std::map<std::string, size_t> texts;
  for (const auto& call : calls) {
    Answer answer;
    while (auto message = call->Read()) answer.messages.push_back(*message);
    const grpc::Status status = call->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    ++texts[TextOf(answer)];
  }
  one_more.join();
  EXPECT_TRUE(late.status.ok()) << late.status.error_message();
  ++texts[TextOf(late)];
  const std::string text = Post("/v1/completions", R"({"prompt":"Once upon a time","max_tokens":3})").json()["choices"][0]["text"];
  EXPECT_EQ(texts, (std::map<std::string, size_t>{{text, kGrpcStreamsMax + 1}}));
  EXPECT_TRUE(grpc_->AwaitIdle(20'000'000'000));
}

// What a key may have at once counts over both doors, and its places are given back when calls end, however they do.
TEST_F(GrpcTest, CallsAtOnceOfAKey) {
  GatewayOptions options;
  for (const std::string name : {"two", "other"}) {
    KeyLimits limits = {.concurrent = 2};
    options.access.keys.push_back(std::make_shared<const ApiKey>(ApiKey{name, Role::kUse, DigestOfSecret(name), std::move(limits)}));
  }
  HttpServerLimits limits;
  limits.write_timeout_ms = 600'000;
  StartGrpc(std::move(options), limits);
  const std::map<std::string, std::string> two = {{"x-api-key", "two"}};
  const std::string few = Prompt(2).SerializeAsString();
  // More than a client takes that does not read: they last until it goes.
  v1::GenerateRequest much = Prompt(450);
  much.set_options(R"({"min_tokens":450})");
  much.set_n(16);
  much.set_top_logprobs(20);
  const auto begin = [&] {
    auto call = std::make_unique<ClientCall>(channel_, kGenerate, two);
    EXPECT_TRUE(call->Write(much.SerializeAsString()));
    EXPECT_TRUE(call->Read());
    return call;
  };
  auto first = begin();
  const auto second = begin();
  const Answer refused = Ask(kGenerate, few, two);
  EXPECT_EQ(refused.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.status.error_message(), HasSubstr("2 requests at once"));
  EXPECT_EQ(refused.metadata.count("grpc-retry-pushback-ms"), 1u);
  const std::string body = R"({"prompt":"Once","max_tokens":2})";
  EXPECT_EQ(Post("/v1/completions", body, "x-api-key: two\r\n").status, 429);
  EXPECT_TRUE(Ask(kGenerate, few, {{"x-api-key", "other"}}).status.ok());
  first->context.TryCancel();
  EXPECT_EQ(first->Finish().error_code(), StatusCode::CANCELLED);
  grpc::Status status;
  do {
    status = Ask(kGenerate, few, two).status;
  } while (status.error_code() == StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(GrpcTest, WaitsForModelsThatAreLoaded) {
  StartCatalog({{.name = "stories", .path = "v1", .on_demand = true}});
  StartGrpcOnly();
  gate_open_ = false;
  ClientCall call(channel_, kGenerate);
  ASSERT_TRUE(call.Write(Prompt(3).SerializeAsString()));
  while (ModelNow()["state"] != "loading") std::this_thread::yield();
  gate_open_ = true;
  std::string text;
  while (auto bytes = call.Read()) {
    v1::GenerateResponse response;
    ASSERT_TRUE(response.ParseFromString(*bytes));
    text += response.content();
  }
  EXPECT_TRUE(call.Finish().ok());
  EXPECT_EQ(text, Post("/v1/completions", R"({"prompt":"Once upon a time","max_tokens":3})").json()["choices"][0]["text"]);
}

TEST_F(GrpcTest, HealthAndDrain) {
  StartGrpc();
  const auto health = [&](const std::string& service) {
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    grpc::health::v1::HealthCheckResponse response;
    const Answer answer = Ask("/grpc.health.v1.Health/Check", request.SerializeAsString());
    if (!answer.status.ok()) return -static_cast<int>(answer.status.error_code());
    EXPECT_TRUE(response.ParseFromString(answer.messages.at(0)));
    return static_cast<int>(response.status());
  };
  for (const char* service : {"", "bantam.v1.Bantam", "inference.GRPCInferenceService"}) {
    while (health(service) != grpc::health::v1::HealthCheckResponse::SERVING) std::this_thread::yield();
  }
  EXPECT_EQ(health("other"), -StatusCode::NOT_FOUND);
  gateway_->Drain();
  const grpc::Status refused = Ask(kGenerate, Prompt().SerializeAsString()).status;
  EXPECT_EQ(refused.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("stops"));
  while (health("") != grpc::health::v1::HealthCheckResponse::NOT_SERVING) std::this_thread::yield();
}

TEST_F(GrpcTest, StopsWhileItAnswers) {
  StartGrpc();
  v1::GenerateRequest request = Prompt(400);
  request.set_options(R"({"min_tokens":400})");
  ClientCall call(channel_, kGenerate);
  ASSERT_TRUE(call.Write(request.SerializeAsString()));
  ASSERT_TRUE(call.Read());
  grpc_->Stop();
  while (call.Read()) continue;
  EXPECT_EQ(call.Finish().error_code(), StatusCode::UNAVAILABLE);
  AwaitNothing();
}

// Calls that begin, wait for their message, hand it over or answer just when the server stops: it stops, and each has an end.
TEST_F(GrpcTest, StopsAtAnyMoment) {
  Start();
  for (int round = 0; round < 12; ++round) {
    StartGrpcOnly();
    std::vector<std::thread> clients;
    std::atomic<int> ended = 0;
    for (int i = 0; i < 3; ++i) {
      clients.emplace_back([&, i] {
        while (ended < 3 * round + i) {
          // The library's client waits for a connection as long as it is let.
          ClientCall call(channel_, kGenerate, {}, /*deadline_ms=*/1000);
          if (i > 0) (void)call.Write(Prompt(3).SerializeAsString());
          if (i > 0) (void)call.Read();
          if (i == 0) call.context.TryCancel();
          (void)call.Finish();
          ++ended;
        }
      });
    }
    while (ended < 2 * round) std::this_thread::yield();
    grpc_->Stop();
    ended = 1 << 20;
    for (std::thread& client : clients) client.join();
    grpc_.reset();
  }
  AwaitNothing();
}

// Messages that cost little to send and much to read are refused before they are read.
TEST_F(GrpcTest, MessagesOfManyParts) {
  StartGrpc();
  const auto repeated = [](std::string_view piece, size_t bytes) {
    std::string all;
    while (all.size() + piece.size() <= bytes) all += piece;
    return all;
  };
  constexpr size_t kMuch = size_t{4} << 20;
  const auto told = [&](const std::string& path, const std::string& bytes) {
    const grpc::Status status = Ask(path, bytes).status;
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << path;
    return status.error_message();
  };
  using namespace std::string_view_literals;
  EXPECT_THAT(told(kInfer, repeated("\x2a\x00"sv, kMuch)), HasSubstr("inputs: expected at most 16"));
  EXPECT_THAT(told(kInfer, repeated("\x3a\x00"sv, kMuch)), HasSubstr("raw_input_contents: expected at most 16"));
  EXPECT_THAT(told(kInfer, repeated("\x22\x00"sv, kMuch)), HasSubstr("parameters: expected at most 256"));
  EXPECT_THAT(told(kGenerate, repeated("\x12\x00"sv, kMuch)), HasSubstr("messages: expected at most 4096"));
  EXPECT_THAT(told(kGenerate, "\x12\xc0\x9a\x0c" + repeated("\x1a\x00"sv, 200'000)), HasSubstr("tool_calls: expected at most 4096"));
  EXPECT_THAT(told("/bantam.v1.Bantam/Embed", repeated("\x12\x00"sv, kMuch)), HasSubstr("input: expected at most 2048"));
  // Fields that nobody knows, and numbers that are packed.
  EXPECT_THAT(told(kGenerate, repeated("\xf8\x7f\x00"sv, kMuch)), HasSubstr("fields"));
  inference::ModelInferRequest request;
  auto* input = request.add_inputs();
  for (int i = 0; i < 40'000; ++i) input->mutable_contents()->add_int64_contents(1);
  EXPECT_THAT(told(kInfer, request.SerializeAsString()), HasSubstr("fields"));
  // Names take little.
  inference::ModelReadyRequest named;
  named.set_name(std::string(5000, 'x'));
  EXPECT_EQ(Ask("/inference.GRPCInferenceService/ModelReady", named.SerializeAsString()).status.error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
}

TEST(GrpcRoom, NobodyShutsOthersOut) {
  HttpServerLimits limits;
  limits.connections_max = 300;
  limits.connections_per_address_max = 4;
  limits.bodies_bytes_max = 1000;
  GrpcRoom room(limits);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(room.Enter("10.0.0.1"));
  EXPECT_FALSE(room.Enter("10.0.0.1"));
  EXPECT_TRUE(room.Enter("10.0.0.2"));
  room.Leave("10.0.0.1");
  EXPECT_TRUE(room.Enter("10.0.0.1"));
  int own = 0;
  while (room.Enter(kGrpcOwnAddress)) ++own;
  EXPECT_EQ(own, 295);
  EXPECT_TRUE(room.Hold("10.0.0.1", 400));
  EXPECT_FALSE(room.Hold("10.0.0.1", 101));
  EXPECT_TRUE(room.Hold("10.0.0.1", 100));
  EXPECT_TRUE(room.Hold("10.0.0.2", 400));
  EXPECT_FALSE(room.Hold(kGrpcOwnAddress, 101));
  room.Drop("10.0.0.1", 500);
  EXPECT_TRUE(room.Hold(kGrpcOwnAddress, 101));
}

// Messages that wait have a bound together, and make room when they are read, however their calls end.
TEST_F(GrpcTest, BodiesMakeRoom) {
  HttpServerLimits limits;
  limits.bodies_bytes_max = 3000;
  StartGrpc({}, limits);
  v1::GenerateRequest request = Prompt(2);
  request.set_prompt(std::string(1400, ' '));
  v1::GenerateRequest large = request;
  large.set_prompt(std::string(3100, ' '));
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(Ask(kGenerate, large.SerializeAsString()).status.error_code(), StatusCode::UNAVAILABLE);
    EXPECT_NE(Ask(kGenerate, request.SerializeAsString()).status.error_code(), StatusCode::UNAVAILABLE);
    ClientCall gone(channel_, kGenerate);
    (void)gone.Write(request.SerializeAsString());
    gone.context.TryCancel();
    EXPECT_FALSE(gone.Finish().ok());
    EXPECT_TRUE(grpc_->AwaitIdle(20'000'000'000));
  }
}

TEST_F(GrpcTest, KeysAndMetadata) {
  GatewayOptions options;
  options.access.keys.push_back(std::make_shared<const ApiKey>(ApiKey{"one", Role::kUse, DigestOfSecret("secret"), {.models = {"other"}}}));
  options.access.keys.push_back(std::make_shared<const ApiKey>(ApiKey{"all", Role::kUse, DigestOfSecret("open"), {}}));
  StartGrpc(std::move(options));
  const std::string prompt = Prompt(3).SerializeAsString();
  EXPECT_EQ(Ask(kGenerate,
                [] {
                  v1::GenerateRequest named = Prompt(3);
                  named.set_model("stories");
                  return named.SerializeAsString();
                }(),
                {{"x-api-key", "secret"}})
                .status.error_code(),
            StatusCode::PERMISSION_DENIED);
  const auto with = [&](const std::string& name, const std::string& value) {
    return Ask(kGenerate, prompt, {{"x-api-key", "open"}, {name, value}});
  };
  EXPECT_EQ(with("x-bantam-priority", "highest").status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(with("x-bantam-priority", "low").status.ok());
  EXPECT_EQ(with("x-bantam-adapter", "none").status.error_code(), StatusCode::INVALID_ARGUMENT);
  const Answer confident = with("x-bantam-confidence-threshold", "0.5");
  ASSERT_TRUE(confident.status.ok());
  const auto responses = Responses(confident);
  ASSERT_GT(responses.size(), 1u);
  EXPECT_TRUE(responses[responses.size() - 2].has_confidence());
}

// Whoever watches is told once, and again when it changes.
TEST_F(GrpcTest, HealthIsTold) {
  StartGrpc();
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("bantam.v1.Bantam");
  // From the first moment on.
  EXPECT_TRUE(Ask("/grpc.health.v1.Health/Check", request.SerializeAsString()).status.ok());
  ClientCall watch(channel_, "/grpc.health.v1.Health/Watch");
  ASSERT_TRUE(watch.Write(request.SerializeAsString()));
  const auto next = [&] {
    grpc::health::v1::HealthCheckResponse response;
    EXPECT_TRUE(response.ParseFromString(watch.Read().value_or("\xff")));
    return response.status();
  };
  EXPECT_EQ(next(), grpc::health::v1::HealthCheckResponse::SERVING);
  // Some looks later there is still nothing to be said.
  for (int i = 0; i < 3; ++i) {
    ClientCall slow(channel_, "/grpc.health.v1.Health/Watch", {}, /*deadline_ms=*/250);
    ASSERT_TRUE(slow.Write(request.SerializeAsString()));
    EXPECT_TRUE(slow.Read());
    EXPECT_FALSE(slow.Read());
  }
  gateway_->Drain();
  EXPECT_EQ(next(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  // It is nobody whom a server that drains waits for.
  EXPECT_TRUE(grpc_->AwaitIdle(0));
  request.set_service("other");
  ClientCall other(channel_, "/grpc.health.v1.Health/Watch");
  ASSERT_TRUE(other.Write(request.SerializeAsString()));
  grpc::health::v1::HealthCheckResponse response;
  ASSERT_TRUE(response.ParseFromString(other.Read().value()));
  EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVICE_UNKNOWN);
}

TEST_F(GrpcTest, DescribesItself) {
  StartGrpc();
  for (const char* version : {"v1", "v1alpha"}) {
    ClientCall call(channel_, std::string("/grpc.reflection.") + version + ".ServerReflection/ServerReflectionInfo");
    const auto ask = [&](auto set) {
      grpc::reflection::v1::ServerReflectionRequest request;
      set(request);
      EXPECT_TRUE(call.Write(request.SerializeAsString()));
      grpc::reflection::v1::ServerReflectionResponse response;
      EXPECT_TRUE(response.ParseFromString(call.Read().value_or("")));
      return response;
    };
    std::vector<std::string> names;
    const auto listed = ask([](auto& request) { request.set_list_services(""); });
    for (const auto& one : listed.list_services_response().service()) names.push_back(one.name());
    EXPECT_THAT(names, ElementsAre("bantam.v1.Bantam", "inference.GRPCInferenceService", "grpc.health.v1.Health",
                                   "grpc.reflection.v1.ServerReflection"));
    const auto file = ask([](auto& request) { request.set_file_containing_symbol("bantam.v1.Bantam.Generate"); });
    google::protobuf::FileDescriptorProto proto;
    ASSERT_EQ(file.file_descriptor_response().file_descriptor_proto_size(), 1);
    ASSERT_TRUE(proto.ParseFromString(file.file_descriptor_response().file_descriptor_proto(0)));
    EXPECT_EQ(proto.service(0).method_size(), 4);
    EXPECT_EQ(ask([](auto& request) { request.set_file_by_filename("none.proto"); }).error_response().error_code(), 5);
  }
}

TEST_F(GrpcTest, Models) {
  StartGrpc();
  const auto models = AskOne<v1::ModelsResponse>("/bantam.v1.Bantam/Models", v1::ModelsRequest());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).name(), "stories");
  EXPECT_EQ(models.models(0).aliases(0), "default");
  EXPECT_EQ(models.models(0).context(), 512u);
  EXPECT_TRUE(models.models(0).generates());
  v1::EmbedRequest embed;
  embed.add_input("x");
  EXPECT_EQ(Ask("/bantam.v1.Bantam/Embed", embed.SerializeAsString()).status.error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(GrpcTest, InferenceProtocol) {
  StartGrpc();
  const std::string service = "/inference.GRPCInferenceService/";
  EXPECT_TRUE(AskOne<inference::ServerLiveResponse>(service + "ServerLive", inference::ServerLiveRequest()).live());
  EXPECT_TRUE(AskOne<inference::ServerReadyResponse>(service + "ServerReady", inference::ServerReadyRequest()).ready());
  EXPECT_EQ(AskOne<inference::ServerMetadataResponse>(service + "ServerMetadata", inference::ServerMetadataRequest()).version(), "1.2.3");
  inference::ModelReadyRequest named;
  named.set_name("stories");
  EXPECT_TRUE(AskOne<inference::ModelReadyResponse>(service + "ModelReady", named).ready());
  inference::ModelMetadataRequest of;
  of.set_name("default");
  const auto metadata = AskOne<inference::ModelMetadataResponse>(service + "ModelMetadata", of);
  EXPECT_EQ(metadata.name(), "stories");
  EXPECT_EQ(metadata.inputs(0).name(), "text_input");
  EXPECT_EQ(metadata.outputs(0).datatype(), "BYTES");

  inference::ModelInferRequest request;
  request.set_model_name("stories");
  request.set_id("7");
  (*request.mutable_parameters())["max_tokens"].set_int64_param(12);
  auto* input = request.add_inputs();
  input->set_name("text_input");
  input->set_datatype("BYTES");
  input->add_shape(1);
  input->mutable_contents()->add_bytes_contents("Once upon a time");
  const auto answer = AskOne<inference::ModelInferResponse>(kInfer, request);
  const std::string text = Post("/v1/completions", R"({"prompt":"Once upon a time","max_tokens":12})").json()["choices"][0]["text"];
  EXPECT_EQ(answer.id(), "7");
  EXPECT_EQ(answer.outputs(0).name(), "text_output");
  EXPECT_THAT(answer.outputs(0).shape(), ElementsAre(1));
  EXPECT_THAT(answer.outputs(0).contents().bytes_contents(), ElementsAre(text));
  EXPECT_EQ(answer.parameters().at("generated_tokens").int64_param(), 12);
  // As Triton's clients send it: behind its length.
  input->clear_contents();
  request.add_raw_input_contents(std::string("\x10\0\0\0", 4) + "Once upon a time");
  const auto raw = AskOne<inference::ModelInferResponse>(kInfer, request);
  ASSERT_EQ(raw.raw_output_contents_size(), 2);
  EXPECT_EQ(raw.raw_output_contents(0).substr(4), text);
  EXPECT_EQ(static_cast<size_t>(static_cast<unsigned char>(raw.raw_output_contents(0)[0])), text.size());
  // Only what is asked for.
  request.add_outputs()->set_name("finish_reason");
  const auto reason = AskOne<inference::ModelInferResponse>(kInfer, request);
  ASSERT_EQ(reason.outputs_size(), 1);
  EXPECT_EQ(reason.outputs(0).name(), "finish_reason");
  const auto code = [&](auto change) {
    inference::ModelInferRequest changed = request;
    change(changed);
    return Ask(kInfer, changed.SerializeAsString()).status.error_code();
  };
  EXPECT_EQ(code([](auto& changed) { changed.set_raw_input_contents(0, "\x10"); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& changed) { changed.set_raw_input_contents(0, std::string("\x02\0\0\0\xff\xfe", 6)); }),
            StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& changed) { changed.add_raw_input_contents("x"); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& changed) { changed.mutable_inputs(0)->set_shape(0, -1); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& changed) { changed.mutable_outputs(0)->set_name("other"); }), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code([](auto& changed) { changed.set_model_version("2"); }), StatusCode::NOT_FOUND);
  EXPECT_EQ(code([](auto& changed) { changed.set_model_version("1"); }), StatusCode::OK);
  named.set_version("2");
  EXPECT_EQ(Ask(service + "ModelReady", named.SerializeAsString()).status.error_code(), StatusCode::NOT_FOUND);
}

// Models that read whole texts, by both services, in the numbers of HTTP.
TEST_F(GrpcTest, VectorsAndClasses) {
  StartCatalog({{.name = "vectors", .path = "vectors/nomic-bert"}, {.name = "classes", .path = "classes/bert"}});
  StartGrpcOnly();
  const std::vector<std::string> texts = {"the pump leaks", "hot water"};
  v1::EmbedRequest embed;
  inference::ModelInferRequest infer;
  auto* input = infer.add_inputs();
  input->set_name("text_input");
  input->set_datatype("BYTES");
  input->add_shape(2);
  for (const std::string& text : texts) {
    embed.add_input(text);
    input->mutable_contents()->add_bytes_contents(text);
  }
  const Json vectors = Post("/v1/embeddings", R"({"model":"vectors","input":["the pump leaks","hot water"]})").json();
  const auto embedded = AskOne<v1::EmbedResponse>("/bantam.v1.Bantam/Embed", embed);
  infer.set_model_name("vectors");
  const auto inferred = AskOne<inference::ModelInferResponse>(kInfer, infer);
  ASSERT_EQ(inferred.outputs_size(), 1);
  EXPECT_EQ(inferred.outputs(0).name(), "embedding");
  const Json first = vectors["data"][0]["embedding"];
  ASSERT_EQ(embedded.embeddings_size(), 2);
  ASSERT_EQ(inferred.outputs(0).contents().fp32_contents_size(), static_cast<int>(2 * first.size()));
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(embedded.embeddings(0).values(static_cast<int>(i)), first[i].get<float>());
    EXPECT_EQ(inferred.outputs(0).contents().fp32_contents(static_cast<int>(i)), first[i].get<float>());
  }
  // What would change the form of the tensors is refused, not answered by none.
  (*infer.mutable_parameters())["encoding_format"].set_string_param("base64");
  EXPECT_EQ(Ask(kInfer, infer.SerializeAsString()).status.error_code(), StatusCode::INVALID_ARGUMENT);
  infer.clear_parameters();

  v1::ClassifyRequest classify;
  classify.set_model("classes");
  for (const std::string& text : texts) classify.add_classify(text);
  classify.set_top_n(1);
  const auto classified = AskOne<v1::ClassifyResponse>("/bantam.v1.Bantam/Classify", classify);
  infer.set_model_name("classes");
  const auto labels = AskOne<inference::ModelInferResponse>(kInfer, infer);
  ASSERT_EQ(labels.outputs_size(), 2);
  ASSERT_EQ(classified.labels_size(), 2);
  const auto http = Post("/v2/models/classes/versions/1/infer",
                         R"({"inputs":[{"name":"text_input","datatype":"BYTES","shape":[2],"data":["the pump leaks","hot water"]}]})");
  ASSERT_EQ(http.status, 200) << http.body;
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(labels.outputs(0).contents().bytes_contents(i), classified.labels(i).labels(0).name());
    EXPECT_FLOAT_EQ(labels.outputs(1).contents().fp32_contents(i), static_cast<float>(classified.labels(i).labels(0).score()));
    EXPECT_EQ(http.json()["outputs"][0]["data"][i], classified.labels(i).labels(0).name());
  }
  (*infer.mutable_parameters())["top_n"].set_int64_param(2);
  EXPECT_EQ(Ask(kInfer, infer.SerializeAsString()).status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Get("/v2/models/classes/versions/1/ready").status, 200);
  EXPECT_EQ(Get("/v2/models/classes/versions/2").status, 404);
  EXPECT_EQ(Get("/v2/models/classes/versions/1").json()["outputs"][0]["name"], "label");
}

TEST_F(GrpcTest, Tls) {
  const std::string folder = ::testing::TempDir();
  const testing::Certificate own = testing::MakeCertificate("IP:127.0.0.1");
  const testing::Certificate client = testing::MakeCertificate("DNS:client.test");
  const auto pem_of = [](const testing::Certificate& certificate) {
    BIO* bio = ::BIO_new(::BIO_s_mem());
    EXPECT_EQ(::PEM_write_bio_PrivateKey(bio, certificate.key.get(), nullptr, nullptr, 0, nullptr, nullptr), 1);
    char* bytes = nullptr;
    const long size = ::BIO_get_mem_data(bio, &bytes);
    std::string pem(bytes, static_cast<size_t>(size));
    ::BIO_free(bio);
    return pem;
  };
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder + name) << text;
    return folder + name;
  };
  const TlsOptions tls = {write("grpc.crt", own.pem), write("grpc.key", pem_of(own)), write("grpc.clients", client.pem)};
  Start();
  StartGrpcOnly({}, tls);
  EXPECT_EQ(Ask(kGenerate, Prompt(2).SerializeAsString()).status.error_code(), StatusCode::UNAVAILABLE);
  channel_ = MakeChannel(grpc::SslCredentials({.pem_root_certs = own.pem, .pem_private_key = "", .pem_cert_chain = ""}));
  EXPECT_FALSE(Ask(kGenerate, Prompt(2).SerializeAsString()).status.ok());
  channel_ =
      MakeChannel(grpc::SslCredentials({.pem_root_certs = own.pem, .pem_private_key = pem_of(client), .pem_cert_chain = client.pem}));
  const grpc::Status status = Ask(kGenerate, Prompt(2).SerializeAsString()).status;
  EXPECT_TRUE(status.ok()) << status.error_message();
  // Files that are damaged change nothing, though the library looks at them by itself; what is good is taken up, and nothing between.
  write("grpc.key", "no key");
  EXPECT_FALSE(grpc_->UseTls(tls).ok());
  const testing::Certificate next = testing::MakeCertificate("IP:127.0.0.1");
  const TlsOptions other = {write("next.crt", next.pem), write("next.key", pem_of(next)), tls.client_certificate_file};
  EXPECT_FALSE(grpc_->UseTls({other.certificate_file, other.key_file, ""}).ok());
  const auto trusts = [&](const testing::Certificate& root) {
    channel_ =
        MakeChannel(grpc::SslCredentials({.pem_root_certs = root.pem, .pem_private_key = pem_of(client), .pem_cert_chain = client.pem}));
    return Ask(kGenerate, Prompt(2).SerializeAsString()).status.ok();
  };
  EXPECT_TRUE(trusts(own));
  ASSERT_TRUE(grpc_->UseTls(other).ok());
  while (!trusts(next)) EXPECT_EQ(grpc_->UseTls(tls).ok(), false);
  EXPECT_FALSE(trusts(own));
}

TEST_F(GrpcTest, PlacesThatCannotBe) {
  StartGrpc();
  EXPECT_EQ(GrpcServer::Start({.address = "nowhere"}, *gateway_, clock_).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(GrpcServer::Start({.port = grpc_->port()}, *gateway_, clock_).error().code(), Code::kUnavailable);
}

}  // namespace
}  // namespace bantam
