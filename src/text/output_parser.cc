#include "text/output_parser.h"

#include <algorithm>
#include <utility>

#include "text/stop_strings.h"

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

// Phi-4 closes what Granite, with the same opening marker, does not: it is dropped where it comes.
constexpr std::string_view kOpenedCall = "<|tool_call|>";
constexpr std::string_view kLooseClose = "<|/tool_call|>";

bool IsSpace(char c) { return kSpace.find(c) != std::string_view::npos; }

bool HasToken(const Tokenizer& tokenizer, std::string_view text) {
  for (uint32_t token = 0; token < tokenizer.size(); ++token) {
    const TokenType type = tokenizer.spec().types[token];
    const bool added = type == TokenType::kControl || type == TokenType::kUserDefined;
    if (added && tokenizer.spec().Text(token) == text) return true;
  }
  return false;
}

// What stands behind the last "to=" of a header, without the name space of functions.
std::string RecipientOf(std::string_view header) {
  const size_t to = header.rfind("to=");
  if (to == std::string_view::npos) return {};
  std::string_view name = header.substr(to + 3);
  name = name.substr(0, std::min(name.find_first_of(" \t\r\n<"), name.size()));
  if (name.starts_with("functions.")) name.remove_prefix(10);
  return std::string(name);
}

// Whether a text is the header of a message in channels, or may still become it.
bool MayBeHeader(std::string_view text, bool complete) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return true;
  text.remove_prefix(begin);
  for (const std::string_view start : {std::string_view("<|channel|>"), std::string_view("<|start|>"), std::string_view("<|message|>"),
                                       std::string_view("<|constrain|>"), std::string_view("assistant"), std::string_view("to=")}) {
    if (text.starts_with(start) || (!complete && start.starts_with(text))) return true;
  }
  return false;
}

// Whether a text may still become a line with the name of a recipient.
bool MayBeRecipient(std::string_view text) {
  constexpr size_t kNameBytesMax = 256;
  return text.size() <= kNameBytesMax && text.find_first_of(" \t\r,!?(){}<>\"") == std::string_view::npos;
}

// Whether a text that begins with { or [ may still become a call: its first name is one of those that calls have.
bool MayBeCall(std::string_view text) {
  constexpr std::string_view kNames[] = {"\"name\"",      "\"function\"",  "\"type\"",       "\"tool_calls\"", "\"tool_call\"",
                                         "\"tool_name\"", "\"arguments\"", "\"parameters\"", "\"id\""};
  size_t at = text.find_first_not_of(" \t\r\n[");
  if (at == std::string_view::npos) return true;
  if (text[at] != '{') return false;
  at = text.find_first_not_of(kSpace, at + 1);
  if (at == std::string_view::npos) return true;
  const std::string_view rest = text.substr(at);
  return std::any_of(std::begin(kNames), std::end(kNames),
                     [&](std::string_view name) { return rest.starts_with(name) || name.starts_with(rest); });
}

// Where the JSON of a call without a closing marker begins, npos if that is not known yet.
struct CallStart {
  size_t json = std::string::npos;
  bool hopeless = false;
};
CallStart FindCallStart(CallFormat format, std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string::npos) return {};
  const std::string_view rest = text.substr(begin);
  if (format == CallFormat::kMistral && rest[0] == '[') {
    for (const std::string_view inner : {std::string_view("[ARGS]"), std::string_view("[CALL_ID]")}) {
      if (rest.starts_with(inner)) return {std::string::npos, true};  // a call without a name
      if (inner.starts_with(rest)) return {};
    }
  }
  if (rest[0] == '{' || rest[0] == '[') return {begin, false};
  // Code goes on to the end of the answer.
  if (format == CallFormat::kPythonTag) return {};
  if (format != CallFormat::kMistral) return {std::string::npos, true};
  // NAME[CALL_ID]id[ARGS]{ or NAME{
  const size_t brace = text.find('{', begin);
  constexpr size_t kHeadBytesMax = 512;
  const std::string_view head = text.substr(begin, brace == std::string::npos ? std::string::npos : brace - begin);
  const bool odd = head.size() > kHeadBytesMax || head.find_first_of("\n\"'<>(){}") != std::string::npos;
  return {odd ? std::string::npos : brace, odd};
}

}  // namespace

OutputDialect OutputDialect::Detect(std::string_view chat_template, const Tokenizer& tokenizer) {
  OutputDialect dialect;
  const auto written = [&](std::string_view marker) { return chat_template.find(marker) != std::string_view::npos; };
  dialect.harmony = written("<|channel|>") && written(kMessage);
  dialect.recipients = written(kRecipient) && written("all");
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
  bool loose = false;
  for (const OutputSection& section : dialect_.sections) {
    opens_.emplace_back(section.open);
    loose = loose || section.open == kOpenedCall;
  }
  if (dialect_.recipients) {
    opens_.emplace_back(kRecipient);
    closes_.emplace_back(kRecipient);
  }
  if (loose) opens_.emplace_back(kLooseClose);
  if (dialect_.harmony) {
    for (const std::string_view marker : {"<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>"}) closes_.emplace_back(marker);
  }
  const bool asked = options.prompt.ends_with(kRecipient);
  if (dialect_.harmony || (dialect_.recipients && asked)) state_ = State::kHeader;
  // A section that the prompt left open: its marker is the last thing there.
  std::string_view prompt = options.prompt;
  while (!prompt.empty() && IsSpace(prompt.back())) prompt.remove_suffix(1);
  for (const OutputSection& section : dialect_.sections) {
    if (section.kind != Kind::kReasoning || !prompt.ends_with(section.open)) continue;
    section_ = &section;
    state_ = State::kSection;
    trim_start_ = true;
  }
}

Output OutputParser::Push(std::string_view text) {
  Output out;
  pending_ += text;
  Advance(/*last=*/false, &out);
  return out;
}

Output OutputParser::Finish() {
  Output out;
  Advance(/*last=*/true, &out);
  return out;
}

void OutputParser::Advance(bool last, Output* out) {
  for (bool more = true; more;) {
    switch (state_) {
      case State::kContent:
        more = StepContent(last, out);
        break;
      case State::kSection:
        more = StepSection(last, out);
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

void OutputParser::Enter(State state) {
  state_ = state;
  json_at_ = 0;
  json_depth_ = 0;
  json_text_ = false;
}

// White space at the end of a segment goes; what follows begins a new one.
void OutputParser::EndSegment() {
  space_.clear();
  segment_empty_ = true;
  trim_start_ = true;
}

void OutputParser::EmitContent(std::string_view text, Output* out) {
  for (size_t at = 0; at < text.size();) {
    const size_t word = std::min(text.find_first_not_of(kSpace, at), text.size());
    if (!(segment_empty_ && trim_start_)) space_ += text.substr(at, word - at);
    const size_t end = std::min(text.find_first_of(kSpace, word), text.size());
    if (end > word) {
      out->content += std::exchange(space_, {});
      out->content += text.substr(word, end - word);
      segment_empty_ = false;
      answer_empty_ = false;
    }
    at = end;
  }
}

void OutputParser::EmitReasoning(std::string_view text, Output* out) {
  for (size_t at = 0; at < text.size();) {
    const size_t word = std::min(text.find_first_not_of(kSpace, at), text.size());
    if (!segment_empty_) space_ += text.substr(at, word - at);
    const size_t end = std::min(text.find_first_of(kSpace, word), text.size());
    if (end > word) {
      out->reasoning += std::exchange(space_, {});
      out->reasoning += text.substr(word, end - word);
      segment_empty_ = false;
    }
    at = end;
  }
}

bool OutputParser::EmitCalls(CallFormat format, std::string_view body, Output* out) {
  auto calls = ParseToolCalls(format, body, tools_);
  if (!calls) return false;
  for (ToolCall& call : *calls) out->tool_calls.push_back(std::move(call));
  answer_empty_ = false;
  EndSegment();
  return true;
}

bool OutputParser::StepContent(bool last, Output* out) {
  if (answer_empty_ && dialect_.bare_json && tools_.is_array()) {
    const size_t begin = pending_.find_first_not_of(kSpace);
    if (begin == std::string::npos && !last) return false;
    if (begin != std::string::npos && (pending_[begin] == '{' || pending_[begin] == '[') &&
        MayBeCall(std::string_view(pending_).substr(begin))) {
      Enter(State::kBareJson);
      return true;
    }
  }
  size_t first = std::string::npos;
  size_t found = 0;
  for (size_t i = 0; i < opens_.size(); ++i) {
    const size_t at = pending_.find(opens_[i]);
    // Of two that begin at one place the longer one.
    if (at < first || (at == first && at != std::string::npos && opens_[i].size() > opens_[found].size())) {
      first = at;
      found = i;
    }
  }
  const size_t tail = last ? 0 : PartialMarkerTail(pending_, opens_);
  // A longer marker may still grow out of where the shorter one stands.
  if (first != std::string::npos && !(tail > opens_[found].size() && pending_.size() - tail == first)) {
    EmitContent(std::string_view(pending_).substr(0, first), out);
    pending_.erase(0, first + opens_[found].size());
    if (opens_[found] == kLooseClose) {
      EndSegment();
      return true;
    }
    if (opens_[found] == kRecipient) {
      EndSegment();
      Enter(State::kHeader);
      return true;
    }
    section_ = &dialect_.sections[found];
    if (section_->kind != Kind::kCalls) EndSegment();
    Enter(State::kSection);
    return true;
  }
  const size_t shown = pending_.size() - tail;
  EmitContent(std::string_view(pending_).substr(0, shown), out);
  pending_.erase(0, shown);
  if (last) out->content += std::exchange(space_, {});
  return false;
}

// Inside a section. Calls wait for their end; the rest goes out as it comes.
bool OutputParser::StepSection(bool last, Output* out) {
  const OutputSection& section = *section_;
  size_t end = section.close.empty() ? std::string::npos : pending_.find(section.close, json_at_);
  size_t behind = end == std::string::npos ? pending_.size() : end + section.close.size();
  if (section.kind != Kind::kCalls) {
    const bool closed = end != std::string::npos;
    const size_t tail = closed || last ? 0 : PartialMarkerTail(pending_, {std::string(section.close)});
    const std::string_view text = std::string_view(pending_).substr(0, closed ? end : pending_.size() - tail);
    if (section.kind == Kind::kReasoning) {
      EmitReasoning(text, out);
    } else {
      EmitContent(text, out);
    }
    pending_.erase(0, closed ? behind : text.size());
    if (!closed) return false;
    EndSegment();
    Enter(State::kContent);
    return true;
  }
  bool hopeless = false;  // no call, whatever comes
  if (section.close.empty()) {
    const CallStart start = FindCallStart(section.format, pending_);
    end = start.json == std::string::npos ? std::string::npos : JsonEnd(start.json);
    behind = end;
    hopeless = start.hopeless;
  } else {
    // The close may begin in what is there already.
    json_at_ = pending_.size() - std::min(pending_.size(), section.close.size() - 1);
  }
  if (end == std::string::npos && !last && !hopeless && pending_.size() <= kCallBytesMax) return false;
  if (hopeless) end = behind = 0;
  const std::string body = pending_.substr(0, end);
  const bool closed = end != std::string::npos;
  pending_.erase(0, closed ? behind : pending_.size());
  const OutputSection known = section;
  const bool parsed = !hopeless && body.size() <= kCallBytesMax && EmitCalls(known.format, body, out);
  if (!parsed) {
    EmitContent(known.open, out);
    EmitContent(body, out);
    if (closed) EmitContent(known.close, out);
  }
  Enter(State::kContent);
  return true;
}

// The head of a message: in channels up to <|message|>, to a recipient up to the end of the line.
bool OutputParser::StepHeader(bool last) {
  const std::string_view end_marker = dialect_.harmony ? kMessage : std::string_view("\n");
  const size_t end = pending_.find(end_marker);
  const std::string header = pending_.substr(0, end);
  const bool fits = dialect_.harmony ? MayBeHeader(header, /*complete=*/end != std::string::npos) : MayBeRecipient(header);
  if (fits && end == std::string::npos && !last) return false;
  message_ = Kind::kContent;
  header_.clear();
  if (fits && end != std::string::npos) {
    pending_.erase(0, end + end_marker.size());
    header_ = dialect_.harmony ? RecipientOf(header) : header == "all" ? std::string() : header;
    const bool analysis = dialect_.harmony && header.find("analysis") != std::string::npos;
    message_ = !header_.empty() ? Kind::kCalls : analysis ? Kind::kReasoning : Kind::kContent;
    EndSegment();
  } else if (fits && dialect_.harmony) {
    // The answer ends within a header: there is nothing to show of it.
    pending_.clear();
  }
  // What does not fit is no header but content.
  Enter(State::kMessage);
  return true;
}

bool OutputParser::StepMessage(bool last, Output* out) {
  size_t end = std::string::npos;
  size_t marker = 0;
  for (const std::string& close : closes_) {
    const size_t at = pending_.find(close);
    if (at >= end) continue;
    end = at;
    marker = close.size();
  }
  const bool closed = end != std::string::npos;
  if (message_ == Kind::kCalls) {
    if (!closed && !last && pending_.size() <= kCallBytesMax) return false;
    const std::string body = pending_.substr(0, end);
    const Json call = {{"name", header_}, {"arguments", body}};
    if (body.size() > kCallBytesMax || !EmitCalls(CallFormat::kJson, DumpJson(call, /*indent=*/-1), out)) EmitContent(body, out);
    pending_.erase(0, closed ? end : pending_.size());
  } else {
    const size_t tail = closed || last ? 0 : PartialMarkerTail(pending_, closes_);
    const size_t shown = closed ? end : pending_.size() - tail;
    const std::string_view text = std::string_view(pending_).substr(0, shown);
    if (message_ == Kind::kReasoning) {
      EmitReasoning(text, out);
    } else {
      EmitContent(text, out);
    }
    pending_.erase(0, shown);
  }
  if (!closed) {
    if (last && message_ == Kind::kContent) out->content += std::exchange(space_, {});
    return false;
  }
  // In channels what begins the next header belongs to it.
  const bool begins = pending_.starts_with("<|start|>") || pending_.starts_with("<|channel|>");
  if (!begins) pending_.erase(0, marker);
  EndSegment();
  Enter(State::kHeader);
  return true;
}

// An answer that begins with JSON is one call or several, or content.
bool OutputParser::StepBareJson(bool last, Output* out) {
  const size_t begin = pending_.find_first_not_of(" \t\r\n;,");
  const bool json = begin != std::string::npos && (pending_[begin] == '{' || pending_[begin] == '[');
  if (begin == std::string::npos && !last) return false;
  // What has come decides, not in which parts it came: the first name has to fit even when all is here.
  const bool fits = json && MayBeCall(std::string_view(pending_).substr(begin));
  const size_t end = fits ? JsonEnd(begin) : std::string::npos;
  if (fits && end == std::string::npos && pending_.size() <= kCallBytesMax && !last) return false;
  const bool parsed = end != std::string::npos && EmitCalls(CallFormat::kJson, std::string_view(pending_).substr(begin, end - begin), out);
  if (parsed) {
    pending_.erase(0, end);
    Enter(State::kBareJson);
    return true;
  }
  answer_empty_ = false;
  Enter(State::kContent);
  return true;
}

size_t OutputParser::JsonEnd(size_t from) {
  for (json_at_ = std::max(json_at_, from); json_at_ < pending_.size(); ++json_at_) {
    const char c = pending_[json_at_];
    if (json_text_) {
      if (c == '\\') {
        // What is escaped may not be here yet.
        if (json_at_ + 1 == pending_.size()) return std::string::npos;
        ++json_at_;
      } else if (c == '"') {
        json_text_ = false;
      }
    } else if (c == '"') {
      json_text_ = true;
    } else if (c == '{' || c == '[') {
      ++json_depth_;
    } else if ((c == '}' || c == ']') && --json_depth_ == 0) {
      return json_at_ + 1;
    }
  }
  return std::string::npos;
}

}  // namespace bantam
