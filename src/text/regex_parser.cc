#include "text/regex_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "text/utf8.h"

namespace bantam {
namespace {

constexpr int kDepthMax = 16;
constexpr uint32_t kRepeatMax = 1000;
constexpr PropertySet kWordSet = kLetter | kMark | SetOf(Category::kNd, Category::kNl) | SetOf(Category::kPc);

struct NamedSet {
  std::string_view name;
  PropertySet set;
};
constexpr NamedSet kNamedSets[] = {{"L", kLetter},
                                   {"M", kMark},
                                   {"N", kNumber},
                                   {"P", kPunctuation},
                                   {"S", kSymbol},
                                   {"Z", kSeparator},
                                   {"C", kOther},
                                   {"Han", kHan},
                                   {"Letter", kLetter},
                                   {"Mark", kMark},
                                   {"Number", kNumber},
                                   {"Punctuation", kPunctuation},
                                   {"Symbol", kSymbol},
                                   {"Lu", SetOf(Category::kLu)},
                                   {"Ll", SetOf(Category::kLl)},
                                   {"Lt", SetOf(Category::kLt)},
                                   {"Lm", SetOf(Category::kLm)},
                                   {"Lo", SetOf(Category::kLo)},
                                   {"Mn", SetOf(Category::kMn)},
                                   {"Mc", SetOf(Category::kMc)},
                                   {"Me", SetOf(Category::kMe)},
                                   {"Nd", SetOf(Category::kNd)},
                                   {"Nl", SetOf(Category::kNl)},
                                   {"No", SetOf(Category::kNo)},
                                   {"Pc", SetOf(Category::kPc)},
                                   {"Pd", SetOf(Category::kPd)},
                                   {"Ps", SetOf(Category::kPs)},
                                   {"Pe", SetOf(Category::kPe)},
                                   {"Pi", SetOf(Category::kPi)},
                                   {"Pf", SetOf(Category::kPf)},
                                   {"Po", SetOf(Category::kPo)},
                                   {"Sm", SetOf(Category::kSm)},
                                   {"Sc", SetOf(Category::kSc)},
                                   {"Sk", SetOf(Category::kSk)},
                                   {"So", SetOf(Category::kSo)},
                                   {"Zs", SetOf(Category::kZs)},
                                   {"Zl", SetOf(Category::kZl)},
                                   {"Zp", SetOf(Category::kZp)},
                                   {"Cc", SetOf(Category::kCc)},
                                   {"Cf", SetOf(Category::kCf)},
                                   {"Co", SetOf(Category::kCo)},
                                   {"Cn", SetOf(Category::kCn)}};

class Parser {
 public:
  explicit Parser(std::string_view regex) : regex_(regex) {}

  Result<RegexAlternatives> Parse() {
    if (Take("(?i)")) ignore_case_ = true;
    BANTAM_ASSIGN(auto alternatives, Alternatives(/*depth=*/0));
    if (at_ != regex_.size()) return Stop("an unmatched )");
    return alternatives;
  }

 private:
  Error Stop(std::string_view what) const {
    return Error(Code::kUnsupported, fmt::format("the pattern's byte {}: {} is outside what scanners run", at_, what));
  }
  bool AtEnd() const { return at_ >= regex_.size(); }
  char Peek() const { return AtEnd() ? '\0' : regex_[at_]; }
  bool Take(std::string_view text) {
    if (!regex_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }

  Result<RegexAlternatives> Alternatives(int depth) {
    if (depth > kDepthMax) return Stop("a group in a group in a group");
    RegexAlternatives alternatives(1);
    while (!AtEnd() && Peek() != ')') {
      if (Take("|")) {
        alternatives.emplace_back();
        continue;
      }
      BANTAM_ASSIGN(RegexItem item, Item(depth));
      alternatives.back().push_back(std::move(item));
    }
    return alternatives;
  }

  Result<RegexItem> Item(int depth) {
    RegexItem item;
    if (Take("$")) {
      item.kind = RegexItem::Kind::kLineEnd;
      return item;
    }
    if (Peek() == '(') {
      BANTAM_ASSIGN(item, Group(depth));
      if (item.kind != RegexItem::Kind::kGroup) return item;
    } else {
      BANTAM_ASSIGN(item.chars, Characters());
    }
    BANTAM_TRY(Quantifier(&item));
    return item;
  }

  Result<RegexItem> Group(int depth) {
    RegexItem item;
    item.kind = RegexItem::Kind::kGroup;
    const bool outer = ignore_case_;
    const bool not_ahead = Take("(?!");
    const bool ahead = !not_ahead && Take("(?=");
    if (!not_ahead && !ahead) {
      if (Take("(?i:")) {
        ignore_case_ = true;
      } else if (!Take("(?:")) {
        Take("(");
        if (Peek() == '?') return Stop("this kind of group");
      }
    }
    BANTAM_ASSIGN(item.alternatives, Alternatives(depth + 1));
    if (!Take(")")) return Stop("a group without its end");
    ignore_case_ = outer;
    if (!not_ahead && !ahead) return item;
    // Looking ahead is for one character.
    const bool single = item.alternatives.size() == 1 && item.alternatives[0].size() == 1;
    if (!single || item.alternatives[0][0].kind != RegexItem::Kind::kRun || item.alternatives[0][0].most != 1 ||
        item.alternatives[0][0].least != 1) {
      return Stop("looking further ahead than one character");
    }
    RegexItem look = std::move(item.alternatives[0][0]);
    look.kind = ahead ? RegexItem::Kind::kAhead : RegexItem::Kind::kNotAhead;
    return look;
  }

  Result<uint32_t> Number() {
    uint32_t value = 0;
    const size_t begin = at_;
    for (; Peek() >= '0' && Peek() <= '9' && value <= kRepeatMax; ++at_) value = value * 10 + static_cast<uint32_t>(Peek() - '0');
    if (at_ == begin || value > kRepeatMax) return Stop("this number of repetitions");
    return value;
  }

  Status Quantifier(RegexItem* item) {
    if (Take("?")) {
      item->least = 0;
    } else if (Take("*")) {
      item->least = 0;
      item->most = RegexItem::kUnbounded;
    } else if (Take("+")) {
      item->most = RegexItem::kUnbounded;
    } else if (Take("{")) {
      BANTAM_ASSIGN(item->least, Number());
      item->most = item->least;
      if (Take(",")) {
        item->most = RegexItem::kUnbounded;
        if (Peek() != '}') {
          BANTAM_ASSIGN(item->most, Number());
        }
      }
      if (!Take("}") || item->most < item->least || item->most == 0) return Stop("this repetition");
      // In Ruby's syntax {1,3}+ is a repetition of a repetition, elsewhere it is possessive.
      if (Peek() == '+') return Stop("a repetition of a repetition");
    } else {
      return Ok();
    }
    if (Peek() == '?' || Peek() == '*') return Stop("a lazy or repeated repetition");
    item->possessive = Take("+");
    if (item->kind == RegexItem::Kind::kGroup && (item->most != 1 || item->possessive)) return Stop("a repeated group");
    return Ok();
  }

  Result<CharClass> Characters() {
    CharClass chars;
    if (Take("[")) {
      BANTAM_TRY(Bracket(&chars));
    } else if (Take(".")) {
      chars.AddRange('\n', '\n');
      chars.Negate();
    } else if (Peek() == '\\') {
      BANTAM_ASSIGN(const auto code, Escape(&chars));
      if (code) Add(*code, &chars);
    } else {
      if (std::string_view("*+?{^").find(Peek()) != std::string_view::npos) return Stop(fmt::format("'{}' here", Peek()));
      Add(NextCode(), &chars);
    }
    chars.Finish();
    return chars;
  }

  void Add(char32_t code, CharClass* chars) const {
    if (ignore_case_) {
      chars->AddIgnoringCase(code);
    } else {
      chars->AddRange(code, code);
    }
  }

  char32_t NextCode() {
    const Utf8Character character = DecodeUtf8(regex_, at_);
    at_ += character.size;
    return character.code;
  }

  Status Bracket(CharClass* chars) {
    if (Take("^")) chars->Negate();
    for (bool first = true; !Take("]"); first = false) {
      if (AtEnd() || Peek() == '[' || (first && Peek() == ']') || regex_.substr(at_).starts_with("&&"))
        return Stop("this set of characters");
      std::optional<char32_t> low;
      if (Peek() == '\\') {
        BANTAM_ASSIGN(low, Escape(chars));
      } else {
        low = NextCode();
      }
      if (!low) continue;
      const bool range = Peek() == '-' && at_ + 1 < regex_.size() && regex_[at_ + 1] != ']';
      if (!range) {
        Add(*low, chars);
        continue;
      }
      ++at_;
      std::optional<char32_t> high;
      if (Peek() == '\\') {
        BANTAM_ASSIGN(high, Escape(chars));
      } else {
        high = NextCode();
      }
      if (!high || *high < *low) return Stop("this range of characters");
      BANTAM_TRY(AddRange(*low, *high, chars));
    }
    return Ok();
  }

  Status AddRange(char32_t low, char32_t high, CharClass* chars) {
    chars->AddRange(low, high);
    if (!ignore_case_) return Ok();
    if (high >= 0x80) return Stop("a range outside ASCII without regard to case");
    for (char32_t code = low; code <= high; ++code) chars->AddIgnoringCase(code);
    return Ok();
  }

  // A single character, or nothing when the escape stands for a set, which is added then.
  Result<std::optional<char32_t>> Escape(CharClass* chars) {
    ++at_;
    if (AtEnd()) return Stop("a \\ at the end");
    const char letter = regex_[at_];
    constexpr std::string_view kNames = "nrtfvae0";
    constexpr std::string_view kCodes("\n\r\t\f\v\a\x1b\0", 8);
    if (const size_t named = kNames.find(letter); named != std::string_view::npos) {
      ++at_;
      if (letter == '0' && Peek() >= '0' && Peek() <= '9') return Stop("an octal escape");
      return std::optional<char32_t>(static_cast<unsigned char>(kCodes[named]));
    }
    if (letter == 'x' || letter == 'u') {
      ++at_;
      BANTAM_ASSIGN(const char32_t code, Hex(letter == 'u'));
      return std::optional<char32_t>(code);
    }
    if (letter == 'p' || letter == 'P') {
      ++at_;
      BANTAM_TRY(Property(/*outside=*/letter == 'P', chars));
      return std::optional<char32_t>();
    }
    constexpr std::string_view kSets = "sSdDwW";
    if (const size_t set = kSets.find(letter); set != std::string_view::npos) {
      ++at_;
      constexpr PropertySet kMeanings[] = {kWhiteSpace, SetOf(Category::kNd), kWordSet};
      if (set % 2 == 0) {
        chars->AddSet(kMeanings[set / 2]);
      } else {
        chars->AddOutside(kMeanings[set / 2]);
      }
      return std::optional<char32_t>();
    }
    const bool alphanumeric = (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z');
    if (alphanumeric) return Stop(fmt::format("\\{}", letter));
    return std::optional<char32_t>(NextCode());
  }

  // Behind \x or \u.
  Result<char32_t> Hex(bool four) {
    const bool braces = Take("{");
    const size_t digits_max = braces ? 6 : four ? 4 : 2;
    char32_t code = 0;
    size_t digits = 0;
    for (; digits < digits_max; ++digits, ++at_) {
      const char c = Peek();
      const bool digit = c >= '0' && c <= '9';
      const char lower = static_cast<char>(c | 32);
      if (!digit && !(lower >= 'a' && lower <= 'f')) break;
      code = code * 16 + static_cast<char32_t>(digit ? c - '0' : lower - 'a' + 10);
    }
    const bool complete = braces ? digits > 0 && Take("}") : digits == digits_max;
    if (!complete || code > 0x10ffff) return Stop("this hexadecimal escape");
    return code;
  }

  // Behind \p or \P.
  Status Property(bool outside, CharClass* chars) {
    std::string_view name = regex_.substr(at_, 1);
    if (Take("{")) {
      const size_t end = regex_.find('}', at_);
      if (end == std::string_view::npos) return Stop("a property without }");
      name = regex_.substr(at_, end - at_);
      at_ = end + 1;
    } else {
      at_ = std::min(at_ + 1, regex_.size());
    }
    if (name.starts_with("^")) {
      outside = !outside;
      name.remove_prefix(1);
    }
    const auto* named = std::find_if(std::begin(kNamedSets), std::end(kNamedSets), [&](const NamedSet& set) { return set.name == name; });
    if (named == std::end(kNamedSets)) return Stop(fmt::format("the property {}", name));
    if (outside) {
      chars->AddOutside(named->set);
    } else {
      chars->AddSet(named->set);
    }
    return Ok();
  }

  std::string_view regex_;
  size_t at_ = 0;
  bool ignore_case_ = false;
};

}  // namespace

Result<RegexAlternatives> ParseRegex(std::string_view regex) { return Parser(regex).Parse(); }

}  // namespace bantam
