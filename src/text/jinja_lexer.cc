#include "text/jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <system_error>

#include "text/utf8.h"

namespace bantam::jinja {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80; }
bool IsName(char c) { return IsNameStart(c) || IsDigit(c); }

Error At(int line, std::string_view problem) { return Error(Code::kCorrupt, fmt::format("template line {}: {}", line, problem)); }

// Longest first.
constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "<",
                                                         ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ".", ":", "|", ",", ";"};

// The value of a digit in bases up to 16, 16 for other characters.
int DigitOf(char c) {
  if (IsDigit(c)) return c - '0';
  const char letter = static_cast<char>(c | 0x20);
  return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : 16;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    // Line ends become \n, and one at the very end is dropped, as Jinja does.
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        source_ += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      } else {
        source_ += source[i];
      }
    }
    if (source_.ends_with('\n')) source_.pop_back();
  }

  Result<std::vector<Token>> Run() {
    while (at_ < source_.size()) BANTAM_TRY(Root());
    Push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  void Push(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void Advance(size_t n) {
    line_ += static_cast<int>(
        std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_), source_.begin() + static_cast<std::ptrdiff_t>(at_ + n), '\n'));
    at_ += n;
  }

  // Text up to the next tag, and the tag.
  Status Root() {
    size_t tag = at_;
    while (tag < source_.size()) {
      tag = std::min(source_.find('{', tag), source_.size());
      if (tag + 1 < source_.size() && (source_[tag + 1] == '%' || source_[tag + 1] == '{' || source_[tag + 1] == '#')) break;
      tag = std::min(tag + 1, source_.size());
    }
    std::string text = source_.substr(at_, tag - at_);
    if (tag == source_.size()) {
      EmitData(text);
      Advance(text.size());
      return Ok();
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const size_t size = text.size();
    if (sign == '-') {
      while (!text.empty() && IsSpace(text.back())) text.pop_back();
    } else if (sign != '+' && kind != '{') {
      StripLine(&text);
    }
    EmitData(text);
    Advance(size + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    if (kind == '#') return Comment();
    if (kind == '%' && IsRaw()) return Raw();
    Push(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    return Inside(kind == '%');
  }

  // lstrip_blocks: blanks between the start of the line and a block go.
  void StripLine(std::string* text) const {
    const size_t line = text->rfind('\n') == std::string::npos ? 0 : text->rfind('\n') + 1;
    if (line == 0 && !line_starts_) return;
    if (std::all_of(text->begin() + static_cast<std::ptrdiff_t>(line), text->end(), IsSpace)) text->resize(line);
  }

  void EmitData(const std::string& text) {
    if (!text.empty()) Push(TokenKind::kData, text);
  }

  // Behind a block or comment: a line feed goes (trim_blocks), or with a minus all blanks.
  void AfterTag(char sign) {
    const size_t begin = at_;
    if (sign == '-') {
      while (at_ < source_.size() && IsSpace(source_[at_])) Advance(1);
    } else if (sign != '+' && at_ < source_.size() && source_[at_] == '\n') {
      Advance(1);
    }
    line_starts_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return At(line_, "a comment without its end #}");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    Advance(end + 2 - at_);
    AfterTag(sign == '-' || sign == '+' ? sign : '\0');
    return Ok();
  }

  // Whether a block's content, at at_, is the word raw.
  bool IsRaw() const {
    size_t i = at_;
    while (i < source_.size() && IsSpace(source_[i])) ++i;
    if (source_.compare(i, 3, "raw") != 0) return false;
    i += 3;
    while (i < source_.size() && IsSpace(source_[i])) ++i;
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
    return source_.compare(i, 2, "%}") == 0;
  }

  Status Raw() {
    const int begun = line_;
    const size_t open = source_.find("%}", at_);
    const char sign = source_[open - 1];
    Advance(open + 2 - at_);
    AfterTag(sign == '-' ? '-' : '+');  // here trim_blocks takes no line feed
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      size_t i = tag + 2;
      const char begin_sign = i < source_.size() && (source_[i] == '-' || source_[i] == '+') ? source_[i++] : '\0';
      while (i < source_.size() && IsSpace(source_[i])) ++i;
      if (source_.compare(i, 6, "endraw") != 0) continue;
      i += 6;
      while (i < source_.size() && IsSpace(source_[i])) ++i;
      const char end_sign = i < source_.size() && (source_[i] == '-' || source_[i] == '+') ? source_[i++] : '\0';
      if (source_.compare(i, 2, "%}") != 0) continue;
      std::string text = source_.substr(at_, tag - at_);
      if (begin_sign == '-') {
        while (!text.empty() && IsSpace(text.back())) text.pop_back();
      } else if (begin_sign != '+') {
        StripLine(&text);
      }
      EmitData(text);
      Advance(i + 2 - at_);
      AfterTag(end_sign);
      return Ok();
    }
    return At(begun, "a raw block without its end");
  }

  // Tokens up to the end of a block or variable.
  Status Inside(bool block) {
    const int begun = line_;
    std::string closers;  // of open brackets, innermost last
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (IsSpace(c)) {
        Advance(1);
        continue;
      }
      if (closers.empty() && EndsHere(block)) return Ok();
      if (c == '\'' || c == '"') {
        BANTAM_TRY(String(c));
      } else if (IsDigit(c)) {
        Number();
      } else if (IsNameStart(c)) {
        size_t end = at_;
        while (end < source_.size() && IsName(source_[end])) ++end;
        Push(TokenKind::kName, source_.substr(at_, end - at_));
        Advance(end - at_);
      } else {
        BANTAM_TRY(Operator(&closers));
      }
    }
    return At(begun, block ? "a block without its end %}" : "an expression without its end }}");
  }

  bool EndsHere(bool block) {
    const std::string_view end = block ? "%}" : "}}";
    const char first = source_[at_];
    const bool signed_end = (first == '-' || (block && first == '+')) && Rest().substr(1).starts_with(end);
    if (!signed_end && !Rest().starts_with(end)) return false;
    Push(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
    Advance(signed_end ? 3 : 2);
    const char sign = signed_end ? first : '\0';
    if (block || sign == '-') {
      AfterTag(sign);
    } else {
      line_starts_ = false;
    }
    return true;
  }

  Status Operator(std::string* closers) {
    const auto found = std::find_if(kOperators.begin(), kOperators.end(), [&](std::string_view op) { return Rest().starts_with(op); });
    if (found == kOperators.end()) return At(line_, fmt::format("unexpected character {:?}", Rest().substr(0, 1)));
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') {
      *closers += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (closers->empty() || closers->back() != c) return At(line_, fmt::format("unexpected {}", c));
      closers->pop_back();
    }
    Push(TokenKind::kOperator, std::string(*found));
    Advance(found->size());
    return Ok();
  }

  // 0x1f, 0o17, 0b11. False for numbers in decimal, and for those beyond 64 bits.
  bool NumberWithBase() {
    if (source_[at_] != '0' || at_ + 2 >= source_.size()) return false;
    const char letter = static_cast<char>(source_[at_ + 1] | 0x20);
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (base == 0) return false;
    std::string digits;
    size_t end = at_ + 2;
    for (; end < source_.size() && (source_[end] == '_' || DigitOf(source_[end]) < base); ++end) {
      if (source_[end] != '_') digits += source_[end];
    }
    int64_t value = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (digits.empty() || read.ec != std::errc()) return false;
    Advance(end - at_);
    Push(TokenKind::kInteger, fmt::format("{}", value));
    return true;
  }

  void Number() {
    if (NumberWithBase()) return;
    size_t end = at_;
    const auto digits = [&] {
      while (end < source_.size() &&
             (IsDigit(source_[end]) || (source_[end] == '_' && end + 1 < source_.size() && IsDigit(source_[end + 1]))))
        ++end;
    };
    digits();
    bool is_float = false;
    if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      is_float = true;
      ++end;
      digits();
    }
    size_t exponent = end;
    if (exponent < source_.size() && (source_[exponent] == 'e' || source_[exponent] == 'E')) {
      ++exponent;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && IsDigit(source_[exponent])) {
        is_float = true;
        end = exponent;
        digits();
      }
    }
    std::string text = source_.substr(at_, end - at_);
    Advance(text.size());
    std::erase(text, '_');
    Push(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
  }

  // Python's escapes. Unknown ones stay as they are written.
  Status String(char quote) {
    const int begun = line_;
    std::string text;
    size_t i = at_ + 1;
    for (; i < source_.size() && source_[i] != quote; ++i) {
      if (source_[i] != '\\' || i + 1 >= source_.size()) {
        text += source_[i];
        continue;
      }
      const char c = source_[++i];
      static constexpr std::string_view kNames = "abfnrtv0\\'\"";
      static constexpr std::string_view kMeans("\a\b\f\n\r\t\v\0\\'\"", 11);
      const size_t known = kNames.find(c);
      if (known != std::string_view::npos) {
        text += kMeans[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        uint32_t point = 0;
        for (size_t d = 1; d <= digits; ++d) {
          const size_t place =
              i + d < source_.size() ? std::string_view("0123456789abcdef0123456789ABCDEF").find(source_[i + d]) : std::string::npos;
          if (place == std::string::npos) return At(line_, fmt::format("an escape \\{} that needs {} hexadecimal digits", c, digits));
          point = point * 16 + static_cast<uint32_t>(place % 16);
        }
        if (point > 0x10ffff) return At(line_, "an escape beyond U+10FFFF");
        AppendUtf8(point, &text);
        i += digits;
      } else if (c != '\n') {
        text += '\\';
        text += c;
      }
    }
    if (i >= source_.size()) return At(begun, "a string without its end");
    Push(TokenKind::kString, std::move(text));
    Advance(i + 1 - at_);
    return Ok();
  }

  std::string source_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starts_ = true;  // whether at_ stands at the start of a line
};

}  // namespace

Result<std::vector<Token>> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace bantam::jinja
