#include "text/structured/pattern.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "text/structured/expression.h"
#include "text/utf8.h"

namespace bantam {
namespace {

constexpr uint32_t kRepeatMax = 100'000;

Error Malformed(std::string_view what, size_t at) { return {Code::kInvalidArgument, fmt::format("{} at character {}", what, at + 1)}; }
Error NoSupport(std::string_view what, size_t at) {
  return {Code::kUnsupported, fmt::format("{} at character {} cannot be enforced", what, at + 1)};
}

struct Property {
  std::string_view name;
  std::string_view long_name;
  PropertySet set;
};
constexpr std::array kProperties = std::to_array<Property>({
    {"L", "Letter", kLetter},
    {"Lu", "Uppercase_Letter", SetOf(Category::kLu)},
    {"Ll", "Lowercase_Letter", SetOf(Category::kLl)},
    {"Lt", "Titlecase_Letter", SetOf(Category::kLt)},
    {"Lm", "Modifier_Letter", SetOf(Category::kLm)},
    {"Lo", "Other_Letter", SetOf(Category::kLo)},
    {"M", "Mark", kMark},
    {"Mn", "Nonspacing_Mark", SetOf(Category::kMn)},
    {"Mc", "Spacing_Mark", SetOf(Category::kMc)},
    {"Me", "Enclosing_Mark", SetOf(Category::kMe)},
    {"N", "Number", kNumber},
    {"Nd", "Decimal_Number", SetOf(Category::kNd)},
    {"Nl", "Letter_Number", SetOf(Category::kNl)},
    {"No", "Other_Number", SetOf(Category::kNo)},
    {"P", "Punctuation", kPunctuation},
    {"Pc", "Connector_Punctuation", SetOf(Category::kPc)},
    {"Pd", "Dash_Punctuation", SetOf(Category::kPd)},
    {"Ps", "Open_Punctuation", SetOf(Category::kPs)},
    {"Pe", "Close_Punctuation", SetOf(Category::kPe)},
    {"Pi", "Initial_Punctuation", SetOf(Category::kPi)},
    {"Pf", "Final_Punctuation", SetOf(Category::kPf)},
    {"Po", "Other_Punctuation", SetOf(Category::kPo)},
    {"S", "Symbol", kSymbol},
    {"Sm", "Math_Symbol", SetOf(Category::kSm)},
    {"Sc", "Currency_Symbol", SetOf(Category::kSc)},
    {"Sk", "Modifier_Symbol", SetOf(Category::kSk)},
    {"So", "Other_Symbol", SetOf(Category::kSo)},
    {"Z", "Separator", kSeparator},
    {"Zs", "Space_Separator", SetOf(Category::kZs)},
    {"Zl", "Line_Separator", SetOf(Category::kZl)},
    {"Zp", "Paragraph_Separator", SetOf(Category::kZp)},
    {"C", "Other", kOther},
    {"Cc", "Control", SetOf(Category::kCc)},
    {"Cf", "Format", SetOf(Category::kCf)},
});

CodeRanges Digits() { return {'0', '9'}; }
CodeRanges WordCharacters() {
  CodeRanges chars('0', '9');
  chars.Add('A', 'Z');
  chars.Add('_', '_');
  chars.Add('a', 'z');
  return chars;
}
// WhiteSpace and LineTerminator of ECMA-262.
CodeRanges Spaces() {
  CodeRanges chars('\t', '\r');
  for (const char32_t code : {U' ', U'\u00a0', U'\u1680', U'\u2028', U'\u2029', U'\u202f', U'\u205f', U'\u3000', U'\ufeff'})
    chars.Add(code, code);
  chars.Add(0x2000, 0x200a);
  return chars;
}
CodeRanges LineEnds() {
  CodeRanges chars('\n', '\n');
  chars.Add('\r', '\r');
  chars.Add(0x2028, 0x2029);
  return chars;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

int HexDigit(char c) {
  if (IsDigit(c)) return c - '0';
  const auto lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

std::optional<char32_t> Hex(std::string_view text, size_t at, size_t digits) {
  if (at + digits > text.size() || digits == 0 || digits > 8) return std::nullopt;
  char32_t code = 0;
  for (size_t i = 0; i < digits; ++i) {
    const int digit = HexDigit(text[at + i]);
    if (digit < 0) return std::nullopt;
    code = code << 4 | static_cast<char32_t>(digit);
  }
  return code;
}

// Reads what stands behind a backslash.
class EscapeReader {
 public:
  EscapeReader(std::string_view text, size_t* at) : text_(text), at_(*at) {}

  Result<CodeRanges> Read(bool in_class) {
    if (at_ >= text_.size()) return Malformed("a backslash without a character", at_);
    const char c = text_[at_++];
    switch (c) {
      case 'd':
        return Digits();
      case 'D':
        return Digits().Complement();
      case 'w':
        return WordCharacters();
      case 'W':
        return WordCharacters().Complement();
      case 's':
        return Spaces();
      case 'S':
        return Spaces().Complement();
      case 't':
        return Single('\t');
      case 'n':
        return Single('\n');
      case 'v':
        return Single('\v');
      case 'f':
        return Single('\f');
      case 'r':
        return Single('\r');
      case 'p':
      case 'P':
        return ReadProperty(/*negated=*/c == 'P');
      case 'x':
        return ReadHex(2);
      case 'u':
        return ReadUnicode();
      case 'U':
        return ReadHex(8);
      case 'c':
        return ReadControl();
      case '0':
        if (at_ < text_.size() && IsDigit(text_[at_])) return NoSupport("an octal escape", at_ - 1);
        return Single(0);
      case 'b':
        if (in_class) return Single('\b');
        return NoSupport("the word boundary \\b", at_ - 2);
      case 'B':
        return NoSupport("the word boundary \\B", at_ - 2);
      case 'k':
        return NoSupport("a back reference", at_ - 2);
      default:
        break;
    }
    if (IsDigit(c)) return NoSupport("a back reference", at_ - 2);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Malformed(fmt::format("the unknown escape \\{}", c), at_ - 2);
    --at_;
    const Utf8Character character = DecodeUtf8(text_, at_);
    at_ += character.size;
    return Single(character.code);
  }

 private:
  static CodeRanges Single(char32_t code) { return {code, code}; }
  Result<CodeRanges> ReadHex(size_t digits) {
    const auto code = Hex(text_, at_, digits);
    if (!code.has_value()) return Malformed("an escape with too few hexadecimal digits", at_ - 2);
    at_ += digits;
    return Single(*code);
  }
  Result<CodeRanges> ReadUnicode() {
    if (at_ < text_.size() && text_[at_] == '{') {
      const size_t end = text_.find('}', at_);
      const auto code = end == std::string_view::npos ? std::nullopt : Hex(text_, at_ + 1, end - at_ - 1);
      if (!code.has_value() || *code > kCodePointMax) return Malformed("an escape \\u{} without a code point", at_ - 2);
      at_ = end + 1;
      return Single(*code);
    }
    const auto code = Hex(text_, at_, 4);
    if (!code.has_value()) return Malformed("an escape with too few hexadecimal digits", at_ - 2);
    at_ += 4;
    if (*code < 0xd800 || *code > 0xdfff) return Single(*code);
    // Half a pair of UTF-16.
    const bool pair = text_.substr(at_, 2) == "\\u";
    const char32_t low = pair ? Hex(text_, at_ + 2, 4).value_or(0) : 0;
    if (*code > 0xdbff || low < 0xdc00 || low > 0xdfff) return NoSupport("half a surrogate pair", at_ - 6);
    at_ += 6;
    return Single(0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00));
  }
  Result<CodeRanges> ReadControl() {
    const auto letter = at_ < text_.size() ? static_cast<char>(text_[at_] | 0x20) : '\0';
    if (letter < 'a' || letter > 'z') return Malformed("an escape \\c without a letter", at_ - 2);
    ++at_;
    return Single(static_cast<char32_t>(letter - 'a' + 1));
  }
  Result<CodeRanges> ReadProperty(bool negated) {
    const size_t end = text_.find('}', at_);
    if (at_ >= text_.size() || text_[at_] != '{' || end == std::string_view::npos) return Malformed("\\p without {a property}", at_ - 2);
    std::string_view name = text_.substr(at_ + 1, end - at_ - 1);
    const size_t begin = at_ - 2;
    at_ = end + 1;
    for (const std::string_view prefix : {"General_Category=", "gc="}) {
      if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
    }
    CodeRanges chars;
    for (const Property& property : kProperties) {
      if (name == property.name || name == property.long_name) chars.AddProperties(property.set);
    }
    if (name == "White_Space" || name == "space") chars.AddProperties(kWhiteSpace);
    if (name == "Script=Han" || name == "sc=Han" || name == "Script=Hani") chars.AddProperties(kHan);
    if (name == "Any") chars = CodeRanges::All();
    if (name == "ASCII") chars = CodeRanges(0, 0x7f);
    if (chars.empty()) return NoSupport(fmt::format("the property \\p{{{}}}", name), begin);
    return negated ? chars.Complement() : chars;
  }

  std::string_view text_;
  size_t& at_;
};

class PatternParser {
 public:
  explicit PatternParser(std::string_view text) : text_(text) {}

  struct LookAhead {
    bool negative;
    Expression body;
  };
  // Of the outermost level, behind `^`, where the pattern is one alternative.
  std::vector<LookAhead> look_aheads;

  Result<Expression> Parse() {
    BANTAM_ASSIGN(Expression all, ParseAlternatives(0));
    if (at_ < text_.size()) return Malformed("a ) without its (", at_);
    if (!look_aheads.empty() && all.parts.size() > 1) return NoSupport("look-ahead among alternatives", 0);
    return all;
  }

 private:
  bool AtEnd() const { return at_ >= text_.size(); }
  bool Skip(std::string_view text) {
    if (!text_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }

  Result<Expression> ParseAlternatives(uint32_t depth) {
    if (depth > kPatternDepthMax) return NoSupport(fmt::format("more than {} groups within groups", kPatternDepthMax), at_);
    Expression alternatives;
    alternatives.kind = Expression::Kind::kAlternatives;
    do {
      BANTAM_ASSIGN(Expression sequence, ParseSequence(depth));
      alternatives.parts.push_back(std::move(sequence));
    } while (Skip("|"));
    return alternatives;
  }

  Result<Expression> ParseSequence(uint32_t depth) {
    Expression sequence;
    // Look-ahead is an intersection where everything before it is the beginning of the text.
    bool anchored = false;
    while (!AtEnd() && text_[at_] != '|' && text_[at_] != ')') {
      const bool negative = text_.substr(at_).starts_with("(?!");
      if (negative || text_.substr(at_).starts_with("(?=")) {
        const size_t begin = at_;
        if (depth != 0 || !anchored) return NoSupport("look-ahead that does not stand behind the first ^", begin);
        at_ += 3;
        BANTAM_ASSIGN(Expression body, ParseAlternatives(depth + 1));
        if (!Skip(")")) return Malformed("a ( without its )", begin);
        look_aheads.push_back({negative, std::move(body)});
        continue;
      }
      BANTAM_ASSIGN(Expression atom, ParseAtom(depth));
      BANTAM_ASSIGN(atom, ParseQuantifier(std::move(atom)));
      anchored = atom.kind == Expression::Kind::kBegin && (anchored || sequence.parts.empty());
      sequence.parts.push_back(std::move(atom));
    }
    return sequence;
  }

  Result<Expression> ParseAtom(uint32_t depth) {
    Expression atom;
    atom.kind = Expression::Kind::kChars;
    const size_t begin = at_;
    if (Skip("^")) {
      atom.kind = Expression::Kind::kBegin;
    } else if (Skip("$")) {
      atom.kind = Expression::Kind::kEnd;
    } else if (Skip("(")) {
      BANTAM_ASSIGN(atom, ParseGroup(begin, depth));
    } else if (Skip("[")) {
      BANTAM_ASSIGN(atom.chars, ParseCharacterClass(text_, &at_));
    } else if (Skip(".")) {
      atom.chars = LineEnds().Complement();
    } else if (Skip("\\")) {
      BANTAM_ASSIGN(atom.chars, EscapeReader(text_, &at_).Read(/*in_class=*/false));
    } else if (text_[at_] == '*' || text_[at_] == '+' || text_[at_] == '?') {
      return Malformed("a quantifier with nothing before it", begin);
    } else {
      const Utf8Character character = DecodeUtf8(text_, at_);
      at_ += character.size;
      atom.chars.Add(character.code, character.code);
    }
    return atom;
  }

  Result<Expression> ParseGroup(size_t begin, uint32_t depth) {
    if (Skip("?")) {
      if (Skip("<=") || Skip("<!")) return NoSupport("look-behind", begin);
      if (Skip("=") || Skip("!")) return NoSupport("look-ahead that does not stand behind the first ^", begin);
      if (Skip("<")) {
        const size_t end = text_.find('>', at_);
        if (end == std::string_view::npos) return Malformed("a group's name without its end", begin);
        at_ = end + 1;
      } else if (!Skip(":")) {
        return Malformed("an unknown kind of group", begin);
      }
    }
    BANTAM_ASSIGN(Expression group, ParseAlternatives(depth + 1));
    if (!Skip(")")) return Malformed("a ( without its )", begin);
    return group;
  }

  std::optional<uint32_t> ReadNumber(size_t* at) const {
    const size_t begin = *at;
    uint64_t number = 0;
    while (*at < text_.size() && IsDigit(text_[*at]))
      number = std::min<uint64_t>(number * 10 + uint64_t(text_[(*at)++] - '0'), UINT32_MAX - 1);
    if (*at == begin) return std::nullopt;
    return static_cast<uint32_t>(number);
  }

  // {least}, {least,} or {least,most}; anything else is text, as in browsers.
  bool ReadBraces(uint32_t* least, uint32_t* most) {
    size_t at = at_ + 1;
    const auto first = ReadNumber(&at);
    if (!first.has_value()) return false;
    *least = *first;
    *most = *first;
    if (at < text_.size() && text_[at] == ',') {
      ++at;
      *most = ReadNumber(&at).value_or(Expression::kUnbounded);
    }
    if (at >= text_.size() || text_[at] != '}') return false;
    at_ = at + 1;
    return true;
  }

  Result<Expression> ParseQuantifier(Expression atom) {
    const size_t begin = at_;
    uint32_t least = 1;
    uint32_t most = 1;
    if (Skip("*")) {
      least = 0;
      most = Expression::kUnbounded;
    } else if (Skip("+")) {
      most = Expression::kUnbounded;
    } else if (Skip("?")) {
      least = 0;
    } else if (AtEnd() || text_[at_] != '{' || !ReadBraces(&least, &most)) {
      return atom;
    }
    (void)Skip("?");  // lazy: the same texts
    if (most < least) return Malformed("a quantifier whose numbers are out of order", begin);
    if (least > kRepeatMax || (most > kRepeatMax && most != Expression::kUnbounded)) {
      return NoSupport(fmt::format("more than {} repetitions", kRepeatMax), begin);
    }
    if (!AtEnd() && (text_[at_] == '*' || text_[at_] == '+' || text_[at_] == '?')) return Malformed("a quantifier of a quantifier", at_);
    Expression repeat;
    repeat.kind = Expression::Kind::kRepeat;
    repeat.least = least;
    repeat.most = most;
    repeat.parts.push_back(std::move(atom));
    return repeat;
  }

  std::string_view text_;
  size_t at_ = 0;
};

Result<CharDfa> ToDfa(const Expression& expression, bool open_begin, bool open_end, const AutomatonLimits& limits) {
  CharNfa nfa;
  BANTAM_ASSIGN(const NfaPart part, AddToNfa(expression, limits, &nfa));
  nfa.start = part.start;
  nfa.final = part.final;
  if (open_begin) {
    const uint32_t before = nfa.Add();
    nfa.Read(before, CodeRanges::All(), before);
    nfa.Link(before, part.start);
    nfa.start = before;
  }
  if (open_end) {
    const uint32_t behind = nfa.Add();
    nfa.Read(behind, CodeRanges::All(), behind);
    nfa.Link(part.final, behind);
    nfa.final = behind;
  }
  return CharDfa::FromNfa(nfa, limits);
}

}  // namespace

Result<CodeRanges> ParseEscape(std::string_view text, size_t* at) { return EscapeReader(text, at).Read(/*in_class=*/false); }

Result<CodeRanges> ParseCharacterClass(std::string_view text, size_t* at) {
  const size_t begin = *at - 1;
  const bool negated = *at < text.size() && text[*at] == '^';
  if (negated) ++*at;
  CodeRanges chars;
  const auto read = [&]() -> Result<CodeRanges> {
    if (text[*at] == '\\') {
      ++*at;
      return EscapeReader(text, at).Read(/*in_class=*/true);
    }
    const Utf8Character character = DecodeUtf8(text, *at);
    *at += character.size;
    return CodeRanges(character.code, character.code);
  };
  const auto is_single = [](const CodeRanges& set) { return set.list().size() == 1 && set.list()[0].first == set.list()[0].last; };
  while (*at < text.size() && text[*at] != ']') {
    BANTAM_ASSIGN(CodeRanges item, read());
    const bool range = *at + 1 < text.size() && text[*at] == '-' && text[*at + 1] != ']';
    if (range && is_single(item)) {
      const size_t dash = (*at)++;
      BANTAM_ASSIGN(const CodeRanges last, read());
      if (is_single(last)) {
        if (last.list()[0].first < item.list()[0].first) return Malformed("a range whose ends are out of order", dash);
        item.Add(item.list()[0].first, last.list()[0].first);
      } else {
        item.Add('-', '-');
        item.Add(last);
      }
    }
    chars.Add(item);
  }
  if (*at >= text.size()) return Malformed("a [ without its ]", begin);
  ++*at;
  return negated ? chars.Complement() : chars;
}

std::optional<RepeatedClass> AsRepeatedClass(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax || !pattern.starts_with('^') || !pattern.ends_with("}$")) return std::nullopt;
  const auto expression = PatternParser(pattern).Parse();
  if (!expression.ok() || expression->parts.size() != 1) return std::nullopt;
  const std::vector<Expression>& parts = expression->parts[0].parts;
  if (parts.size() != 3 || parts[0].kind != Expression::Kind::kBegin || parts[2].kind != Expression::Kind::kEnd) return std::nullopt;
  const Expression& repeat = parts[1];
  if (repeat.kind != Expression::Kind::kRepeat || repeat.parts[0].kind != Expression::Kind::kChars) return std::nullopt;
  const uint64_t most = repeat.most == Expression::kUnbounded ? UINT64_MAX : repeat.most;
  return RepeatedClass{std::string(pattern.substr(0, pattern.rfind('{'))) + "*$", repeat.least, most};
}

Result<CharDfa> ParsePattern(std::string_view pattern, PatternMatch match, const AutomatonLimits& limits) {
  if (pattern.size() > kPatternBytesMax) {
    return Error(Code::kExhausted, fmt::format("a pattern of {} bytes; at most {} are read", pattern.size(), kPatternBytesMax));
  }
  PatternParser parser(pattern);
  BANTAM_ASSIGN(const Expression expression, parser.Parse());
  const bool search = match == PatternMatch::kSearch;
  BANTAM_ASSIGN(CharDfa dfa, ToDfa(expression, /*open_begin=*/search, /*open_end=*/search, limits));
  for (const auto& [negative, body] : parser.look_aheads) {
    BANTAM_ASSIGN(const CharDfa ahead, ToDfa(body, /*open_begin=*/false, /*open_end=*/true, limits));
    BANTAM_ASSIGN(dfa, CharDfa::Combine(dfa, ahead, negative ? CharDfa::Product::kFirstOnly : CharDfa::Product::kBoth, limits));
    dfa.Minimize();
  }
  return dfa;
}

}  // namespace bantam
