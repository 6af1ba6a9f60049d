#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "formats/gguf.h"
#include "model/vocabulary.h"
#include "serve/response_store.h"
#include "serve/responses_request.h"
#include "serve/responses_writer.h"
#include "testing/paths.h"

namespace bantam {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

Json Parsed(const std::string& text) { return ParseJson(text).value(); }

// What ReadChatRequest would read.
Result<Json> Chat(const std::string& text) {
  const Json body = Parsed(text);
  Result<Json> items = ReadResponseInput(body);
  if (!items.ok()) return items.error();
  return ResponsesToOpenAi(body, *items);
}

TEST(ResponsesRequest, TextsAndItemsAreMessages) {
  EXPECT_EQ(Chat(R"({"input":"Hello","instructions":"Be short."})").value()["messages"],
            Parsed(R"([{"role":"system","content":"Be short."},{"role":"user","content":"Hello"}])"));
  const Json chat = Chat(R"({"input":[
    {"role":"developer","content":"d"},
    {"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
    {"type":"reasoning","id":"rs_1","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},
    {"type":"message","role":"assistant","id":"msg_1","status":"completed","content":[
      {"type":"output_text","text":"said","annotations":[]}]},
    {"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},
    {"type":"function_call","call_id":"c2","name":"g","arguments":"{\"x\":1}"},
    {"type":"function_call_output","call_id":"c1","output":"one"},
    {"type":"function_call_output","call_id":"c2","output":[{"type":"input_text","text":"two"}]},
    {"role":"assistant","content":"A"},
    {"role":"assistant","content":"B"}]})")
                        .value();
  EXPECT_EQ(chat["messages"], Parsed(R"([
    {"role":"developer","content":"d"},
    {"role":"user","content":"a\nb"},
    {"role":"assistant","content":"said","reasoning_content":"hm","tool_calls":[
      {"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}},
      {"id":"c2","type":"function","function":{"name":"g","arguments":"{\"x\":1}"}}]},
    {"role":"tool","tool_call_id":"c1","content":"one"},
    {"role":"tool","tool_call_id":"c2","content":"two"},
    {"role":"assistant","content":"A"},
    {"role":"assistant","content":"B"}])"));
}

TEST(ResponsesRequest, Members) {
  const Json chat = Chat(R"({"input":"x","max_output_tokens":7,"temperature":0.5,"top_p":null,"top_logprobs":2,"store":false,
    "reasoning":{"effort":"low","summary":"auto"},"text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}}},
    "tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":true}],"tool_choice":{"type":"function","name":"f"},
    "include":["reasoning.encrypted_content"],"metadata":{"a":"b"},"background":false,"truncation":"disabled"})")
                        .value();
  EXPECT_EQ(chat["max_tokens"], 7);
  EXPECT_EQ(chat["temperature"], 0.5);
  EXPECT_FALSE(chat.contains("top_p"));
  EXPECT_EQ(chat["logprobs"], true);
  EXPECT_EQ(chat["reasoning_effort"], "low");
  EXPECT_EQ(chat["response_format"], Parsed(R"({"type":"json_schema","json_schema":{"schema":{"type":"object"}}})"));
  EXPECT_EQ(chat["tools"], Parsed(R"([{"type":"function","function":{"name":"f","parameters":{"type":"object"},"strict":true}}])"));
  EXPECT_EQ(chat["tool_choice"], Parsed(R"({"type":"function","function":{"name":"f"}})"));
  const Json allowed = Chat(R"({"input":"x","tools":[{"type":"function","name":"f"},{"type":"function","name":"g"}],
    "tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"g"}]}})")
                           .value();
  EXPECT_EQ(allowed["tools"], Parsed(R"([{"type":"function","function":{"name":"g"}}])"));
  EXPECT_EQ(allowed["tool_choice"], "required");
}

TEST(ResponsesRequest, ErrorsNameTheMember) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({})", "input: "},
      {R"({"input":[]})", "input: "},
      {R"({"input":[7]})", "input[0]: "},
      {R"({"input":[{"role":"king","content":"x"}]})", "input[0].role: "},
      {R"({"input":[{"role":"user"}]})", "input[0].content: "},
      {R"({"input":[{"role":"user","content":[{"type":"input_image","image_url":"x"}]}]})", "input[0].content[0]: "},
      {R"({"input":[{"type":"function_call","name":"f"}]})", "input[0]: "},
      {R"({"input":[{"type":"function_call_output","call_id":"1","output":7}]})", "input[0].output: "},
      {R"({"input":[{"type":"reasoning","summary":[1]}]})", "input[0].summary[0]: "},
      {R"({"input":[{"type":"item_reference","id":"msg_1"}]})", "input[0]: references"},
      {R"({"input":"x","instructions":[]})", "instructions: "},
      {R"({"input":"x","background":true})", "background: "},
      {R"({"input":"x","conversation":"conv_1"})", "conversation: "},
      {R"({"input":"x","prompt":{"id":"p"}})", "prompt: "},
      {R"({"input":"x","truncation":"auto"})", "truncation: "},
      {R"({"input":"x","include":["file_search_call.results"]})", "include: "},
      {R"({"input":"x","tools":[{"type":"web_search"}]})", "tools[0]: "},
      {R"({"input":"x","tools":{}})", "tools: "},
      {R"({"input":"x","tool_choice":{"type":"file_search"}})", "tool_choice: "},
      {R"({"input":"x","text":"plain"})", "text: "},
      {R"({"input":"x","text":{"fromat":{}}})", "text: \"fromat\""},
      {R"({"input":"x","reasoning":1})", "reasoning: "},
      {R"({"input":"x","max_tokens":1})", "\"max_tokens\": no member of a request"},
  };
  for (const auto& [body, begins] : kCases) {
    const Result<Json> chat = Chat(body);
    ASSERT_FALSE(chat.ok()) << body;
    EXPECT_THAT(chat.error().message(), StartsWith(begins)) << body;
  }
}

TEST(ResponsesRequest, NamesOfThisApi) {
  const auto named = [](const char* message) { return NameResponseMembers(Error(Code::kInvalidArgument, message)).message(); };
  EXPECT_EQ(named("max_tokens: 0: expected"), "max_output_tokens: 0: expected");
  EXPECT_EQ(named("response_format: 1: expected"), "text.format: 1: expected");
  EXPECT_EQ(named("tools[3].function.name: 1: expected"), "tools[3].name: 1: expected");
  EXPECT_EQ(named("temperature: max_tokens: x"), "temperature: max_tokens: x");
}

TEST(ResponsesRequest, ItemsHaveIds) {
  const Json items =
      ReadResponseInput(Parsed(R"({"input":[{"role":"user","content":"x"},{"role":"user","content":"y","id":"mine"}]})")).value();
  EXPECT_THAT(items[0]["id"].get<std::string>(), StartsWith("msg_"));
  EXPECT_EQ(items[1]["id"], "mine");
  EXPECT_EQ(items[0]["content"], Parsed(R"([{"type":"input_text","text":"x"}])"));
}

Tokenizer StoriesTokenizer() {
  const auto files = MakeFileSystem();
  return ReadVocabulary(OpenGguf(*files, testing::DataPath("models/stories260K.gguf")).value()).value();
}

// A writer's events in the order of their types, joined where they repeat; and the last of them.
struct Written {
  std::vector<std::string> types = {};
  Json last = {};
};
Written Write(ResponsesWriter& writer, const std::vector<AnswerDelta>& deltas, const AnswerUsage& usage) {
  std::string text = writer.Begin();
  for (const AnswerDelta& delta : deltas) text += writer.Add(delta);
  text += writer.End(usage);
  Written written;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("data: ")) written.last = Parsed(line.substr(6));
    if (!line.starts_with("event: response.")) continue;
    const std::string type = line.substr(16);
    if (written.types.empty() || written.types.back() != type) written.types.push_back(type);
  }
  return written;
}

TEST(ResponsesWriter, ReasoningTextAndCallsAreItems) {
  const Tokenizer tokenizer = StoriesTokenizer();
  auto model = std::make_shared<ServedModel>();
  model->name = "small";
  model->tokenizer = &tokenizer;
  const Finish finish;
  ResponsesWriter streamed({.model = model, .echo = Json::object()});
  const Output all = {.content = "b", .reasoning = "a", .tool_calls = {{"call_1", "f", "{}"}, {"call_2", "g", "{}"}}};
  const Written written = Write(streamed,
                                {{.output = {.content = "", .reasoning = "a", .tool_calls = {}}},
                                 {.output = {.content = "b", .reasoning = "", .tool_calls = {}}},
                                 {.output = {.content = "", .reasoning = "", .tool_calls = all.tool_calls}, .finish = &finish}},
                                {.prompt_tokens = 3, .cached_tokens = 1, .generated_tokens = 5});
  EXPECT_THAT(written.types,
              ElementsAre("created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta",
                          "reasoning_text.done", "content_part.done", "output_item.done", "output_item.added", "content_part.added",
                          "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "output_item.added",
                          "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "output_item.added",
                          "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed"));
  const Json& response = written.last["response"];
  ASSERT_EQ(response["output"].size(), 4u);
  EXPECT_EQ(response["output"][0]["content"], Parsed(R"([{"type":"reasoning_text","text":"a"}])"));
  EXPECT_EQ(response["output"][1]["content"][0]["text"], "b");
  EXPECT_EQ(response["output"][3]["call_id"], "call_2");
  EXPECT_EQ(response["usage"]["input_tokens_details"]["cached_tokens"], 1);
  EXPECT_GE(response["usage"]["output_tokens_details"]["reasoning_tokens"], 1);
  // At once it is the same, but for ids.
  ResponsesWriter at_once({.model = model, .echo = Json::object()});
  const AnswerChoice choice = {.output = all};
  Json whole = at_once.Whole(std::span(&choice, 1), {.prompt_tokens = 3, .cached_tokens = 1, .generated_tokens = 5});
  ASSERT_EQ(whole["output"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    whole["output"][i]["id"] = response["output"][i]["id"];
    EXPECT_EQ(whole["output"][i], response["output"][i]);
  }
}

TEST(ResponsesWriter, NothingIsAMessageAndAFailureIsTold) {
  const Tokenizer tokenizer = StoriesTokenizer();
  auto model = std::make_shared<ServedModel>();
  model->name = "small";
  model->tokenizer = &tokenizer;
  const Finish finish;
  ResponsesWriter empty({.model = model, .echo = Json::object()});
  const Written written = Write(empty, {{.finish = &finish}}, {});
  EXPECT_EQ(written.last["response"]["output"][0]["content"][0]["text"], "");
  ResponsesWriter broken({.model = model, .echo = Json::object()});
  (void)broken.Begin();
  const std::string event = broken.Break({.status = 500, .message = "the engine failed"}).value();
  EXPECT_THAT(event, StartsWith("event: response.failed\n"));
  EXPECT_THAT(event, HasSubstr(R"("error":{"code":"server_error","message":"the engine failed"})"));
}

// What was written stays, whatever comes of the rest: in the last event, and for those who ask later.
TEST(ResponsesWriter, WhatBreaksOffKeepsWhatThereIs) {
  const Tokenizer tokenizer = StoriesTokenizer();
  auto model = std::make_shared<ServedModel>();
  model->name = "small";
  model->tokenizer = &tokenizer;
  const MonotonicClock clock;
  ResponseStore store({}, clock);
  std::string id;
  const auto begun = [&] {
    auto writer = std::make_unique<ResponsesWriter>(ResponsesWriterSetup{
        .model = model, .echo = Json::object(), .store = &store, .owner = "kiosk", .items = Parsed(R"([{"role":"user"}])")});
    const std::string created = writer->Begin();
    id = created.substr(created.find("resp_"), std::string("resp_").size() + 24);
    (void)writer->Add({.output = {.content = "", .reasoning = "hm", .tool_calls = {}}});
    (void)writer->Add({.output = {.content = "Once upon", .reasoning = "", .tool_calls = {}}});
    (void)writer->Add({.output = {.content = " a", .reasoning = "", .tool_calls = {}}});
    return writer;
  };
  const auto check = [](const Json& response, const char* status) {
    EXPECT_EQ(response["status"], status);
    ASSERT_EQ(response["output"].size(), 2u);
    EXPECT_EQ(response["output"][0]["status"], "completed");
    EXPECT_EQ(response["output"][0]["content"][0]["text"], "hm");
    EXPECT_EQ(response["output"][1]["status"], "incomplete");
    EXPECT_EQ(response["output"][1]["content"][0]["text"], "Once upon a");
  };
  const std::string text = begun()->Break({.status = 503, .code = "cancelled", .message = "the server stops"}).value();
  std::vector<Json> events;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("data: ")) events.push_back(Parsed(line.substr(6)));
  }
  ASSERT_EQ(events.size(), 4u);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(events[i]["sequence_number"].get<int>(), events[i - 1]["sequence_number"].get<int>() + 1);
  }
  EXPECT_EQ(events[2]["type"], "response.output_item.done");
  EXPECT_EQ(events[3]["type"], "response.failed");
  const Json& failed = events[3]["response"];
  check(failed, "failed");
  EXPECT_EQ(failed["error"]["message"], "the server stops");
  EXPECT_EQ(failed["id"], id);
  const auto kept = store.Get("kiosk", id);
  ASSERT_TRUE(kept);
  EXPECT_EQ(Parsed(kept->response), failed);
  EXPECT_EQ(Parsed(kept->items), Parsed(R"([{"role":"user"}])"));
  // One whose client went.
  begun()->Abandon();
  const auto abandoned = store.Get("kiosk", id);
  ASSERT_TRUE(abandoned);
  check(Parsed(abandoned->response), "cancelled");
  EXPECT_EQ(store.load().responses, 2u);
}

}  // namespace
}  // namespace bantam
