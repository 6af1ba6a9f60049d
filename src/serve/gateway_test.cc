#include "serve/gateway.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/rng.h"
#include "engine/session.h"
#include "engine/text_request.h"
#include "formats/gguf.h"
#include "model/load.h"
#include "model/vocabulary.h"
#include "serve/openapi.h"
#include "serve/routes.h"
#include "testing/gateway_fixture.h"
#include "testing/http_client.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using testing::Ask;
using testing::ClientSocket;
using ::testing::ElementsAre;
using testing::GatewayTest;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using testing::kHello;
using ::testing::Not;
using ::testing::StartsWith;

TEST_F(GatewayTest, ChatsWholeAndStreamed) {
  Start();
  const std::string members = std::string(kHello) + R"(,"max_tokens":20,"model":"stories")";
  const HttpAnswer whole = Chat(members);
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json json = whole.json();
  EXPECT_EQ(json["object"], "chat.completion");
  EXPECT_EQ(json["model"], "stories");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(json["usage"]["completion_tokens"], 20);
  EXPECT_EQ(json["usage"]["total_tokens"], json["usage"]["prompt_tokens"].get<int>() + 20);
  EXPECT_FALSE(whole.fields.at("x-request-id").empty());

  const HttpAnswer streamed = Chat(members + R"(,"stream":true,"stream_options":{"include_usage":true})", "x-request-id: mine-1\r\n");
  ASSERT_EQ(streamed.status, 200);
  EXPECT_TRUE(streamed.whole);
  EXPECT_EQ(streamed.fields.at("content-type"), "text/event-stream");
  EXPECT_EQ(streamed.fields.at("x-request-id"), "mine-1");
  const std::vector<std::string> events = streamed.Lines("data: ");
  ASSERT_GT(events.size(), 3u);
  EXPECT_EQ(events.back(), "[DONE]");
  std::string text;
  std::set<std::string> ids;
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const Json chunk = ParseJson(events[i]).value();
    ids.insert(chunk["id"].get<std::string>());
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    EXPECT_EQ(JsonMember(chunk["choices"][0]["delta"], "role").is_null(), i > 0);
    text += JsonText(chunk["choices"][0]["delta"], "content").value_or("");
    EXPECT_EQ(chunk["choices"][0]["finish_reason"].is_null(), i + 3 < events.size());
  }
  EXPECT_EQ(ids.size(), 1u);
  EXPECT_EQ(text, json["choices"][0]["message"]["content"]);
  const Json last = ParseJson(events[events.size() - 2]).value();
  EXPECT_TRUE(last["choices"].empty());
  EXPECT_EQ(last["usage"]["completion_tokens"], 20);
}

TEST_F(GatewayTest, SeveralChoicesSeedsAndStops) {
  Start();
  const HttpAnswer several = Chat(std::string(kHello) + R"(,"n":3,"temperature":1,"seed":7,"max_tokens":8)");
  ASSERT_EQ(several.status, 200) << several.body;
  ASSERT_EQ(several.json()["choices"].size(), 3u);
  EXPECT_EQ(several.json()["usage"]["completion_tokens"], 24);
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"n":3,"temperature":1,"seed":7,"max_tokens":8)").json()["choices"], several.json()["choices"]);
  const std::string text = Chat(std::string(kHello) + R"(,"max_tokens":40)").json()["choices"][0]["message"]["content"];
  const std::string stop = text.substr(10, 5);
  const Json stopped = Chat(std::string(kHello) + R"(,"max_tokens":40,"stop":)" + Json(stop).dump()).json()["choices"][0];
  EXPECT_EQ(stopped["message"]["content"], text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped["finish_reason"], "stop");
  EXPECT_EQ(stopped["stop_reason"], stop);
}

TEST_F(GatewayTest, Logprobs) {
  Start();
  const HttpAnswer chat = Chat(std::string(kHello) + R"(,"max_tokens":5,"logprobs":true,"top_logprobs":2)");
  const Json content = chat.json()["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 5u);
  std::string text;
  for (const Json& token : content) {
    ASSERT_EQ(token["top_logprobs"].size(), 2u);
    // Greedy: the likeliest is the one that was taken.
    EXPECT_EQ(token["top_logprobs"][0]["token"], token["token"]);
    for (const Json& byte : token["bytes"]) text += static_cast<char>(byte.get<int>());
  }
  EXPECT_THAT(text, HasSubstr(chat.json()["choices"][0]["message"]["content"].get<std::string>()));
  const Json completion = Post("/v1/completions", R"({"prompt":"Once upon","max_tokens":4,"logprobs":1})").json()["choices"][0];
  EXPECT_EQ(completion["logprobs"]["tokens"].size(), 4u);
  EXPECT_EQ(completion["logprobs"]["text_offset"][0], 0);
}

std::vector<Json> CompletionEvents(const HttpAnswer& answer) {
  std::vector<Json> events;
  for (const std::string& data : answer.Lines("data: ")) {
    if (data != "[DONE]") events.push_back(ParseJson(data).value());
  }
  return events;
}

// What evaluation tools ask: the probabilities of a text's own tokens.
TEST_F(GatewayTest, LogprobsOfThePrompt) {
  Start();
  const std::string asked = R"({"prompt":"Once upon a time","echo":true,"logprobs":1,"max_tokens":)";
  const Json scored = Post("/v1/completions", asked + "0}").json()["choices"][0];
  EXPECT_EQ(scored["text"], "Once upon a time");
  EXPECT_EQ(scored["finish_reason"], "length");
  const Json& logprobs = scored["logprobs"];
  const size_t tokens = logprobs["tokens"].size();
  ASSERT_GT(tokens, 4u);
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  // The vocabulary's first token has no text.
  EXPECT_EQ(logprobs["text_offset"][0], 0);
  EXPECT_EQ(logprobs["text_offset"][1], 0);
  for (size_t i = 1; i < tokens; ++i) {
    EXPECT_LE(logprobs["token_logprobs"][i].get<double>(), 0);
    EXPECT_EQ(logprobs["top_logprobs"][i].size(), 1u);
    EXPECT_LT(logprobs["text_offset"][i].get<size_t>(), 16u);
  }
  // With an answer behind: the same, and the answer's tokens begin where the prompt's text ends.
  const Json longer = Post("/v1/completions", asked + "3}").json()["choices"][0]["logprobs"];
  ASSERT_EQ(longer["tokens"].size(), tokens + 3);
  for (size_t i = 0; i < tokens; ++i) EXPECT_EQ(longer["token_logprobs"][i], logprobs["token_logprobs"][i]);
  EXPECT_EQ(longer["text_offset"][tokens], 16);
  // What the model said of the first token behind the prompt is what it says when that token is the prompt's.
  const Json whole = Post("/v1/completions", R"({"prompt":"Once upon a time,","echo":true,"logprobs":1,"max_tokens":0})").json();
  EXPECT_EQ(longer["tokens"][tokens], ",");
  EXPECT_EQ(whole["choices"][0]["logprobs"]["token_logprobs"][tokens], longer["token_logprobs"][tokens]);
  const HttpAnswer streamed = Post("/v1/completions", asked + R"(3,"stream":true})");
  std::vector<Json> pieces;
  for (const Json& event : CompletionEvents(streamed)) {
    for (const Json& one : event["choices"][0]["logprobs"]["token_logprobs"]) pieces.push_back(one);
  }
  EXPECT_EQ(Json(pieces), longer["token_logprobs"]);
}

TEST_F(GatewayTest, SeveralPrompts) {
  Start();
  const auto answer_to = [&](const std::string& prompt, const std::string& more) {
    return Post("/v1/completions", R"({"max_tokens":6,"prompt":)" + prompt + more + "}").json();
  };
  const Json first = answer_to(R"("Once upon a time")", R"(,"n":2)");
  const Json second = answer_to(R"("The little dog")", R"(,"n":2)");
  const Json both = answer_to(R"(["Once upon a time","The little dog"])", R"(,"n":2)");
  ASSERT_EQ(both["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(both["choices"][i]["index"], i);
    EXPECT_EQ(both["choices"][i]["text"], (i < 2 ? first : second)["choices"][i % 2]["text"]);
  }
  for (const char* count : {"prompt_tokens", "completion_tokens"}) {
    EXPECT_EQ(both["usage"][count].get<int>(), first["usage"][count].get<int>() + second["usage"][count].get<int>()) << count;
  }
  const HttpAnswer streamed =
      Post("/v1/completions", R"({"max_tokens":6,"prompt":["Once upon a time",[1,403,407]],"stream":true,"echo":true})");
  std::string texts[2];
  for (const Json& event : CompletionEvents(streamed)) texts[event["choices"][0]["index"].get<size_t>()] += event["choices"][0]["text"];
  EXPECT_EQ(texts[0], "Once upon a time" + first["choices"][0]["text"].get<std::string>());
  EXPECT_FALSE(texts[1].empty());
  // One that cannot be taken: none is.
  const HttpAnswer refused = Post("/v1/completions", R"({"prompt":["Once",[]],"max_tokens":6})");
  EXPECT_EQ(refused.status, 400) << refused.body;
}

TEST_F(GatewayTest, Completions) {
  Start();
  const std::string prompts[] = {R"("Once upon a time")", R"(["Once upon a time"])"};
  std::set<std::string> texts;
  for (const std::string& prompt : prompts) {
    const HttpAnswer answer = Post("/v1/completions", R"({"max_tokens":12,"prompt":)" + prompt + "}");
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.json()["object"], "text_completion");
    texts.insert(answer.json()["choices"][0]["text"].get<std::string>());
  }
  EXPECT_THAT(texts, ElementsAre(StartsWith(", there was")));
  const HttpAnswer streamed = Post("/v1/completions", R"({"max_tokens":12,"prompt":"Once upon a time","stream":true})");
  std::string text;
  for (const Json& event : CompletionEvents(streamed)) text += event["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(text, *texts.begin());
}

// Errors name what is wrong; what a client says is never the server's fault.
TEST_F(GatewayTest, WrongRequests) {
  Start();
  struct Case {
    std::string target;
    std::string body;
    int status;
    std::string param;
    std::string says;
  };
  const std::string chat = "/v1/chat/completions";
  std::string many = R"("a")";
  for (int i = 0; i < 64; ++i) many += R"(,"a")";
  const std::string hello = kHello;
  const Case kCases[] = {
      {chat, "", 400, "", "not JSON"},
      {chat, "[1]", 400, "", "expected an object"},
      {chat, "{\"a\":\"\xff\"}", 400, "", "not JSON"},
      {chat, R"({"a":1,"a":2})", 400, "", ""},
      {chat, "{}", 400, "messages", "a list"},
      {chat, R"({"messages":[]})", 400, "messages", "a list"},
      {chat, R"({"messages":[{"role":"king","content":"x"}]})", 400, "messages[0].role", "\"user\""},
      {chat, R"({"messages":[{"role":"user"}]})", 400, "messages[0].content", "a text"},
      {chat, R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]})", 400, "messages[0].content[0]",
       "text only"},
      {chat, "{" + hello + R"(,"tempratur":1})", 400, "tempratur", "temperature"},
      {chat, "{" + hello + R"(,"temperature":"hot"})", 400, "temperature", "a number"},
      {chat, "{" + hello + R"(,"functions":[]})", 400, "functions", "has none"},
      {chat, "{" + hello + R"(,"max_tokens":0})", 400, "max_tokens", "from 1"},
      {chat, "{" + hello + R"(,"n":17})", 400, "n", "16"},
      {chat, "{" + hello + R"(,"stream":1})", 400, "stream", "true or false"},
      {chat, "{" + hello + R"(,"stream_options":{}})", 400, "stream_options", "stream"},
      {chat, "{" + hello + R"(,"model":"other"})", 404, "", "there are: stories"},
      {chat, "{" + hello + R"(,"model":7})", 400, "model", "name"},
      {chat, "{" + hello + R"(,"adapter":"none"})", 400, "adapter", "none"},
      {chat, "{" + hello + R"(,"tools":{}})", 400, "tools", "a list"},
      {chat, "{" + hello + R"(,"tools":[{"type":"function","function":{"name":"a b"}}]})", 400, "tools[0].function.name", "letters"},
      {chat, "{" + hello + R"(,"tool_choice":"required"})", 400, "tool_choice", "tools"},
      {chat, "{" + hello + R"(,"response_format":{"type":"xml"}})", 400, "response_format", "json_schema"},
      {chat, "{" + hello + R"(,"response_format":{"type":"json_schema","json_schema":{"schema":{"uniqueItems":true,"type":"array"}}}})",
       400, "", "uniqueItems"},
      {chat, R"({"prompt":"x"})", 400, "prompt", "/v1/completions"},
      {chat, R"({"messages":[{"role":"user","content":")" + std::string(100'000, 'x') + R"("}]})", 400, "", "context"},
      {"/v1/completions", R"({"prompt":["a",1]})", 400, "prompt", "a text, or a list"},
      {"/v1/completions", R"({"prompt":[]})", 400, "", "no tokens"},
      {"/v1/completions", R"({"prompt":[)" + many + "]}", 400, "prompt", "at most 64"},
      {"/v1/completions", R"({"n":16,"prompt":["a","b","c","d","e"]})", 400, "n", "80 answers"},
      {"/v1/completions", R"({"prompt":[999999]})", 400, "prompt", ""},
      {"/v1/embeddings", R"({"input":"x"})", 400, "model", "no vectors"},
      {"/v1/nothing", "{}", 404, "", "/v1/nothing"},
      {"/v1/models", "{}", 405, "", "GET"},
      {"/tokenize", R"({"content":7})", 400, "content", "a text"},
      {"/detokenize", R"({"tokens":[99999]})", 400, "tokens", ""},
  };
  for (const Case& one : kCases) {
    const HttpAnswer answer = Post(one.target, one.body);
    EXPECT_EQ(answer.status, one.status) << one.body.substr(0, 200) << "\n" << answer.body;
    const Json error = answer.json()["error"];
    EXPECT_EQ(JsonText(error, "param").value_or(""), one.param) << answer.body;
    EXPECT_THAT(JsonText(error, "message").value_or(""), HasSubstr(one.says)) << one.body.substr(0, 200);
    EXPECT_FALSE(JsonText(error, "type").value_or("").empty());
  }
  EXPECT_EQ(Post("/v1/models", "{}").fields.at("allow"), "GET");
}

// Bodies that are damaged in every way: errors of clients, or answers.
TEST_F(GatewayTest, WhatClientsSendWithoutMeaningIt) {
  Start();
  const Json plain = Chat(std::string(kHello) + R"(,"max_tokens":6)").json()["choices"];
  for (const char* members :
       {R"("top_p":0,"temperature":1)", R"("functions":null,"audio":null,"prediction":null,"tools":null,"stop":null)"}) {
    EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":6,)" + members).json()["choices"], plain) << members;
  }
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"x","max_tokens":1,"suffix":null,"best_of":null})").status, 200);
}

TEST_F(GatewayTest, DamagedRequests) {
  Start();
  const std::string targets[] = {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat", "/api/generate", "/tokenize"};
  const std::string bodies[] = {
      R"({"input":[{"role":"user","content":[{"type":"input_text","text":"x"}]},{"type":"function_call","call_id":"a","name":"b",)"
      R"("arguments":"{}"},{"type":"function_call_output","call_id":"a","output":"y"}],)"
      R"("max_output_tokens":2,"text":{"format":{"type":"text"}}})",
      "{" + std::string(kHello) +
          R"(,"max_tokens":2,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]})",
      R"({"prompt":"a","options":{"num_predict":2},"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b",)"
      R"("input":{}}]}],"max_tokens":1})"};
  Rng rng(1);
  for (int i = 0; i < 400; ++i) {
    std::string body = bodies[rng.Next() % std::size(bodies)];
    for (size_t damage = rng.Next() % 3 + 1; damage > 0; --damage) {
      const size_t at = rng.Next() % body.size();
      constexpr std::string_view kBytes = "\"{}[]:,0e-\\\xff nt";
      if (rng.Next() % 3 == 0) {
        body.erase(at, 1 + rng.Next() % 8);
        if (body.empty()) break;
      } else {
        body[at] = kBytes[rng.Next() % kBytes.size()];
      }
    }
    const HttpAnswer answer = Post(targets[rng.Next() % std::size(targets)], body);
    EXPECT_TRUE(answer.whole && answer.status >= 200 && answer.status < 500) << answer.status << " " << body << "\n" << answer.body;
  }
}

TEST_F(GatewayTest, ToolsThatMustBeCalled) {
  Start();
  const std::string tools =
      R"(,"tools":[{"type":"function","function":{"name":"light","parameters":{"type":"object","properties":{"on":{"$ref":"#/$defs/b"}},)"
      R"("required":["on"],"additionalProperties":false,"$defs":{"b":{"type":"boolean"}}}}},)"
      R"({"type":"function","function":{"name":"blind","parameters":{"type":"object","properties":{"percent":{"type":"integer",)"
      R"("minimum":0,"maximum":9}},"required":["percent"],"additionalProperties":false}}}])";
  for (const char* choice : {"\"required\"", R"({"type":"function","function":{"name":"blind"}})"}) {
    const std::string members = std::string(kHello) + tools + R"(,"temperature":1,"seed":3,"tool_choice":)" + choice;
    const Json whole = Chat(members).json()["choices"][0];
    EXPECT_EQ(whole["finish_reason"], "tool_calls");
    EXPECT_TRUE(whole["message"]["content"].is_null());
    ASSERT_EQ(whole["message"]["tool_calls"].size(), 1u) << whole.dump();
    const Json call = whole["message"]["tool_calls"][0];
    EXPECT_THAT(call["id"].get<std::string>(), StartsWith("call_"));
    const Json arguments = ParseJson(call["function"]["arguments"].get<std::string>()).value();
    EXPECT_TRUE(call["function"]["name"] == "light" ? arguments["on"].is_boolean() : arguments["percent"].is_number_integer());
    if (choice[0] == '{') {
      EXPECT_EQ(call["function"]["name"], "blind");
    }
    Json streamed;
    std::string finish;
    for (const std::string& event : Chat(members + R"(,"stream":true)").Lines("data: ")) {
      if (event == "[DONE]") continue;
      const Json one = ParseJson(event).value()["choices"][0];
      if (one["delta"].contains("tool_calls")) streamed = one["delta"]["tool_calls"][0];
      finish = JsonText(one, "finish_reason").value_or(finish);
    }
    EXPECT_EQ(streamed["function"], call["function"]);
    EXPECT_EQ(streamed["index"], 0);
    EXPECT_EQ(finish, "tool_calls");
  }
  // What was called, and what came of it, goes into the next prompt; also where it is damaged.
  for (const char* arguments : {R"("{\"on\":true}")", R"("{\"on\":")", R"({"on":true})"}) {
    const HttpAnswer next =
        Chat(R"("messages":[{"role":"user","content":"x"},{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function",)"
             R"("function":{"name":"light","arguments":)" +
             std::string(arguments) + R"(}}]},{"role":"tool","tool_call_id":"1","content":"done"}],"max_tokens":2)");
    EXPECT_EQ(next.status, 200) << next.body;
  }
}

TEST_F(GatewayTest, StructuredOutput) {
  Start();
  const std::string schema =
      R"({"type":"object","properties":{"level":{"enum":["low","high"]}},"required":["level"],"additionalProperties":false})";
  const Json openai =
      Chat(std::string(kHello) + R"(,"temperature":1,"response_format":{"type":"json_schema","json_schema":{"name":"l","schema":)" +
           schema + "}}")
          .json()["choices"][0];
  const Json said = ParseJson(openai["message"]["content"].get<std::string>()).value();
  EXPECT_TRUE(said["level"] == "low" || said["level"] == "high");
  EXPECT_EQ(openai["finish_reason"], "stop");
  const Json ollama = Post("/api/chat", "{" + std::string(kHello) + R"(,"stream":false,"format":)" + schema + "}").json();
  EXPECT_TRUE(ParseJson(ollama["message"]["content"].get<std::string>()).value().contains("level"));
}

// Data of events, whose numbers go up by one and whose lines say the same type.
std::vector<Json> ResponseEvents(const HttpAnswer& answer) {
  std::vector<Json> events;
  const std::vector<std::string> types = answer.Lines("event: ");
  for (const std::string& data : answer.Lines("data: ")) {
    events.push_back(ParseJson(data).value());
    EXPECT_EQ(events.back()["sequence_number"], events.size() - 1);
    EXPECT_EQ(events.back()["type"], types[events.size() - 1]);
  }
  return events;
}

TEST_F(GatewayTest, ResponsesWholeAndStreamed) {
  Start();
  const std::string members = R"("input":"Once upon a time","instructions":"Tell.","max_output_tokens":12,"metadata":{"a":"b"})";
  const HttpAnswer whole = Post("/v1/responses", "{" + members + "}");
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json json = whole.json();
  EXPECT_EQ(json["object"], "response");
  EXPECT_EQ(json["status"], "incomplete");
  EXPECT_EQ(json["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(json["instructions"], "Tell.");
  EXPECT_EQ(json["metadata"]["a"], "b");
  EXPECT_EQ(json["usage"]["output_tokens"], 12);
  EXPECT_EQ(json["usage"]["total_tokens"], json["usage"]["input_tokens"].get<int>() + 12);
  ASSERT_EQ(json["output"].size(), 1u);
  const std::string text = json["output"][0]["content"][0]["text"];
  const Json chat =
      Chat(R"("messages":[{"role":"system","content":"Tell."},{"role":"user","content":"Once upon a time"}],"max_tokens":12)").json();
  EXPECT_EQ(text, chat["choices"][0]["message"]["content"]);
  EXPECT_EQ(json["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
  EXPECT_EQ(Post("/v1/responses/input_tokens", "{" + members + "}").json()["input_tokens"], json["usage"]["input_tokens"]);

  const std::vector<Json> events = ResponseEvents(Post("/v1/responses", "{" + members + R"(,"stream":true})"));
  std::vector<std::string> types;
  std::string streamed;
  for (const Json& event : events) {
    if (types.empty() || types.back() != event["type"]) types.push_back(event["type"].get<std::string>());
    if (event["type"] == "response.output_text.delta") streamed += event["delta"].get<std::string>();
  }
  EXPECT_THAT(types, ElementsAre("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
                                 "response.output_text.delta", "response.output_text.done", "response.content_part.done",
                                 "response.output_item.done", "response.incomplete"));
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(events[0]["response"]["status"], "in_progress");
  const Json& last = events.back()["response"];
  EXPECT_EQ(last["output"][0]["content"], json["output"][0]["content"]);
  EXPECT_EQ(last["id"], events[0]["response"]["id"]);
  EXPECT_EQ(Get("/v1/responses/" + last["id"].get<std::string>()).json(), last);
}

TEST_F(GatewayTest, ResponsesAreKeptAndGoneOnWith) {
  Start();
  const Json first = Post("/v1/responses", R"({"input":"Once upon a time","max_output_tokens":8})").json();
  const std::string id = first["id"];
  EXPECT_EQ(Get("/v1/responses/" + id).json(), first);
  const Json second = Post("/v1/responses", R"({"input":"And then?","max_output_tokens":8,"previous_response_id":")" + id + "\"}").json();
  EXPECT_EQ(second["previous_response_id"], id);
  const std::string said = first["output"][0]["content"][0]["text"];
  const Json chat = Chat(R"("messages":[{"role":"user","content":"Once upon a time"},{"role":"assistant","content":)" + Json(said).dump() +
                         R"(},{"role":"user","content":"And then?"}],"max_tokens":8)")
                        .json();
  EXPECT_EQ(second["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
  EXPECT_EQ(second["output"][0]["content"][0]["text"], chat["choices"][0]["message"]["content"]);
  const std::string items = "/v1/responses/" + second["id"].get<std::string>() + "/input_items";
  const Json all = Get(items + "?order=asc").json();
  ASSERT_EQ(all["data"].size(), 3u);
  EXPECT_EQ(all["data"][1], first["output"][0]);
  EXPECT_EQ(all["has_more"], false);
  const Json page = Get(items + "?limit=1&after=" + all["data"][1]["id"].get<std::string>()).json();
  ASSERT_EQ(page["data"].size(), 1u);
  EXPECT_EQ(page["data"][0], all["data"][0]);
  EXPECT_EQ(Get(items + "?limit=0").status, 400);
  EXPECT_EQ(Get(items + "?order=up").status, 400);
  EXPECT_EQ(Get(items + "?after=nobody").status, 400);
  EXPECT_EQ(Ask(server_->port(), "DELETE", "/v1/responses/" + id).json()["deleted"], true);
  EXPECT_EQ(Ask(server_->port(), "DELETE", "/v1/responses/" + id).status, 404);
  EXPECT_EQ(Get("/v1/responses/" + id).status, 404);
  // What was built on it stays.
  EXPECT_EQ(Get(items).json()["data"].size(), 3u);
  const HttpAnswer gone = Post("/v1/responses", R"({"input":"x","previous_response_id":")" + id + "\"}");
  EXPECT_EQ(gone.status, 400);
  EXPECT_EQ(gone.json()["error"]["param"], "previous_response_id");
  const Json unkept = Post("/v1/responses", R"({"input":"x","store":false,"max_output_tokens":2})").json();
  EXPECT_EQ(unkept["store"], false);
  EXPECT_EQ(Get("/v1/responses/" + unkept["id"].get<std::string>()).status, 404);
  EXPECT_EQ(Post("/v1/responses/" + id, "{}").status, 405);
}

// What breaks off is told, and kept, with what was written until then: where the server ends it, and where its client goes.
TEST_F(GatewayTest, ResponsesThatBreakOff) {
  Start();
  const std::string body = R"({"input":"Once upon a time","stream":true,"max_output_tokens":400})";
  const auto id_of = [](const std::string& bytes) { return bytes.substr(bytes.find("resp_"), std::string("resp_").size() + 24); };
  std::string id;
  HttpAnswer kept;
  // It may have ended just before.
  for (int tries = 0; tries < 20 && kept.json()["status"] != "cancelled"; ++tries) {
    ClientSocket client(server_->port());
    client.Send(testing::HttpRequestText("POST", "/v1/responses", body));
    id = id_of(client.ReceiveUntil("event: response.output_text.delta"));
    client.Reset();
    do {
      kept = Get("/v1/responses/" + id);
    } while (kept.status == 404);
  }
  EXPECT_EQ(kept.json()["status"], "cancelled");
  EXPECT_EQ(kept.json()["output"][0]["status"], "incomplete");
  EXPECT_FALSE(kept.json()["output"][0]["content"][0]["text"].get<std::string>().empty());
  // It can be gone on with.
  const HttpAnswer next = Post("/v1/responses", R"({"input":"And then?","max_output_tokens":4,"previous_response_id":")" + id + "\"}");
  EXPECT_EQ(next.status, 200) << next.body;
  ClientSocket client(server_->port());
  client.Send(testing::HttpRequestText("POST", "/v1/responses", body));
  std::string all = client.ReceiveUntil("event: response.output_text.delta");
  gateway_->CancelAll();
  all += client.ReceiveAll();
  const std::vector<Json> events = ResponseEvents(testing::ParseAnswer(all));
  std::string text;
  for (const Json& event : events) text += event["type"] == "response.output_text.delta" ? event["delta"].get<std::string>() : "";
  const Json& last = events.back();
  if (last["type"] == "response.failed") {
    EXPECT_EQ(last["response"]["error"]["code"], "server_error");
    EXPECT_EQ(last["response"]["output"][0]["status"], "incomplete");
  }
  EXPECT_EQ(last["response"]["output"][0]["content"][0]["text"], text);
  EXPECT_EQ(Get("/v1/responses/" + id_of(all)).json(), last["response"]);
}

TEST_F(GatewayTest, ResponsesOfOtherKeysAreNotSeen) {
  GatewayOptions options;
  for (const std::string name : {"one", "two"}) {
    options.access.keys.push_back(std::make_shared<const ApiKey>(ApiKey{name, Role::kUse, DigestOfSecret(name), {}}));
  }
  Start(std::move(options));
  const Json mine = Post("/v1/responses", R"({"input":"x","max_output_tokens":2})", "Authorization: Bearer one\r\n").json();
  const std::string path = "/v1/responses/" + mine["id"].get<std::string>();
  EXPECT_EQ(Get(path, "Authorization: Bearer one\r\n").status, 200);
  EXPECT_EQ(Get(path, "Authorization: Bearer two\r\n").status, 404);
  EXPECT_EQ(Ask(server_->port(), "DELETE", path, "", "Authorization: Bearer two\r\n").status, 404);
  EXPECT_EQ(
      Post("/v1/responses", R"({"input":"x","previous_response_id":)" + mine["id"].dump() + "}", "Authorization: Bearer two\r\n").status,
      400);
}

TEST_F(GatewayTest, ResponsesWithToolsAndSchemas) {
  Start();
  const std::string tool =
      R"("tools":[{"type":"function","name":"light","parameters":{"type":"object","properties":{"on":{"type":"boolean"}},)"
      R"("required":["on"],"additionalProperties":false}}],"tool_choice":"required")";
  const Json called = Post("/v1/responses", R"({"input":"x",)" + tool + "}").json();
  EXPECT_EQ(called["status"], "completed") << called.dump();
  const Json call = called["output"][0];
  EXPECT_EQ(call["type"], "function_call");
  EXPECT_TRUE(ParseJson(call["arguments"].get<std::string>()).value()["on"].is_boolean());
  const std::vector<Json> events = ResponseEvents(Post("/v1/responses", R"({"input":"x","stream":true,)" + tool + "}"));
  ASSERT_EQ(events.size(), 7u);
  EXPECT_EQ(events[3]["type"], "response.function_call_arguments.delta");
  EXPECT_EQ(events[4]["arguments"], call["arguments"]);
  EXPECT_EQ(events[5]["item"]["name"], "light");
  const Json next =
      Post("/v1/responses", R"({"input":[{"type":"function_call_output","call_id":)" + call["call_id"].dump() +
                                R"(,"output":"done"}],"max_output_tokens":4,"previous_response_id":)" + called["id"].dump() + "}")
          .json();
  EXPECT_EQ(next["usage"]["output_tokens"], 4) << next.dump();
  const Json formed =
      Post("/v1/responses", R"({"input":"x","text":{"format":{"type":"json_schema","name":"l","schema":{"enum":["on","off"]}}}})").json();
  const std::string text = formed["output"][0]["content"][0]["text"];
  EXPECT_TRUE(text == "\"on\"" || text == "\"off\"") << text;
  EXPECT_EQ(formed["text"]["format"]["name"], "l");
  const Json probable = Post("/v1/responses", R"({"input":"x","max_output_tokens":3,"include":["message.output_text.logprobs"]})").json();
  EXPECT_EQ(probable["output"][0]["content"][0]["logprobs"].size(), 3u) << probable.dump();
  const std::pair<const char*, const char*> kWrong[] = {{R"({"input":"x","max_output_tokens":0})", "max_output_tokens"},
                                                        {R"({"input":"x","background":true})", "background"},
                                                        {R"({"input":"x","store":1})", "store"},
                                                        {R"({"input":"x","tools":[{"type":"function","name":"a b"}]})", "tools[0].name"}};
  for (const auto& [body, param] : kWrong) {
    const HttpAnswer wrong = Post("/v1/responses", body);
    EXPECT_EQ(wrong.status, 400) << body;
    EXPECT_EQ(wrong.json()["error"]["param"], param) << wrong.body;
  }
}

TEST_F(GatewayTest, AnthropicMessages) {
  Start();
  const std::string members = std::string(kHello) + R"(,"model":"stories","system":"Tell.","max_tokens":12)";
  const HttpAnswer whole = Post("/v1/messages", "{" + members + "}");
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json json = whole.json();
  EXPECT_EQ(json["type"], "message");
  EXPECT_EQ(json["stop_reason"], "max_tokens");
  EXPECT_TRUE(json["stop_sequence"].is_null());
  EXPECT_EQ(json["usage"]["output_tokens"], 12);
  const HttpAnswer streamed = Post("/v1/messages", "{" + members + R"(,"stream":true})");
  std::string text;
  std::vector<std::string> types;
  for (const std::string& data : streamed.Lines("data: ")) {
    const Json event = ParseJson(data).value();
    if (types.empty() || types.back() != event["type"]) types.push_back(event["type"].get<std::string>());
    if (event["type"] == "content_block_delta") text += event["delta"]["text"].get<std::string>();
  }
  EXPECT_THAT(types, ElementsAre("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
                                 "message_stop"));
  EXPECT_EQ(text, json["content"][0]["text"]);
  const Json counted = Post("/v1/messages/count_tokens", "{" + std::string(kHello) + R"(,"model":"stories","system":"Tell."})").json();
  EXPECT_EQ(counted["input_tokens"], json["usage"]["input_tokens"].get<int>() + json["usage"]["cache_read_input_tokens"].get<int>());
  const HttpAnswer called =
      Post("/v1/messages", "{" + members +
                               R"(,"tools":[{"name":"f","input_schema":{"type":"object","additionalProperties":false}}],)"
                               R"("tool_choice":{"type":"any"},"max_tokens":60})");
  // The first max_tokens is not the only one.
  EXPECT_EQ(called.status, 400);
  const Json call = Post("/v1/messages", "{" + std::string(kHello) +
                                             R"(,"tools":[{"name":"f","input_schema":{"type":"object","additionalProperties":false}}],)"
                                             R"("tool_choice":{"type":"any"},"max_tokens":60})")
                        .json();
  EXPECT_EQ(call["stop_reason"], "tool_use") << call.dump();
  EXPECT_EQ(call["content"][0]["name"], "f");
  EXPECT_TRUE(call["content"][0]["input"].is_object());
  const HttpAnswer wrong = Post("/v1/messages", "{" + std::string(kHello) + "}");
  EXPECT_EQ(wrong.status, 400);
  EXPECT_EQ(wrong.json()["type"], "error");
  EXPECT_THAT(wrong.json()["error"]["message"].get<std::string>(), StartsWith("max_tokens"));
}

TEST_F(GatewayTest, OllamaChatsAndPrompts) {
  Start();
  const HttpAnswer streamed = Post("/api/chat", "{" + std::string(kHello) + R"(,"model":"stories:latest","options":{"num_predict":10}})");
  ASSERT_EQ(streamed.status, 200) << streamed.body;
  EXPECT_EQ(streamed.fields.at("content-type"), "application/x-ndjson");
  std::string text;
  const std::vector<std::string> lines = streamed.Lines("");
  for (const std::string& line : lines) text += ParseJson(line).value()["message"]["content"].get<std::string>();
  const Json last = ParseJson(lines.back()).value();
  EXPECT_EQ(last["done"], true);
  EXPECT_EQ(last["done_reason"], "length");
  EXPECT_EQ(last["eval_count"], 10);
  const Json whole = Post("/api/chat", "{" + std::string(kHello) + R"(,"stream":false,"options":{"num_predict":10}})").json();
  EXPECT_EQ(whole["message"]["content"], text);
  const Json raw = Post("/api/generate", R"({"prompt":"Once upon a time","raw":true,"stream":false,"options":{"num_predict":12}})").json();
  EXPECT_THAT(raw["response"].get<std::string>(), StartsWith(", there was"));
  // Who sends no word asks that the model be loaded.
  const Json loaded = Post("/api/chat", R"({"messages":[],"model":"stories"})").json();
  EXPECT_EQ(loaded["done_reason"], "load");
  EXPECT_EQ(loaded["message"]["content"], "");
  EXPECT_EQ(Post("/api/generate", R"({"model":"stories"})").json()["done_reason"], "load");
  EXPECT_EQ(Post("/api/generate", R"({"model":"other","prompt":""})").status, 404);
  EXPECT_EQ(Post("/api/generate", R"({"prompt":"","promt":""})").status, 400);
  const std::string probable = R"(,"logprobs":true,"top_logprobs":1,"options":{"num_predict":5})";
  const Json with = Post("/api/chat", "{" + std::string(kHello) + probable + R"(,"stream":false})").json();
  ASSERT_EQ(with["logprobs"].size(), 5u) << with.dump();
  EXPECT_EQ(with["logprobs"][0]["top_logprobs"].size(), 1u);
  Json pieces = Json::array();
  for (const std::string& line : Post("/api/chat", "{" + std::string(kHello) + probable + "}").Lines("")) {
    const Json json = ParseJson(line).value();
    for (const Json& token : JsonMember(json, "logprobs")) pieces.push_back(token);
  }
  EXPECT_EQ(pieces, with["logprobs"]);
  EXPECT_EQ(Post("/api/chat", "{" + std::string(kHello) + R"(,"options":{"num_predikt":1}})").json()["error"],
            "options: \"num_predikt\": no member of a request; the nearest is num_predict");
  EXPECT_EQ(Get("/api/tags").json()["models"][0]["name"], "stories");
  EXPECT_EQ(Get("/api/version").json()["version"], "1.2.3");
  EXPECT_EQ(Post("/api/show", R"({"model":"stories"})").json()["model_info"][".context_length"], 512);
}

// Every "$ref" of a document leads somewhere.
void CheckReferences(const Json& document, const Json& value) {
  if (value.is_array()) {
    for (const Json& one : value) CheckReferences(document, one);
  }
  if (!value.is_object()) return;
  if (const auto reference = JsonText(value, "$ref")) {
    ASSERT_THAT(*reference, StartsWith("#/"));
    EXPECT_TRUE(document.contains(Json::json_pointer(reference->substr(1)))) << *reference;
  }
  for (const auto& [name, inner] : value.items()) CheckReferences(document, inner);
}

std::string WithStar(std::string path) {
  const size_t open = path.find('{');
  return open == std::string::npos ? path : path.replace(open, path.find('}') - open + 1, "*");
}

TEST_F(GatewayTest, OpenApiHasTheRoutesThatThereAre) {
  Start();
  const HttpAnswer answer = Get("/openapi.json");
  const Json document = answer.json();
  EXPECT_EQ(answer.fields.at("content-type"), "application/json");
  EXPECT_EQ(document["openapi"], "3.1.0");
  EXPECT_EQ(document["info"]["version"], "1.2.3");
  CheckReferences(document, document);
  std::set<std::string> described;
  std::set<std::string> names;
  for (const auto& [path, item] : document["paths"].items()) {
    for (const auto& [method, operation] : item.items()) {
      std::string upper = method;
      for (char& c : upper) c = static_cast<char>(c - 'a' + 'A');
      described.insert(upper + " " + WithStar(path));
      EXPECT_TRUE(names.insert(operation["operationId"].get<std::string>()).second) << path;
      // What may be asked without a key says so.
      const RouteMatch match = FindRoute(upper, path);
      ASSERT_NE(match.route, nullptr) << path;
      EXPECT_EQ(operation.contains("security"), match.route->role == Role::kAnybody) << path;
      const std::string error = match.route->dialect.name == "openai"   ? "OpenAi"
                                : match.route->dialect.name == "ollama" ? "Ollama"
                                : match.route->dialect.name == "kserve" ? "Ollama"  // the same shape
                                                                        : "Anthropic";
      EXPECT_EQ(operation["responses"]["403"]["$ref"], "#/components/responses/" + error + "403") << path;
      EXPECT_EQ(operation.contains("requestBody"), upper == "POST") << path;
    }
  }
  std::set<std::string> routes;
  for (const Route& route : AllRoutes()) routes.insert(std::string(route.method) + " " + std::string(route.path));
  EXPECT_EQ(described, routes);
}

// The members that a document names are those that are read, and no other is.
TEST_F(GatewayTest, OpenApiHasTheMembersThatAreRead) {
  Start();
  const Json document = ParseJson(OpenApiDocument("1")).value();
  const auto schema = [&](const std::string& path) -> const Json& {
    const Json& content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    return document[Json::json_pointer(content["$ref"].get<std::string>().substr(1))];
  };
  const std::pair<std::string, std::string> kBodies[] = {
      {"/v1/chat/completions", "{" + std::string(kHello) + R"(,"max_tokens":1})"},
      {"/v1/completions", R"({"prompt":"x","max_tokens":1})"},
      {"/v1/responses", R"({"input":"x","max_output_tokens":1})"},
      {"/v1/responses/input_tokens", R"({"input":"x"})"},
      {"/v1/messages", "{" + std::string(kHello) + R"(,"max_tokens":1})"},
      {"/v1/messages/count_tokens", "{" + std::string(kHello) + "}"},
      {"/api/chat", "{" + std::string(kHello) + R"(,"options":{"num_predict":1}})"},
      {"/api/generate", R"({"prompt":"x","options":{"num_predict":1}})"},
      {"/tokenize", R"({"content":"x"})"},
      {"/detokenize", R"({"tokens":[1]})"},
      {"/completion", R"({"prompt":"x","n_predict":1})"},
  };
  for (const auto& [path, text] : kBodies) {
    const Json whole = ParseJson(text).value();
    EXPECT_EQ(schema(path)["additionalProperties"], false) << path;
    for (const auto& [name, described] : schema(path)["properties"].items()) {
      Json body = whole;
      if (!body.contains(name)) body[name] = nullptr;
      const HttpAnswer answer = Post(path, body.dump());
      EXPECT_EQ(answer.status, 200) << path << " " << name << " " << answer.body;
    }
    Json body = whole;
    body["membre"] = nullptr;
    EXPECT_THAT(Post(path, body.dump()).body, HasSubstr("no member of a request")) << path;
  }
  for (const auto& [name, described] : document["components"]["schemas"]["OllamaOptions"]["properties"].items()) {
    const HttpAnswer answer =
        Post("/api/chat", Json{{"messages", Json::array({{{"role", "user"}, {"content", "x"}}})}, {"options", {{name, nullptr}}}}.dump());
    EXPECT_EQ(answer.status, 200) << name << " " << answer.body;
  }
  // What administers models changes nothing where there is no such model.
  for (const char* path : {"/admin/models/load", "/admin/models/swap", "/admin/models/unload", "/admin/models/rollback",
                           "/admin/models/pin", "/admin/models/unpin"}) {
    for (const auto& [name, described] : schema(path)["properties"].items()) {
      const HttpAnswer answer = Post(path, Json{{"model", "nobody"}, {name, name == "model" ? Json("nobody") : Json(nullptr)}}.dump());
      EXPECT_THAT(answer.body, Not(HasSubstr("no member of a request"))) << path << " " << name;
    }
    EXPECT_THAT(Post(path, R"({"model":"nobody","membre":1})").body, HasSubstr("no member of a request")) << path;
  }
  // Vectors, rankings and classes are read by one reader.
  std::set<std::string> of_texts;
  for (const char* path : {"/v1/embeddings", "/v1/rerank", "/v1/classify"}) {
    for (const auto& [name, described] : schema(path)["properties"].items()) of_texts.insert(name);
  }
  EXPECT_EQ(of_texts, std::set<std::string>(TextRequestMembers().begin(), TextRequestMembers().end()));
}

// What llama.cpp's clients ask (docs/serve-llama-cpp.md): completions, streamed and whole.
TEST_F(GatewayTest, LlamaCompletions) {
  Start();
  const std::string text = Post("/v1/completions", R"({"prompt":"Once upon a time","max_tokens":12})").json()["choices"][0]["text"];
  const std::string hello = R"({"prompt":"Once upon a time","n_predict":12)";
  const HttpAnswer whole = Post("/completion", hello + R"(,"n_probs":2,"return_tokens":true,"id_slot":0,"timings_per_token":true})");
  ASSERT_EQ(whole.status, 200) << whole.body;
  const Json json = whole.json();
  EXPECT_EQ(json["content"], text);
  EXPECT_EQ(json["stop_type"], "limit");
  EXPECT_EQ(json["truncated"], false);
  EXPECT_EQ(json["tokens"].size(), 12u);
  EXPECT_EQ(json["tokens_predicted"], 12);
  EXPECT_EQ(json["timings"]["predicted_n"], 12);
  EXPECT_EQ(json["timings"]["prompt_n"].get<int>() + json["timings"]["cache_n"].get<int>(), json["tokens_evaluated"]);
  EXPECT_EQ(json["completion_probabilities"].size(), 12u);
  EXPECT_EQ(json["completion_probabilities"][0]["top_logprobs"].size(), 2u);
  EXPECT_EQ(json["generation_settings"]["n_predict"], 12);
  EXPECT_THAT(json["prompt"].get<std::string>(), HasSubstr("Once upon a time"));
  std::string streamed;
  Json last;
  for (const std::string& event : Post("/completion", hello + R"(,"stream":true})").Lines("data: ")) {
    last = ParseJson(event).value();
    EXPECT_EQ(last["stop"].get<bool>(), last.contains("timings"));
    streamed += last["content"].get<std::string>();
  }
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(last["tokens_predicted"], 12);
  size_t events = 0;
  for (const std::string& event : Post("/completion", hello + R"(,"stream":true,"n_probs":3})").Lines("data: ")) {
    const Json token = ParseJson(event).value();
    if (token["stop"].get<bool>()) continue;
    ++events;
    EXPECT_EQ(token["completion_probabilities"].size(), 1u) << "one for each token, however many came at once";
    EXPECT_EQ(token["tokens_predicted"], events);
  }
  EXPECT_EQ(events, 12u);
  // A prompt in parts; what is chosen of the answer; a word that stops it; a context that is full.
  const Json tokens = Post("/tokenize", R"({"content":"Once upon a time","add_special":true})").json()["tokens"];
  EXPECT_EQ(Post("/completion", R"({"n_predict":12,"prompt":)" + tokens.dump() + "}").json()["content"], text);
  EXPECT_EQ(Post("/completion", R"({"n_predict":2,"prompt":[1,"Once",300]})").status, 200);
  const Json chosen = Post("/completion", hello + R"(,"response_fields":["content","generation_settings/n_predict"]})").json();
  EXPECT_EQ(chosen, (Json{{"content", text}, {"generation_settings/n_predict", 12}}));
  const Json stopped = Post("/completion", hello + R"(,"stop":)" + Json::array({text.substr(4, 4)}).dump() + "}").json();
  EXPECT_EQ(stopped["stop_type"], "word");
  EXPECT_EQ(stopped["stopping_word"], text.substr(4, 4));
  const Json full = Post("/completion", R"({"prompt":"Once","n_predict":-1,"ignore_eos":true})").json();
  EXPECT_EQ(full["truncated"], true) << full.dump();
  // All that its samplers have; a bias by text and by id.
  const HttpAnswer sampled = Post("/completion", hello + R"(,"temperature":0.8,"seed":3,"dynatemp_range":0.1,"xtc_probability":0.2,)"
                                                         R"("dry_multiplier":0.5,"repeat_last_n":-1,"repeat_penalty":1.1,"top_n_sigma":-1,)"
                                                         R"("samplers":["dry","top_k","typ_p","top_p","min_p","xtc","temperature"]})");
  EXPECT_EQ(sampled.json()["generation_settings"]["samplers"].size(), 7u) << sampled.body;
  EXPECT_EQ(Post("/completion", hello + R"(,"mirostat":2,"temperature":1})").status, 200);
  const Json first = tokens[1];
  const HttpAnswer biased =
      Post("/completion", hello + R"(,"return_tokens":true,"logit_bias":[[)" + json["tokens"][0].dump() + R"(,false],[" there",-100]]})");
  EXPECT_NE(biased.json()["tokens"][0], json["tokens"][0]) << biased.body;
  const std::string wrong[] = {R"({})",
                               R"({"prompt":["a",["b"]]})",
                               R"({"prompt":{"prompt_string":"x","multimodal_data":"y"}})",
                               R"({"prompt":"x","samplers":["best"]})",
                               R"({"prompt":"x","n_predict":"many"})",
                               R"({"prompt":"x","logit_bias":[[1]]})",
                               R"({"prompt":"x","mirostat":3})",
                               R"({"prompt":"x","response_fields":1})",
                               R"({"prompt":")" + std::string(100'000, 'x') + R"("})"};
  for (const std::string& body : wrong) EXPECT_EQ(Post("/completion", body).status, 400) << body.substr(0, 100);
}

TEST_F(GatewayTest, LlamaServerState) {
  Start();
  const Json props = Get("/props").json();
  EXPECT_EQ(props["total_slots"], 1) << props.dump();
  EXPECT_EQ(props["default_generation_settings"]["n_ctx"], 512);
  EXPECT_EQ(Get("/props?model=none").status, 404);
  EXPECT_EQ(Get("/slots").json()[0]["is_processing"], false);
  EXPECT_EQ(Get("/models").json(), Get("/v1/models").json());
  EXPECT_EQ(Get("/v1/health").status, 200);
  const std::string messages = "{" + std::string(kHello);
  EXPECT_EQ(Post("/apply-template", messages + "}").json()["prompt"], "user: Once upon a timeassistant:")
      << "a line's end behind a tag is the tag's";
  EXPECT_THAT(Post("/apply-template", messages + R"(,"tools":[{"type":"function","function":{"name":"f"}}]})").body, HasSubstr("tools: ["));
  EXPECT_EQ(Post("/apply-template", "{}").status, 400);
  const Json chat = Post("/chat/completions", messages + R"(,"max_tokens":2})").json();
  EXPECT_EQ(Post("/v1/chat/completions/input_tokens", messages + "}").json()["input_tokens"], chat["usage"]["prompt_tokens"]);
  EXPECT_EQ(chat["system_fingerprint"], "bantam-1.2.3");
  // Its own members, and a schema where it has it.
  const Json same =
      Post("/chat/completions", messages + R"(,"n_predict":2,"cache_prompt":false,"id_slot":0,"timings_per_token":true})").json();
  EXPECT_EQ(same["choices"], chat["choices"]) << same.dump();
  EXPECT_EQ(Post("/chat/completions", messages + R"(,"n_predict":-1})").status, 200) << "as long as the context allows";
  EXPECT_THAT(Post("/apply-template", R"({"messages":[{"role":"user","content":")" + std::string(400'000, 'x') + R"("}]})").body,
              HasSubstr("cannot fit the context"));
  for (const char* format : {R"("json_schema":{"const":"42"})", R"("response_format":{"type":"json_object","schema":{"const":"42"}})"}) {
    EXPECT_EQ(Post("/chat/completions", messages + "," + format + "}").json()["choices"][0]["message"]["content"], "\"42\"") << format;
  }
  EXPECT_EQ(Post("/chat/completions", messages + R"(,"response_format":{"type":"json_object","schema":7}})").status, 400);
  EXPECT_EQ(chat["timings"]["predicted_n"], 2);
}

// KServe's protocol in JSON, and its extension for texts.
TEST_F(GatewayTest, InferenceProtocol) {
  Start({}, {}, "org/stories");
  EXPECT_EQ(Get("/v2").json()["version"], "1.2.3");
  EXPECT_EQ(Get("/v2/health/live").json()["live"], true);
  EXPECT_EQ(Get("/v2/health/ready").json()["ready"], true);
  EXPECT_EQ(Get("/v2/models/org/stories/ready").json()["ready"], true);
  EXPECT_EQ(Get("/v2/models/default").json()["inputs"][0]["name"], "text_input");
  EXPECT_EQ(Get("/v2/models/other/ready").status, 404);
  const std::string text = Post("/v1/completions", R"({"prompt":"Once upon a time","max_tokens":9})").json()["choices"][0]["text"];
  const std::string input = R"("inputs":[{"name":"text_input","datatype":"BYTES","shape":[1,1],"data":["Once upon a time"]})";
  for (const std::string& asked :
       {input + R"(],"parameters":{"max_tokens":9,"binary_data_output":true})",
        input + R"(,{"name":"sampling_parameters","datatype":"BYTES","shape":[1],"data":["{\"max_tokens\":9}"]}])"}) {
    const HttpAnswer answer = Post("/v2/models/org/stories/infer", R"({"id":"7",)" + asked + "}");
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.json()["id"], "7");
    EXPECT_EQ(answer.json()["outputs"][0],
              ParseJson(R"({"name":"text_output","datatype":"BYTES","shape":[1],"data":[)" + Json(text).dump() + "]}").value());
    EXPECT_EQ(answer.json()["parameters"]["generated_tokens"], 9);
  }
  const HttpAnswer two = Post("/v2/models/default/infer", "{" + input + R"(],"parameters":{"max_tokens":2,"n":2}})");
  EXPECT_EQ(two.json()["outputs"][0]["shape"], Json::array({2})) << two.body;
  const std::string asks = R"({"text_input":"Once upon a time","max_tokens":4,"parameters":{"max_tokens":9}})";
  EXPECT_EQ(Post("/v2/models/default/generate", asks).json()["text_output"], text);
  const HttpAnswer streamed = Post("/v2/models/default/generate_stream", asks);
  EXPECT_EQ(streamed.fields.at("content-type"), "text/event-stream");
  std::string joined;
  for (const std::string& event : streamed.Lines("data: ")) joined += ParseJson(event).value()["text_output"].get<std::string>();
  EXPECT_EQ(joined, text);
  const std::string wrong[] = {"{}",
                               R"({"inputs":[]})",
                               R"({"inputs":[{"name":"text_input","datatype":"FP32","shape":[1],"data":[1]}]})",
                               R"({"inputs":[{"name":"text_input","datatype":"BYTES","shape":[2],"data":["x"]}]})",
                               R"({"inputs":[{"name":"text_input","datatype":"BYTES","shape":[2],"data":["x","y"]}]})",
                               R"({"inputs":[{"name":"other","datatype":"BYTES","shape":[1],"data":["x"]}]})",
                               "{" + input + R"(],"parameters":{"max_token":1}})",
                               "{" + input + R"(],"parameters":{"prompt":"x"}})"};
  for (const std::string& body : wrong) {
    const HttpAnswer answer = Post("/v2/models/default/infer", body);
    EXPECT_EQ(answer.status, 400) << body << answer.body;
    EXPECT_TRUE(answer.json()["error"].is_string()) << answer.body;
  }
  EXPECT_EQ(Post("/v2/models/default/generate", R"({"text_input":"x","stream":true})").status, 400);
  EXPECT_EQ(Post("/v2/models/other/infer", "{" + input + "]}").status, 404);
  EXPECT_EQ(Post("/v2/models/default/infer", "{" + input + "]}", "Inference-Header-Content-Length: 5\r\n").status, 400);
}

TEST_F(GatewayTest, ModelsAndTokens) {
  Start({}, {}, "org/stories");
  EXPECT_EQ(Get("/v1/models").json()["data"][0]["id"], "org/stories");
  EXPECT_EQ(Get("/v1/models/org%2Fstories").json()["id"], "org/stories");
  EXPECT_EQ(Get("/v1/models/org/stories").json()["id"], "org/stories");
  EXPECT_EQ(Get("/v1/models/default").status, 200);
  EXPECT_EQ(Get("/v1/models/other").status, 404);
  const Json tokens = Post("/tokenize", R"({"content":"Once upon a time"})").json();
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  const Json text = Post("/detokenize", R"({"tokens":)" + tokens["tokens"].dump() + "}").json();
  EXPECT_THAT(text["content"].get<std::string>(), HasSubstr("Once upon a time"));
}

// A client that goes takes its request with it, whether it was writing or waiting.
TEST_F(GatewayTest, ClientsThatGo) {
  Start();
  for (const bool stream : {true, false}) {
    const std::string body =
        "{" + std::string(kHello) + R"(,"max_tokens":400,"min_tokens":400,"n":4,"stream":)" + (stream ? "true}" : "false}");
    ClientSocket client(server_->port());
    client.Send(testing::HttpRequestText("POST", "/v1/chat/completions", body));
    if (stream) {
      EXPECT_THAT(client.ReceiveUntil("data: "), HasSubstr("200 OK"));
    }
    while (engine_->load().requests == 0) std::this_thread::yield();
    const uint64_t before = engine_->counters().generated_tokens;
    client.Reset();
    AwaitNothing();
    EXPECT_LT(engine_->counters().generated_tokens - before, 1600u);
  }
  EXPECT_TRUE(server_->AwaitIdle(20'000'000'000));
  const auto logged = [&] {
    const std::lock_guard lock(mutex_);
    return log_.size();
  };
  while (logged() < 2) std::this_thread::yield();
  const std::lock_guard lock(mutex_);
  for (const std::string& line : log_) EXPECT_EQ(ParseJson(line).value()["status"], 499) << line;
}

TEST_F(GatewayTest, TooManyAtOnce) {
  Start({}, {.requests_max = 1});
  ClientSocket first(server_->port());
  first.Send(testing::HttpRequestText("POST", "/v1/chat/completions",
                                      "{" + std::string(kHello) + R"(,"max_tokens":400,"min_tokens":400,"n":4,"stream":true})"));
  EXPECT_THAT(first.ReceiveUntil("data: "), HasSubstr("200 OK"));
  const HttpAnswer refused = Chat(kHello);
  EXPECT_EQ(refused.status, 429);
  EXPECT_GE(ParseJson(refused.fields.at("retry-after")).value().get<int>(), 1);
  EXPECT_THAT(refused.json()["error"]["message"].get<std::string>(), HasSubstr("first token would come in"));
  first.Reset();
  AwaitNothing();
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":2)").status, 200);
}

TEST_F(GatewayTest, Deadlines) {
  Start();
  // Four answers of 400 tokens take longer than a millisecond.
  const std::string members = std::string(kHello) + R"(,"max_tokens":400,"min_tokens":400,"n":4)";
  const HttpAnswer late = Chat(members, "X-Bantam-Deadline-Ms: 1\r\n");
  EXPECT_TRUE(late.status == 504 || late.status == 429 || late.json()["choices"][0]["stop_reason"] == "deadline") << late.body;
  EXPECT_EQ(Chat(std::string(kHello), "X-Bantam-Deadline-Ms: soon\r\n").json()["error"]["param"], "deadline_ms");
  EXPECT_EQ(Chat(std::string(kHello), "X-Bantam-Priority: urgent\r\n").json()["error"]["param"], "priority");
}

TEST_F(GatewayTest, KeysAndWhatTheyMay) {
  GatewayOptions options;
  const auto key = [](std::string name, Role role, KeyLimits limits) {
    const Digest digest = DigestOfSecret(name);
    return std::make_shared<const ApiKey>(ApiKey{std::move(name), role, digest, std::move(limits)});
  };
  options.access.keys = {key("user", Role::kUse, {.requests_per_minute = 3}), key("operator", Role::kOperate, {}),
                         key("other", Role::kUse, {.models = {"another"}})};
  Start(std::move(options));
  const std::string members = std::string(kHello) + R"(,"max_tokens":1)";
  EXPECT_EQ(Chat(members).status, 401);
  EXPECT_EQ(Chat(members, "Authorization: Bearer wrong\r\n").status, 401);
  EXPECT_EQ(Chat(members, "Authorization: Bearer user\r\n").status, 200);
  EXPECT_EQ(Post("/v1/messages", "{" + members + "}", "x-api-key: user\r\n").status, 200);
  EXPECT_EQ(Get("/metrics", "Authorization: Bearer user\r\n").status, 403);
  EXPECT_EQ(Get("/metrics", "Authorization: Bearer operator\r\n").status, 200);
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_EQ(Chat(members, "Authorization: Bearer other\r\n").status, 403);
  // It sees none that it may not use, either.
  EXPECT_TRUE(Get("/v1/models", "Authorization: Bearer other\r\n").json()["data"].empty());
  EXPECT_TRUE(Get("/api/tags", "Authorization: Bearer other\r\n").json()["models"].empty());
  EXPECT_EQ(Get("/v1/models/stories", "Authorization: Bearer other\r\n").status, 403);
  EXPECT_EQ(Get("/v1/models", "Authorization: Bearer user\r\n").json()["data"].size(), 1u);
  EXPECT_EQ(Chat(members, "Authorization: Bearer user\r\n").status, 200);
  const HttpAnswer often = Chat(members, "Authorization: Bearer user\r\n");
  EXPECT_EQ(often.status, 429);
  EXPECT_TRUE(often.fields.contains("retry-after"));
  // Other keys from now on; what was used counts on.
  gateway_->UseAccess({.keys = {key("user", Role::kUse, {.requests_per_minute = 3}), key("new", Role::kUse, {})}});
  EXPECT_EQ(Chat(members, "Authorization: Bearer new\r\n").status, 200);
  EXPECT_EQ(Chat(members, "Authorization: Bearer other\r\n").status, 401);
  EXPECT_EQ(Chat(members, "Authorization: Bearer user\r\n").status, 429);
}

TEST_F(GatewayTest, NamesAndPagesThatAreNotKnown) {
  Start({.access = {.hosts = {"edge.example"}, .origins = {"https://app.example"}}});
  const auto ask = [&](std::string_view host, std::string_view fields) {
    ClientSocket client(server_->port());
    client.Send("GET /v1/models HTTP/1.1\r\nConnection: close\r\nHost: " + std::string(host) + "\r\n" + std::string(fields) + "\r\n");
    return testing::ParseAnswer(client.ReceiveAll());
  };
  EXPECT_EQ(ask("localhost:1", "").status, 200);
  EXPECT_EQ(ask("edge.example", "").status, 200);
  EXPECT_EQ(ask("evil.example", "").status, 403);
  EXPECT_EQ(ask("localhost", "Origin: https://evil.example\r\n").status, 403);
  EXPECT_EQ(ask("localhost", "Origin: https://app.example\r\n").fields.at("access-control-allow-origin"), "https://app.example");
  const HttpAnswer preflight =
      Ask(server_->port(), "OPTIONS", "/v1/chat/completions", "", "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n");
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(Ask(server_->port(), "OPTIONS", "/v1/chat/completions").status, 405);
}

TEST_F(GatewayTest, Drains) {
  Start();
  ClientSocket running(server_->port());
  running.Send(testing::HttpRequestText("POST", "/v1/chat/completions",
                                        "{" + std::string(kHello) + R"(,"max_tokens":200,"min_tokens":200,"stream":true})"));
  EXPECT_THAT(running.ReceiveUntil("data: "), HasSubstr("200 OK"));
  gateway_->Drain();
  const HttpAnswer refused = Chat(kHello);
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.fields.contains("retry-after"));
  EXPECT_EQ(Get("/health/ready").status, 503);
  EXPECT_EQ(Get("/health/live").status, 200);
  EXPECT_THAT(running.ReceiveAll(), HasSubstr("[DONE]"));
  EXPECT_TRUE(server_->AwaitIdle(20'000'000'000));
}

TEST_F(GatewayTest, CancelsWhatRuns) {
  Start();
  ClientSocket running(server_->port());
  running.Send(testing::HttpRequestText("POST", "/v1/messages", "{" + std::string(kHello) + R"(,"max_tokens":480,"stream":true})"));
  EXPECT_THAT(running.ReceiveUntil("data: "), HasSubstr("200 OK"));
  gateway_->CancelAll();
  // It may have ended just before.
  EXPECT_THAT(running.ReceiveAll(), ::testing::AnyOf(HasSubstr("event: error"), HasSubstr("message_stop")));
  AwaitNothing();
}

// What never became a request is counted and logged all the same.
TEST_F(GatewayTest, RefusalsOfWhatIsNoRequestAreLogged) {
  Start();
  ClientSocket client(server_->port());
  ASSERT_TRUE(client.Send("nonsense\r\n\r\n"));
  EXPECT_THAT(client.ReceiveAll(), StartsWith("HTTP/1.1 400"));
  const std::lock_guard lock(mutex_);
  ASSERT_EQ(log_.size(), 1u);
  const Json line = ParseJson(log_[0]).value();
  EXPECT_EQ(line["status"], 400);
  EXPECT_EQ(line["client"], "127.0.0.1");
  EXPECT_FALSE(line["refused"].get<std::string>().empty());
}

TEST_F(GatewayTest, MetricsAndLogWithoutTexts) {
  Start();
  EXPECT_EQ(Chat(R"("messages":[{"role":"user","content":"A secret about Lily"}],"max_tokens":6)").status, 200);
  EXPECT_EQ(Chat(R"("messages":[{"role":"king","content":"A secret about Lily"}])").status, 400);
  const std::string page = Get("/metrics").body;
  EXPECT_THAT(page, HasSubstr("bantam_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("bantam_generated_tokens_total{model=\"stories\",priority=\"normal\"} 6\n"));
  EXPECT_THAT(page, HasSubstr("bantam_first_token_seconds_count{model=\"stories\",priority=\"normal\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("bantam_memory_limit_bytes 1073741824\n"));
  const std::lock_guard lock(mutex_);
  ASSERT_GE(log_.size(), 2u);
  const Json line = ParseJson(log_[0]).value();
  EXPECT_EQ(line["path"], "/v1/chat/completions");
  EXPECT_EQ(line["generated_tokens"], 6);
  for (const std::string& one : log_) EXPECT_THAT(one, Not(HasSubstr("Lily")));
}

// ---- Models that come and go ----

// What is loaded for the first request has its requests wait, and others go on meanwhile.
TEST_F(GatewayTest, LoadsOnDemand) {
  StartCatalog({{.name = "stories", .path = "v1"}, {.name = "later", .path = "v1", .on_demand = true}});
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(ModelNow(1)["state"], "unloaded");
  gate_open_ = false;
  std::vector<HttpAnswer> answers(3);
  std::vector<std::thread> clients;
  for (HttpAnswer& answer : answers) {
    clients.emplace_back([&] { answer = Chat(std::string(kHello) + R"(,"max_tokens":5,"model":"later:latest")"); });
  }
  while (ModelNow(1)["state"] != "loading") std::this_thread::yield();
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5,"model":"stories")").status, 200);
  gate_open_ = true;
  for (std::thread& client : clients) client.join();
  for (const HttpAnswer& answer : answers) {
    EXPECT_EQ(answer.status, 200) << answer.body;
    EXPECT_EQ(answer.json()["model"], "later");
  }
  EXPECT_EQ(loads_, 2);
  EXPECT_THAT(Get("/metrics").body, HasSubstr(R"(bantam_model_changes_total{model="later",change="load"} 1)"));
}

// A new version takes over without a request that fails, a hundred times.
TEST_F(GatewayTest, SwapsUnderLoad) {
  catalog_options_.tick_ns = 1'000'000;
  Start();
  std::atomic<bool> stop = false;
  std::atomic<int> asked = 0;
  std::atomic<int> failed = 0;
  const std::string text = Chat(std::string(kHello) + R"(,"max_tokens":12)").json()["choices"][0]["message"]["content"];
  std::vector<std::thread> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back([&] {
      while (!stop) {
        const HttpAnswer answer = Chat(std::string(kHello) + R"(,"max_tokens":12)");
        ++asked;
        if (answer.status != 200 || answer.json()["choices"][0]["message"]["content"] != text) ++failed;
      }
    });
  }
  for (int i = 0; i < 100; ++i) {
    // Every fourth does not fit beside what is there.
    const std::string path = i % 4 == 3 ? "large" : i % 2 == 0 ? "v2" : "v1";
    const HttpAnswer swapped = Change("swap", R"("model":"stories","path":")" + path + "\"");
    ASSERT_EQ(swapped.status, 200) << swapped.body;
    ASSERT_EQ(swapped.json()["path"], path);
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(failed, 0);
  EXPECT_GT(asked, 0);
  EXPECT_EQ(ModelNow()["changes"]["swaps"], 100);
}

TEST_F(GatewayTest, RollsBackAndKeepsWhatWorks) {
  StartCatalog({{.name = "stories", .path = "v1", .probes = {{.prompt = "Once upon a time", .expect = "e"}}}});
  EXPECT_EQ(Change("rollback", R"("model":"stories")").status, 400);
  EXPECT_EQ(Change("swap", R"("model":"stories","path":"v2")").json()["previous"], "v1");
  // What cannot be loaded changes nothing.
  const HttpAnswer bad = Change("swap", R"("model":"stories","path":"bad")");
  EXPECT_EQ(bad.status, 400);
  EXPECT_THAT(bad.body, HasSubstr("not a model"));
  EXPECT_EQ(ModelNow()["path"], "v2");
  EXPECT_THAT(ModelNow()["error"].get<std::string>(), HasSubstr("not a model"));
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5)").status, 200);
  EXPECT_EQ(Change("rollback", R"("model":"stories")").json()["path"], "v1");
  EXPECT_EQ(ModelNow()["previous"], "v2");
}

// Where the old version does not end in time, nothing is changed, and whoever waited meanwhile is answered.
TEST_F(GatewayTest, GivesUpAnExchange) {
  catalog_options_.drain_ns = 200'000'000;
  Start();
  {
    const auto held = catalog_->Find("stories").value();
    HttpAnswer swapped;
    std::thread swap([&] { swapped = Change("swap", R"("model":"stories","path":"large")"); });
    while (ModelNow()["state"] != "loading") std::this_thread::yield();
    EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5)").status, 200);
    swap.join();
    EXPECT_EQ(swapped.status, 409) << swapped.body;
  }
  EXPECT_EQ(ModelNow()["path"], "v1");
  EXPECT_EQ(ModelNow()["state"], "loaded");
  EXPECT_EQ(Change("swap", R"("model":"stories","path":"large")").status, 200);
}

// A change that fails leaves what was there, whatever that was.
TEST_F(GatewayTest, FailedChangesChangeNothing) {
  StartCatalog({{.name = "stories", .path = "v1"}, {.name = "later", .path = "v1", .on_demand = true}});
  EXPECT_EQ(Change("swap", R"("model":"stories","path":"throws")").status, 507);
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5)").status, 200);
  EXPECT_EQ(Change("swap", R"("model":"later","path":"bad")").status, 400);
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5,"model":"later")").status, 200);
  EXPECT_EQ(Change("unload", R"("model":"later")").status, 200);
  EXPECT_EQ(Change("load", R"("model":"later","path":"bad")").status, 400);
  EXPECT_EQ(ModelNow(1)["state"], "stopped");
  EXPECT_EQ(Change("load", R"("model":"later","aliases":["x"])").status, 400);
  EXPECT_EQ(Change("load", R"("model":"new","path":"v1","aliases":["stories"])").status, 400);
  EXPECT_EQ(Change("load", R"("model":"new","path":"v1","aliases":["a","a"])").status, 400);
}

// What breaks off in its middle leaves nobody waiting.
TEST_F(GatewayTest, ABrokenChangeIsTold) {
  catalog_options_.retry_ns = 0;
  catalog_options_.may_fit = [](const std::string&, uint64_t) -> bool { throw std::bad_alloc(); };
  StartCatalog({{.name = "stories", .path = "v1"}, {.name = "later", .path = "large", .on_demand = true}});
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"model":"later")").status, 503);
  EXPECT_EQ(ModelNow(1)["state"], "unloaded");
  EXPECT_EQ(Change("load", R"("model":"later")").status, 507);
  EXPECT_EQ(Change("unload", R"("model":"stories")").status, 200);
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5,"model":"later")").status, 200);
}

// A name is a name, however long.
TEST_F(GatewayTest, NamesWithoutEnd) {
  Start();
  std::string name;
  for (int i = 0; i < 100'000; ++i) name += ":latest";
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"model":")" + name + "\"").status, 404);
}

// The server stops while a request waits for a model.
TEST_F(GatewayTest, StopsWhileAModelIsLoaded) {
  StartCatalog({{.name = "stories", .path = "v1"}, {.name = "later", .path = "v1", .on_demand = true}});
  gate_open_ = false;
  HttpAnswer answer;
  std::thread client([&] { answer = Chat(std::string(kHello) + R"(,"model":"later")"); });
  while (ModelNow(1)["state"] != "loading") std::this_thread::yield();
  gateway_->CancelAll();
  client.join();
  EXPECT_EQ(answer.status, 503) << answer.body;
  gate_open_ = true;
}

// A server that drains lets nobody wait for a model, however long that is still loaded; what runs goes on to its end.
TEST_F(GatewayTest, DrainsWhileAModelIsLoaded) {
  StartCatalog({{.name = "stories", .path = "v1"}, {.name = "later", .path = "v1", .on_demand = true}});
  ClientSocket running(server_->port());
  running.Send(testing::HttpRequestText("POST", "/v1/chat/completions",
                                        "{" + std::string(kHello) + R"(,"max_tokens":400,"min_tokens":400,"stream":true})"));
  EXPECT_THAT(running.ReceiveUntil("data: "), HasSubstr("200 OK"));
  gate_open_ = false;
  std::vector<HttpAnswer> answers(3);
  std::vector<std::thread> clients;
  for (HttpAnswer& answer : answers) {
    clients.emplace_back([&] { answer = Chat(std::string(kHello) + R"(,"model":"later")"); });
  }
  while (ModelNow(1)["state"] != "loading") std::this_thread::yield();
  gateway_->Drain();
  for (std::thread& client : clients) client.join();
  for (const HttpAnswer& answer : answers) {
    EXPECT_EQ(answer.status, 503) << answer.body;
    EXPECT_EQ(answer.json()["error"]["code"], "draining");
    EXPECT_TRUE(answer.fields.contains("retry-after"));
  }
  EXPECT_THAT(running.ReceiveAll(), HasSubstr("[DONE]"));
  EXPECT_TRUE(server_->AwaitIdle(20'000'000'000));
  gate_open_ = true;
}

// A version that does not answer what it should takes no requests.
TEST_F(GatewayTest, ChecksVersions) {
  StartCatalog({{.name = "stories", .path = "v1"},
                {.name = "strict", .path = "v1", .on_demand = true, .probes = {{.prompt = "Hello", .expect = "no story says this"}}}});
  const HttpAnswer refused = Chat(std::string(kHello) + R"(,"model":"strict")");
  EXPECT_EQ(refused.status, 503);
  // What it should have said is for whoever administers.
  EXPECT_THAT(refused.body, Not(HasSubstr("no story says this")));
  EXPECT_THAT(ModelNow(1)["error"].get<std::string>(), HasSubstr("no story says this"));
  EXPECT_EQ(refused.fields.count("retry-after"), 1u);
  // Not tried again at once.
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"model":"strict")").status, 503);
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(ModelNow(1)["changes"]["failures"], 1);
}

TEST_F(GatewayTest, UnloadsAndPins) {
  catalog_options_.tick_ns = 1'000'000;
  StartCatalog({{.name = "stories", .path = "v1"}, {.name = "second", .path = "v1"}});
  EXPECT_EQ(Change("unload", R"("model":"second")").json()["state"], "stopped");
  const HttpAnswer refused = Chat(std::string(kHello) + R"(,"model":"second")");
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("unloaded by whoever runs the server"));
  EXPECT_EQ(Get("/health/ready").status, 200);
  EXPECT_EQ(Change("load", R"("model":"second")").json()["state"], "loaded");
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5,"model":"second")").status, 200);
  // What does not fit takes the place of what is idle, but for what is pinned.
  EXPECT_EQ(Change("pin", R"("model":"stories")").json()["pinned"], true);
  EXPECT_EQ(Change("load", R"("model":"third","path":"large")").status, 507);
  EXPECT_EQ(ModelNow(0)["state"], "loaded");
  EXPECT_EQ(ModelNow(1)["state"], "unloaded");
  EXPECT_EQ(Change("unpin", R"("model":"stories")").json()["pinned"], false);
  EXPECT_EQ(Change("load", R"("model":"third","path":"large","aliases":["big"])").status, 200);
  EXPECT_EQ(ModelNow(0)["state"], "unloaded");
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5,"model":"big")").json()["model"], "third");
  EXPECT_EQ(Change("load", R"("model":"nothing")").status, 404);
  EXPECT_EQ(Change("swap", R"("model":"third","pth":"x")").status, 400);
}

// Two that are loaded on demand and do not fit together take turns: who is idle goes, who is in use or pinned does not, and as soon as he
// may the other one is loaded.
TEST_F(GatewayTest, ModelsThatDoNotFitTogether) {
  StartCatalog({{.name = "a", .path = "large-a", .on_demand = true}, {.name = "b", .path = "large-b", .on_demand = true}});
  const auto ask = [&](const std::string& model) { return Chat(std::string(kHello) + R"(,"max_tokens":5,"model":")" + model + "\""); };
  const auto states = [&] { return ModelNow(0)["state"].get<std::string>() + " " + ModelNow(1)["state"].get<std::string>(); };
  const auto refuses = [&](const std::string& model) {
    const HttpAnswer answer = ask(model);
    EXPECT_EQ(answer.status, 503) << answer.body;
    EXPECT_EQ(answer.fields.count("retry-after"), 1u);
    EXPECT_EQ(answer.json()["error"]["code"], "model_unavailable");
    EXPECT_THAT(answer.body, HasSubstr("model " + model + " has no room in memory beside those that are in use"));
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(ask("a").json()["model"], "a");
    EXPECT_EQ(states(), "loaded unloaded");
    EXPECT_EQ(ask("b").json()["model"], "b");
    EXPECT_EQ(states(), "unloaded loaded");
  }
  EXPECT_EQ(loads_, 6);
  {
    const auto in_use = catalog_->Find("b").value();
    for (int i = 0; i < 2; ++i) refuses("a");
    EXPECT_EQ(states(), "unloaded loaded");
    EXPECT_EQ(ask("b").status, 200);
  }
  EXPECT_EQ(ask("a").status, 200);
  EXPECT_EQ(Change("pin", R"("model":"a")").status, 200);
  for (int i = 0; i < 2; ++i) refuses("b");
  EXPECT_EQ(states(), "loaded unloaded");
  EXPECT_EQ(Change("unpin", R"("model":"a")").status, 200);
  EXPECT_EQ(ask("b").status, 200);
}

TEST_F(GatewayTest, UnloadsWhatIsIdle) {
  catalog_options_.tick_ns = 1'000'000;
  StartCatalog({{.name = "stories", .path = "v1", .idle_s = 1}});
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5)").status, 200);
  while (ModelNow()["state"] != "unloaded") std::this_thread::yield();
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5)").status, 200);
  EXPECT_EQ(loads_, 2);
}

// Ollama's keep_alive: of models that come and go, and never longer than the configuration says.
TEST_F(GatewayTest, KeepsModelsAsClientsOfOllamaAsk) {
  std::atomic<int> looks = 0;
  catalog_options_.tick_ns = 1'000'000;
  catalog_options_.memory_share = [&] {
    ++looks;
    return 0.5;
  };
  StartCatalog({{.name = "comes", .path = "v1", .on_demand = true},
                {.name = "stays", .path = "v1"},
                {.name = "pinned", .path = "v1", .on_demand = true, .pinned = true},
                {.name = "vectors", .path = "vectors/nomic-bert", .on_demand = true}});
  const auto ask = [&](const std::string& model, const std::string& members) {
    return Post("/api/generate", R"({"stream":false,"options":{"num_predict":2},"model":")" + model + "\"" + members + "}");
  };
  const auto state_after_looks = [&](size_t index) {
    for (const int seen = looks; looks < seen + 3;) std::this_thread::yield();
    return ModelNow(index)["state"].get<std::string>();
  };
  const std::string words = R"(,"prompt":"Once upon")";
  for (const char* soon : {"0", "\"0\"", "\"0s\"", "\"-0h\"", "0.001", "\"1ms\"", "\"0.5ms500us\"", "\"100\u00b5s\""}) {
    EXPECT_EQ(ask("comes", words + R"(,"keep_alive":)" + soon).status, 200) << soon;
    while (ModelNow(0)["state"] != "unloaded") std::this_thread::yield();
  }
  for (const char* later : {"-1", "\"-1m\"", "\"1h30m\"", "300", "1e300", "null", "\"+.5h\""}) {
    EXPECT_EQ(ask("comes", words + R"(,"keep_alive":)" + later).status, 200) << later;
    EXPECT_EQ(state_after_looks(0), "loaded") << later;
  }
  for (const char* wrong : {"\"soon\"", "\"5\"", "\"\"", "\"1x\"", "\"1h-2m\"", "\"infs\"", "\"nans\"", "\"1h 2m\"", "true", "{}", "[0]"}) {
    const HttpAnswer refused = ask("comes", words + R"(,"keep_alive":)" + wrong);
    EXPECT_EQ(refused.status, 400) << wrong;
    EXPECT_THAT(refused.body, HasSubstr("keep_alive: ")) << wrong;
  }
  // Whoever asks without it, in any API, takes the wish back.
  EXPECT_EQ(ask("comes", words + R"(,"keep_alive":"1h")").status, 200);
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":2,"model":"comes")").status, 200);
  EXPECT_EQ(state_after_looks(0), "loaded");
  // Without a word to answer: at once, and nothing is loaded for that.
  for (int i = 0; i < 2; ++i) {
    const int loads = loads_;
    EXPECT_EQ(ask("comes", R"(,"keep_alive":0)").json()["done_reason"], "unload");
    while (ModelNow(0)["state"] != "unloaded") std::this_thread::yield();
    EXPECT_EQ(loads_, loads);
  }
  EXPECT_EQ(Post("/api/chat", R"({"model":"comes","messages":[],"keep_alive":"0"})").json()["done_reason"], "unload");
  EXPECT_EQ(ask("nobody", R"(,"keep_alive":0)").status, 404);
  EXPECT_EQ(ask("comes", R"(,"keep_alive":0,"promt":"")").status, 400);
  EXPECT_EQ(ModelNow(0)["state"], "unloaded");
  // What is there to stay stays.
  for (const auto& [name, index] : {std::pair<const char*, size_t>{"stays", 1}, {"pinned", 2}}) {
    EXPECT_EQ(ask(name, words + R"(,"keep_alive":0)").status, 200);
    EXPECT_EQ(ask(name, R"(,"keep_alive":0)").json()["done_reason"], "load");
    EXPECT_EQ(state_after_looks(index), "loaded") << name;
  }
  EXPECT_EQ(Post("/api/embed", R"({"model":"vectors","input":"x","keep_alive":0})").status, 200);
  while (ModelNow(3)["state"] != "unloaded") std::this_thread::yield();
}

// The configuration's word is the last.
TEST_F(GatewayTest, KeepsNoModelLongerThanItMayStay) {
  catalog_options_.tick_ns = 1'000'000;
  StartCatalog({{.name = "stories", .path = "v1", .idle_s = 1}});
  EXPECT_EQ(Post("/api/generate", R"({"prompt":"Once","stream":false,"keep_alive":-1,"options":{"num_predict":2}})").status, 200);
  while (ModelNow()["state"] != "unloaded") std::this_thread::yield();
}

// While memory is short, fewer bits answer.
TEST_F(GatewayTest, FewerBitsWhileMemoryIsShort) {
  std::atomic<double> share = 0.5;
  catalog_options_.tick_ns = 1'000'000;
  catalog_options_.memory_share = [&] { return share.load(); };
  StartCatalog({{.name = "stories", .path = "q8", .precisions = {"q4", "q2"}}});
  share = 0.95;
  while (ModelNow()["path"] != "q4") std::this_thread::yield();
  share = 0.85;
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"max_tokens":5)").status, 200);
  EXPECT_EQ(ModelNow()["path"], "q4");
}

// Keys that may not use a model do not have it loaded, and none but an administrator's changes models.
TEST_F(GatewayTest, ModelsAreForThoseWhoMay) {
  GatewayOptions options;
  const auto key = [](const std::string& name, Role role, KeyLimits limits) {
    return std::make_shared<const ApiKey>(ApiKey{name, role, DigestOfSecret(name), std::move(limits)});
  };
  options.access.keys = {key("kiosk", Role::kUse, {.models = {"stories"}}), key("boss", Role::kAdmin, {})};
  StartCatalog({{.name = "stories", .path = "v1"}, {.name = "secret", .path = "v1", .on_demand = true}}, options);
  const std::string as_kiosk = "Authorization: Bearer kiosk\r\n";
  const std::string as_boss = "Authorization: Bearer boss\r\n";
  EXPECT_EQ(Chat(std::string(kHello) + R"(,"model":"secret")", as_kiosk).status, 403);
  EXPECT_EQ(Post("/admin/models/unload", R"({"model":"stories"})", as_kiosk).status, 403);
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(Post("/admin/models/unload", R"({"model":"stories"})", as_boss).status, 200);
}

}  // namespace
}  // namespace bantam
