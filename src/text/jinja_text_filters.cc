#include "text/jinja_text_filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_strings.h"

namespace bantam::jinja {
namespace {

constexpr std::string_view kSpace = " \t\n\v\f\r";
constexpr int64_t kWidthMax = 1 << 20;

bool IsSpace(char c) { return kSpace.find(c) != std::string_view::npos; }

// One paragraph in lines of at most `width` characters: Python's textwrap, which keeps white space between the words of a line and drops
// it where a line breaks.
std::vector<Text> Wrapped(const Text& paragraph, size_t width, bool break_long_words, bool break_on_hyphens) {
  const std::string& bytes = paragraph.bytes();
  std::vector<Text> chunks;
  for (size_t at = 0; at < bytes.size();) {
    const bool space = IsSpace(bytes[at]);
    size_t end = at;
    while (end < bytes.size() && IsSpace(bytes[end]) == space) {
      ++end;
      const bool hyphen = break_on_hyphens && !space && bytes[end - 1] == '-' && end - at > 1 && end < bytes.size() && !IsSpace(bytes[end]);
      if (hyphen) break;
    }
    chunks.push_back(paragraph.Part(at, end - at));
    at = end;
  }
  std::reverse(chunks.begin(), chunks.end());
  std::vector<Text> lines;
  while (!chunks.empty()) {
    std::vector<Text> line;
    size_t length = 0;
    if (IsSpace(chunks.back().bytes()[0]) && !lines.empty()) chunks.pop_back();
    while (!chunks.empty()) {
      const size_t size = CountCharacters(chunks.back().bytes());
      if (length + size > width) break;
      length += size;
      line.push_back(std::move(chunks.back()));
      chunks.pop_back();
    }
    if (!chunks.empty() && CountCharacters(chunks.back().bytes()) > width) {
      const size_t room = width > length ? width - length : 0;
      const std::vector<size_t> offsets = CharacterOffsets(chunks.back().bytes());
      const size_t cut = width < 1 ? offsets[1] : offsets[room];
      if (break_long_words && cut > 0) {
        line.push_back(chunks.back().Part(0, cut));
        chunks.back() = chunks.back().Part(cut, chunks.back().bytes().size());
      } else if (!break_long_words && line.empty()) {
        line.push_back(std::move(chunks.back()));
        chunks.pop_back();
      }
    }
    if (!line.empty() && IsSpace(line.back().bytes()[0])) line.pop_back();
    if (line.empty()) continue;
    Text joined;
    for (const Text& part : line) joined.Append(part);
    lines.push_back(std::move(joined));
  }
  return lines;
}

}  // namespace

// A capital behind white space, hyphens and opening brackets only: unlike the method title.
Result<Value> FilterTitle(Environment& environment, const Value& input, const Arguments&) {
  const Text text = ToText(input);
  BANTAM_TRY(environment.meter.Bytes(2 * text.bytes().size()));
  const std::string& bytes = text.bytes();
  Text out;
  for (size_t at = 0; at < bytes.size();) {
    const auto separates = [&](size_t i) {
      return IsSpace(bytes[i]) || std::string_view("-({[<").find(bytes[i]) != std::string_view::npos;
    };
    const bool separator = separates(at);
    size_t end = at;
    while (end < bytes.size() && separates(end) == separator) ++end;
    if (separator) {
      out.AppendPart(text, at, end - at);
    } else {
      const Text word = text.Part(at, end - at);
      const size_t first = CharacterOffsets(word.bytes())[1];
      out.Append(ChangeCase(word.Part(0, first), Case::kUpper));
      out.Append(ChangeCase(word.Part(first, word.bytes().size() - first), Case::kLower));
    }
    at = end;
  }
  return Value(std::move(out));
}

Result<Value> FilterWordWrap(Environment& environment, const Value& input, const Arguments& arguments) {
  int64_t width = 79;
  if (const Value* given = arguments.Get(0, "width")) given->Integer(&width);
  if (width < 1 || width > kWidthMax) {
    return Error(Code::kInvalidArgument, fmt::format("wordwrap to {} characters, expected 1 to {}", width, kWidthMax));
  }
  const Value* long_words = arguments.Get(1, "break_long_words");
  const Value* between = arguments.Get(2, "wrapstring");
  const Value* hyphens = arguments.Get(3, "break_on_hyphens");
  const Text separator = between == nullptr || between->is_none() ? Text("\n", /*trusted=*/true) : ToText(*between);
  BANTAM_ASSIGN(const Value paragraphs, CallMethod(environment, ToText(input), "splitlines", {}));
  Text out;
  bool first_paragraph = true;
  for (const Value& paragraph : *paragraphs.list()) {
    const Text& text = *paragraph.text();
    BANTAM_TRY(environment.meter.Bytes(4 * text.bytes().size()));
    if (!first_paragraph) out.Append(separator);
    first_paragraph = false;
    bool first_line = true;
    for (const Text& line : Wrapped(text, static_cast<size_t>(width), long_words == nullptr || long_words->Truthy(),
                                    hyphens == nullptr || hyphens->Truthy())) {
      BANTAM_TRY(environment.meter.Bytes(separator.bytes().size()));
      if (!first_line) out.Append(separator);
      first_line = false;
      out.Append(line);
    }
  }
  return Value(std::move(out));
}

// Without comments and tags, white space as single spaces.
Result<Value> FilterStripTags(Environment& environment, const Value& input, const Arguments&) {
  const Text text = ToText(input);
  BANTAM_TRY(environment.meter.Bytes(4 * text.bytes().size()));
  const std::string& bytes = text.bytes();
  Text plain;
  for (size_t at = 0; at < bytes.size();) {
    const bool comment = bytes.compare(at, 4, "<!--") == 0;
    const size_t close = comment ? bytes.find("-->", at) : bytes[at] == '<' ? bytes.find('>', at) : std::string::npos;
    if (close != std::string::npos) {
      at = close + (comment ? 3 : 1);
    } else {
      plain.AppendPart(text, at++, 1);
    }
  }
  BANTAM_ASSIGN(const Value words, CallMethod(environment, plain, "split", {}));
  Text out;
  for (const Value& word : *words.list()) {
    if (!out.empty()) out.Append(Text(" ", /*trusted=*/true));
    out.Append(*word.text());
  }
  return Value(std::move(out));
}

Result<Value> FilterFileSize(Environment&, const Value& input, const Arguments& arguments) {
  double size = 0;
  if (!input.Number(&size)) return Wrong("the size of a file as text", input);
  const Value* given = arguments.Get(0, "binary");
  const bool binary = given != nullptr && given->Truthy();
  const double base = binary ? 1024 : 1000;
  const auto trusted = [](std::string text) { return Value::Str(std::move(text), /*trusted=*/true); };
  if (size == 1) return trusted("1 Byte");
  if (size < base) return trusted(fmt::format("{} Bytes", static_cast<int64_t>(size)));
  constexpr std::string_view kPrefixes = "kMGTPEZY";
  double unit = base * base;
  size_t i = 0;
  for (; i + 1 < kPrefixes.size() && size >= unit; ++i) unit *= base;
  const char prefix = binary && kPrefixes[i] == 'k' ? 'K' : kPrefixes[i];
  return trusted(fmt::format("{:.1f} {}{}", base * size / unit, prefix, binary ? "iB" : "B"));
}

}  // namespace bantam::jinja
