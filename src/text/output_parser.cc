#include "text/output_parser.h"

#include <algorithm>
#include <array>
#include <utility>

namespace bantam {
namespace {

using Kind = OutputSection::Kind;

// Where a model's template or vocabulary has the opening marker, it writes such sections.
constexpr OutputSection kSections[] = {{"<think>", "</think>", Kind::kReasoning},
                                       {"[THINK]", "[/THINK]", Kind::kReasoning},
                                       {"<seed:think>", "</seed:think>", Kind::kReasoning},
                                       {"<|channel>thought", "<channel|>", Kind::kReasoning},
                                       {"<|START_THINKING|>", "<|END_THINKING|>", Kind::kReasoning},
                                       {"<|inner_prefix|>", "<|inner_suffix|>", Kind::kReasoning},
                                       {"<response>", "</response>", Kind::kContent},
                                       {"<|START_RESPONSE|>", "<|END_RESPONSE|>", Kind::kContent},
                                       {"<tool_call>", "</tool_call>", Kind::kCalls, CallFormat::kToolCall},
                                       {"<TOOLCALL>", "</TOOLCALL>", Kind::kCalls, CallFormat::kJson},
                                       {"<|tool_call|>", "", Kind::kCalls, CallFormat::kJson},
                                       {"<|tool_call>", "<tool_call|>", Kind::kCalls, CallFormat::kGemma},
                                       {"<start_function_call>", "<end_function_call>", Kind::kCalls, CallFormat::kGemma},
                                       {"[TOOL_CALLS]", "", Kind::kCalls, CallFormat::kMistral},
                                       {"<|tool_call_start|>", "<|tool_call_end|>", Kind::kCalls, CallFormat::kPythonic},
                                       {"```tool_code\n", "```", Kind::kCalls, CallFormat::kPythonic},
                                       {"<function=", "</function>", Kind::kCalls, CallFormat::kFunction},
                                       {"<function name=\"", "</function>", Kind::kCalls, CallFormat::kXmlFunction},
                                       {"<\xef\xbd\x9ctool\xe2\x96\x81"
                                        "calls\xe2\x96\x81"
                                        "begin\xef\xbd\x9c>",
                                        "<\xef\xbd\x9ctool\xe2\x96\x81"
                                        "calls\xe2\x96\x81"
                                        "end\xef\xbd\x9c>",
                                        Kind::kCalls, CallFormat::kDeepSeek},
                                       {"<|python_tag|>", "", Kind::kCalls, CallFormat::kPythonTag},
                                       {"functools", "", Kind::kCalls, CallFormat::kJson},
                                       {"<|START_ACTION|>", "<|END_ACTION|>", Kind::kCalls, CallFormat::kJson},
                                       {"<|tools_prefix|>", "<|tools_suffix|>", Kind::kCalls, CallFormat::kNamedObjects}};

constexpr std::string_view kChannelMarkers[] = {"<|channel|>", "<|message|>", "<|start|>",    "<|end|>",
                                                "<|call|>",    "<|return|>",  "<|constrain|>"};
constexpr std::string_view kMessage = "<|message|>";
constexpr std::string_view kRecipient = ">>>";
constexpr std::string_view kSpace = " \t\r\n";

// Markers that some models write where none is due; they are dropped. `with`: a section whose model does so.
struct Stray {
  std::string_view marker;
  std::string_view with;
};
constexpr Stray kStrays[] = {{"<|/tool_call|>", "<|tool_call|>"}, {"<channel|>", "<|channel>thought"}, {"</tool_call>", "<function="}};

// Bodies of calls begin with at most this much white space, and names end within as much again.
constexpr size_t kHeadBytesMax = 512;
// Longest head of a message in channels.
constexpr size_t kHeaderBytesMax = 1024;
// After so many calls that were none, their bodies are not searched for markers once more.
constexpr size_t kMalformedMax = 64;
bool IsSpace(char c) { return kSpace.find(c) != std::string_view::npos; }

bool HasToken(const Tokenizer& tokenizer, std::string_view text) {
  for (uint32_t token = 0; token < tokenizer.size(); ++token) {
    const TokenType type = tokenizer.spec().types[token];
    const bool added = type == TokenType::kControl || type == TokenType::kUserDefined;
    if (added && tokenizer.spec().Text(token) == text) return true;
  }
  return false;
}

bool IsNameByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("_-.:/").find(c) != std::string_view::npos;
}

size_t SkipSpace(std::string_view text, size_t at) { return std::min(text.find_first_not_of(kSpace, at), text.size()); }

// The first place where one of the markers stands, or at the end of the text may begin.
struct MarkerHit {
  size_t at = std::string_view::npos;
  size_t marker = std::string_view::npos;  // npos: not whole yet
};
MarkerHit FindMarker(const std::vector<std::string>& markers, std::string_view text, bool last) {
  std::array<bool, 256> first = {};
  for (const std::string& marker : markers) first[static_cast<unsigned char>(marker[0])] = true;
  for (size_t at = 0; at < text.size(); ++at) {
    if (!first[static_cast<unsigned char>(text[at])]) continue;
    const std::string_view rest = text.substr(at);
    for (size_t i = 0; i < markers.size(); ++i) {
      if (rest.starts_with(markers[i])) return {at, i};
    }
    for (const std::string& marker : markers) {
      if (!last && rest.size() < marker.size() && std::string_view(marker).starts_with(rest)) return {at, std::string_view::npos};
    }
  }
  return {};
}

// What a header says: "<|start|>assistant to=functions.NAME<|channel|>commentary <|constrain|>json" in parts.
struct Header {
  bool fits = false;
  std::string recipient;
  bool analysis = false;
};
// `complete`: nothing more of it comes.
Header ReadHeader(std::string_view text, bool complete) {
  constexpr std::string_view kParts[] = {"<|start|>", "<|channel|>", "<|constrain|>"};
  if (text.size() > kHeaderBytesMax) return {};
  Header header;
  header.fits = true;
  std::string_view part = "<|start|>";
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    if (rest[0] == '<') {
      const auto* known =
          std::find_if(std::begin(kParts), std::end(kParts), [&](std::string_view marker) { return rest.starts_with(marker); });
      // A marker that is cut off may still become one.
      const bool begins = std::any_of(std::begin(kChannelMarkers), std::end(kChannelMarkers),
                                      [&](std::string_view marker) { return rest.size() < marker.size() && marker.starts_with(rest); });
      if (known == std::end(kParts)) return begins && !complete ? header : Header();
      part = *known;
      header.analysis = header.analysis && part != "<|channel|>";
      at += part.size();
      continue;
    }
    const size_t end = std::min({rest.find('<'), rest.find_first_of(kSpace, 1), rest.size()});
    std::string_view word = rest.substr(0, end);
    at += end;
    word.remove_prefix(SkipSpace(word, 0));
    if (word.empty()) continue;
    const bool more = complete || at < text.size();
    if (word.starts_with("to=")) {
      header.recipient = word.substr(3);
    } else if (part == "<|channel|>") {
      header.analysis = word == "analysis";
    } else if (part == "<|start|>" && word != "assistant" &&
               (more || (!std::string_view("assistant").starts_with(word) && word != "t" && word != "to"))) {
      return {};
    }
    if (!std::all_of(word.begin(), word.end(), [](char c) { return IsNameByte(c) || c == '='; })) return {};
  }
  if (header.recipient.starts_with("functions.")) header.recipient.erase(0, 10);
  if (header.recipient == "assistant" || header.recipient == "user" || header.recipient == "all") header.recipient.clear();
  return header;
}

// Whether a text that begins with { or [ may still become a call: its first name is one of those that calls have.
bool MayBeCall(std::string_view text) {
  constexpr std::string_view kNames[] = {"\"name\"",      "\"function\"",  "\"type\"",       "\"tool_calls\"", "\"tool_call\"",
                                         "\"tool_name\"", "\"arguments\"", "\"parameters\"", "\"id\""};
  size_t at = text.substr(0, kHeadBytesMax).find_first_not_of(" \t\r\n[");
  if (at == std::string_view::npos) return text.size() < kHeadBytesMax;
  if (text[at] != '{') return false;
  at = text.substr(0, at + kHeadBytesMax).find_first_not_of(kSpace, at + 1);
  if (at == std::string_view::npos) return text.size() < 2 * kHeadBytesMax;
  const std::string_view rest = text.substr(at);
  return std::any_of(std::begin(kNames), std::end(kNames),
                     [&](std::string_view name) { return rest.starts_with(name) || name.starts_with(rest); });
}

// Whether the request offers a tool of that name.
bool HasTool(const Json& tools, std::string_view name) {
  if (!tools.is_array()) return false;
  return std::any_of(tools.begin(), tools.end(), [&](const Json& tool) {
    const Json& function = JsonMember(tool, "function");
    return JsonText(function.is_object() ? function : tool, "name") == name;
  });
}

// Whether a text begins with a name that white space may follow, and then `next`; or may still do so.
bool FindNamedEnd(std::string_view text, std::string_view next) {
  const std::string_view head = text.substr(0, kHeadBytesMax);
  const auto end = static_cast<size_t>(std::find_if_not(head.begin(), head.end(), IsNameByte) - head.begin());
  if (end == 0) return false;
  const size_t behind = SkipSpace(head, end);
  return behind == text.size() || (behind < head.size() && head.substr(behind).starts_with(next));
}

}  // namespace

OutputDialect OutputDialect::Detect(std::string_view chat_template, const Tokenizer& tokenizer) {
  OutputDialect dialect;
  const auto written = [&](std::string_view marker) { return chat_template.find(marker) != std::string_view::npos; };
  dialect.harmony = written("<|channel|>") && written(kMessage);
  dialect.recipients = written(">>>all");
  bool calls = dialect.harmony || dialect.recipients;
  for (const OutputSection& section : kSections) {
    const bool known = written(section.open) || HasToken(tokenizer, section.open);
    // Answers of a form that only some templates of old ask for.
    if (!known || (section.open == "<response>" && !written("<think>"))) continue;
    dialect.sections.push_back(section);
    calls = calls || (section.kind == Kind::kCalls && section.format != CallFormat::kPythonTag);
  }
  dialect.bare_json = !calls;
  return dialect;
}

std::vector<uint32_t> OutputDialect::MarkerTokens(const Tokenizer& tokenizer) const {
  std::vector<uint32_t> tokens;
  for (uint32_t token = 0; token < tokenizer.size(); ++token) {
    if (tokenizer.spec().types[token] != TokenType::kControl) continue;
    const std::string_view text = tokenizer.spec().Text(token);
    bool marker = harmony && std::find(std::begin(kChannelMarkers), std::end(kChannelMarkers), text) != std::end(kChannelMarkers);
    for (const OutputSection& section : sections) {
      // Parts of calls have markers of their own.
      const bool inner = section.kind == Kind::kCalls && (text.find("tool") != std::string_view::npos || text == "[ARGS]" ||
                                                          text == "[CALL_ID]" || text == "<|\"|>" || text == "<escape>");
      marker = marker || text == section.open || text == section.close || section.open.starts_with(text) || inner;
    }
    if (marker) tokens.push_back(token);
  }
  return tokens;
}

OutputParser::OutputParser(OutputDialect dialect, const OutputOptions& options) : dialect_(std::move(dialect)), tools_(options.tools) {
  for (const OutputSection& section : dialect_.sections) {
    opens_.emplace_back(section.open);
    if (section.kind == Kind::kCalls && section.open[0] != '`' && section.open != "functools") thoughts_.emplace_back(section.open);
  }
  if (dialect_.recipients) {
    opens_.emplace_back(kRecipient);
    closes_.emplace_back(kRecipient);
  }
  for (const Stray& stray : kStrays) {
    const bool known = std::find(opens_.begin(), opens_.end(), stray.with) != opens_.end();
    if (known) opens_.emplace_back(stray.marker);
  }
  for (const OutputSection& section : dialect_.sections) {
    if (section.kind == Kind::kReasoning) opens_.emplace_back(section.close);
  }
  if (dialect_.harmony) {
    for (const std::string_view marker : {"<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"}) closes_.emplace_back(marker);
  }
  std::string_view prompt = options.prompt;
  if (dialect_.harmony || (dialect_.recipients && prompt.ends_with(kRecipient))) state_ = State::kHeader;
  // A section that the prompt left open: its marker is the last thing there.
  while (!prompt.empty() && IsSpace(prompt.back())) prompt.remove_suffix(1);
  for (const OutputSection& section : dialect_.sections) {
    if (section.kind == Kind::kReasoning && prompt.ends_with(section.open)) Open(section, /*from_reasoning=*/false);
  }
}

Output OutputParser::Push(std::string_view text) {
  Output out;
  pending_ += text;
  Advance(/*last=*/false, &out);
  pending_.erase(0, at_);
  at_ = 0;
  return out;
}

Output OutputParser::Finish() {
  Output out;
  Advance(/*last=*/true, &out);
  const bool thinking = state_ == State::kReasoning || (state_ == State::kMessage && message_ == Kind::kReasoning);
  if (!thinking) out.content += std::exchange(space_, {});
  return out;
}

void OutputParser::Advance(bool last, Output* out) {
  for (bool more = true; more;) {
    switch (state_) {
      case State::kContent:
        more = StepContent(last, out);
        break;
      case State::kReasoning:
        more = StepReasoning(last, out);
        break;
      case State::kCall:
        more = StepCall(last, out);
        break;
      case State::kHeader:
        more = StepHeader(last);
        break;
      case State::kMessage:
        more = StepMessage(last, out);
        break;
      case State::kBareJson:
        more = StepBareJson(last, out);
        break;
    }
  }
}

void OutputParser::Open(const OutputSection& section, bool from_reasoning) {
  reasoning_ = from_reasoning ? section_ : nullptr;
  section_ = &section;
  scan_ = {};
  state_ = section.kind == Kind::kReasoning ? State::kReasoning : section.kind == Kind::kCalls ? State::kCall : State::kContent;
  if (section.kind != Kind::kCalls) EndSegment();
}

bool OutputParser::IsReasoningEnd(std::string_view marker) const {
  return std::any_of(dialect_.sections.begin(), dialect_.sections.end(),
                     [&](const OutputSection& section) { return section.kind == Kind::kReasoning && section.close == marker; });
}

// White space at the end of a segment goes; what follows begins a new one.
void OutputParser::EndSegment() {
  space_.clear();
  segment_empty_ = true;
  trim_start_ = true;
}

// White space waits until more of its segment comes, and is dropped at its start if `trim`.
void OutputParser::Emit(std::string_view text, bool trim, std::string* out) {
  for (size_t at = 0; at < text.size();) {
    const size_t word = SkipSpace(text, at);
    if (!(segment_empty_ && trim)) space_ += text.substr(at, word - at);
    const size_t end = std::min(text.find_first_of(kSpace, word), text.size());
    if (end > word) {
      *out += std::exchange(space_, {});
      *out += text.substr(word, end - word);
      segment_empty_ = false;
    }
    at = end;
  }
}

void OutputParser::EmitContent(std::string_view text, Output* out) {
  Emit(text, trim_start_, &out->content);
  answer_empty_ = answer_empty_ && segment_empty_;
}

void OutputParser::EmitReasoning(std::string_view text, Output* out) { Emit(text, /*trim=*/true, &out->reasoning); }

// `only_known`: an object that is no call of one of the request's tools is none at all.
bool OutputParser::EmitCalls(CallFormat format, std::string_view body, bool only_known, Output* out) {
  auto calls = ParseToolCalls(format, body, tools_);
  if (!calls) return false;
  for (const ToolCall& call : *calls) {
    if (only_known && !HasTool(tools_, call.name)) return false;
    // What callers cannot read is no call: limits of depth and members hold for every notation.
    if (!ParseJson(call.arguments).ok()) return false;
  }
  for (ToolCall& call : *calls) out->tool_calls.push_back(std::move(call));
  answer_empty_ = false;
  EndSegment();
  return true;
}

bool OutputParser::StepContent(bool last, Output* out) {
  const std::string_view rest = Rest();
  if (answer_empty_ && dialect_.bare_json && tools_.is_array() && !tools_.empty()) {
    const size_t begin = SkipSpace(rest.substr(0, kHeadBytesMax), 0);
    if (begin == rest.size() && !last) return false;
    if (begin < rest.size() && (rest[begin] == '{' || rest[begin] == '[') && MayBeCall(rest.substr(begin))) {
      state_ = State::kBareJson;
      scan_ = {};
      return true;
    }
  }
  const MarkerHit hit = FindMarker(opens_, rest, last);
  const size_t shown = std::min(hit.at, rest.size());
  EmitContent(rest.substr(0, shown), out);
  at_ += shown;
  if (hit.marker == std::string_view::npos) return false;
  const std::string& marker = opens_[hit.marker];
  if (hit.marker >= dialect_.sections.size()) {
    if (marker == kRecipient && !last && MayBeRecipient(Rest().substr(marker.size()), /*complete=*/false)) return false;
    if (marker == kRecipient && !MayBeRecipient(Rest().substr(marker.size()), /*complete=*/true)) {
      EmitContent(">", out);
      at_ += 1;
      return true;
    }
    at_ += marker.size();
    // The end of thoughts that were never begun is markup where the answer begins, and spoken of elsewhere.
    const bool stray = std::any_of(std::begin(kStrays), std::end(kStrays), [&](const Stray& known) { return known.marker == marker; });
    if (!stray && IsReasoningEnd(marker) && !(answer_empty_ && segment_empty_)) {
      EmitContent(marker, out);
      return true;
    }
    EndSegment();
    if (marker == kRecipient) state_ = State::kHeader;
    return true;
  }
  const OutputSection& section = dialect_.sections[hit.marker];
  at_ += marker.size();
  // What wraps reasoning or an answer stands at its beginning; elsewhere it is only spoken of.
  if (section.kind != Kind::kCalls && !segment_empty_) {
    EmitContent(marker, out);
    return true;
  }
  Open(section, /*from_reasoning=*/false);
  const bool first = std::find(opens_.begin(), opens_.end(), section.close) == opens_.end();
  if (section.kind == Kind::kContent && first) opens_.emplace_back(section.close);
  return true;
}

bool OutputParser::StepReasoning(bool last, Output* out) {
  std::vector<std::string> markers = thoughts_;
  markers.emplace_back(section_->close);
  const MarkerHit hit = FindMarker(markers, Rest(), last);
  const size_t shown = std::min(hit.at, Rest().size());
  EmitReasoning(Rest().substr(0, shown), out);
  at_ += shown;
  if (hit.marker == std::string_view::npos) return false;
  at_ += markers[hit.marker].size();
  if (hit.marker + 1 == markers.size()) {
    EndSegment();
    state_ = State::kContent;
    return true;
  }
  // A call in the middle of thoughts ends them, if it is one.
  const auto section = std::find_if(dialect_.sections.begin(), dialect_.sections.end(),
                                    [&](const OutputSection& one) { return one.open == markers[hit.marker]; });
  Open(*section, /*from_reasoning=*/true);
  return true;
}

bool OutputParser::StepCall(bool last, Output* out) {
  const OutputSection& section = *section_;
  const std::string_view rest = Rest();
  BodyEnd end = FindBodyEnd(section);
  const size_t size = std::min(end.body, rest.size());
  end.hopeless = end.hopeless || size > kCallBytesMax + (end.body == std::string_view::npos ? section.close.size() : 0);
  if (!end.hopeless && end.body == std::string_view::npos && !last) return false;
  const bool thinking = reasoning_ != nullptr;
  if (!end.hopeless && EmitCalls(section.format, rest.substr(0, size), /*only_known=*/false, out)) {
    at_ += std::min(end.behind, rest.size());
    state_ = State::kContent;
    return true;
  }
  // No call: its marker is a text like others, and what follows is looked at again.
  const bool again = ++malformed_ <= kMalformedMax;
  const size_t skipped = again ? 0 : std::min(end.behind, rest.size());
  const std::string_view parts[] = {section.open, rest.substr(0, skipped)};
  at_ += skipped;
  for (const std::string_view part : parts) {
    if (thinking) {
      EmitReasoning(part, out);
    } else {
      EmitContent(part, out);
    }
  }
  if (thinking) section_ = std::exchange(reasoning_, nullptr);
  state_ = thinking ? State::kReasoning : State::kContent;
  return true;
}

// The end of a call's body by its format.
OutputParser::BodyEnd OutputParser::FindBodyEnd(const OutputSection& section) {
  const std::string_view rest = Rest();
  const BodyEnd hopeless = {true, std::string_view::npos, std::string_view::npos};
  const size_t begin = SkipSpace(rest.substr(0, kHeadBytesMax), 0);
  if (begin == rest.size()) return {};
  if (begin == kHeadBytesMax) return hopeless;
  const char first = rest[begin];
  const bool json = first == '{' || first == '[';
  constexpr std::string_view kFunctionEnd[] = {"</function>"};
  constexpr std::string_view kParameterEnd[] = {"</parameter>", ">"};
  constexpr std::string_view kParamEnd[] = {"</param>", "\">"};
  switch (section.format) {
    case CallFormat::kJson:
    case CallFormat::kNamedObjects:
      return json ? ScanJson(section.close, begin, /*single_quotes=*/false) : hopeless;
    case CallFormat::kPythonic:
      return json || IsNameByte(first) ? ScanJson(section.close, begin, /*single_quotes=*/true) : hopeless;
    case CallFormat::kPythonTag:
      // Code goes on to the end of the answer.
      return json ? ScanJson(section.close, begin, /*single_quotes=*/false) : BodyEnd();
    case CallFormat::kGemma:
      return rest.substr(begin).starts_with("call:") || std::string_view("call:").starts_with(rest.substr(begin))
                 ? FindGemmaEnd(section.close)
                 : hopeless;
    case CallFormat::kToolCall:
      if (json) return ScanJson(section.close, begin, /*single_quotes=*/false);
      if (first == '<') {
        constexpr std::string_view kFunction = "<function=";
        const std::string_view start = rest.substr(begin, kFunction.size());
        return kFunction.starts_with(start) ? FindTextEnd(section.close, kFunctionEnd) : hopeless;
      }
      return FindNamedEnd(rest.substr(begin), "<") ? FindTextEnd(section.close, {}) : hopeless;
    case CallFormat::kFunction: {
      const size_t name = std::min(rest.substr(0, kHeadBytesMax).find('>'), rest.size());
      if (!std::all_of(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(std::min(name, kHeadBytesMax)), IsNameByte))
        return hopeless;
      if (name == rest.size()) return name >= kHeadBytesMax ? hopeless : BodyEnd();
      const size_t inside = SkipSpace(rest, name + 1);
      if (inside == rest.size()) return {};
      return rest[inside] == '{' ? ScanJson(section.close, inside, /*single_quotes=*/false) : FindTextEnd(section.close, kParameterEnd);
    }
    case CallFormat::kXmlFunction:
      return FindTextEnd(section.close, kParamEnd);
    case CallFormat::kDeepSeek:
      return FindTextEnd(section.close, {});
    case CallFormat::kMistral:
      break;
  }
  // A JSON list, NAME[CALL_ID]id[ARGS]{...} or NAME{...}.
  if (first == '[') {
    for (const std::string_view inner : {std::string_view("[ARGS]"), std::string_view("[CALL_ID]")}) {
      if (rest.substr(begin).starts_with(inner)) return hopeless;  // a call without a name
      if (inner.starts_with(rest.substr(begin))) return {};
    }
  }
  if (json) return ScanJson(section.close, begin, /*single_quotes=*/false);
  const size_t brace = rest.find('{', begin);
  const std::string_view head = rest.substr(begin, brace == std::string_view::npos ? kHeadBytesMax + 1 : brace - begin);
  if (head.size() > kHeadBytesMax || head.find_first_of("\n\"'<>()}") != std::string_view::npos) return hopeless;
  return brace == std::string_view::npos ? BodyEnd() : ScanJson(section.close, brace, /*single_quotes=*/false);
}

// From `from`, which is where brackets begin: to `close` outside of quotes, or without one to the end of the first value and of those that
// a semicolon joins to it.
OutputParser::BodyEnd OutputParser::ScanJson(std::string_view close, size_t from, bool single_quotes) {
  const std::string_view rest = Rest();
  for (scan_.at = std::max(scan_.at, from); scan_.at < rest.size(); ++scan_.at) {
    const char c = rest[scan_.at];
    if (scan_.quote != 0) {
      if (c == '\\') {
        // What is escaped may not be here yet.
        if (scan_.at + 1 == rest.size()) return {};
        ++scan_.at;
      } else if (c == scan_.quote) {
        scan_.quote = 0;
      }
      continue;
    }
    if (!close.empty() && c == close[0]) {
      const std::string_view here = rest.substr(scan_.at);
      if (here.starts_with(close)) return {false, scan_.at, scan_.at + close.size()};
      if (here.size() < close.size() && close.starts_with(here)) return {};
    }
    if (close.empty() && scan_.json && scan_.depth == 0) {
      if (IsSpace(c) || c == ';') continue;
      const size_t value = rest.substr(0, scan_.at).find_last_of("}]") + 1;
      const bool joined = rest.substr(value, scan_.at - value).find(';') != std::string_view::npos;
      if (c != '{' || !joined) return {false, value, value};
    }
    if (c == '"' || (single_quotes && c == '\'')) {
      scan_.quote = c;
    } else if (c == '{' || c == '[') {
      ++scan_.depth;
      scan_.json = true;
    } else if ((c == '}' || c == ']') && scan_.depth > 0) {
      // Only behind <|python_tag|> can there be more.
      if (--scan_.depth == 0 && close.empty() && section_->format != CallFormat::kPythonTag) return {false, scan_.at + 1, scan_.at + 1};
    }
  }
  return {};
}

// Texts stand between <|"|> or <escape> marks.
OutputParser::BodyEnd OutputParser::FindGemmaEnd(std::string_view close) {
  constexpr std::string_view kMarks[] = {"<|\"|>", "<escape>"};
  const std::string_view rest = Rest();
  for (; scan_.at < rest.size(); ++scan_.at) {
    if (rest[scan_.at] != '<') continue;
    const std::string_view here = rest.substr(scan_.at);
    if (scan_.quote == 0 && here.starts_with(close)) return {false, scan_.at, scan_.at + close.size()};
    bool partial = here.size() < close.size() && close.starts_with(here);
    for (const std::string_view mark : kMarks) {
      partial = partial || (here.size() < mark.size() && mark.starts_with(here));
      if (!here.starts_with(mark)) continue;
      if (scan_.quote == 0) {
        scan_.quote = mark[1];
      } else if (scan_.quote == mark[1]) {
        scan_.quote = 0;
      }
    }
    if (partial) return {};
  }
  return {};
}

// The first `close` that stands behind one of `before` (and white space), or any if there are none.
OutputParser::BodyEnd OutputParser::FindTextEnd(std::string_view close, std::span<const std::string_view> before) {
  const std::string_view rest = Rest();
  while (true) {
    const size_t at = rest.find(close, scan_.at);
    if (at == std::string_view::npos) break;
    std::string_view body = rest.substr(0, at);
    while (!body.empty() && IsSpace(body.back())) body.remove_suffix(1);
    const bool fits =
        before.empty() || std::any_of(before.begin(), before.end(), [&](std::string_view end) { return body.ends_with(end); });
    if (fits) return {false, at, at + close.size()};
    scan_.at = at + 1;
  }
  scan_.at = std::max(scan_.at, rest.size() - std::min(rest.size(), close.size() - 1));
  return {};
}

bool OutputParser::MayBeRecipient(std::string_view text, bool complete) const {
  constexpr size_t kNameBytesMax = 256;
  const size_t end = text.substr(0, kNameBytesMax + 1).find('\n');
  const std::string_view name = text.substr(0, std::min(end, kNameBytesMax + 1));
  if (name.size() > kNameBytesMax || !std::all_of(name.begin(), name.end(), IsNameByte)) return false;
  if (end == std::string_view::npos) return !complete;
  if (!complete) return false;  // it is known already
  return name == "all" || (!name.empty() && (!tools_.is_array() || HasTool(tools_, name)));
}

// The head of a message: in channels up to <|message|>, to a recipient up to the end of the line.
bool OutputParser::StepHeader(bool last) {
  const std::string_view rest = Rest();
  message_ = Kind::kContent;
  recipient_.clear();
  state_ = State::kMessage;
  if (!dialect_.harmony) {
    if (!last && MayBeRecipient(rest, /*complete=*/false)) {
      state_ = State::kHeader;
      return false;
    }
    if (MayBeRecipient(rest, /*complete=*/true)) {
      const std::string_view name = rest.substr(0, rest.find('\n'));
      if (name != "all") recipient_ = name;
      message_ = recipient_.empty() ? Kind::kContent : Kind::kCalls;
      at_ += name.size() + 1;
      scan_ = {};
      EndSegment();
    }
    return true;
  }
  const size_t end = rest.substr(0, kHeaderBytesMax + kMessage.size()).find(kMessage);
  Header header = ReadHeader(rest.substr(0, end), /*complete=*/end != std::string_view::npos);
  if (header.fits && end == std::string_view::npos && !last) {
    state_ = State::kHeader;
    return false;
  }
  if (!header.fits || end == std::string_view::npos) return true;  // content
  at_ += end + kMessage.size();
  recipient_ = std::move(header.recipient);
  message_ = !recipient_.empty() ? Kind::kCalls : header.analysis ? Kind::kReasoning : Kind::kContent;
  scan_ = {};
  EndSegment();
  return true;
}

// Where a call's message ends. Its arguments are JSON: markers within their texts are none.
size_t OutputParser::FindMessageEnd() {
  const std::string_view rest = Rest();
  for (; scan_.at < rest.size(); ++scan_.at) {
    const char c = rest[scan_.at];
    if (scan_.quote != 0) {
      if (c == '\\' && scan_.at + 1 == rest.size()) break;
      if (c == '\\') ++scan_.at;
      if (c == '"') scan_.quote = 0;
      continue;
    }
    if (c == '"') scan_.quote = c;
    if (c != '<' && c != '>') continue;
    const std::string_view here = rest.substr(scan_.at);
    for (const std::string& close : closes_) {
      if (here.starts_with(close)) return scan_.at;
      if (here.size() < close.size() && std::string_view(close).starts_with(here)) return std::string_view::npos;
    }
  }
  return std::string_view::npos;
}

bool OutputParser::StepMessage(bool last, Output* out) {
  const std::string_view rest = Rest();
  if (message_ == Kind::kCalls) {
    const size_t end = FindMessageEnd();
    if (end == std::string_view::npos && !last && rest.size() <= kCallBytesMax) return false;
    const size_t size = std::min(end, rest.size());
    const std::string_view body = rest.substr(0, size);
    const bool empty = SkipSpace(body, 0) == body.size();
    const Json call = {{"name", recipient_}, {"arguments", empty ? "{}" : std::string(body)}};
    const bool parsed = size <= kCallBytesMax && EmitCalls(CallFormat::kJson, DumpJson(call, /*indent=*/-1), /*only_known=*/false, out);
    message_ = Kind::kContent;
    recipient_.clear();
    if (parsed) at_ += size;
    return true;
  }
  const MarkerHit hit = FindMarker(closes_, rest, last);
  const size_t shown = std::min(hit.at, rest.size());
  if (message_ == Kind::kReasoning) {
    EmitReasoning(rest.substr(0, shown), out);
  } else {
    EmitContent(rest.substr(0, shown), out);
  }
  at_ += shown;
  if (hit.marker == std::string_view::npos) return false;
  const std::string& marker = closes_[hit.marker];
  if (marker == kRecipient) {
    const std::string_view name = Rest().substr(marker.size());
    if (!last && MayBeRecipient(name, /*complete=*/false)) return false;
    if (!MayBeRecipient(name, /*complete=*/true)) {
      EmitContent(">", out);
      at_ += 1;
      return true;
    }
  }
  // What begins the next header belongs to it.
  const bool begins = marker == "<|start|>" || marker == "<|channel|>";
  if (begins) {
    const std::string_view next = Rest();
    const size_t end = next.substr(0, kHeaderBytesMax + kMessage.size()).find(kMessage);
    const Header header = ReadHeader(next.substr(0, end), /*complete=*/end != std::string_view::npos);
    if (header.fits && end == std::string_view::npos && !last) return false;
    if (!header.fits || end == std::string_view::npos) {
      // Only spoken of.
      EmitContent(marker, out);
      at_ += marker.size();
      return true;
    }
  } else {
    at_ += marker.size();
  }
  EndSegment();
  state_ = State::kHeader;
  return true;
}

// An answer that begins with JSON is one call or several, or content.
bool OutputParser::StepBareJson(bool last, Output* out) {
  const std::string_view rest = Rest();
  const size_t begin = std::min(rest.find_first_not_of(" \t\r\n;,"), rest.size());
  if (begin == rest.size() && !last && begin < kHeadBytesMax) return false;
  // What has come decides, not in which parts it came: the first name has to fit even when all is here.
  const bool fits = begin < rest.size() && (rest[begin] == '{' || rest[begin] == '[') && MayBeCall(rest.substr(begin));
  size_t end = std::string_view::npos;
  for (scan_.at = std::max(scan_.at, begin); fits && end == std::string_view::npos && scan_.at < rest.size(); ++scan_.at) {
    const char c = rest[scan_.at];
    if (scan_.quote != 0) {
      if (c == '\\' && scan_.at + 1 == rest.size()) break;
      scan_.at += c == '\\' ? 1 : 0;
      if (c == '"') scan_.quote = 0;
    } else if (c == '"') {
      scan_.quote = c;
    } else if (c == '{' || c == '[') {
      ++scan_.depth;
    } else if ((c == '}' || c == ']') && --scan_.depth == 0) {
      end = scan_.at + 1;
    }
  }
  if (fits && end == std::string_view::npos && rest.size() <= kCallBytesMax && !last) return false;
  const size_t size = end == std::string_view::npos ? 0 : end - begin;
  if (size > 0 && size <= kCallBytesMax && EmitCalls(CallFormat::kJson, rest.substr(begin, size), /*only_known=*/true, out)) {
    at_ += end;
    scan_ = {};
    return true;
  }
  // Between calls and at their end there may be semicolons.
  if (!answer_empty_) at_ += begin;
  answer_empty_ = false;
  state_ = State::kContent;
  return true;
}

}  // namespace bantam
