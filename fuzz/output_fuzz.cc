// What a model may write, in every dialect: taken apart byte by byte it is what it is as a whole.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "text/output_parser.h"

namespace {

struct Whole {
  std::string content;
  std::string reasoning;
  std::string calls;

  void Add(const bantam::Output& out) {
    content += out.content;
    reasoning += out.reasoning;
    for (const bantam::ToolCall& call : out.tool_calls) calls += call.id + "\n" + call.name + "\n" + call.arguments + "\n";
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace bantam;
  static const Tokenizer tokenizer = [] {
    TokenizerSpec spec;
    spec.model = TokenizerModel::kWordLevel;
    spec.Add("?", TokenType::kUnknown, 0);
    spec.unknown = 0;
    return Tokenizer::Make(std::move(spec)).value();
  }();
  constexpr std::string_view kTemplates[] = {
      "<think> <tool_call> <function= [TOOL_CALLS] <|tool_call|> functools <|python_tag|> <function name=\"", "<|channel|> <|message|>",
      ">>>all", "", "<|channel>thought <|tool_call> <|tool_call_start|> <response> <think> ```tool_code\n <|tools_prefix|>"};
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const OutputDialect dialect = OutputDialect::Detect(kTemplates[data[0] % std::size(kTemplates)], tokenizer);
  const OutputOptions options = {data[0] % 2 == 0 ? ">>>" : "<think>", Json::array()};
  Whole whole;
  OutputParser at_once(dialect, options);
  whole.Add(at_once.Push(text));
  whole.Add(at_once.Finish());
  Whole parts;
  OutputParser by_bytes(dialect, options);
  for (const char& c : text) parts.Add(by_bytes.Push(std::string_view(&c, 1)));
  parts.Add(by_bytes.Finish());
  CHECK(whole.content == parts.content);
  CHECK(whole.reasoning == parts.reasoning);
  CHECK(whole.calls == parts.calls);
  return 0;
}
