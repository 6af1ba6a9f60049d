#include "text/jinja_strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "text/jinja_format.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace bantam::jinja {
namespace {

constexpr int64_t kWidthMax = 10'000;
constexpr int64_t kTabMax = 256;

// Python's white space: Unicode's, and the separators of ASCII.
bool IsSpace(char32_t code) { return (PropertiesOf(code) & kWhiteSpace) != 0 || (code >= 0x1c && code <= 0x1f); }
bool IsLetter(char32_t code) { return (PropertiesOf(code) & kLetter) != 0; }
bool IsDecimal(char32_t code) { return (PropertiesOf(code) & SetOf(Category::kNd)) != 0; }
bool IsNumeric(char32_t code) { return (PropertiesOf(code) & kNumber) != 0; }
bool IsCased(char32_t code) {
  return ToLower(code) != code || ToUpper(code) != code || (PropertiesOf(code) & SetOf(Category::kLu, Category::kLt)) != 0;
}

// Superscripts, subscripts and numbers in circles that count as one digit (Numeric_Type=Digit), beside the decimal digits.
bool IsDigit(char32_t code) {
  constexpr char32_t kRanges[][2] = {{0xb2, 0xb3},     {0xb9, 0xb9},     {0x1369, 0x1371}, {0x19da, 0x19da},
                                     {0x2070, 0x2070}, {0x2074, 0x2079}, {0x2080, 0x2089}, {0x2460, 0x2468},
                                     {0x2474, 0x247c}, {0x2488, 0x2490}, {0x24ea, 0x24ea}, {0x24f5, 0x24fd},
                                     {0x24ff, 0x24ff}, {0x2776, 0x277e}, {0x2780, 0x2788}, {0x278a, 0x2792}};
  return IsDecimal(code) ||
         std::any_of(std::begin(kRanges), std::end(kRanges), [&](const auto& range) { return code >= range[0] && code <= range[1]; });
}

// Upper case (as titles have it) at the start of words, or of the text only; lower case elsewhere.
Text Titled(const Text& text, bool every_word) {
  Text out;
  bool inside = false;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Character character = DecodeUtf8(bytes, at);
    out.Append(ChangeCase(text.Part(at, character.size), inside ? Case::kLower : Case::kTitle));
    inside = !every_word || IsCased(character.code);
    at += character.size;
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
    const std::vector<size_t> offsets = CharacterOffsets(bytes);
    const auto space = [&](size_t i) { return IsSpace(DecodeUtf8(bytes, offsets[i]).code); };
    size_t begin = 0;
    size_t end = offsets.size() - 1;
    const auto skip = [&] {
      while (begin < end && space(begin)) ++begin;
      while (end > begin && space(end - 1)) --end;
    };
    for (skip(); begin < end; skip()) {
      size_t cut = from_right ? end : begin;
      if (left == 0) {
        parts.emplace_back(offsets[begin], offsets[end]);
        break;
      }
      --left;
      if (from_right) {
        while (cut > begin && !space(cut - 1)) --cut;
        parts.emplace_back(offsets[cut], offsets[end]);
        end = cut;
      } else {
        while (cut < end && !space(cut)) ++cut;
        parts.emplace_back(offsets[begin], offsets[cut]);
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

// The part of a text between the characters that two arguments name, as Python's slices count them; nothing when the first lies past
// the end.
std::optional<std::pair<size_t, std::string_view>> Bounded(const Text& text, const Arguments& arguments) {
  const std::string_view bytes = text.bytes();
  if (arguments.Get(1, "start") == nullptr && arguments.Get(2, "end") == nullptr) return std::pair(size_t{0}, bytes);
  const std::vector<size_t> offsets = CharacterOffsets(bytes);
  const auto n = static_cast<int64_t>(offsets.size() - 1);
  const auto bound = [&](size_t place, std::string_view name, int64_t fallback) {
    const int64_t index = IntArgument(arguments, place, name, fallback);
    return index < 0 ? std::max<int64_t>(0, n + std::max(index, -n - 1)) : index;
  };
  const int64_t begin = bound(1, "start", 0);
  const int64_t end = std::min(bound(2, "end", n), n);
  if (begin > n || begin > end) return std::nullopt;
  const size_t from = offsets[static_cast<size_t>(begin)];
  return std::pair(static_cast<size_t>(begin), bytes.substr(from, offsets[static_cast<size_t>(end)] - from));
}

// startswith and endswith, of one string or a tuple of them.
Result<Value> HasAffix(const Text& text, std::string_view name, const Arguments& arguments) {
  const Value* affix = arguments.Get(0, "prefix");
  const auto part = Bounded(text, arguments);
  const auto holds = [&](const Value& value) {
    const std::string& wanted = value.text()->bytes();
    return part && (name == "startswith" ? part->second.starts_with(wanted) : part->second.ends_with(wanted));
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
  const auto part = Bounded(text, arguments);
  const std::string_view bytes = part ? part->second : std::string_view();
  if (name == "count") {
    if (!part) return Value(int64_t{0});
    if (wanted->empty()) return Value(static_cast<int64_t>(CountCharacters(bytes)) + 1);
    int64_t count = 0;
    const size_t step = wanted->bytes().size();
    for (size_t at = bytes.find(wanted->bytes()); at != std::string::npos; at = bytes.find(wanted->bytes(), at + step)) ++count;
    return Value(count);
  }
  size_t at = std::string::npos;
  if (part) at = name.starts_with('r') ? bytes.rfind(wanted->bytes()) : bytes.find(wanted->bytes());
  if (at != std::string::npos) return Value(static_cast<int64_t>(part->first + CountCharacters(bytes.substr(0, at))));
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
bool All(const Text& text, bool (*holds)(char32_t)) {
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Character character = DecodeUtf8(bytes, at);
    if (!holds(character.code)) return false;
    at += character.size;
  }
  return !bytes.empty();
}

// Columns of tabs, counted from the last line's start.
Result<Value> ExpandTabs(Environment& environment, const Text& text, const Arguments& arguments) {
  const int64_t width = std::clamp<int64_t>(IntArgument(arguments, 0, "tabsize", 8), 0, kTabMax);
  Text out;
  int64_t column = 0;
  for (size_t at = 0; at < text.bytes().size();) {
    const Utf8Character character = DecodeUtf8(text.bytes(), at);
    if (character.code == '\t') {
      const int64_t spaces = width == 0 ? 0 : width - column % width;
      BANTAM_TRY(environment.meter.Bytes(static_cast<uint64_t>(spaces)));
      out.Append(Text(std::string(static_cast<size_t>(spaces), ' '), /*trusted=*/true));
      column += spaces;
    } else {
      out.AppendPart(text, at, character.size);
      column = character.code == '\n' || character.code == '\r' ? 0 : column + 1;
    }
    at += character.size;
  }
  return Value(std::move(out));
}

constexpr std::string_view kStringMethods[] = {
    "capitalize", "casefold", "center",  "count",      "endswith", "expandtabs", "find",         "format",       "index",
    "isalnum",    "isalpha",  "isascii", "isdecimal",  "isdigit",  "islower",    "isnumeric",    "isspace",      "istitle",
    "isupper",    "join",     "ljust",   "lower",      "lstrip",   "partition",  "removeprefix", "removesuffix", "replace",
    "rfind",      "rindex",   "rjust",   "rpartition", "rsplit",   "rstrip",     "split",        "splitlines",   "startswith",
    "strip",      "swapcase", "title",   "upper",      "zfill"};
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
  bool after_letter = false;
  text.ForEachRun([&](std::string_view bytes, bool trusted) {
    std::string changed;
    for (size_t at = 0; at < bytes.size();) {
      const Utf8Character character = DecodeUtf8(bytes, at);
      const std::string_view rest = bytes.substr(at + character.size);
      // A sigma that ends a word has a small letter of its own.
      const bool ends_word = after_letter && (rest.empty() || !IsCased(DecodeUtf8(rest, 0).code));
      if (character.malformed()) {
        changed += bytes[at];
      } else if (wanted == Case::kUpper) {
        AppendUpper(character.code, &changed);
      } else if (wanted == Case::kTitle) {
        AppendTitle(character.code, &changed);
      } else if (character.code == 0x3a3 && ends_word) {
        AppendUtf8(0x3c2, &changed);
      } else {
        AppendLower(character.code, &changed);
      }
      after_letter = IsCased(character.code);
      at += character.size;
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
    return IsSpace(DecodeUtf8(character, 0).code);
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
  if (name == "isdecimal") return Value(All(text, IsDecimal));
  if (name == "isdigit") return Value(All(text, IsDigit));
  if (name == "isnumeric") return Value(All(text, IsNumeric));
  if (name == "isalpha") return Value(All(text, IsLetter));
  if (name == "isalnum") return Value(All(text, [](char32_t c) { return IsLetter(c) || IsNumeric(c); }));
  if (name == "isascii") return Value(text.empty() || All(text, [](char32_t c) { return c < 0x80; }));
  if (name == "istitle") return Value(Titled(text, true).bytes() == text.bytes() && ChangeCase(text, Case::kLower).bytes() != text.bytes());
  if (name == "expandtabs") return ExpandTabs(environment, text, arguments);
  if (name == "isspace") return Value(All(text, IsSpace));
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
