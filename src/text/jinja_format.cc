#include "text/jinja_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace bantam::jinja {
namespace {

bool IsDigitByte(char c) { return c >= '0' && c <= '9'; }

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

// NAME or number, then .attribute and [key] as often as wanted.
Result<Value> FieldValue(Environment& environment, std::string_view field, const Arguments& arguments, size_t* next) {
  const size_t head_size = std::min(field.find_first_of(".["), field.size());
  const std::string head(field.substr(0, head_size));
  size_t place = 0;
  const bool number = !head.empty() && std::from_chars(head.data(), head.data() + head.size(), place).ptr == head.data() + head.size();
  const Value* found = head.empty() ? arguments.Get((*next)++, "") : number ? arguments.Get(place, "") : arguments.Get(SIZE_MAX, head);
  if (found == nullptr) return Error(Code::kInvalidArgument, fmt::format("format() of {{{}}}, which was not given", head));
  Value value = *found;
  for (std::string_view rest = field.substr(head_size); !rest.empty();) {
    if (rest[0] == '.') {
      const size_t size = std::min(rest.find_first_of(".[", 1), rest.size());
      BANTAM_ASSIGN(value, GetAttribute(environment, value, rest.substr(1, size - 1)));
      rest.remove_prefix(size);
      continue;
    }
    const size_t close = rest.find(']');
    if (rest[0] != '[' || close == std::string_view::npos) return Error(Code::kInvalidArgument, "format() of a field without its ]");
    const std::string key(rest.substr(1, close - 1));
    int64_t index = 0;
    const bool whole = !key.empty() && std::from_chars(key.data(), key.data() + key.size(), index).ptr == key.data() + key.size();
    BANTAM_ASSIGN(value, GetItem(environment, value, whole ? Value(index) : Value::Str(key, /*trusted=*/true)));
    rest.remove_prefix(close + 1);
  }
  return value;
}

// [[fill]align][sign][#][0][width][,][.precision][type], of Python's format specification.
Result<Text> BracePiece(const Value& value, std::string_view spec) {
  if (spec.empty()) return ToText(value);
  std::string_view fill = " ";
  char align = '\0';
  constexpr std::string_view kAligns = "<>=^";
  const size_t first = DecodeUtf8(spec, 0).size;
  if (spec.size() > first && kAligns.find(spec[first]) != std::string_view::npos) {
    fill = spec.substr(0, first);
    align = spec[first];
    spec.remove_prefix(first + 1);
  } else if (kAligns.find(spec[0]) != std::string_view::npos) {
    align = spec[0];
    spec.remove_prefix(1);
  }
  size_t comma = spec.find_first_of(",_");
  const char separator = comma == std::string_view::npos ? '\0' : spec[comma];
  std::string plain(spec);
  if (separator != '\0') plain.erase(comma, 1);
  const char kind = !plain.empty() && !IsDigitByte(plain.back()) && plain.find_last_of("+- #.") != plain.size() - 1 ? plain.back() : '\0';
  if (kind != '\0') plain.pop_back();
  plain += 's';  // ParsePercentSpec wants a letter behind
  size_t at = 0;
  BANTAM_ASSIGN(PercentSpec parsed, ParsePercentSpec(plain, &at));
  if (at + 1 != plain.size()) return Error(Code::kInvalidArgument, "format() with a specification that is not understood");
  const bool textual = value.text() != nullptr;
  if (parsed.zero && align == '\0') {
    fill = "0";
    align = textual ? '<' : '=';
  }
  double number = 0;
  Text piece;
  size_t sign = 0;
  if (textual || !value.Number(&number)) {
    if (kind != '\0' && kind != 's') return Error(Code::kInvalidArgument, fmt::format("format() of a {} as {}", value.TypeName(), kind));
    piece = ToText(value);
    if (parsed.precision >= 0) {
      const std::vector<size_t> offsets = CharacterOffsets(piece.bytes());
      piece = piece.Part(0, offsets[std::min(offsets.size() - 1, static_cast<size_t>(parsed.precision))]);
    }
  } else {
    int64_t integer = 0;
    const bool whole = value.Integer(&integer);
    std::string digits;
    if (kind == '\0' && !whole && parsed.precision < 0) {
      digits = ToText(value).bytes();
    } else if (kind == '%') {
      BANTAM_ASSIGN(digits, PercentNumber(parsed, 'f', Value(number * 100)));
      digits += '%';
    } else {
      if (kind == 'd' && !whole) return Error(Code::kInvalidArgument, "format() of a float as d");
      BANTAM_ASSIGN(digits, PercentNumber(parsed, kind == '\0' ? (whole ? 'd' : 'g') : kind, value));
    }
    sign = digits.starts_with('-') || digits.starts_with('+') || digits.starts_with(' ') ? 1 : 0;
    if (separator != '\0') {
      const size_t end = std::min(digits.find_first_not_of("0123456789", sign), digits.size());
      for (size_t place = end; place > sign + 3;) digits.insert(place -= 3, 1, separator);
    }
    piece = Text(std::move(digits), /*trusted=*/true);
  }
  const size_t size = CountCharacters(piece.bytes());
  const size_t missing = static_cast<size_t>(parsed.width) - std::min(static_cast<size_t>(parsed.width), size);
  if (align == '\0') align = textual ? '<' : '>';
  const size_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  Text out;
  if (align == '=') out.AppendPart(piece, 0, sign);
  for (size_t i = 0; i < left; ++i) out.Append(Text(std::string(fill), /*trusted=*/true));
  out.AppendPart(piece, align == '=' ? sign : 0, piece.bytes().size());
  for (size_t i = left; i < missing; ++i) out.Append(Text(std::string(fill), /*trusted=*/true));
  return out;
}

}  // namespace

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
  const bool named = values.size() == 1 && (values[0].dict() != nullptr || !arguments.named.empty());
  if (used < values.size() && !named) return Error(Code::kInvalidArgument, "a format with too many values");
  return Value(std::move(out));
}

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
    if (c == '}') return Error(Code::kInvalidArgument, "format() of a string with a closing brace alone");
    if (c != '{') {
      out.AppendPart(text, at++, 1);
      continue;
    }
    const size_t end = bytes.find('}', at);
    if (end == std::string::npos) return Error(Code::kInvalidArgument, "format() of a string with an open brace");
    std::string_view field = std::string_view(bytes).substr(at + 1, end - at - 1);
    const size_t colon = std::min(field.find(':'), field.size());
    const std::string_view spec = field.substr(std::min(colon + 1, field.size()));
    field = field.substr(0, colon);
    char conversion = '\0';
    if (field.size() >= 2 && field[field.size() - 2] == '!') {
      conversion = field.back();
      field.remove_suffix(2);
    }
    BANTAM_ASSIGN(const Value value, FieldValue(environment, field, arguments, &next));
    Value shown = value;
    if (conversion == 'r') shown = Value::Str(Repr(value), /*trusted=*/false);
    if (conversion == 's') shown = Value(ToText(value));
    BANTAM_TRY(environment.meter.Bytes(shown.weight() + spec.size()));
    BANTAM_ASSIGN(const Text piece, BracePiece(shown, spec));
    out.Append(piece);
    at = end + 1;
  }
  return Value(std::move(out));
}

}  // namespace bantam::jinja
