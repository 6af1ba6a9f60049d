// Published templates write calls, reasoning and content into a history; what they write there is what the model was trained to write.
// Parsed with the dialect found in the template, it has to be what the history said.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "testing/paths.h"
#include "text/chat_template.h"
#include "text/output_parser.h"

namespace bantam {
namespace {

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// No tokens of its own: the dialect comes from the template alone.
Tokenizer Bare() {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kWordLevel;
  spec.Add("?", TokenType::kUnknown, 0);
  spec.unknown = 0;
  return Tokenizer::Make(std::move(spec)).value();
}

Json Request(const Json& assistant) {
  Json request = ParseJson(R"({"bos_token":"<s>","eos_token":"</s>","messages":[{"role":"user","content":"Read zone 3."}],
      "tools":[{"type":"function","function":{"name":"read_sensor","description":"Read a sensor.","parameters":{"type":"object",
      "properties":{"sensor_id":{"type":"string","description":"Which"},"count":{"type":"integer","description":"How many"},
      "raw":{"type":"boolean","description":"As is"}},"required":["sensor_id"]}}}]})")
                     .value();
  request["add_generation_prompt"] = assistant.is_null();
  if (!assistant.is_null()) request["messages"].push_back(assistant);
  return request;
}

std::optional<std::string> Render(const ChatTemplate& chat, const Json& request) {
  std::tm now = {};
  now.tm_year = 126;
  now.tm_mday = 1;
  const auto pieces = chat.RenderRequest(request, now);
  if (!pieces.ok()) return std::nullopt;
  std::string text;
  for (const PromptPiece& piece : *pieces) text += piece.text;
  return text;
}

struct Turn {
  std::string prompt;
  std::string answer;
};

// What stands behind the prompt, up to the token that ends the turn.
std::optional<Turn> AnswerOf(const ChatTemplate& chat, bool channels, const Json& assistant) {
  const auto before = Render(chat, Request(nullptr));
  const auto after = Render(chat, Request(assistant));
  if (!before || !after) return std::nullopt;
  size_t at = static_cast<size_t>(std::mismatch(before->begin(), before->end(), after->begin(), after->end()).second - after->begin());
  // Not inside of a marker that both have by chance.
  if (at < before->size()) {
    while (at > 0 && (*after)[at - 1] != '>' && (*after)[at - 1] != '\n') --at;
  }
  Turn turn = {after->substr(0, at), after->substr(at)};
  size_t end = turn.answer.size();
  for (const char* stop : {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "</s>", "<|end_of_text|>", "<end_of_turn>", "<turn|>", "<|end|>",
                           "<|call|>", "<|assistant_end|>", "<SPECIAL_12>", "<|END_OF_TURN_TOKEN|>", "<|observation|>", "<|user|>",
                           "<|tool_response>", "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
                           "<\xef\xbd\x9c"
                           "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"}) {
    // Between channels it ends a message and not the turn.
    if (!channels || std::string_view(stop) != "<|end|>") end = std::min(end, turn.answer.find(stop));
  }
  turn.answer.resize(std::min(end, turn.answer.size()));
  // One template opens thoughts for an answer that has none.
  if (turn.prompt.ends_with("<think>\n") && turn.answer.find("</think>") == std::string::npos) return std::nullopt;
  return turn;
}

Output Parse(const std::string& source, const Turn& turn) {
  OutputParser parser(OutputDialect::Detect(source, Bare()), {turn.prompt, Request(nullptr)["tools"]});
  Output out = parser.Push(turn.answer);
  Output rest = parser.Finish();
  out.content += rest.content;
  out.reasoning += rest.reasoning;
  std::move(rest.tool_calls.begin(), rest.tool_calls.end(), std::back_inserter(out.tool_calls));
  return out;
}

// Of each published template that writes `wanted` when it shows this message: what the parser makes of it.
class OutputTemplates : public ::testing::Test {
 protected:
  template <typename Check>
  static size_t Each(const Json& assistant, std::string_view wanted, const Check& check) {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(Folder())) {
      if (entry.path().extension() != ".jinja") continue;
      SCOPED_TRACE(entry.path().filename());
      const std::string source = ReadAll(entry.path());
      const auto chat = ChatTemplate::Make(source, {"<s>", "</s>", "", ""});
      EXPECT_TRUE(chat.ok());
      const auto turn = AnswerOf(*chat, source.find("<|channel|>") != std::string::npos, assistant);
      if (!turn || turn->answer.find(wanted) == std::string::npos) continue;
      SCOPED_TRACE(turn->answer);
      check(Parse(source, *turn));
      ++count;
    }
    return count;
  }
  void SetUp() override {
    if (!std::filesystem::exists(Folder())) GTEST_SKIP() << Folder() << " is absent";
  }
  static std::string Folder() { return testing::SharedPath("golden/templates"); }
};

TEST_F(OutputTemplates, CallsOfHistoriesAreFound) {
  const Json arguments = ParseJson(R"({"sensor_id":"zone3/moisture <b>","count":3,"raw":true})").value();
  const Json call = {{"id", "call00001"}, {"type", "function"}, {"function", {{"name", "read_sensor"}, {"arguments", arguments}}}};
  const Json assistant = {{"role", "assistant"}, {"content", ""}, {"tool_calls", Json::array({call})}};
  const size_t count = Each(assistant, "read_sensor", [&](const Output& out) {
    EXPECT_EQ(out.content, "");
    EXPECT_EQ(out.reasoning, "");
    ASSERT_EQ(out.tool_calls.size(), 1u);
    EXPECT_EQ(out.tool_calls[0].name, "read_sensor");
    // Templates may sort the arguments.
    const Json parsed = ParseJson(out.tool_calls[0].arguments).value();
    for (const auto& [name, value] : arguments.items()) EXPECT_EQ(JsonMember(parsed, name.c_str()), value) << name;
  });
  EXPECT_GE(count, 18u);
}

TEST_F(OutputTemplates, TwoCallsAreFound) {
  Json calls = Json::array();
  for (const char* sensor : {"zone_a", "zone_b"}) {
    calls.push_back({{"id", "call" + std::string(sensor).substr(1)},
                     {"type", "function"},
                     {"function", {{"name", "read_sensor"}, {"arguments", {{"sensor_id", sensor}}}}}});
  }
  const Json assistant = {{"role", "assistant"}, {"content", ""}, {"tool_calls", calls}};
  const size_t count = Each(assistant, "zone_b", [&](const Output& out) {
    EXPECT_EQ(out.content, "");
    ASSERT_EQ(out.tool_calls.size(), 2u);
    EXPECT_EQ(JsonMember(ParseJson(out.tool_calls[0].arguments).value(), "sensor_id"), "zone_a");
    EXPECT_EQ(JsonMember(ParseJson(out.tool_calls[1].arguments).value(), "sensor_id"), "zone_b");
  });
  EXPECT_GE(count, 12u) << "some write one call at a time";
}

TEST_F(OutputTemplates, ReasoningOfHistoriesIsFound) {
  const Json assistant = {
      {"role", "assistant"}, {"content", "It is <b> 4."}, {"reasoning_content", "Two and\ntwo."}, {"thinking", "Two and\ntwo."}};
  const size_t count = Each(assistant, "Two and", [&](const Output& out) {
    EXPECT_EQ(out.content, "It is <b> 4.");
    EXPECT_EQ(out.reasoning, "Two and\ntwo.");
    EXPECT_TRUE(out.tool_calls.empty());
  });
  EXPECT_GE(count, 3u) << "many drop the thoughts of histories";
}

TEST_F(OutputTemplates, PlainAnswersStayAsTheyAre) {
  const Json assistant = {{"role", "assistant"}, {"content", "It is {\"a\": 4} <b>, `x` [1]."}};
  const size_t count = Each(assistant, "It is", [&](const Output& out) {
    EXPECT_EQ(out.content, "It is {\"a\": 4} <b>, `x` [1].");
    EXPECT_EQ(out.reasoning, "");
    EXPECT_TRUE(out.tool_calls.empty());
  });
  EXPECT_GE(count, 22u);
}

}  // namespace
}  // namespace bantam
