// OutputParser: what a model writes, taken apart as it comes: content, reasoning, calls of tools.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"

namespace bantam {

// Longest call of tools, in bytes; what is longer is content.
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

  // What is certain after these bytes, beyond what was said before: the same however the answer is cut. Malformed calls are content. White
  // space round sections is dropped.
  Output Push(std::string_view text);
  Output Finish();

 private:
  enum class State : uint8_t { kContent, kReasoning, kCall, kHeader, kMessage, kBareJson };

  // How far the body of a call has been looked at: its end is one outside of texts in quotes.
  struct BodyScan {
    size_t at = 0;
    size_t depth = 0;
    char quote = 0;
    bool json = false;  // `at` is behind the first bracket
  };
  struct BodyEnd {
    bool hopeless = false;                   // no call, whatever comes
    size_t body = std::string_view::npos;    // where it ends, npos if that is not known yet
    size_t behind = std::string_view::npos;  // its closing marker
  };

  // Each does one step on Rest() and says whether there may be more.
  bool StepContent(bool last, Output* out);
  bool StepReasoning(bool last, Output* out);
  bool StepCall(bool last, Output* out);
  bool StepHeader(bool last);
  bool StepMessage(bool last, Output* out);
  bool StepBareJson(bool last, Output* out);

  std::string_view Rest() const { return std::string_view(pending_).substr(at_); }
  void Advance(bool last, Output* out);
  void Open(const OutputSection& section, bool from_reasoning);
  void Emit(std::string_view text, bool trim, std::string* out);
  void EmitContent(std::string_view text, Output* out);
  void EmitReasoning(std::string_view text, Output* out);
  bool EmitCalls(CallFormat format, std::string_view body, bool only_known, Output* out);
  void EndSegment();
  bool IsReasoningEnd(std::string_view marker) const;
  bool MayBeRecipient(std::string_view name, bool complete) const;
  size_t FindMessageEnd();
  BodyEnd FindBodyEnd(const OutputSection& section);
  BodyEnd ScanJson(std::string_view close, size_t from, bool single_quotes);
  BodyEnd FindGemmaEnd(std::string_view close);
  BodyEnd FindTextEnd(std::string_view close, std::span<const std::string_view> before);

  OutputDialect dialect_;
  Json tools_;
  std::vector<std::string> opens_;     // markers that end content
  std::vector<std::string> thoughts_;  // and those that end reasoning: calls
  std::vector<std::string> closes_;    // and a message in channels, or to a recipient
  State state_ = State::kContent;
  const OutputSection* section_ = nullptr;    // of kReasoning and kCall
  const OutputSection* reasoning_ = nullptr;  // that a call stands in
  std::string recipient_;                     // of kMessage
  OutputSection::Kind message_ = OutputSection::Kind::kContent;
  std::string pending_;
  size_t at_ = 0;  // what is in front of it is done
  BodyScan scan_;
  size_t malformed_ = 0;       // calls that were none
  std::string space_;          // white space that waits for more of its segment
  bool segment_empty_ = true;  // nothing but white space so far
  bool trim_start_ = false;    // white space at the start of the segment goes
  bool answer_empty_ = true;   // nothing was said yet
};

}  // namespace bantam
