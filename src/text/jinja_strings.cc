#include "text/jinja_strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace bantam::jinja {
namespace {

constexpr int64_t kWidthMax = 10'000;

bool IsSpaceByte(char c) { return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f); }
bool IsDigitByte(char c) { return c >= '0' && c <= '9'; }

// The character at `at` as a code point; bytes that are no UTF-8 stand for themselves.
uint32_t PointAt(std::string_view text, size_t at, size_t* size) {
  const auto lead = static_cast<unsigned char>(text[at]);
  *size = std::min(Utf8LengthFromLead(lead), text.size() - at);
  if (*size == 1) return lead;
  uint32_t point = lead & (0xffu >> (*size + 1));
  for (size_t i = 1; i < *size; ++i) point = point << 6 | (static_cast<unsigned char>(text[at + i]) & 63u);
  return point;
}

uint32_t ChangePoint(uint32_t c, Case wanted) {
  const bool lower = wanted == Case::kLower;
  const auto between = [&](uint32_t low, uint32_t high) { return c >= low && c <= high; };
  if (lower) {
    if (between('A', 'Z') || (between(0xc0, 0xde) && c != 0xd7) || between(0x391, 0x3a9) || between(0x410, 0x42f)) return c + 32;
    if (between(0x400, 0x40f)) return c + 80;
    if (c == 0x178) return 0xff;
    const bool even_is_upper = between(0x100, 0x137) || between(0x14a, 0x177) || between(0x460, 0x481) || between(0x48a, 0x4bf);
    const bool odd_is_upper = between(0x139, 0x148) || between(0x179, 0x17e);
    return (even_is_upper && c % 2 == 0) || (odd_is_upper && c % 2 == 1) ? c + 1 : c;
  }
  if (between('a', 'z') || (between(0xe0, 0xfe) && c != 0xf7) || (between(0x3b1, 0x3c9) && c != 0x3c2) || between(0x430, 0x44f))
    return c - 32;
  if (between(0x450, 0x45f)) return c - 80;
  if (c == 0x3c2) return 0x3a3;
  if (c == 0xff) return 0x178;
  if (c == 0xb5) return 0x39c;
  const bool even_is_upper = between(0x100, 0x137) || between(0x14a, 0x177) || between(0x460, 0x481) || between(0x48a, 0x4bf);
  const bool odd_is_upper = between(0x139, 0x148) || between(0x179, 0x17e);
  return (even_is_upper && c % 2 == 1) || (odd_is_upper && c % 2 == 0 && c > 0x139) ? c - 1 : c;
}

bool IsLetter(uint32_t c) { return ChangePoint(c, Case::kLower) != c || ChangePoint(c, Case::kUpper) != c || c == 0xdf || c >= 0x370; }

void AppendPoint(uint32_t c, std::string* out) {
  if (c < 0x80) {
    *out += static_cast<char>(c);
  } else if (c < 0x800) {
    *out += static_cast<char>(0xc0 | c >> 6);
    *out += static_cast<char>(0x80 | (c & 63));
  } else {
    *out += static_cast<char>(0xe0 | c >> 12);
    *out += static_cast<char>(0x80 | (c >> 6 & 63));
    *out += static_cast<char>(0x80 | (c & 63));
  }
}

// Upper case at the start of words (title) or of the text (capitalize), lower case elsewhere.
Text Titled(const Text& text, bool every_word) {
  Text out;
  bool inside = false;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    size_t size = 0;
    const uint32_t point = PointAt(bytes, at, &size);
    const bool letter = IsLetter(point);
    out.Append(ChangeCase(text.Part(at, size), inside ? Case::kLower : Case::kUpper));
    inside = every_word ? letter : true;
    at += size;
  }
  return out;
}

const Text* TextArgument(const Arguments& arguments, size_t place, std::string_view name) {
  const Value* value = arguments.Get(place, name);
  return value == nullptr ? nullptr : value->text();
}
int64_t IntArgument(const Arguments& arguments, size_t place, std::string_view name, int64_t fallback) {
  const Value* value = arguments.Get(place, name);
  int64_t integer = fallback;
  if (value != nullptr) value->Integer(&integer);
  return integer;
}

Error NeedsString(std::string_view method) { return Error(Code::kInvalidArgument, fmt::format("{}() takes a string", method)); }

// split and rsplit. Without a separator: runs of white space, and none at the ends.
Result<Value> Split(Environment& environment, const Text& text, std::string_view name, const Arguments& arguments) {
  const bool from_right = name == "rsplit";
  const Text* separator = TextArgument(arguments, 0, "sep");
  int64_t left = IntArgument(arguments, 1, "maxsplit", -1);
  const std::string& bytes = text.bytes();
  std::vector<std::pair<size_t, size_t>> parts;  // begin, end
  if (separator == nullptr) {
    size_t begin = 0;
    size_t end = bytes.size();
    const auto skip = [&] {
      while (begin < end && IsSpaceByte(bytes[begin])) ++begin;
      while (end > begin && IsSpaceByte(bytes[end - 1])) --end;
    };
    for (skip(); begin < end; skip()) {
      size_t cut = from_right ? end : begin;
      if (left == 0) {
        parts.emplace_back(begin, end);
        break;
      }
      --left;
      if (from_right) {
        while (cut > begin && !IsSpaceByte(bytes[cut - 1])) --cut;
        parts.emplace_back(cut, end);
        end = cut;
      } else {
        while (cut < end && !IsSpaceByte(bytes[cut])) ++cut;
        parts.emplace_back(begin, cut);
        begin = cut;
      }
    }
  } else {
    const std::string& mark = separator->bytes();
    if (mark.empty()) return Error(Code::kInvalidArgument, "split() by an empty string");
    size_t begin = 0;
    size_t end = bytes.size();
    for (; left != 0; --left) {
      const size_t at = from_right ? std::string_view(bytes).substr(0, end).rfind(mark) : bytes.find(mark, begin);
      if (at == std::string::npos) break;
      if (from_right) {
        parts.emplace_back(at + mark.size(), end);
        end = at;
      } else {
        parts.emplace_back(begin, at);
        begin = at + mark.size();
      }
    }
    parts.emplace_back(begin, end);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  BANTAM_TRY(environment.meter.Bytes(parts.size() * sizeof(Value)));
  List list;
  for (const auto& [begin, end] : parts) list.push_back(Value(text.Part(begin, end - begin)));
  return Value(std::move(list));
}

Result<Value> SplitLines(Environment& environment, const Text& text, const Arguments& arguments) {
  const Value* keep = arguments.Get(0, "keepends");
  const bool keep_ends = keep != nullptr && keep->Truthy();
  const std::string& bytes = text.bytes();
  List list;
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = std::min(bytes.find_first_of("\n\r", begin), bytes.size());
    const size_t next = end == bytes.size() ? end : bytes.compare(end, 2, "\r\n") == 0 ? end + 2 : end + 1;
    BANTAM_TRY(environment.meter.Bytes(next - begin + sizeof(Value)));
    list.push_back(Value(text.Part(begin, (keep_ends ? next : end) - begin)));
    begin = next;
  }
  return Value(std::move(list));
}

Result<Value> Replace(Environment& environment, const Text& text, const Arguments& arguments) {
  const Text* from = TextArgument(arguments, 0, "old");
  const Text* to = TextArgument(arguments, 1, "new");
  if (from == nullptr || to == nullptr) return Error(Code::kInvalidArgument, "replace() takes two strings");
  int64_t left = IntArgument(arguments, 2, "count", -1);
  const std::string& bytes = text.bytes();
  Text out;
  size_t begin = 0;
  while (left != 0) {
    size_t at = bytes.find(from->bytes(), begin);
    if (at == std::string::npos) break;
    // Nothing stands between all characters, and at both ends.
    size_t step = from->bytes().size();
    if (step == 0) step = at < bytes.size() ? std::min(Utf8LengthFromLead(static_cast<unsigned char>(bytes[at])), bytes.size() - at) : 1;
    BANTAM_TRY(environment.meter.Bytes(at - begin + to->bytes().size() + 1));
    if (from->bytes().empty()) {
      out.Append(*to);
      out.AppendPart(text, at, step);
    } else {
      out.AppendPart(text, begin, at - begin);
      out.Append(*to);
    }
    begin = at + step;
    --left;
    if (begin > bytes.size()) break;
  }
  if (begin < bytes.size()) out.AppendPart(text, begin, bytes.size() - begin);
  return Value(std::move(out));
}

// startswith and endswith, of one string or a tuple of them.
Result<Value> HasAffix(const Text& text, std::string_view name, const Arguments& arguments) {
  const Value* affix = arguments.Get(0, "prefix");
  const auto holds = [&](const Value& value) {
    const std::string& wanted = value.text()->bytes();
    return name == "startswith" ? text.bytes().starts_with(wanted) : text.bytes().ends_with(wanted);
  };
  if (affix != nullptr && affix->text() != nullptr) return Value(holds(*affix));
  if (affix == nullptr || affix->list() == nullptr) return NeedsString(name);
  for (const Value& one : *affix->list()) {
    if (one.text() == nullptr) return NeedsString(name);
    if (holds(one)) return Value(true);
  }
  return Value(false);
}

// find, rfind, index, rindex and count, in characters.
Result<Value> Search(const Text& text, std::string_view name, const Arguments& arguments) {
  const Text* wanted = TextArgument(arguments, 0, "sub");
  if (wanted == nullptr) return NeedsString(name);
  const std::string& bytes = text.bytes();
  if (name == "count") {
    int64_t count = 0;
    const size_t step = std::max<size_t>(wanted->bytes().size(), 1);
    for (size_t at = bytes.find(wanted->bytes()); at != std::string::npos; at = bytes.find(wanted->bytes(), at + step)) ++count;
    return Value(count);
  }
  const size_t at = name.starts_with('r') ? bytes.rfind(wanted->bytes()) : bytes.find(wanted->bytes());
  if (at != std::string::npos) return Value(static_cast<int64_t>(CountCharacters(std::string_view(bytes).substr(0, at))));
  if (name.ends_with("index")) return Error(Code::kInvalidArgument, fmt::format("{}(): not in the string", name));
  return Value(int64_t{-1});
}

// ljust, rjust, center and zfill.
Result<Value> Padded(Environment& environment, const Text& text, std::string_view name, const Arguments& arguments) {
  const int64_t width = IntArgument(arguments, 0, "width", 80);
  if (width > kWidthMax)
    return Error(Code::kInvalidArgument, fmt::format("{}() to {} characters, expected at most {}", name, width, kWidthMax));
  const Text* fill = TextArgument(arguments, 1, "fillchar");
  const Text one = fill != nullptr ? *fill : Text(name == "zfill" ? "0" : " ", /*trusted=*/true);
  const int64_t missing = std::max<int64_t>(0, width - static_cast<int64_t>(CountCharacters(text.bytes())));
  if (CountCharacters(one.bytes()) != 1) return Error(Code::kInvalidArgument, fmt::format("{}() fills with one character", name));
  BANTAM_TRY(environment.meter.Bytes(text.bytes().size() + 4 * static_cast<uint64_t>(missing)));
  // As CPython does it: the odd one goes left when the width is odd too.
  const int64_t left = name == "ljust" ? 0 : name == "center" ? missing / 2 + (missing & width & 1) : missing;
  Text out;
  const bool sign = name == "zfill" && (text.bytes().starts_with('-') || text.bytes().starts_with('+'));
  if (sign) out.AppendPart(text, 0, 1);
  for (int64_t i = 0; i < left; ++i) out.Append(one);
  out.AppendPart(text, sign ? 1 : 0, text.bytes().size());
  for (int64_t i = left; i < missing; ++i) out.Append(one);
  return Value(std::move(out));
}

Result<Value> Partition(const Text& text, std::string_view name, const Arguments& arguments) {
  const Text* separator = TextArgument(arguments, 0, "sep");
  if (separator == nullptr || separator->empty()) return NeedsString(name);
  const bool from_right = name == "rpartition";
  const size_t at = from_right ? text.bytes().rfind(separator->bytes()) : text.bytes().find(separator->bytes());
  const size_t size = separator->bytes().size();
  if (at == std::string::npos) {
    const Value none = Value::Str("", /*trusted=*/true);
    return from_right ? Value(List{none, none, Value(text)}, /*tuple=*/true) : Value(List{Value(text), none, none}, /*tuple=*/true);
  }
  return Value(List{Value(text.Part(0, at)), Value(text.Part(at, size)), Value(text.Part(at + size, text.bytes().size()))}, /*tuple=*/true);
}

// isdigit, isalpha, ...: of a string with at least one character.
bool All(const Text& text, bool (*holds)(uint32_t)) {
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    size_t size = 0;
    if (!holds(PointAt(bytes, at, &size))) return false;
    at += size;
  }
  return !bytes.empty();
}

// The part of a format between % and its letter.
struct PercentSpec {
  bool left = false;
  bool plus = false;
  bool space = false;
  bool alternative = false;
  bool zero = false;
  int width = 0;
  int precision = -1;
};

constexpr int kFormatWidthMax = 4096;

Result<PercentSpec> ParsePercentSpec(std::string_view bytes, size_t* at) {
  PercentSpec spec;
  for (; *at < bytes.size(); ++*at) {
    const char c = bytes[*at];
    bool* flag = c == '-' ? &spec.left : c == '+' ? &spec.plus : c == ' ' ? &spec.space : c == '#' ? &spec.alternative : nullptr;
    if (c == '0') flag = &spec.zero;
    if (flag == nullptr) break;
    *flag = true;
  }
  const auto number = [&] {
    int value = 0;
    for (; *at < bytes.size() && IsDigitByte(bytes[*at]); ++*at) value = std::min(10 * value + (bytes[*at] - '0'), kFormatWidthMax + 1);
    return value;
  };
  spec.width = number();
  if (*at < bytes.size() && bytes[*at] == '.') {
    ++*at;
    spec.precision = number();
  }
  if (std::max(spec.width, spec.precision) > kFormatWidthMax) {
    return Error(Code::kInvalidArgument, fmt::format("a format wider than {}", kFormatWidthMax));
  }
  if (*at == bytes.size()) return Error(Code::kInvalidArgument, "a format that does not end");
  return spec;
}

// The digits of a number with its sign, without padding. Empty when the letter does not fit the value.
Result<std::string> PercentNumber(const PercentSpec& spec, char kind, const Value& value) {
  double number = 0;
  if (!value.Number(&number)) return Error(Code::kInvalidArgument, fmt::format("a format %{} of a {}", kind, value.TypeName()));
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  std::string digits;
  if (kind == 'd' || kind == 'i' || kind == 'u' || kind == 'x' || kind == 'X' || kind == 'o') {
    int64_t integer = 0;
    if (!value.Integer(&integer)) {
      if (!(std::fabs(number) < 9e18) || kind == 'x' || kind == 'X' || kind == 'o') {
        return Error(Code::kInvalidArgument, fmt::format("a format %{} of this float", kind));
      }
      integer = static_cast<int64_t>(number);
    }
    const uint64_t magnitude = integer < 0 ? uint64_t{0} - static_cast<uint64_t>(integer) : static_cast<uint64_t>(integer);
    digits = kind == 'x'   ? fmt::format("{:x}", magnitude)
             : kind == 'X' ? fmt::format("{:X}", magnitude)
             : kind == 'o' ? fmt::format("{:o}", magnitude)
                           : fmt::format("{}", magnitude);
    if (spec.precision > static_cast<int>(digits.size())) digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
    if (spec.alternative && (kind == 'x' || kind == 'X' || kind == 'o')) digits.insert(0, std::string("0") + kind);
    if (integer < 0) return "-" + digits;
  } else {
    switch (kind) {
      case 'f':
      case 'F':
        digits = fmt::format("{:.{}f}", number, precision);
        break;
      case 'e':
        digits = fmt::format("{:.{}e}", number, precision);
        break;
      case 'E':
        digits = fmt::format("{:.{}E}", number, precision);
        break;
      case 'g':
        digits = fmt::format("{:.{}g}", number, precision);
        break;
      case 'G':
        digits = fmt::format("{:.{}G}", number, precision);
        break;
      default:
        return Error(Code::kInvalidArgument, fmt::format("a format %{}", kind));
    }
    if (digits.starts_with('-')) return digits;
  }
  return spec.plus ? "+" + digits : spec.space ? " " + digits : digits;
}

// One formatted value. It is trusted as the value is.
Result<Text> PercentPiece(const PercentSpec& spec, char kind, const Value& value) {
  Text piece;
  if (kind == 's') {
    piece = ToText(value);
  } else if (kind == 'r') {
    piece = Text(Repr(value), /*trusted=*/false);
  } else {
    BANTAM_ASSIGN(std::string digits, PercentNumber(spec, kind, value));
    const size_t sign = digits.starts_with('-') || digits.starts_with('+') || digits.starts_with(' ') ? 1 : 0;
    const auto width = static_cast<size_t>(spec.width);
    if (spec.zero && !spec.left && digits.size() < width) digits.insert(sign, width - digits.size(), '0');
    piece = Text(std::move(digits), /*trusted=*/true);
  }
  if ((kind == 's' || kind == 'r') && spec.precision >= 0) {
    const std::vector<size_t> offsets = CharacterOffsets(piece.bytes());
    piece = piece.Part(0, offsets[std::min(offsets.size() - 1, static_cast<size_t>(spec.precision))]);
  }
  const size_t missing = static_cast<size_t>(spec.width) - std::min(static_cast<size_t>(spec.width), CountCharacters(piece.bytes()));
  const Text padding(std::string(missing, ' '), /*trusted=*/true);
  Text padded;
  if (!spec.left) padded.Append(padding);
  padded.Append(piece);
  if (spec.left) padded.Append(padding);
  return padded;
}

// printf's formats, with positional values or one dict of named ones.
Result<Value> PercentFormat(Environment& environment, const Text& text, const Arguments& arguments) {
  List values = arguments.positional;
  if (values.size() == 1 && values[0].is_tuple()) values = *values[0].list();
  const std::string& bytes = text.bytes();
  Text out;
  size_t used = 0;
  for (size_t at = 0; at < bytes.size();) {
    const size_t mark = std::min(bytes.find('%', at), bytes.size());
    out.AppendPart(text, at, mark - at);
    if (mark == bytes.size()) break;
    at = mark + 1;
    const Value* value = nullptr;
    if (at < bytes.size() && bytes[at] == '(') {
      const size_t close = bytes.find(')', at);
      if (close == std::string::npos) return Error(Code::kInvalidArgument, "a format without its )");
      const std::string key = bytes.substr(at + 1, close - at - 1);
      value = values.size() == 1 && values[0].dict() != nullptr ? values[0].dict()->Find(key) : arguments.Get(SIZE_MAX, key);
      if (value == nullptr) return Error(Code::kInvalidArgument, fmt::format("a format of {}, which was not given", key));
      at = close + 1;
    }
    BANTAM_ASSIGN(const PercentSpec spec, ParsePercentSpec(bytes, &at));
    const char kind = bytes[at++];
    if (kind == '%') {
      out.Append(Text("%", /*trusted=*/true));
      continue;
    }
    if (value == nullptr) {
      if (used == values.size()) return Error(Code::kInvalidArgument, "a format with too few values");
      value = &values[used++];
    }
    BANTAM_TRY(environment.meter.Bytes(value->weight() + static_cast<uint64_t>(spec.width)));
    BANTAM_ASSIGN(const Text piece, PercentPiece(spec, kind, *value));
    out.Append(piece);
  }
  return Value(std::move(out));
}

// "{} {0} {name}" without further formats.
Result<Value> BraceFormat(Environment& environment, const Text& text, const Arguments& arguments) {
  const std::string& bytes = text.bytes();
  Text out;
  size_t next = 0;
  for (size_t at = 0; at < bytes.size();) {
    const char c = bytes[at];
    if ((c == '{' || c == '}') && at + 1 < bytes.size() && bytes[at + 1] == c) {
      out.AppendPart(text, at, 1);
      at += 2;
      continue;
    }
    if (c != '{') {
      out.AppendPart(text, at++, 1);
      continue;
    }
    const size_t end = bytes.find('}', at);
    if (end == std::string::npos) return Error(Code::kInvalidArgument, "format() of a string with an open brace");
    const std::string field = bytes.substr(at + 1, end - at - 1);
    size_t place = 0;
    const bool number =
        !field.empty() && std::from_chars(field.data(), field.data() + field.size(), place).ptr == field.data() + field.size();
    const Value* value = field.empty() ? arguments.Get(next++, "") : number ? arguments.Get(place, "") : arguments.Get(SIZE_MAX, field);
    if (value == nullptr) return Error(Code::kInvalidArgument, fmt::format("format() of {{{}}}, which was not given", field));
    BANTAM_TRY(environment.meter.Bytes(ToText(*value).bytes().size()));
    out.Append(ToText(*value));
    at = end + 1;
  }
  return Value(std::move(out));
}

constexpr std::string_view kStringMethods[] = {
    "capitalize", "casefold",     "center",       "count",     "endswith", "find",    "format", "index",      "isalnum", "isalpha",
    "isdecimal",  "isdigit",      "islower",      "isnumeric", "isspace",  "isupper", "join",   "ljust",      "lower",   "lstrip",
    "partition",  "removeprefix", "removesuffix", "replace",   "rfind",    "rindex",  "rjust",  "rpartition", "rsplit",  "rstrip",
    "split",      "splitlines",   "startswith",   "strip",     "swapcase", "title",   "upper",  "zfill"};
constexpr std::string_view kDictMethods[] = {"clear", "copy", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"};
constexpr std::string_view kListMethods[] = {"append", "clear", "copy",   "count",   "extend", "index",
                                             "insert", "pop",   "remove", "reverse", "sort"};

template <typename Names>
bool Knows(const Names& names, std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

}  // namespace

Text ChangeCase(const Text& text, Case wanted) {
  Text out;
  text.ForEachRun([&](std::string_view bytes, bool trusted) {
    std::string changed;
    for (size_t at = 0; at < bytes.size();) {
      size_t size = 0;
      const uint32_t point = PointAt(bytes, at, &size);
      const uint32_t other = ChangePoint(point, wanted);
      if (wanted == Case::kUpper && point == 0xdf) {
        changed += "SS";
      } else if (size == 1 ? other == point || point >= 0x80 : other == point) {
        changed += bytes.substr(at, size);
      } else {
        AppendPoint(other, &changed);
      }
      at += size;
    }
    out.Append(Text(std::move(changed), trusted));
  });
  return out;
}

Text Strip(const Text& text, const Text* characters, Sides sides) {
  const std::string& bytes = text.bytes();
  const std::vector<size_t> offsets = CharacterOffsets(bytes);
  const auto goes = [&](size_t i) {
    const std::string_view character = std::string_view(bytes).substr(offsets[i], offsets[i + 1] - offsets[i]);
    if (characters != nullptr) return characters->bytes().find(character) != std::string::npos;
    return (character.size() == 1 && IsSpaceByte(character[0])) || character == "\xc2\xa0" || character == "\xc2\x85" ||
           character == "\xe3\x80\x80" || character == "\xe2\x80\xa8" || character == "\xe2\x80\xa9" ||
           (character.starts_with("\xe2\x80") && character.size() == 3 && static_cast<unsigned char>(character[2]) <= 0x8a);
  };
  size_t begin = 0;
  size_t end = offsets.size() - 1;
  while (sides != Sides::kRight && begin < end && goes(begin)) ++begin;
  while (sides != Sides::kLeft && end > begin && goes(end - 1)) --end;
  return text.Part(offsets[begin], offsets[end] - offsets[begin]);
}

bool HasMethod(const Value& object, std::string_view name) {
  if (object.text() != nullptr) return Knows(kStringMethods, name);
  if (object.dict() != nullptr) return Knows(kDictMethods, name);
  return object.list() != nullptr && Knows(kListMethods, name);
}

Result<Value> CallMethod(Environment& environment, const Text& text, std::string_view name, const Arguments& arguments) {
  BANTAM_TRY(environment.meter.Bytes(text.bytes().size()));
  for (const Value& argument : arguments.positional) {
    if (argument.text() != nullptr) BANTAM_TRY(environment.meter.Search(text.bytes().size(), argument.text()->bytes().size()));
  }
  for (const auto& [key, argument] : arguments.named) {
    if (argument.text() != nullptr) BANTAM_TRY(environment.meter.Search(text.bytes().size(), argument.text()->bytes().size()));
  }
  const Text* first = TextArgument(arguments, 0, "chars");
  if (name == "strip") return Value(Strip(text, first, Sides::kBoth));
  if (name == "lstrip") return Value(Strip(text, first, Sides::kLeft));
  if (name == "rstrip") return Value(Strip(text, first, Sides::kRight));
  if (name == "upper") return Value(ChangeCase(text, Case::kUpper));
  if (name == "lower" || name == "casefold") return Value(ChangeCase(text, Case::kLower));
  if (name == "title" || name == "capitalize") return Value(Titled(text, name == "title"));
  if (name == "split" || name == "rsplit") return Split(environment, text, name, arguments);
  if (name == "splitlines") return SplitLines(environment, text, arguments);
  if (name == "replace") return Replace(environment, text, arguments);
  if (name == "startswith" || name == "endswith") return HasAffix(text, name, arguments);
  if (name == "find" || name == "rfind" || name == "index" || name == "rindex" || name == "count") return Search(text, name, arguments);
  if (name == "center" || name == "ljust" || name == "rjust" || name == "zfill") return Padded(environment, text, name, arguments);
  if (name == "partition" || name == "rpartition") return Partition(text, name, arguments);
  if (name == "format") return BraceFormat(environment, text, arguments);
  if (name == "%") return PercentFormat(environment, text, arguments);
  if (name == "join") {
    const Value* items = arguments.Get(0, "iterable");
    return CallFilter(environment, "join", items == nullptr ? Value() : *items, {{Value(text)}, {}});
  }
  if (name == "removeprefix" || name == "removesuffix") {
    if (first == nullptr) return NeedsString(name);
    const size_t size = text.bytes().size();
    const size_t affix = first->bytes().size();
    if (name == "removeprefix" && text.bytes().starts_with(first->bytes())) return Value(text.Part(affix, size));
    if (name == "removesuffix" && text.bytes().ends_with(first->bytes())) return Value(text.Part(0, size - affix));
    return Value(text);
  }
  if (name == "isdigit" || name == "isdecimal" || name == "isnumeric")
    return Value(All(text, [](uint32_t c) { return c >= '0' && c <= '9'; }));
  if (name == "isalpha") return Value(All(text, IsLetter));
  if (name == "isalnum") return Value(All(text, [](uint32_t c) { return IsLetter(c) || (c >= '0' && c <= '9'); }));
  if (name == "isspace") return Value(!text.empty() && Strip(text, nullptr, Sides::kBoth).empty());
  if (name == "islower" || name == "isupper")
    return CallTest(environment, name.substr(2), Value(text), {}).ok() ? Value(*CallTest(environment, name.substr(2), Value(text), {}))
                                                                       : Value(false);
  if (name == "swapcase") {
    Text out;
    const std::vector<size_t> offsets = CharacterOffsets(text.bytes());
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      const Text character = text.Part(offsets[i], offsets[i + 1] - offsets[i]);
      const Text upper = ChangeCase(character, Case::kUpper);
      out.Append(upper.bytes() == character.bytes() ? ChangeCase(character, Case::kLower) : upper);
    }
    return Value(std::move(out));
  }
  return Error(Code::kUnsupported, fmt::format("the method {} of strings is not known", name));
}

Result<Value> CallContainerMethod(Environment& environment, const Value& object, std::string_view name, const Arguments& arguments) {
  if (object.dict() != nullptr) {
    const Dict& dict = *object.dict();
    BANTAM_TRY(environment.meter.Steps(name == "get" ? 1 : dict.size()));
    if (name == "get") {
      const Value* key = arguments.Get(0, "key");
      const Value* found = key == nullptr ? nullptr : dict.Find(*key);
      const Value* fallback = arguments.Get(1, "default");
      return found != nullptr ? *found : fallback != nullptr ? *fallback : Value(None{});
    }
    if (name == "copy") return object;
    if (name == "items" || name == "keys" || name == "values") {
      List list;
      for (const auto& [key, value] : dict.items()) {
        list.push_back(name == "keys" ? key : name == "values" ? value : Value(List{key, value}, /*tuple=*/true));
      }
      return Value(std::move(list));
    }
  } else {
    const List& list = *object.list();
    BANTAM_TRY(environment.meter.Steps(list.size()));
    if (name == "copy") return object;
    const Value* wanted = arguments.Get(0, "value");
    if ((name == "count" || name == "index") && wanted != nullptr) {
      const auto equals = [&](const Value& value) { return Equal(value, *wanted); };
      if (name == "count") return Value(static_cast<int64_t>(std::count_if(list.begin(), list.end(), equals)));
      const auto at = std::find_if(list.begin(), list.end(), equals);
      if (at == list.end()) return Error(Code::kInvalidArgument, "index(): not in the list");
      return Value(static_cast<int64_t>(at - list.begin()));
    }
  }
  return Error(Code::kUnsupported,
               fmt::format("the method {} of a {} is not available: templates change nothing", name, object.TypeName()));
}

}  // namespace bantam::jinja
