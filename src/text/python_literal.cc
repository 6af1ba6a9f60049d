#include "text/python_literal.h"

#include <charconv>
#include <cmath>
#include <cstdint>

#include "text/utf8.h"

namespace bantam {
namespace {

constexpr int kDepthMax = 64;
// Members of an object: they are kept in order, in a list that is searched.
constexpr size_t kMembersMax = 1000;

// What both notations share. Each Parse function moves past what it read and returns false where it is malformed.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  bool AtEnd() {
    SkipSpace();
    return at_ == text_.size();
  }
  bool Take(std::string_view token) {
    SkipSpace();
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  char Peek() {
    SkipSpace();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  std::string_view Rest() const { return text_.substr(at_); }
  void Skip(size_t n) { at_ += n; }

  // A run of characters of names.
  std::string Name(std::string_view more) {
    SkipSpace();
    const size_t begin = at_;
    while (at_ < text_.size() && (IsWord(text_[at_]) || more.find(text_[at_]) != std::string_view::npos)) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  bool Number(Json* value) {
    SkipSpace();
    const size_t end = std::min(text_.find_first_not_of("+-0123456789.eE_", at_), text_.size());
    std::string digits;
    for (const char c : text_.substr(at_, end - at_)) {
      if (c != '_') digits += c;
    }
    const char* first = digits.data() + (digits.starts_with('+') ? 1 : 0);
    const char* last = digits.data() + digits.size();
    int64_t integer = 0;
    double real = 0;
    if (const auto [stop, error] = std::from_chars(first, last, integer); error == std::errc() && stop == last) {
      *value = integer;
    } else if (const auto [end_of_real, problem] = std::from_chars(first, last, real);
               problem == std::errc() && end_of_real == last && std::isfinite(real)) {
      *value = real;
    } else {
      return false;
    }
    at_ = end;
    return true;
  }

 private:
  static bool IsWord(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
  }
  void SkipSpace() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  std::string_view text_;
  size_t at_ = 0;
};

class Python {
 public:
  explicit Python(std::string_view text) : in_(text) {}

  bool Calls(std::vector<std::pair<std::string, Json>>* calls) {
    const bool list = in_.Take("[");
    do {
      if (list && in_.Peek() == ']') break;
      std::string name = in_.Name(".-");
      Json arguments = Json::object();
      if (name.empty() || !in_.Take("(")) return false;
      while (!in_.Take(")")) {
        const std::string key = in_.Name("");
        if (key.empty() || arguments.size() >= kMembersMax || !in_.Take("=") || !Value(/*depth=*/0, &arguments[key])) return false;
        if (!in_.Take(",") && in_.Peek() != ')') return false;
      }
      calls->emplace_back(std::move(name), std::move(arguments));
    } while (list && in_.Take(","));
    return (!list || in_.Take("]")) && in_.AtEnd();
  }
  bool Whole(Json* value) { return Value(/*depth=*/0, value) && in_.AtEnd(); }

 private:
  bool Value(int depth, Json* value) {
    if (depth > kDepthMax) return false;
    const char c = in_.Peek();
    if (c == '"' || c == '\'') return String(value);
    if (c == '[' || c == '(') return List(depth, c == '[' ? "]" : ")", value);
    if (c == '{') return Dictionary(depth, value);
    if ((c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.') return in_.Number(value);
    const std::string word = in_.Name("");
    if (word == "True" || word == "true") {
      *value = true;
    } else if (word == "False" || word == "false") {
      *value = false;
    } else if (word == "None" || word == "null") {
      *value = nullptr;
    } else {
      return false;
    }
    return true;
  }

  bool List(int depth, std::string_view end, Json* value) {
    in_.Skip(1);
    *value = Json::array();
    while (!in_.Take(end)) {
      value->push_back(nullptr);
      if (!Value(depth + 1, &value->back())) return false;
      if (!in_.Take(",") && in_.Peek() != end[0]) return false;
    }
    return true;
  }

  bool Dictionary(int depth, Json* value) {
    in_.Skip(1);
    *value = Json::object();
    while (!in_.Take("}")) {
      Json key;
      if (!Value(depth + 1, &key)) return false;
      const std::string name = key.is_string() ? key.get<std::string>() : DumpJson(key, /*indent=*/-1);
      if (value->size() >= kMembersMax || !in_.Take(":") || !Value(depth + 1, &(*value)[name])) return false;
      if (!in_.Take(",") && in_.Peek() != '}') return false;
    }
    return true;
  }

  bool String(Json* value) {
    std::string_view rest = in_.Rest();
    const char quote = rest[0];
    const bool triple = rest.size() >= 3 && rest[1] == quote && rest[2] == quote;
    const std::string end(triple ? 3 : 1, quote);
    size_t at = end.size();
    std::string text;
    while (at < rest.size() && !rest.substr(at).starts_with(end)) {
      if (rest[at] != '\\') {
        text += rest[at++];
        continue;
      }
      if (!Escape(rest, &at, &text)) return false;
    }
    if (at >= rest.size()) return false;
    in_.Skip(at + end.size());
    *value = std::move(text);
    return true;
  }

  static bool Escape(std::string_view rest, size_t* at, std::string* text) {
    if (*at + 1 >= rest.size()) return false;
    const char letter = rest[*at + 1];
    *at += 2;
    constexpr std::string_view kNames = "nrtbf\\'\"/";
    constexpr std::string_view kMeanings = "\n\r\t\b\f\\'\"/";
    if (const size_t named = kNames.find(letter); named != std::string_view::npos) {
      *text += kMeanings[named];
      return true;
    }
    if (letter == '\n') return true;
    if (letter >= '0' && letter <= '7') {
      uint32_t octal = static_cast<uint32_t>(letter - '0');
      for (int more = 0; more < 2 && *at < rest.size() && rest[*at] >= '0' && rest[*at] <= '7'; ++more, ++*at) {
        octal = octal * 8 + static_cast<uint32_t>(rest[*at] - '0');
      }
      AppendUtf8(octal, text);
      return true;
    }
    const size_t digits = letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
    if (digits == 0) {
      // As in Python, an unknown escape stays.
      *text += '\\';
      *text += letter;
      return true;
    }
    uint32_t code = 0;
    const std::string_view hex = rest.substr(*at, digits);
    const auto [stop, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (error != std::errc() || hex.size() != digits || stop != hex.data() + digits) return false;
    *at += digits;
    // Two halves of a character past U+FFFF, as JSON writes them.
    const std::string_view low = rest.substr(std::min(*at, rest.size()));
    uint32_t second = 0;
    if (code >= 0xd800 && code < 0xdc00 && low.size() >= 6 && low.starts_with("\\u") &&
        std::from_chars(low.data() + 2, low.data() + 6, second, 16).ptr == low.data() + 6 && second >= 0xdc00 && second < 0xe000) {
      code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
      *at += 6;
    }
    AppendUtf8(code, text);
    return true;
  }

  Reader in_;
};

class Gemma {
 public:
  explicit Gemma(std::string_view text) : in_(text) {}

  std::optional<Json> Object() {
    Json value;
    if (in_.Peek() != '{' || !Value(/*depth=*/0, &value) || !in_.AtEnd()) return std::nullopt;
    return value;
  }

 private:
  bool Value(int depth, Json* value) {
    if (depth > kDepthMax) return false;
    for (const std::string_view mark : {std::string_view("<escape>"), std::string_view("<|\"|>"), std::string_view("\"")}) {
      if (in_.Take(mark)) return Marked(mark, value);
    }
    if (in_.Take("{")) {
      *value = Json::object();
      while (!in_.Take("}")) {
        const std::string key = Key();
        if (key.empty() || value->size() >= kMembersMax || !in_.Take(":") || !Value(depth + 1, &(*value)[key])) return false;
        if (!in_.Take(",") && in_.Peek() != '}') return false;
      }
      return true;
    }
    if (in_.Take("[")) {
      *value = Json::array();
      while (!in_.Take("]")) {
        value->push_back(nullptr);
        if (!Value(depth + 1, &value->back())) return false;
        if (!in_.Take(",") && in_.Peek() != ']') return false;
      }
      return true;
    }
    const char c = in_.Peek();
    if ((c >= '0' && c <= '9') || c == '-') return in_.Number(value);
    const std::string word = in_.Name("");
    if (word == "true" || word == "false") {
      *value = word == "true";
    } else if (word == "null") {
      *value = nullptr;
    } else {
      return false;
    }
    return true;
  }

  bool Marked(std::string_view mark, Json* value) {
    const size_t end = in_.Rest().find(mark);
    if (end == std::string_view::npos) return false;
    *value = std::string(in_.Rest().substr(0, end));
    in_.Skip(end + mark.size());
    return true;
  }

  std::string Key() {
    Json marked;
    for (const std::string_view mark : {std::string_view("<escape>"), std::string_view("<|\"|>"), std::string_view("\"")}) {
      if (in_.Take(mark)) return Marked(mark, &marked) ? marked.get<std::string>() : std::string();
    }
    return in_.Name("-.$");
  }

  Reader in_;
};

}  // namespace

std::vector<std::pair<std::string, Json>> ParsePythonCalls(std::string_view text) {
  std::vector<std::pair<std::string, Json>> calls;
  if (!Python(text).Calls(&calls)) calls.clear();
  return calls;
}

std::optional<Json> ParsePythonValue(std::string_view text) {
  Json value;
  if (!Python(text).Whole(&value)) return std::nullopt;
  return value;
}

std::optional<Json> ParseGemmaObject(std::string_view text) { return Gemma(text).Object(); }

}  // namespace bantam
