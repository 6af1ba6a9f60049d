#include "engine/json_request.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>

#include "base/clock.h"
#include "formats/gguf.h"
#include "model/vocabulary.h"
#include "testing/paths.h"
#include "testing/tiny_model.h"

namespace bantam {
namespace {

class JsonRequestTest : public ::testing::Test {
 protected:
  JsonRequestTest() {
    testing::BuildTinyModel({.width = 64, .feed_forward = 64}).Write(folder_.Path("m.gguf"));
    ModelFile file = OpenGguf(*files_, folder_.Path("m.gguf")).value();
    tokenizer_ = std::make_unique<Tokenizer>(ReadVocabulary(file).value());
    template_ = std::make_unique<ChatTemplate>(
        ChatTemplate::Make("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if tools %}[{{ tools[0].name }}]{% endif %}",
                           {})
            .value());
  }
  Result<Request> Read(const std::string& json, const ChatTemplate* chat_template) {
    return ReadJsonRequest(ParseJson(json).value(), {.tokenizer = *tokenizer_,
                                                     .chat_template = chat_template,
                                                     .now = LocalTime(),
                                                     .defaults = {.tokens_max = 77, .priority = Priority::kLow},
                                                     .context = 100});
  }
  Request Good(const std::string& json) { return Read(json, template_.get()).value(); }
  std::string Refused(const std::string& json) {
    const auto request = Read(json, template_.get());
    return request.ok() ? "accepted" : request.error().message();
  }
  std::string Text(const std::vector<uint32_t>& tokens) { return tokenizer_->Decode(tokens, /*special=*/false); }

  testing::TemporaryFolder folder_;
  std::unique_ptr<FileSystem> files_ = MakeFileSystem();
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> template_;
};

TEST_F(JsonRequestTest, EveryMemberGoesToItsPlace) {
  const Request request = Good(R"({
    "prompt": "ab", "model": "any", "stream": true, "max_tokens": 5, "min_tokens": 2, "n": 3, "top_logprobs": 4, "logprobs": true,
    "temperature": 0.5, "top_p": 0.25, "min_p": 0.125, "typical_p": 0.75, "top_k": 9, "seed": -1, "frequency_penalty": 1.5,
    "presence_penalty": -1.5, "repetition_penalty": 1.25, "logit_bias": {"7": -100, "8": 2.5}, "stop": ["x", "yz"],
    "priority": "high", "deadline_ms": 1500, "confidence_threshold": 0.5, "cache": false, "user": "u",
    "adapter": "polite", "tools": null, "kv": "q8", "beams": 4, "length_penalty": -0.5, "exit_confidence": 0.75})");
  EXPECT_EQ(request.kv_type, KvType::kInt8);
  EXPECT_EQ(request.beams, 4u);
  EXPECT_EQ(request.length_penalty, -0.5f);
  EXPECT_EQ(request.exit_confidence, 0.75f);
  EXPECT_EQ(Text(request.tokens), "ab");
  EXPECT_EQ(request.tokens_max, 5u);
  EXPECT_EQ(request.tokens_min, 2u);
  EXPECT_EQ(request.choices, 3u);
  EXPECT_EQ(request.adapter, "polite");
  EXPECT_TRUE(request.token_details);
  EXPECT_EQ(request.top_logprobs, 4u);
  EXPECT_EQ(request.sampler.temperature, 0.5f);
  EXPECT_EQ(request.sampler.top_p, 0.25f);
  EXPECT_EQ(request.sampler.min_p, 0.125f);
  EXPECT_EQ(request.sampler.typical, 0.75f);
  EXPECT_EQ(request.sampler.top_k, 9u);
  EXPECT_EQ(request.sampler.seed, UINT64_MAX);
  EXPECT_EQ(request.sampler.penalties.frequency, 1.5f);
  EXPECT_EQ(request.sampler.penalties.presence, -1.5f);
  EXPECT_EQ(request.sampler.penalties.repetition, 1.25f);
  ASSERT_EQ(request.sampler.logit_bias.size(), 2u);
  EXPECT_EQ(request.sampler.logit_bias[0], (std::pair<uint32_t, float>(7, -INFINITY)));
  EXPECT_EQ(request.sampler.logit_bias[1], (std::pair<uint32_t, float>(8, 2.5f)));
  EXPECT_EQ(request.stops, (std::vector<std::string>{"x", "yz"}));
  EXPECT_EQ(request.priority, Priority::kHigh);
  EXPECT_EQ(request.deadline_ns, 1'500'000'000);
  EXPECT_EQ(request.confidence_min, 0.5f);
  EXPECT_FALSE(request.cache);
  EXPECT_EQ(request.client, "u");
}

TEST_F(JsonRequestTest, Defaults) {
  const Request request = Good(R"({"prompt": [5, 6.0, 7], "temperature": null, "stop": "e", "logprobs": 2})");
  EXPECT_EQ(request.tokens, (std::vector<uint32_t>{5, 6, 7})) << "as they are, without a prefix";
  EXPECT_EQ(request.tokens_max, 77u);
  EXPECT_EQ(request.priority, Priority::kLow);
  EXPECT_EQ(request.stops, std::vector<std::string>{"e"});
  EXPECT_TRUE(request.token_details);
  EXPECT_EQ(request.top_logprobs, 2u);
}

TEST_F(JsonRequestTest, MessagesGoThroughTheTemplate) {
  EXPECT_EQ(Text(Good(R"({"messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "t"}]})").tokens), "<user>hi[t]");
  const auto without = Read(R"({"messages": [{"role": "user", "content": "hi"}]})", nullptr);
  EXPECT_EQ(without.error().code(), Code::kUnsupported);
}

// What else a template looks at is untrusted as messages are, and stands in for nothing that a request has a member for.
TEST_F(JsonRequestTest, TemplatesAreToldMore) {
  const ChatTemplate shows = ChatTemplate::Make("{{ effort }}{% for m in messages %}<{{ m.content }}>{% endfor %}", {}).value();
  const auto told = Read(R"({"messages": [{"role": "user", "content": "hi"}],
                             "chat_template_kwargs": {"effort": "low", "messages": [{"role": "user", "content": "no"}]}})",
                         &shows);
  ASSERT_TRUE(told.ok()) << told.error().message();
  EXPECT_EQ(Text(told->tokens), "low<hi>");
  EXPECT_NE(Refused(R"({"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": 1})").find("chat_template_kwargs: 1"),
            std::string::npos);
}

TEST_F(JsonRequestTest, EchoIsThePromptsText) {
  EXPECT_EQ(Good(R"({"prompt": "a b", "echo": true})").echo, "a b");
  EXPECT_EQ(Good(R"({"prompt": "a b", "echo": false})").echo, "");
  const Request ids = Good(R"({"prompt": [70, 71], "echo": true})");
  EXPECT_EQ(ids.echo, Text({70, 71}));
  EXPECT_FALSE(ids.echo.empty());
  EXPECT_FALSE(ids.prompt_details);
  const Request scored = Good(R"({"prompt": [70, 71], "echo": true, "logprobs": 1, "max_tokens": 0})");
  EXPECT_TRUE(scored.prompt_details);
  EXPECT_EQ(scored.tokens_max, 0u);
}

TEST_F(JsonRequestTest, WhatIsWrongIsNamed) {
  for (const auto& [json, expected] : {
           std::pair{R"([])", "expected an object"},
           {R"({})", "either \"messages\" or \"prompt\""},
           {R"({"prompt": "a", "messages": []})", "either \"messages\" or \"prompt\""},
           {R"({"prompt": 3})", "prompt: 3: expected a text, or a list"},
           {R"({"prompt": [300]})", "prompt: 300: expected a whole number from 0 to 299"},
           {R"({"prompt": [-1]})", "prompt: -1"},
           {R"({"prompt": [1.5]})", "prompt: 1.5"},
           {R"({"messages": []})", "messages: []: expected a list of 1"},
           {R"({"messages": [{"content": "x"}]})", "messages[0]"},
           {R"({"messages": ["x"]})", "messages[0]"},
           {R"({"prompt": "a", "temprature": 1})", "the nearest is temperature"},
           {R"({"prompt": "a", "temperature": "hot"})", "temperature: \"hot\": expected a number from 0 to 100"},
           {R"({"prompt": "a", "temperature": -0.1})", "temperature: -0.1"},
           {R"({"prompt": "a", "max_tokens": 0})", "max_tokens: 0"},
           {R"({"prompt": "a", "max_tokens": 1e300})", "max_tokens: 1e+300"},
           {R"({"prompt": "a", "max_tokens": -5})", "max_tokens: -5"},
           {R"({"prompt": "a", "n": 17})", "n: 17: expected a whole number from 1 to 16"},
           {R"({"prompt": "a", "top_logprobs": 21})", "top_logprobs: 21"},
           {R"({"prompt": "a", "seed": 1.5})", "seed: 1.5"},
           {R"({"prompt": "a", "stop": 5})", "stop: 5"},
           {R"({"prompt": "a", "stop": ["a", 5]})", "stop: 5"},
           {R"({"prompt": "a", "logit_bias": {"x": 1}})", "logit_bias: \"x\": expected a token's id"},
           {R"({"prompt": "a", "logit_bias": {"1": 101}})", "logit_bias: 101"},
           {R"({"prompt": "a", "logit_bias": [1]})", "logit_bias: [1]"},
           {R"({"prompt": "a", "priority": "urgent"})", "priority: \"urgent\": expected \"high\""},
           {R"({"prompt": "a", "cache": 1})", "cache: 1: expected true or false"},
           {R"({"prompt": "a", "user": 1})", "user: 1"},
           {R"({"prompt": "a", "adapter": ["x"]})", "adapter: [\"x\"]: expected a text"},
           {R"({"prompt": "a", "deadline_ms": 0})", "deadline_ms: 0"},
           {R"({"prompt": "a", "confidence_threshold": 2})", "confidence_threshold: 2"},
           {R"({"prompt": "a", "echo": 1})", "echo: 1: expected true or false"},
           {R"({"prompt": "a", "echo": true, "max_completion_tokens": 0})", "max_completion_tokens: 0: expected a whole number from 1"},
           {R"({"prompt": "a", "logprobs": true, "max_tokens": 0})", "max_tokens: 0"},
           {R"({"messages": [{"role": "user", "content": "x"}], "echo": true})", "echo: only a \"prompt\""},
       }) {
    EXPECT_NE(Refused(json).find(expected), std::string::npos) << json << ": " << Refused(json);
  }
  EXPECT_NE(Refused(R"({"prompt": ")" + std::string(20'000, 'a') + R"("})").find("cannot fit the context of 100"), std::string::npos);
}

TEST_F(JsonRequestTest, StructuredOutput) {
  MemoryBudget budget(UINT64_MAX);
  Constraints constraints(*tokenizer_, budget);
  const auto read = [&](const std::string& members) {
    return ReadJsonRequest(ParseJson("{\"prompt\": \"a\", " + members + "}").value(), {.tokenizer = *tokenizer_,
                                                                                       .chat_template = nullptr,
                                                                                       .now = LocalTime(),
                                                                                       .defaults = {},
                                                                                       .constraints = &constraints,
                                                                                       .context = 100});
  };
  const auto allows = [&](const std::string& members, std::string_view text) {
    TokenConstraint constraint(read(members).value().constraint);
    return constraint.AcceptText(text).ok() && constraint.MayEnd();
  };
  EXPECT_EQ(read(R"("response_format": {"type": "text"})").value().constraint, nullptr);
  EXPECT_TRUE(allows(R"("response_format": {"type": "json_object"})", R"({"a": [1, 2]})"));
  EXPECT_FALSE(allows(R"("response_format": {"type": "json_object"})", "[]"));
  const std::string schema =
      R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"type": "boolean"}}})";
  EXPECT_TRUE(allows(schema, "true"));
  EXPECT_FALSE(allows(schema, "1"));
  EXPECT_TRUE(allows(R"("grammar": "root ::= \"yes\" | \"no\"")", "no"));
  EXPECT_TRUE(allows(R"("regex": "[ab]{2}")", "ba"));
  for (const auto& [members, expected] : {
           std::pair{R"("response_format": {"type": "xml"})", "response_format"},
           {R"("response_format": 5)", "response_format: 5"},
           {R"("response_format": {"type": "json_schema"})", "response_format.json_schema"},
           {R"("response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array", "uniqueItems": true}}})",
            "uniqueItems"},
           {R"("grammar": "root ::= nothing")", "nothing"},
           {R"("regex": "(a)\\1")", "back reference"},
           {R"("regex": "a", "grammar": "root ::= \"a\"")", "only one of them"},
           {R"("regex": 7)", "regex: 7"},
       }) {
    const auto request = read(members);
    ASSERT_FALSE(request.ok()) << members;
    EXPECT_NE(request.error().message().find(expected), std::string::npos) << members << ": " << request.error().message();
  }
  EXPECT_NE(Refused(R"({"prompt": "a", "regex": "a"})").find("not available"), std::string::npos);
}

TEST_F(JsonRequestTest, AnswersAsJson) {
  std::vector<ChoiceResult> choices(2);
  for (ChoiceResult& choice : choices) {
    Event event;
    event.text = "a";
    event.tokens = {{{5, -0.5f}, {{5, -0.5f}, {6, -1.5f}}}};
    choice.Add(event);
    Event last;
    last.text = "b";
    last.finish = Finish{.reason = StopReason::kLength, .confidence = 0.25f, .low_confidence = true};
    last.finish->usage.prompt_tokens = 7;
    last.finish->usage.generated_tokens = 2;
    last.finish->usage.cached_tokens = 4;
    choice.Add(last);
  }
  const Json answer = WriteAnswer(choices, *tokenizer_);
  ASSERT_EQ(answer["choices"].size(), 2u);
  const Json& second = answer["choices"][1];
  EXPECT_EQ(second["index"], 1);
  EXPECT_EQ(second["text"], "ab");
  EXPECT_EQ(second["finish_reason"], "length");
  EXPECT_EQ(second["logprobs"]["content"][0]["top_logprobs"][1]["id"], 6);
  EXPECT_EQ(second["confidence"], 0.25);
  EXPECT_EQ(second["low_confidence"], true);
  EXPECT_FALSE(second.contains("computed_confidence"));
  EXPECT_EQ(answer["usage"].dump(), R"({"prompt_tokens":7,"completion_tokens":4,"total_tokens":11,"cached_tokens":4})");
}

}  // namespace
}  // namespace bantam
