// OutputParser: what a model writes, taken apart as it comes: content, reasoning, calls of tools.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"

namespace bantam {

// Longest call of tools that is waited for; a longer one is content.
inline constexpr size_t kCallBytesMax = size_t{1} << 20;

// A stretch of output between two markers.
struct OutputSection {
  enum class Kind : uint8_t { kReasoning, kContent, kCalls };
  std::string_view open;
  std::string_view close;  // empty: calls end with their JSON, or the answer
  Kind kind = Kind::kReasoning;
  CallFormat format = CallFormat::kJson;
};

// How a model marks what it writes.
struct OutputDialect {
  std::vector<OutputSection> sections;
  bool harmony = false;     // channels: <|channel|>analysis<|message|>...<|end|>
  bool recipients = false;  // >>>NAME, a line feed and the arguments; >>>all and content
  bool bare_json = false;   // calls without markers, where the answer begins with JSON

  // From what the template writes itself and from the vocabulary's own tokens.
  static OutputDialect Detect(std::string_view chat_template, const Tokenizer& tokenizer);

  // Control tokens whose names the parser has to see: to be decoded as text (TokenStream).
  std::vector<uint32_t> MarkerTokens(const Tokenizer& tokenizer) const;
};

struct OutputOptions {
  std::string_view prompt;  // or its end: a template may have opened a section already
  Json tools;               // of the request; null: calls without markers are not looked for
};

struct Output {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;
};

class OutputParser {
 public:
  OutputParser(OutputDialect dialect, const OutputOptions& options);
  OutputParser(const OutputParser&) = delete;
  OutputParser& operator=(const OutputParser&) = delete;

  // What is certain after these bytes, beyond what was said before. Malformed calls are content. White space round sections is dropped.
  Output Push(std::string_view text);
  Output Finish();

 private:
  enum class State : uint8_t { kContent, kSection, kHeader, kMessage, kBareJson };

  // Each does one step on pending_ and says whether there may be more.
  bool StepContent(bool last, Output* out);
  bool StepSection(bool last, Output* out);
  bool StepHeader(bool last);
  bool StepMessage(bool last, Output* out);
  bool StepBareJson(bool last, Output* out);

  void Advance(bool last, Output* out);
  void Enter(State state);
  void EmitContent(std::string_view text, Output* out);
  void EmitReasoning(std::string_view text, Output* out);
  bool EmitCalls(CallFormat format, std::string_view body, Output* out);
  void EndSegment();
  // Where the JSON value ends that begins behind `from` in pending_, npos while it is open.
  size_t JsonEnd(size_t from);

  OutputDialect dialect_;
  Json tools_;
  std::vector<std::string> opens_;   // markers that end content
  std::vector<std::string> closes_;  // markers that end a message in channels, or to a recipient
  State state_ = State::kContent;
  const OutputSection* section_ = nullptr;  // of kSection
  std::string header_;                      // of kMessage: who it goes to
  OutputSection::Kind message_ = OutputSection::Kind::kContent;
  std::string pending_;
  std::string space_;          // white space that waits for more of its segment
  bool segment_empty_ = true;  // nothing but white space so far
  bool trim_start_ = false;    // white space at the start of the segment goes
  bool answer_empty_ = true;   // nothing was said yet
  // Of JsonEnd: how far it has looked.
  size_t json_at_ = 0;
  size_t json_depth_ = 0;
  bool json_text_ = false;
};

}  // namespace bantam
