#include "text/output_parser.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace bantam {
namespace {

// A vocabulary with these control tokens.
Tokenizer WithTokens(const std::vector<std::string>& tokens) {
  TokenizerSpec spec;
  spec.model = TokenizerModel::kWordLevel;
  spec.Add("?", TokenType::kUnknown, 0);
  spec.unknown = 0;
  for (const std::string& token : tokens) spec.Add(token, TokenType::kControl, 0);
  return Tokenizer::Make(std::move(spec)).value();
}

struct Case {
  const char* name;
  std::string chat_template;
  std::vector<std::string> tokens;
  std::string prompt;
  std::string text;
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> calls;
};

// Tools of these names; get's parameters are known.
Json Tools() {
  Json tools = Json::array();
  for (const char* name : {"a", "b", "f", "special_function"}) tools.push_back({{"type", "function"}, {"function", {{"name", name}}}});
  tools.push_back(ParseJson(R"({"type":"function","function":{"name":"get","parameters":{"type":"object","properties":{
      "zip":{"type":"string"},"n":{"type":"integer"},"u":{"anyOf":[{"type":"string"},{"type":"null"}]}}}}})")
                      .value());
  return tools;
}

struct Whole {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> calls;
  void Add(Output out) {
    content += out.content;
    reasoning += out.reasoning;
    for (ToolCall& call : out.tool_calls) calls.push_back(std::move(call));
  }
};

std::vector<std::string> Written(const std::vector<ToolCall>& calls) {
  std::vector<std::string> lines;
  for (const ToolCall& call : calls) lines.push_back(call.id + " " + call.name + " " + call.arguments);
  return lines;
}

// The text in the parts that `cuts` make of it.
Whole Parse(const Case& c, const std::vector<size_t>& cuts) {
  OutputParser parser(OutputDialect::Detect(c.chat_template, WithTokens(c.tokens)), {c.prompt, Tools()});
  Whole whole;
  size_t begin = 0;
  for (const size_t end : cuts) {
    whole.Add(parser.Push(std::string_view(c.text).substr(begin, end - begin)));
    begin = end;
  }
  whole.Add(parser.Push(std::string_view(c.text).substr(begin)));
  whole.Add(parser.Finish());
  return whole;
}

// Whole, cut in two at every byte, and byte by byte.
void Check(const Case& c) {
  const auto same = [&](const std::vector<size_t>& cuts) {
    const Whole whole = Parse(c, cuts);
    EXPECT_EQ(whole.content, c.content) << c.name << " cut at " << testing::PrintToString(cuts);
    EXPECT_EQ(whole.reasoning, c.reasoning) << c.name << " cut at " << testing::PrintToString(cuts);
    EXPECT_EQ(Written(whole.calls), Written(c.calls)) << c.name << " cut at " << testing::PrintToString(cuts);
    return !testing::Test::HasFailure();
  };
  std::vector<size_t> all;
  for (size_t at = 1; at < c.text.size(); ++at) all.push_back(at);
  if (!same({}) || !same(all)) return;
  for (const size_t at : all) {
    if (!same({at})) return;
  }
}

const std::string kHermes = "{{ '<tool_call>' }}";
const std::string kThink = "<think></think>";
const std::string kChannels = "<|channel|><|message|>";
const std::string kLongBar = "\xef\xbd\x9c";
const std::string kMark = "\xe2\x96\x81";
const std::string kCallsBegin = "<" + kLongBar + "tool" + kMark + "calls" + kMark + "begin" + kLongBar + ">";
const std::string kCallsEnd = "<" + kLongBar + "tool" + kMark + "calls" + kMark + "end" + kLongBar + ">";
const std::string kCallBegin = "<" + kLongBar + "tool" + kMark + "call" + kMark + "begin" + kLongBar + ">";
const std::string kCallEnd = "<" + kLongBar + "tool" + kMark + "call" + kMark + "end" + kLongBar + ">";
const std::string kCallSep = "<" + kLongBar + "tool" + kMark + "sep" + kLongBar + ">";
const ToolCall kGet = {"", "get", R"({"zip":"01234","n":3})"};

TEST(OutputParser, EveryDialect) {
  const Case cases[] = {
      {"content", "", {}, "", " Hello, world!\n\nBye. ", " Hello, world!\n\nBye. ", "", {}},
      {"Hermes, Qwen 2.5",
       kHermes,
       {},
       "",
       "Let me see.\n<tool_call>\n{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}}\n</tool_call>",
       "Let me see.",
       "",
       {kGet}},
      {"two calls",
       kHermes,
       {},
       "",
       "<tool_call>\n{\"name\":\"a\",\"arguments\":{}}\n</tool_call>\n<tool_call>\n{\"name\":\"b\"}\n</tool_call>\n",
       "",
       "",
       {{"", "a", "{}"}, {"", "b", "{}"}}},
      {"Qwen 3", kHermes + kThink, {}, "", "<think>\nFirst,\n then.\n</think>\n\nThe answer.\n", "The answer.\n", "First,\n then.", {}},
      {"Qwen 3, thought first",
       kHermes + kThink,
       {},
       "",
       "<think>\nHm.\n</think>\n\n<tool_call>\n{\"name\": \"get\", \"arguments\": "
       "\"{\\\"zip\\\":\\\"01234\\\",\\\"n\\\":3}\"}\n</tool_call>",
       "",
       "Hm.",
       {kGet}},
      {"opened by the prompt", kThink, {}, "<|im_start|>assistant\n<think>\n", "I think so.</think>Yes.", "Yes.", "I think so.", {}},
      {"closed by the prompt", kThink, {}, "<think>\n\n</think>\n\n", "Yes.", "Yes.", "", {}},
      {"never closed", kThink, {}, "", "<think>on and on", "", "on and on", {}},
      {"never closed, with white space", kThink, {}, "", "<think>on and on \n", "", "on and on", {}},
      {"Qwen3-Coder",
       kHermes + "<function=",
       {},
       "",
       "I "
       "will.\n<tool_call>\n<function=get>\n<parameter=zip>\n01234\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>\n</"
       "tool_call>",
       "I will.",
       "",
       {kGet}},
      {"without its wrapper",
       kHermes + "<function=",
       {},
       "",
       "<function=get>\n<parameter=zip>\n01234\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>",
       "",
       "",
       {kGet}},
      {"lines in a parameter",
       kHermes + "<function=",
       {},
       "",
       "<tool_call><function=write>\n<parameter=text>\na\n\nb <x>\n</parameter>\n</function></tool_call>",
       "",
       "",
       {{"", "write", R"({"text":"a\n\nb <x>"})"}}},
      {"GLM",
       kHermes,
       {},
       "",
       "<tool_call>get\n<arg_key>zip</arg_key>\n<arg_value>01234</arg_value>\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
       "",
       "",
       {kGet}},
      {"Llama 3, bare", "", {}, "", "{\"name\": \"get\", \"parameters\": {\"zip\": \"01234\", \"n\": 3}}", "", "", {kGet}},
      {"Llama 3, two",
       "",
       {},
       "",
       "{\"name\": \"a\", \"parameters\": {}}; {\"type\": \"function\", \"name\": \"b\", \"parameters\": {\"s\": \"};\"}}",
       "",
       "",
       {{"", "a", "{}"}, {"", "b", R"({"s":"};"})"}}},
      {"Llama 3, its tag",
       "<|python_tag|>",
       {"<|python_tag|>"},
       "",
       "<|python_tag|>{\"name\": \"get\", \"parameters\": {\"zip\": \"01234\", \"n\": 3}}",
       "",
       "",
       {kGet}},
      {"Llama 3, built in",
       "",
       {"<|python_tag|>"},
       "",
       "<|python_tag|>brave_search.call(query=\"a \\\"b\\\"\")",
       "",
       "",
       {{"", "brave_search", R"({"query":"a \"b\""})"}}},
      {"JSON that is none", "", {}, "", "{\"answer\": 42, \"name\": \"get\"}", "{\"answer\": 42, \"name\": \"get\"}", "", {}},
      {"a list that is none", "", {}, "", "[1, 2] are numbers", "[1, 2] are numbers", "", {}},
      {"generic",
       "",
       {},
       "",
       "{\"tool_calls\": [{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}, \"id\": \"c1\"}]}",
       "",
       "",
       {{"c1", "get", kGet.arguments}}},
      {"generic, one", "", {}, "", "{\"tool_call\": {\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}}}", "", "", {kGet}},
      {"Mistral",
       "[TOOL_CALLS]",
       {},
       "",
       "[TOOL_CALLS][{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}, \"id\": \"abc123def\"}]",
       "",
       "",
       {{"abc123def", "get", kGet.arguments}}},
      {"Mistral, later",
       "[TOOL_CALLS][ARGS]",
       {},
       "",
       "Well.[TOOL_CALLS]get[ARGS]{\"zip\": \"01234\", \"n\": 3}[TOOL_CALLS]b[CALL_ID]x9[ARGS]{}",
       "Well.",
       "",
       {kGet, {"x9", "b", "{}"}}},
      {"Ministral, thinking", "[TOOL_CALLS][THINK]", {}, "", "[THINK]Hm, [ok].[/THINK]Sure [1].", "Sure [1].", "Hm, [ok].", {}},
      {"Phi-4",
       "<|tool_call|>",
       {"<|tool_call|>", "<|/tool_call|>"},
       "",
       "<|tool_call|>[{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}}]<|/tool_call|>",
       "",
       "",
       {kGet}},
      {"Phi-4, in words",
       "functools",
       {},
       "",
       "functools[{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}}]",
       "",
       "",
       {kGet}},
      {"the word alone", "functools", {}, "", "import functools\nand so on", "import functools\nand so on", "", {}},
      {"Gemma 3", "```tool_code\n", {}, "", "```tool_code\nget(zip=\"01234\", n=3)\n```", "", "", {kGet}},
      {"Gemma 4",
       "<|tool_call><|channel>thought",
       {},
       "",
       "<|channel>thought\nHm.\n<channel|><|tool_call>call:get{zip:<|\"|>01234<|\"|>,n:3}<tool_call|>",
       "",
       "Hm.",
       {kGet}},
      {"Gemma's functions",
       "",
       {"<start_function_call>", "<end_function_call>"},
       "",
       "<start_function_call>call:f{a:<escape>x, {y}<escape>,b:[1,true,{c:null}]}<end_function_call>",
       "",
       "",
       {{"", "f", R"({"a":"x, {y}","b":[1,true,{"c":null}]})"}}},
      {"Granite 3", "<|tool_call|>" + kThink + "<response>", {}, "", "<think>Hm.</think><response>Fine.</response>", "Fine.", "Hm.", {}},
      {"Granite 3, a call",
       "<|tool_call|>",
       {},
       "",
       "<|tool_call|>[{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}}]",
       "",
       "",
       {kGet}},
      {"LFM2",
       "",
       {"<|tool_call_start|>", "<|tool_call_end|>"},
       "",
       "<|tool_call_start|>[get(zip='01234', n=3), f(a=[1.5, True, None], d={'k': (1,)})]<|tool_call_end|>Checking.",
       "Checking.",
       "",
       {kGet, {"", "f", R"({"a":[1.5,true,null],"d":{"k":[1]}})"}}},
      {"SmolLM3",
       kThink,
       {"<tool_call>"},
       "",
       "<think>\n\n</think>\n<tool_call>{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}}</tool_call>",
       "",
       "",
       {kGet}},
      {"harmony",
       kChannels,
       {},
       "",
       "<|channel|>analysis<|message|>We need it.<|end|><|start|>assistant<|channel|>final<|message|>It is\n 4.<|return|>",
       "It is\n 4.",
       "We need it.",
       {}},
      {"harmony, a call",
       kChannels,
       {},
       "<|start|>assistant",
       "<|channel|>analysis<|message|>Ask.<|end|><|start|>assistant<|channel|>commentary to=functions.get "
       "<|constrain|>json<|message|>{\"zip\":\"01234\",\"n\":3}<|call|>",
       "",
       "Ask.",
       {kGet}},
      {"harmony, to whom first",
       kChannels,
       {},
       "",
       "<|start|>assistant to=functions.get<|channel|>commentary<|message|>{\"zip\":\"01234\",\"n\":3}",
       "",
       "",
       {kGet}},
      {"harmony, a preamble", kChannels, {}, "", "<|channel|>commentary<|message|>One moment.<|end|>", "One moment.", "", {}},
      {"harmony without channels", kChannels, {}, "", "Plain <b> text.", "Plain <b> text.", "", {}},
      {"DeepSeek",
       kCallsBegin + kThink,
       {},
       "<think>\n",
       "Hm.\n</think>\n\n" + kCallsBegin + kCallBegin + "function" + kCallSep + "get\n```json\n{\"zip\": \"01234\", \"n\": 3}\n```" +
           kCallEnd + "\n" + kCallBegin + "function" + kCallSep + "b\n```json\n{}\n```" + kCallEnd + kCallsEnd,
       "",
       "Hm.",
       {kGet, {"", "b", "{}"}}},
      {"DeepSeek 3.1",
       kCallsBegin,
       {},
       "",
       kCallsBegin + kCallBegin + "get" + kCallSep + "{\"zip\": \"01234\", \"n\": 3}" + kCallEnd + kCallsEnd,
       "",
       "",
       {kGet}},
      {"functionary 3.1", "<function=", {}, "", "Sure. <function=get>{\"zip\": \"01234\", \"n\": 3}</function>", "Sure.", "", {kGet}},
      {"functionary 3.2", ">>>all", {}, ">>>", "all\nOne moment.>>>get\n{\"zip\": \"01234\", \"n\": 3}", "One moment.", "", {kGet}},
      {"functionary 3.2, no name", ">>>all", {}, ">>>", "Well, no.\nSo.", "Well, no.\nSo.", "", {}},
      {"Nemotron",
       "<TOOLCALL>",
       {},
       "",
       "<TOOLCALL>[{\"name\": \"get\", \"arguments\": {\"zip\": \"01234\", \"n\": 3}}]</TOOLCALL>",
       "",
       "",
       {kGet}},
      {"Command R7B",
       "<|START_ACTION|><|START_THINKING|><|START_RESPONSE|>",
       {},
       "",
       "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n{\"tool_call_id\": \"0\", \"tool_name\": \"get\", \"parameters\": "
       "{\"zip\": \"01234\", \"n\": 3}}\n]<|END_ACTION|>",
       "",
       "Hm.",
       {{"0", "get", kGet.arguments}}},
      {"Apertus",
       "<|tools_prefix|>",
       {},
       "",
       "<|tools_prefix|>[{\"get\": {\"zip\": \"01234\", \"n\": 3}}]<|tools_suffix|>",
       "",
       "",
       {kGet}},
      {"MiniCPM 5",
       "<function name=\"",
       {},
       "",
       "<function name=\"get\"><param name=\"zip\">01234</param><param name=\"n\">3</param></function>",
       "",
       "",
       {kGet}},
      {"MiniCPM 5, as data",
       "<function name=\"",
       {},
       "",
       "<function name=\"w\"><param name=\"t\"><![CDATA[<a>\n&]]></param></function>",
       "",
       "",
       {{"", "w", R"({"t":"<a>\n&"})"}}},
  };
  for (const Case& c : cases) Check(c);
}

TEST(OutputParser, WhatIsMalformedStaysContent) {
  const Case cases[] = {
      {"no JSON", kHermes, {}, "", "a <tool_call>\n{\"name\": }\n</tool_call> b", "a <tool_call>\n{\"name\": }\n</tool_call> b", "", {}},
      {"no name", kHermes, {}, "", "<tool_call>{\"arguments\": {}}</tool_call>", "<tool_call>{\"arguments\": {}}</tool_call>", "", {}},
      {"an odd name", kHermes, {}, "", "<tool_call>{\"name\": \"a b\"}</tool_call>", "<tool_call>{\"name\": \"a b\"}</tool_call>", "", {}},
      {"arguments that are no object",
       kHermes,
       {},
       "",
       "<tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call>",
       "<tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call>",
       "",
       {}},
      {"never closed", kHermes, {}, "", "<tool_call>{\"name\": \"a\", ", "<tool_call>{\"name\": \"a\", ", "", {}},
      {"complete though not closed", kHermes, {}, "", "<tool_call>{\"name\": \"a\"}", "", "", {{"", "a", "{}"}}},
      {"half a marker", kHermes, {}, "", "x <tool_c", "x <tool_c", "", {}},
      {"almost a marker", kHermes, {}, "", "x <tool_cat> <<tool_call", "x <tool_cat> <<tool_call", "", {}},
      {"Mistral in words", "[TOOL_CALLS]", {}, "", "[TOOL_CALLS] is how <it> is written", "[TOOL_CALLS] is how <it> is written", "", {}},
      {"Python that is none",
       "",
       {"<|tool_call_start|>", "<|tool_call_end|>"},
       "",
       "<|tool_call_start|>[f(a=b)]<|tool_call_end|>",
       "<|tool_call_start|>[f(a=b)]<|tool_call_end|>",
       "",
       {}},
      {"code", "", {"<|python_tag|>"}, "", "<|python_tag|>print(1)", "<|python_tag|>print(1)", "", {}},
      {"harmony, no JSON", kChannels, {}, "", "<|channel|>commentary to=functions.f<|message|>oops<|call|>", "oops", "", {}},
      {"bare, cut off", "", {}, "", "{\"name\": \"get\", \"param", "{\"name\": \"get\", \"param", "", {}},
  };
  for (const Case& c : cases) Check(c);
}

// A marker in a text between quotes is none, and one that is only spoken of neither.
TEST(OutputParser, MarkersInsideTextsAreTexts) {
  const std::string spoken = R"({"s":"a </tool_call> b"})";
  const Case cases[] = {
      {"Hermes",
       kHermes,
       {},
       "",
       "<tool_call>\n{\"name\": \"f\", \"arguments\": " + spoken + "}\n</tool_call>",
       "",
       "",
       {{"", "f", spoken}}},
      {"Qwen3-Coder",
       kHermes + "<function=",
       {},
       "",
       "<tool_call>\n<function=f>\n<parameter=s>\nuse </function>, </tool_call> and </parameter> "
       "here\n</parameter>\n</function>\n</tool_call>",
       "",
       "",
       {{"", "f", R"({"s":"use </function>, </tool_call> and </parameter> here"})"}}},
      {"functionary",
       "<function=",
       {},
       "",
       "<function=f>{\"s\": \"<b></function></b>\"}</function>",
       "",
       "",
       {{"", "f", R"({"s":"<b></function></b>"})"}}},
      {"LFM2",
       "",
       {"<|tool_call_start|>", "<|tool_call_end|>"},
       "",
       "<|tool_call_start|>[f(s='<|tool_call_end|>')]<|tool_call_end|>",
       "",
       "",
       {{"", "f", R"({"s":"<|tool_call_end|>"})"}}},
      {"Gemma 4",
       "<|tool_call><|channel>thought",
       {},
       "",
       "<|tool_call>call:f{s:<|\"|>a <tool_call|> b<|\"|>}<tool_call|>",
       "",
       "",
       {{"", "f", R"({"s":"a <tool_call|> b"})"}}},
      {"Mistral",
       "[TOOL_CALLS][ARGS]",
       {},
       "",
       "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"s\": \"[ARGS] ]\"}}]",
       "",
       "",
       {{"", "f", R"({"s":"[ARGS] ]"})"}}},
      {"DeepSeek",
       kCallsBegin,
       {},
       "",
       kCallsBegin + kCallBegin + "f" + kCallSep + "{\"s\": \"```json\\n{}\\n```\"}" + kCallEnd + kCallsEnd,
       "",
       "",
       {{"", "f", R"({"s":"```json\n{}\n```"})"}}},
      {"harmony",
       kChannels,
       {},
       "",
       "<|channel|>commentary to=functions.f<|message|>{\"s\": \"a <|end|> b\"}<|call|>",
       "",
       "",
       {{"", "f", R"({"s":"a <|end|> b"})"}}},
      {"functionary 3.2", ">>>all", {}, ">>>", "f\n{\"s\": \">>> print(1)\"}", "", "", {{"", "f", "{\"s\":\">>> print(1)\"}"}}},
      {"a prompt of Python",
       ">>>all",
       {},
       ">>>",
       "all\nTry:\n>>> print(1)\n1\n>>>>>>> b\nok>>>get\n{}",
       "Try:\n>>> print(1)\n1\n>>>>>>> b\nok",
       "",
       {{"", "get", "{}"}}},
      {"spoken of",
       kHermes + kThink,
       {},
       "",
       "The <tool_call> tag and <think> too.\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>",
       "The <tool_call> tag and <think> too.",
       "",
       {{"", "f", "{}"}}},
      {"not closed, then again",
       kHermes,
       {},
       "",
       "<tool_call>\n{\"name\": \"a\"}\n<tool_call>\n{\"name\": \"b\"}\n</tool_call>",
       "<tool_call>\n{\"name\": \"a\"}",
       "",
       {{"", "b", "{}"}}},
      {"a channel that is spoken of",
       kChannels,
       {},
       "",
       "<|channel|>final<|message|>The token <|start|> begins.<|return|>",
       "The token <|start|> begins.",
       "",
       {}},
      {"XML in an answer",
       "<think></think><response>",
       {},
       "",
       "Here: <response> <ok/> </response> done",
       "Here: <response> <ok/> </response> done",
       "",
       {}},
  };
  for (const Case& c : cases) Check(c);
}

TEST(OutputParser, WhatModelsDoBesides) {
  const Case cases[] = {
      {"JSON about somebody", "", {}, "", "{\"name\": \"Alice\", \"age\": 30}", "{\"name\": \"Alice\", \"age\": 30}", "", {}},
      {"a call ends the thinking",
       kHermes + kThink,
       {},
       "<think>\n",
       "Hm.\n<tool_call>\n{\"name\": \"f\"}\n</tool_call>",
       "",
       "Hm.",
       {{"", "f", "{}"}}},
      {"thinking of a call", kHermes + kThink, {}, "", "<think>I could <tool_call> now.</think>No.", "No.", "I could <tool_call> now.", {}},
      {"several behind a tag",
       "<|python_tag|>",
       {},
       "",
       "<|python_tag|>{\"name\": \"a\"}; {\"name\": \"b\", \"parameters\": {\"s\": \"};\"}}",
       "",
       "",
       {{"", "a", "{}"}, {"", "b", R"({"s":"};"})"}}},
      {"harmony to itself",
       kChannels,
       {},
       "",
       "<|channel|>commentary "
       "to=assistant<|channel|>analysis<|message|>I'm\nthinking<|end|><|start|>assistant<|channel|>final<|message|>Hello",
       "Hello",
       "I'm\nthinking",
       {}},
      {"harmony without arguments",
       kChannels,
       {},
       "",
       "<|channel|>commentary to=functions.f<|message|><|call|>",
       "",
       "",
       {{"", "f", "{}"}}},
      {"harmony, plain", kChannels, {}, "<|start|>assistant", "assistants help people.", "assistants help people.", "", {}},
      {"harmony, a letter", kChannels, {}, "<|start|>assistant", "a", "a", "", {}},
      {"a stray close",
       kHermes + "<function=",
       {},
       "",
       "Let me.\n<function=f>\n<parameter=s>\n1\n</parameter>\n</function>\n</tool_call>",
       "Let me.",
       "",
       {{"", "f", R"({"s":1})"}}},
      {"texts by their schema",
       kHermes + "<function=",
       {},
       "",
       "<tool_call><function=get><parameter=u>\n456\n</parameter></function></tool_call>",
       "",
       "",
       {{"", "get", R"({"u":"456"})"}}},
      {"the last end left out",
       kHermes + "<function=",
       {},
       "",
       "<tool_call><function=f>\n<parameter=s>\nx\n</function></tool_call>",
       "",
       "",
       {{"", "f", R"({"s":"x"})"}}},
      {"two in one",
       kHermes,
       {},
       "",
       "<tool_call>{\"name\":\"a\"}\n{\"name\":\"b\"}</tool_call>",
       "",
       "",
       {{"", "a", "{}"}, {"", "b", "{}"}}},
      {"no arguments", kHermes, {}, "", "<tool_call>{\"name\":\"a\",\"arguments\":\"\"}</tool_call>", "", "", {{"", "a", "{}"}}},
      {"Python's texts",
       "",
       {"<|tool_call_start|>", "<|tool_call_end|>"},
       "",
       R"(<|tool_call_start|>[get-time(s="\033[1m\ud83d\ude00")]<|tool_call_end|>)",
       "",
       "",
       {{"", "get-time", "{\"s\":\"\\u001b[1m\xf0\x9f\x98\x80\"}"}}},
  };
  for (const Case& c : cases) Check(c);
}

// Arguments that nobody could read again are no call.
TEST(OutputParser, LimitsHoldForEveryNotation) {
  std::string many = "<|tool_call>call:f{a0:1";
  for (int i = 1; i <= 20'000; ++i) many += ",a" + std::to_string(i) + ":1";
  many += "}<tool_call|>";
  OutputParser parser(OutputDialect::Detect("<|tool_call>", WithTokens({})), {});
  Whole whole;
  whole.Add(parser.Push(many));
  whole.Add(parser.Finish());
  EXPECT_TRUE(whole.calls.empty());
  EXPECT_EQ(whole.content.size(), many.size());
}

TEST(OutputParser, ContentIsNotHeldBack) {
  OutputParser parser(OutputDialect::Detect(kHermes + kThink, WithTokens({})), {});
  EXPECT_EQ(parser.Push("Hello").content, "Hello");
  EXPECT_EQ(parser.Push(" a < b").content, " a < b");
  EXPECT_EQ(parser.Push(" <to").content, "") << "may become a marker";
  EXPECT_EQ(parser.Push("p>").content, " <top>");
  OutputParser thinking(OutputDialect::Detect(kHermes + kThink, WithTokens({})), {});
  EXPECT_EQ(thinking.Push("<think>so").reasoning, "so");
  EXPECT_EQ(thinking.Push(" on</").reasoning, " on");
}

TEST(OutputParser, WithoutToolsJsonIsContentAtOnce) {
  OutputParser parser(OutputDialect::Detect("", WithTokens({})), {});
  EXPECT_EQ(parser.Push("{\"name\"").content, "{\"name\"");
}

TEST(OutputParser, ALongCallIsContent) {
  OutputParser parser(OutputDialect::Detect(kHermes, WithTokens({})), {});
  Whole whole;
  whole.Add(parser.Push("<tool_call>{\"name\":\"a\",\"arguments\":{\"x\":\""));
  const std::string chunk(4096, 'x');
  for (size_t sent = 0; sent <= kCallBytesMax; sent += chunk.size()) whole.Add(parser.Push(chunk));
  whole.Add(parser.Push("\"}}</tool_call>"));
  whole.Add(parser.Finish());
  EXPECT_TRUE(whole.calls.empty());
  EXPECT_GT(whole.content.size(), kCallBytesMax);
}

TEST(OutputDialect, MarkersThatAreControlTokensAreWritten) {
  const Tokenizer tokenizer = WithTokens({"<s>", "<|tool_call_start|>", "<|tool_call_end|>", "<|im_end|>"});
  EXPECT_EQ(OutputDialect::Detect("", tokenizer).MarkerTokens(tokenizer), (std::vector<uint32_t>{2, 3}));
  const Tokenizer channels = WithTokens({"<|channel|>", "<|return|>", "<|endoftext|>"});
  EXPECT_EQ(OutputDialect::Detect(kChannels, channels).MarkerTokens(channels), (std::vector<uint32_t>{1, 2}));
}

// Whatever comes, nothing is lost but markers and headers, and nothing crashes.
TEST(OutputParser, AnythingEnds) {
  const std::string pieces[] = {"<tool_call>",
                                "</tool_call>",
                                "{\"name\":\"a\"}",
                                "<think>",
                                "</think>",
                                "[TOOL_CALLS]",
                                "[ARGS]",
                                "{",
                                "}",
                                "[",
                                "]",
                                "\"",
                                "\\",
                                " ",
                                "\n",
                                "x",
                                "<|channel|>",
                                "<|message|>",
                                "analysis",
                                "<function=",
                                "f>",
                                "</function>",
                                ">>>",
                                "<|python_tag|>",
                                "f(a=1)"};
  Rng rng(9);
  for (const std::string& chat_template :
       {kHermes + kThink + "[TOOL_CALLS]<function=<|python_tag|>", kChannels, std::string(">>>all"), std::string()}) {
    const OutputDialect dialect = OutputDialect::Detect(chat_template, WithTokens({}));
    for (int round = 0; round < 3000; ++round) {
      OutputParser parser(dialect, {"", Tools()});
      Whole whole;
      size_t xs = 0;
      std::string written;
      for (uint64_t n = rng.Next() % 20; n > 0; --n) {
        const std::string& piece = pieces[rng.Next() % std::size(pieces)];
        xs += piece == "x" ? 1 : 0;
        written += piece;
        whole.Add(parser.Push(piece));
      }
      whole.Add(parser.Finish());
      size_t kept = 0;
      for (const ToolCall& call : whole.calls)
        kept += static_cast<size_t>(std::count(call.arguments.begin(), call.arguments.end(), 'x')) +
                static_cast<size_t>(std::count(call.name.begin(), call.name.end(), 'x'));
      kept += static_cast<size_t>(std::count(whole.content.begin(), whole.content.end(), 'x'));
      kept += static_cast<size_t>(std::count(whole.reasoning.begin(), whole.reasoning.end(), 'x'));
      if (chat_template == kChannels) {
        EXPECT_LE(kept, xs) << written;  // headers are not shown
      } else {
        EXPECT_EQ(kept, xs) << written;
      }
    }
  }
}

}  // namespace
}  // namespace bantam
