#include "text/jinja_builtins.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "text/jinja_strings.h"
#include "text/jinja_text_filters.h"
#include "text/jinja_time.h"

namespace bantam::jinja {
namespace {

constexpr int64_t kRangeMax = 100'000;

// ---- Arguments ----

std::string StringOr(const Value* value, std::string fallback) {
  return value == nullptr || value->is_none() ? fallback : ToText(*value).bytes();
}
bool BoolOr(const Value* value, bool fallback) { return value == nullptr ? fallback : value->Truthy(); }
int64_t IntOr(const Value* value, int64_t fallback) {
  int64_t integer = fallback;
  if (value != nullptr) value->Integer(&integer);
  return integer;
}

// object.a.b or object[0], as the attribute of map, sort and others names it.
Result<Value> ByPath(Environment& environment, const Value& object, const Value& path) {
  if (path.text() == nullptr) return GetItem(environment, object, path);
  Value value = object;
  std::string_view rest = path.text()->bytes();
  while (true) {
    const std::string_view part = rest.substr(0, rest.find('.'));
    int64_t index = 0;
    const bool number = !part.empty() && std::from_chars(part.data(), part.data() + part.size(), index).ptr == part.data() + part.size();
    BANTAM_ASSIGN(value, GetItem(environment, value, number ? Value(index) : Value::Str(std::string(part), /*trusted=*/true)));
    if (part.size() == rest.size()) return value;
    rest.remove_prefix(part.size() + 1);
  }
}

// What sort, unique, min and max compare: lower case unless asked otherwise.
Value Folded(const Value& value, bool case_sensitive) {
  if (case_sensitive || value.text() == nullptr) return value;
  return Value(ChangeCase(*value.text(), Case::kLower));
}

// A stable sort whose comparison may fail.
Status SortBy(std::vector<std::pair<Value, Value>>* keyed, bool reverse) {
  Status status = Ok();
  std::stable_sort(keyed->begin(), keyed->end(), [&](const auto& a, const auto& b) {
    if (!status.ok()) return false;
    const Result<int> order = reverse ? Compare(b.first, a.first) : Compare(a.first, b.first);
    if (!order.ok()) status = order.error();
    return order.ok() && *order < 0;
  });
  return status;
}

// ---- Filters ----

using Filter = Result<Value> (*)(Environment&, const Value&, const Arguments&);

Result<Value> FilterLength(Environment& environment, const Value& input, const Arguments&) {
  if (input.text() != nullptr) return Value(static_cast<int64_t>(CountCharacters(input.text()->bytes())));
  if (input.dict() != nullptr) return Value(static_cast<int64_t>(input.dict()->size()));
  if (input.is_generator() || (input.list() == nullptr && !input.is_undefined())) return Wrong("the length", input);
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  return Value(static_cast<int64_t>(elements.size()));
}

Result<Value> FilterDefault(Environment&, const Value& input, const Arguments& arguments) {
  const Value* fallback = arguments.Get(0, "default_value");
  const bool falsy_too = BoolOr(arguments.Get(1, "boolean"), false);
  if (!input.is_undefined() && !(falsy_too && !input.Truthy())) return input;
  return fallback == nullptr ? Value::Str("", /*trusted=*/true) : *fallback;
}

Result<Value> FilterFirst(Environment& environment, const Value& input, const Arguments&) {
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  return elements.empty() ? Value(Undefined{"the first of nothing"}) : elements.front();
}

Result<Value> FilterLast(Environment& environment, const Value& input, const Arguments&) {
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  return elements.empty() ? Value(Undefined{"the last of nothing"}) : elements.back();
}

Result<Value> FilterList(Environment& environment, const Value& input, const Arguments&) {
  BANTAM_ASSIGN(List elements, Elements(environment, input));
  return Value(std::move(elements));
}

Result<Value> FilterJoin(Environment& environment, const Value& input, const Arguments& arguments) {
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  const Value* separator = arguments.Get(0, "d");
  const Value* attribute = arguments.Get(1, "attribute");
  Text joined;
  for (size_t i = 0; i < elements.size(); ++i) {
    if (i > 0 && separator != nullptr) {
      BANTAM_TRY(environment.meter.Bytes(separator->weight()));
      joined.Append(ToText(*separator));
    }
    Value element = elements[i];
    if (attribute != nullptr) {
      BANTAM_ASSIGN(element, ByPath(environment, elements[i], *attribute));
    }
    joined.Append(ToText(element));
    BANTAM_TRY(environment.meter.Bytes(ToText(element).bytes().size() + 1));
  }
  return Value(std::move(joined));
}

Result<Value> FilterItems(Environment& environment, const Value& input, const Arguments&) {
  if (input.is_undefined()) return Value(List());
  if (input.dict() == nullptr) return Wrong("the items", input);
  return GetAttribute(environment, input, "items").value().callable()->call({});
}

Result<Value> FilterDictSort(Environment&, const Value& input, const Arguments& arguments) {
  if (input.dict() == nullptr) return Wrong("dictsort", input);
  const bool case_sensitive = BoolOr(arguments.Get(0, "case_sensitive"), false);
  const bool by_value = StringOr(arguments.Get(1, "by"), "key") == "value";
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : input.dict()->items()) {
    keyed.emplace_back(Folded(by_value ? value : key, case_sensitive), Value(List{key, value}, /*tuple=*/true));
  }
  BANTAM_TRY(SortBy(&keyed, BoolOr(arguments.Get(2, "reverse"), false)));
  List sorted;
  for (auto& [key, pair] : keyed) sorted.push_back(std::move(pair));
  return Value(std::move(sorted));
}

Result<std::vector<std::pair<Value, Value>>> Keyed(Environment& environment, const Value& input, const Value* attribute,
                                                   bool case_sensitive) {
  BANTAM_ASSIGN(List elements, Elements(environment, input));
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& element : elements) {
    Value key = element;
    if (attribute != nullptr && !attribute->is_none()) {
      BANTAM_ASSIGN(key, ByPath(environment, element, *attribute));
    }
    keyed.emplace_back(Folded(key, case_sensitive), std::move(element));
  }
  return keyed;
}

// At most `most` parts; the last of them may be cut off.
std::vector<std::string> SplitAt(std::string_view text, char separator, size_t most) {
  std::vector<std::string> parts;
  while (parts.size() < most) {
    const size_t end = std::min(text.find(separator), text.size());
    parts.emplace_back(text.substr(0, end));
    if (end == text.size()) break;
    text.remove_prefix(end + 1);
  }
  return parts;
}

Result<Value> FilterSort(Environment& environment, const Value& input, const Arguments& arguments) {
  const bool case_sensitive = BoolOr(arguments.Get(1, "case_sensitive"), false);
  const Value* attribute = arguments.Get(2, "attribute");
  // "a,b": by the first, then by the second.
  constexpr size_t kNamesMax = 16;
  std::vector<std::string> names;
  if (attribute != nullptr && attribute->text() != nullptr) names = SplitAt(attribute->text()->bytes(), ',', kNamesMax + 1);
  if (names.size() > kNamesMax) {
    return Error(Code::kExhausted, fmt::format("sort by more than {} attributes", kNamesMax));
  }
  const Value first = names.empty() ? Value() : Value::Str(names[0], /*trusted=*/false);
  if (names.size() > 1) attribute = &first;
  BANTAM_ASSIGN(auto keyed, Keyed(environment, input, attribute, case_sensitive));
  std::vector<List> keys(names.size() > 1 ? keyed.size() : 0);
  for (size_t i = 0; i < keys.size(); ++i) keys[i].push_back(keyed[i].first);
  for (size_t n = 1; n < names.size(); ++n) {
    const Value next = Value::Str(names[n], /*trusted=*/false);
    BANTAM_ASSIGN(auto more, Keyed(environment, input, &next, case_sensitive));
    for (size_t i = 0; i < keys.size(); ++i) keys[i].push_back(std::move(more[i].first));
  }
  for (size_t i = 0; i < keys.size(); ++i) keyed[i].first = Value(std::move(keys[i]), /*tuple=*/true);
  BANTAM_TRY(environment.meter.Steps(16 * keyed.size()));
  BANTAM_TRY(SortBy(&keyed, BoolOr(arguments.Get(0, "reverse"), false)));
  List sorted;
  for (auto& [key, element] : keyed) sorted.push_back(std::move(element));
  return Value(std::move(sorted));
}

Result<Value> Extreme(Environment& environment, const Value& input, const Arguments& arguments, bool largest) {
  BANTAM_ASSIGN(const auto keyed,
                Keyed(environment, input, arguments.Get(1, "attribute"), BoolOr(arguments.Get(0, "case_sensitive"), false)));
  if (keyed.empty()) return Value(Undefined{"the extreme of nothing"});
  size_t best = 0;
  for (size_t i = 1; i < keyed.size(); ++i) {
    BANTAM_ASSIGN(const int order, Compare(keyed[i].first, keyed[best].first));
    if (largest ? order > 0 : order < 0) best = i;
  }
  return keyed[best].second;
}
Result<Value> FilterMin(Environment& environment, const Value& input, const Arguments& arguments) {
  return Extreme(environment, input, arguments, /*largest=*/false);
}
Result<Value> FilterMax(Environment& environment, const Value& input, const Arguments& arguments) {
  return Extreme(environment, input, arguments, /*largest=*/true);
}

Result<Value> FilterUnique(Environment& environment, const Value& input, const Arguments& arguments) {
  BANTAM_ASSIGN(const auto keyed,
                Keyed(environment, input, arguments.Get(1, "attribute"), BoolOr(arguments.Get(0, "case_sensitive"), false)));
  List kept;
  std::vector<const Value*> keys;
  for (const auto& [key, element] : keyed) {
    BANTAM_TRY(environment.meter.Steps(keys.size()));
    if (std::any_of(keys.begin(), keys.end(), [&](const Value* known) { return Equal(*known, key); })) continue;
    keys.push_back(&key);
    kept.push_back(element);
  }
  return Value(std::move(kept));
}

Result<Value> FilterGroupBy(Environment& environment, const Value& input, const Arguments& arguments) {
  const Value* attribute = arguments.Get(0, "attribute");
  if (attribute == nullptr) return Error(Code::kInvalidArgument, "groupby without an attribute");
  BANTAM_ASSIGN(auto keyed, Keyed(environment, input, attribute, BoolOr(arguments.Get(2, "case_sensitive"), false)));
  BANTAM_TRY(SortBy(&keyed, /*reverse=*/false));
  List groups;
  for (size_t i = 0; i < keyed.size();) {
    List members;
    const size_t begin = i;
    for (; i < keyed.size() && Equal(keyed[i].first, keyed[begin].first); ++i) members.push_back(keyed[i].second);
    BANTAM_ASSIGN(Value key, ByPath(environment, members[0], *attribute));
    groups.push_back(Value(List{std::move(key), Value(std::move(members))}, /*tuple=*/true));
  }
  return Value(std::move(groups));
}

Result<Value> FilterReverse(Environment& environment, const Value& input, const Arguments&) {
  BANTAM_ASSIGN(List elements, Elements(environment, input));
  std::reverse(elements.begin(), elements.end());
  if (input.text() == nullptr) return Value(std::move(elements));
  Text text;
  for (const Value& character : elements) text.Append(*character.text());
  return Value(std::move(text));
}

Result<Value> FilterSum(Environment& environment, const Value& input, const Arguments& arguments) {
  BANTAM_ASSIGN(const auto keyed, Keyed(environment, input, arguments.Get(0, "attribute"), /*case_sensitive=*/true));
  const Value* start = arguments.Get(1, "start");
  int64_t integers = IntOr(start, 0);
  double floats = 0;
  bool any_float = false;
  for (const auto& [key, element] : keyed) {
    int64_t integer = 0;
    double number = 0;
    if (!key.Number(&number)) return Wrong("the sum", key);
    if (key.Integer(&integer)) {
      if (__builtin_add_overflow(integers, integer, &integers)) return Error(Code::kInvalidArgument, "a number beyond 64 bits");
    } else {
      any_float = true;
      floats += number;
    }
  }
  return any_float ? Value(floats + static_cast<double>(integers)) : Value(integers);
}

// map(attribute=...), or map("filter", arguments...). None and undefined have no elements for it.
Result<Value> FilterMap(Environment& environment, const Value& input, const Arguments& arguments) {
  if (!input.Truthy()) return Value(List());
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  const Value* attribute = arguments.positional.empty() ? arguments.Get(0, "attribute") : nullptr;
  const Value* fallback = arguments.Get(SIZE_MAX, "default");
  if (attribute == nullptr && (arguments.positional.empty() || arguments.positional[0].text() == nullptr)) {
    return Error(Code::kInvalidArgument, "map needs the name of a filter or attribute=");
  }
  Arguments rest = arguments;
  if (attribute == nullptr) rest.positional.erase(rest.positional.begin());
  List mapped;
  for (const Value& element : elements) {
    if (attribute != nullptr) {
      BANTAM_ASSIGN(Value value, ByPath(environment, element, *attribute));
      mapped.push_back(value.is_undefined() && fallback != nullptr ? *fallback : std::move(value));
    } else {
      BANTAM_ASSIGN(Value value, CallFilter(environment, arguments.positional[0].text()->bytes(), element, rest));
      mapped.push_back(std::move(value));
    }
  }
  return Value(std::move(mapped));
}

// select, reject, selectattr, rejectattr: elements for which a test (or being true) holds.
Result<Value> Selected(Environment& environment, const Value& input, const Arguments& arguments, bool by_attribute, bool wanted) {
  if (!input.Truthy()) return Value(List());  // none too
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  Arguments rest = arguments;
  Value attribute;
  if (by_attribute) {
    if (rest.positional.empty()) return Error(Code::kInvalidArgument, "selectattr and rejectattr need the name of an attribute");
    attribute = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  std::string test;
  if (!rest.positional.empty()) {
    test = ToText(rest.positional[0]).bytes();
    rest.positional.erase(rest.positional.begin());
  }
  List kept;
  for (const Value& element : elements) {
    Value value = element;
    if (by_attribute) {
      BANTAM_ASSIGN(value, ByPath(environment, element, attribute));
    }
    bool holds = value.Truthy();
    if (!test.empty()) {
      BANTAM_ASSIGN(holds, CallTest(environment, test, value, rest));
    }
    if (holds == wanted) kept.push_back(element);
  }
  return Value(std::move(kept));
}
Result<Value> FilterSelect(Environment& e, const Value& v, const Arguments& a) {
  return Selected(e, v, a, /*by_attribute=*/false, /*wanted=*/true);
}
Result<Value> FilterReject(Environment& e, const Value& v, const Arguments& a) {
  return Selected(e, v, a, /*by_attribute=*/false, /*wanted=*/false);
}
Result<Value> FilterSelectAttr(Environment& e, const Value& v, const Arguments& a) {
  return Selected(e, v, a, /*by_attribute=*/true, /*wanted=*/true);
}
Result<Value> FilterRejectAttr(Environment& e, const Value& v, const Arguments& a) {
  return Selected(e, v, a, /*by_attribute=*/true, /*wanted=*/false);
}

Result<Value> FilterBatch(Environment& environment, const Value& input, const Arguments& arguments) {
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  const int64_t count = IntOr(arguments.Get(0, "linecount"), 0);
  if (count < 1 || count > kRangeMax) return Error(Code::kInvalidArgument, fmt::format("batch of {}: expected 1 to {}", count, kRangeMax));
  const Value* fill = arguments.Get(1, "fill_with");
  if (fill != nullptr) BANTAM_TRY(environment.meter.Steps(static_cast<uint64_t>(count)));
  List batches;
  for (size_t i = 0; i < elements.size(); i += static_cast<size_t>(count)) {
    List batch(elements.begin() + static_cast<std::ptrdiff_t>(i),
               elements.begin() + static_cast<std::ptrdiff_t>(std::min(elements.size(), i + static_cast<size_t>(count))));
    while (fill != nullptr && batch.size() < static_cast<size_t>(count)) batch.push_back(*fill);
    batches.push_back(Value(std::move(batch)));
  }
  return Value(std::move(batches));
}

// As many lists as asked for, one after another, of nearly equal length.
Result<Value> FilterSlice(Environment& environment, const Value& input, const Arguments& arguments) {
  BANTAM_ASSIGN(const List elements, Elements(environment, input));
  const int64_t slices = IntOr(arguments.Get(0, "slices"), 0);
  if (slices < 1 || slices > kRangeMax)
    return Error(Code::kInvalidArgument, fmt::format("slice into {}: expected 1 to {}", slices, kRangeMax));
  const Value* fill = arguments.Get(1, "fill_with");
  BANTAM_TRY(environment.meter.Steps(static_cast<uint64_t>(slices)));
  const auto count = static_cast<size_t>(slices);
  const size_t extra = elements.size() % count;
  List lists;
  for (size_t i = 0, begin = 0; i < count; ++i) {
    const size_t end = begin + elements.size() / count + (i < extra ? 1 : 0);
    List part(elements.begin() + static_cast<std::ptrdiff_t>(begin), elements.begin() + static_cast<std::ptrdiff_t>(end));
    if (fill != nullptr && !fill->is_none() && i >= extra) part.push_back(*fill);
    lists.push_back(Value(std::move(part)));
    begin = end;
  }
  return Value(std::move(lists));
}

Result<Value> FilterString(Environment&, const Value& input, const Arguments&) { return Value(ToText(input)); }
Result<Value> FilterSafe(Environment&, const Value& input, const Arguments&) { return Value::Markup(ToText(input)); }

Result<Value> FilterInt(Environment&, const Value& input, const Arguments& arguments) {
  const Value* given = arguments.Get(0, "default");
  const Value fallback = given == nullptr ? Value(int64_t{0}) : *given;
  int64_t integer = 0;
  if (input.Integer(&integer)) return Value(integer);
  double number = 0;
  if (input.Number(&number)) return std::fabs(number) < 9e18 ? Value(static_cast<int64_t>(number)) : fallback;
  if (input.text() == nullptr) return fallback;
  const std::string trimmed = Strip(*input.text(), nullptr, Sides::kBoth).bytes();
  const int64_t base = IntOr(arguments.Get(1, "base"), 10);
  const char* begin = trimmed.data() + (trimmed.starts_with('+') ? 1 : 0);
  const char* end = trimmed.data() + trimmed.size();
  if (base >= 2 && base <= 36 && std::from_chars(begin, end, integer, static_cast<int>(base)).ptr == end && begin != end)
    return Value(integer);
  if (std::from_chars(begin, end, number).ptr == end && begin != end && std::fabs(number) < 9e18)
    return Value(static_cast<int64_t>(number));
  return fallback;
}

Result<Value> FilterFloat(Environment&, const Value& input, const Arguments& arguments) {
  double number = 0;
  if (input.Number(&number)) return Value(number);
  if (input.text() != nullptr) {
    const std::string trimmed = Strip(*input.text(), nullptr, Sides::kBoth).bytes();
    const char* begin = trimmed.data() + (trimmed.starts_with('+') ? 1 : 0);
    const char* end = trimmed.data() + trimmed.size();
    if (begin != end && std::from_chars(begin, end, number).ptr == end) return Value(number);
  }
  const Value* fallback = arguments.Get(0, "default");
  return fallback == nullptr ? Value(0.0) : *fallback;
}

Result<Value> FilterRound(Environment&, const Value& input, const Arguments& arguments) {
  double number = 0;
  if (!input.Number(&number)) return Wrong("round", input);
  const int64_t precision = std::clamp<int64_t>(IntOr(arguments.Get(0, "precision"), 0), -300, 300);
  const double power = std::pow(10.0, static_cast<double>(precision));
  const std::string method = StringOr(arguments.Get(1, "method"), "common");
  if (method == "common" && precision >= 0) {
    if (input.as_float() == nullptr) return input;
    const std::string digits = fmt::format("{:.{}f}", number, precision);  // Python rounds the decimal expansion, half to even
    std::from_chars(digits.data(), digits.data() + digits.size(), number);
    return Value(number);
  }
  const double scaled = number * power;
  const double rounded = method == "ceil" ? std::ceil(scaled) : method == "floor" ? std::floor(scaled) : std::nearbyint(scaled);
  return Value(rounded / power);
}

Result<Value> FilterAbs(Environment&, const Value& input, const Arguments&) {
  int64_t integer = 0;
  if (input.Integer(&integer) && integer != INT64_MIN) return Value(integer < 0 ? -integer : integer);
  double number = 0;
  if (!input.Number(&number)) return Wrong("abs", input);
  return Value(std::fabs(number));
}

Result<Value> FilterToJson(Environment& environment, const Value& input, const Arguments& arguments) {
  JsonStyle style;
  style.ascii = BoolOr(arguments.Get(0, "ensure_ascii"), false);
  style.indent = static_cast<int>(std::clamp<int64_t>(IntOr(arguments.Get(1, "indent"), -1), -1, 32));
  if (const Value* separators = arguments.Get(2, "separators");
      separators != nullptr && separators->list() != nullptr && separators->list()->size() == 2) {
    style.item_separator = ToText((*separators->list())[0]).bytes();
    style.key_separator = ToText((*separators->list())[1]).bytes();
  }
  style.sort_keys = BoolOr(arguments.Get(3, "sort_keys"), false);
  BANTAM_ASSIGN(std::string json, ToJsonText(input, style));
  BANTAM_TRY(environment.meter.Bytes(json.size()));
  return Value::Str(std::move(json), /*trusted=*/false);
}

Result<Value> FilterAttr(Environment& environment, const Value& input, const Arguments& arguments) {
  return GetAttribute(environment, input, StringOr(arguments.Get(0, "name"), ""));
}

Result<Value> FilterIndent(Environment& environment, const Value& input, const Arguments& arguments) {
  const Value* width = arguments.Get(0, "width");
  int64_t columns = 4;
  Text indent;
  if (width != nullptr && width->text() != nullptr) {
    indent = *width->text();
  } else {
    columns = IntOr(width, 4);
    indent = Text(std::string(static_cast<size_t>(std::clamp<int64_t>(columns, 0, 1000)), ' '), /*trusted=*/true);
  }
  const bool first = BoolOr(arguments.Get(1, "first"), false);
  const bool blank = BoolOr(arguments.Get(2, "blank"), false);
  const Text text = ToText(input);
  Text out;
  size_t line = 0;
  for (size_t begin = 0; begin <= text.bytes().size(); ++line) {
    const size_t end = std::min(text.bytes().find('\n', begin), text.bytes().size());
    BANTAM_TRY(environment.meter.Bytes(end - begin + indent.bytes().size() + 1));
    if (line > 0) out.Append(Text("\n", /*trusted=*/true));
    const bool empty = end == begin;
    if ((line > 0 || first) && (!empty || blank)) out.Append(indent);
    out.AppendPart(text, begin, end - begin);
    begin = end + 1;
  }
  return Value(std::move(out));
}

Result<Value> FilterTruncate(Environment&, const Value& input, const Arguments& arguments) {
  const Text text = ToText(input);
  const int64_t length = IntOr(arguments.Get(0, "length"), 255);
  const bool killwords = BoolOr(arguments.Get(1, "killwords"), false);
  const Value* given = arguments.Get(2, "end");
  const Text end = given == nullptr ? Text("...", /*trusted=*/true) : ToText(*given);
  const int64_t leeway = IntOr(arguments.Get(3, "leeway"), 5);
  const std::vector<size_t> offsets = CharacterOffsets(text.bytes());
  const auto characters = static_cast<int64_t>(offsets.size() - 1);
  if (characters <= length + leeway) return Value(text);
  const auto kept = static_cast<size_t>(std::clamp<int64_t>(length - static_cast<int64_t>(CountCharacters(end.bytes())), 0, characters));
  Text out = text.Part(0, offsets[kept]);
  if (!killwords && out.bytes().rfind(' ') != std::string::npos) out = out.Part(0, out.bytes().rfind(' '));
  out.Append(end);
  return Value(std::move(out));
}

Result<Value> FilterEscape(Environment& environment, const Value& input, const Arguments&) {
  if (input.is_markup()) return input;
  BANTAM_ASSIGN(Text escaped, EscapeHtml(environment, ToText(input)));
  return Value::Markup(std::move(escaped));
}

Result<Value> FilterForceEscape(Environment& environment, const Value& input, const Arguments&) {
  BANTAM_ASSIGN(Text escaped, EscapeHtml(environment, ToText(input)));
  return Value::Markup(std::move(escaped));
}

Result<Value> FilterUrlEncode(Environment& environment, const Value& input, const Arguments&) {
  const Text text = ToText(input);
  std::string out;
  for (const char c : text.bytes()) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_.-~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  BANTAM_TRY(environment.meter.Bytes(out.size()));
  return Value::Str(std::move(out), /*trusted=*/false);
}

Result<Value> FilterWordCount(Environment& environment, const Value& input, const Arguments&) {
  BANTAM_ASSIGN(const Value words, CallMethod(environment, ToText(input), "split", {}));
  return Value(static_cast<int64_t>(words.list()->size()));
}

Result<Value> FilterPPrint(Environment&, const Value& input, const Arguments&) { return Value::Str(Repr(input), /*trusted=*/false); }

// Filters that are methods of strings.
template <const char* kMethod>
Result<Value> AsMethod(Environment& environment, const Value& input, const Arguments& arguments) {
  Result<Value> value = CallMethod(environment, ToText(input), kMethod, arguments);
  return value.ok() && input.is_markup() && value->text() != nullptr ? Value::Markup(*value->text()) : value;
}
constexpr char kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize", kStrip[] = "strip", kReplace[] = "replace",
               kCenter[] = "center", kFormat[] = "%";

const std::map<std::string_view, Filter>& Filters() {
  static const std::map<std::string_view, Filter> kFilters = {
      {"abs", FilterAbs},
      {"attr", FilterAttr},
      {"batch", FilterBatch},
      {"capitalize", AsMethod<kCapitalize>},
      {"center", AsMethod<kCenter>},
      {"count", FilterLength},
      {"d", FilterDefault},
      {"default", FilterDefault},
      {"dictsort", FilterDictSort},
      {"e", FilterEscape},
      {"escape", FilterEscape},
      {"filesizeformat", FilterFileSize},
      {"first", FilterFirst},
      {"float", FilterFloat},
      {"forceescape", FilterForceEscape},
      {"format", AsMethod<kFormat>},
      {"groupby", FilterGroupBy},
      {"indent", FilterIndent},
      {"int", FilterInt},
      {"items", FilterItems},
      {"join", FilterJoin},
      {"last", FilterLast},
      {"length", FilterLength},
      {"list", FilterList},
      {"lower", AsMethod<kLower>},
      {"map", FilterMap},
      {"max", FilterMax},
      {"min", FilterMin},
      {"pprint", FilterPPrint},
      {"reject", FilterReject},
      {"rejectattr", FilterRejectAttr},
      {"replace", AsMethod<kReplace>},
      {"reverse", FilterReverse},
      {"round", FilterRound},
      {"safe", FilterSafe},
      {"select", FilterSelect},
      {"selectattr", FilterSelectAttr},
      {"slice", FilterSlice},
      {"sort", FilterSort},
      {"string", FilterString},
      {"sum", FilterSum},
      {"striptags", FilterStripTags},
      {"title", FilterTitle},
      {"tojson", FilterToJson},
      {"trim", AsMethod<kStrip>},
      {"truncate", FilterTruncate},
      {"unique", FilterUnique},
      {"upper", AsMethod<kUpper>},
      {"urlencode", FilterUrlEncode},
      {"wordcount", FilterWordCount},
      {"wordwrap", FilterWordWrap},
  };
  return kFilters;
}

// ---- Tests ----

Result<bool> TestCompare(std::string_view name, const Value& a, const Value& b) {
  if (name == "eq" || name == "equalto" || name == "==") return Equal(a, b);
  if (name == "ne" || name == "!=") return !Equal(a, b);
  BANTAM_ASSIGN(const int order, Compare(a, b));
  if (name == "lt" || name == "lessthan" || name == "<") return order < 0;
  if (name == "le" || name == "<=") return order <= 0;
  if (name == "gt" || name == "greaterthan" || name == ">") return order > 0;
  return order >= 0;
}

bool IsCase(const Value& value, Case wanted) {
  if (value.text() == nullptr) return false;
  const std::string& bytes = value.text()->bytes();
  const Case other = wanted == Case::kLower ? Case::kUpper : Case::kLower;
  return bytes == ChangeCase(*value.text(), wanted).bytes() && bytes != ChangeCase(*value.text(), other).bytes();
}

bool SameAs(const Value& a, const Value& b) {
  if (a.TypeName() != b.TypeName()) return false;
  if (a.list() != nullptr) return a.list() == b.list();
  if (a.dict() != nullptr) return a.dict() == b.dict();
  return Equal(a, b);
}

// ---- Functions ----

Result<Value> Range(Environment& environment, const Arguments& arguments) {
  int64_t bounds[3] = {0, 0, 1};
  const size_t n = arguments.positional.size();
  if (n < 1 || n > 3) return Error(Code::kInvalidArgument, "range() takes one to three numbers");
  for (size_t i = 0; i < n; ++i) {
    if (!arguments.positional[i].Integer(&bounds[i])) return Wrong("range()", arguments.positional[i]);
  }
  if (n == 1) std::swap(bounds[0], bounds[1]);
  const auto [begin, end, step] = bounds;
  if (step == 0) return Error(Code::kInvalidArgument, "range() with a step of 0");
  List list;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (static_cast<int64_t>(list.size()) >= kRangeMax)
      return Error(Code::kExhausted, fmt::format("range() of more than {} numbers", kRangeMax));
    list.push_back(Value(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  BANTAM_TRY(environment.meter.Steps(list.size()));
  return Value(std::move(list));
}

Result<Dict> DictOf(Environment& environment, const Arguments& arguments) {
  Dict dict;
  if (!arguments.positional.empty() && arguments.positional[0].dict() != nullptr) dict = *arguments.positional[0].dict();
  if (!arguments.positional.empty() && arguments.positional[0].list() != nullptr) {
    for (const Value& pair : *arguments.positional[0].list()) {
      if (pair.list() == nullptr || pair.list()->size() != 2) return Error(Code::kInvalidArgument, "dict() of a list takes pairs");
      // Keys that are no strings are searched for one by one.
      if ((*pair.list())[0].text() == nullptr) BANTAM_TRY(environment.meter.Steps(dict.size()));
      dict.Set((*pair.list())[0], (*pair.list())[1]);
    }
  }
  for (const auto& [name, value] : arguments.named) dict.Set(Value::Str(name, /*trusted=*/false), value);
  return dict;
}

Result<Value> Now(const Environment& environment, const Arguments& arguments) {
  const std::string format = StringOr(arguments.Get(0, "format"), "");
  BANTAM_TRY(environment.meter.Bytes(8 * format.size()));
  BANTAM_ASSIGN(std::string text, FormatTime(format, environment.options.now));
  const Value* given = arguments.Get(0, "format");
  return Value::Str(std::move(text), given == nullptr || given->text() == nullptr || given->text()->trusted());
}

}  // namespace

Status Meter::Steps(uint64_t n) {
  steps_ += std::min(n, limits_.steps + 1);
  if (steps_ <= limits_.steps) return steps_ < clock_steps_ ? Ok() : Time();
  return Error(Code::kExhausted, fmt::format("more than {} steps; the template does not end in time", limits_.steps));
}

Status Meter::Time() {
  constexpr uint64_t kStepsBetween = 10'000;
  clock_steps_ = steps_ + kStepsBetween;
  if ((MonotonicClock().NowNs() - begin_ns_) / 1'000'000 <= limits_.time_ms) return Ok();
  return Error(Code::kExhausted, fmt::format("more than {} ms; the template does not end in time", limits_.time_ms));
}

Status Meter::Bytes(uint64_t n) {
  bytes_ += std::min(n, limits_.bytes + 1);
  if (bytes_ <= limits_.bytes) return Ok();
  return Error(Code::kExhausted, fmt::format("more than {} bytes of strings; the template makes too much", limits_.bytes));
}

Result<Value> CallFilter(Environment& environment, std::string_view name, const Value& input, const Arguments& arguments) {
  const auto filter = Filters().find(name);
  if (filter == Filters().end()) return Error(Code::kUnsupported, fmt::format("the filter {} is not known", name));
  BANTAM_TRY(environment.meter.Steps(1));
  BANTAM_ASSIGN(Value value, filter->second(environment, input, arguments));
  constexpr std::string_view kGenerators[] = {"batch",   "items",  "map",        "reject", "rejectattr",
                                              "reverse", "select", "selectattr", "slice",  "unique"};
  const bool lazy = value.list() != nullptr && std::find(std::begin(kGenerators), std::end(kGenerators), name) != std::end(kGenerators);
  return lazy ? value.AsGenerator() : value;
}

Result<bool> CallTest(Environment& environment, std::string_view name, const Value& input, const Arguments& arguments) {
  const Value* other = arguments.Get(0, "other");
  int64_t integer = 0;
  const bool whole = input.as_int() != nullptr || input.as_bool() != nullptr;
  if (name == "defined") return !input.is_undefined();
  if (name == "undefined") return input.is_undefined();
  if (name == "none") return input.is_none();
  if (name == "boolean") return input.as_bool() != nullptr;
  if (name == "true") return input.as_bool() != nullptr && *input.as_bool();
  if (name == "false") return input.as_bool() != nullptr && !*input.as_bool();
  if (name == "integer") return input.as_int() != nullptr;
  if (name == "float") return input.as_float() != nullptr;
  if (name == "number") return whole || input.as_float() != nullptr;
  if (name == "string") return input.text() != nullptr;
  if (name == "mapping") return input.dict() != nullptr;
  // Undefined can be looped over, and has a length.
  if (name == "iterable") return input.text() != nullptr || input.list() != nullptr || input.dict() != nullptr || input.is_undefined();
  if (name == "sequence") return input.text() != nullptr || input.list() != nullptr || input.dict() != nullptr || input.is_undefined();
  if (name == "callable") return input.callable() != nullptr;
  if (name == "lower") return IsCase(input, Case::kLower);
  if (name == "upper") return IsCase(input, Case::kUpper);
  if (name == "escaped") return input.is_markup();
  if (name == "filter") return input.text() != nullptr && Filters().contains(input.text()->bytes());
  if (name == "odd" || name == "even") {
    if (!input.Integer(&integer)) return Wrong(name, input);
    return (integer % 2 != 0) == (name == "odd");
  }
  if (other == nullptr) return Error(Code::kUnsupported, fmt::format("the test {} is not known, or lacks its argument", name));
  if (name == "divisibleby") {
    int64_t divisor = 0;
    if (!input.Integer(&integer) || !other->Integer(&divisor) || divisor == 0) return Wrong("divisibleby", input);
    return divisor == -1 || integer % divisor == 0;
  }
  if (name == "sameas") return SameAs(input, *other);
  if (name == "in") return Contains(environment, *other, input);
  for (const std::string_view known :
       {"eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">="}) {
    if (name == known) return TestCompare(name, input, *other);
  }
  return Error(Code::kUnsupported, fmt::format("the test {} is not known", name));
}

Result<Text> EscapeHtml(Environment& environment, const Text& text) {
  Text out;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at < bytes.size();) {
    const size_t special = std::min(bytes.find_first_of("&<>\"'", at), bytes.size());
    out.AppendPart(text, at, special - at);
    at = special;
    if (at == bytes.size()) break;
    const char c = bytes[at++];
    const char* entity = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : "&#39;";
    out.Append(Text(entity, /*trusted=*/true));
    BANTAM_TRY(environment.meter.Bytes(8));
  }
  BANTAM_TRY(environment.meter.Bytes(out.bytes().size()));
  return out;
}

void AddGlobals(Environment& environment, Dict* globals) {
  const auto add = [&](const char* name, std::function<Result<Value>(const Arguments&)> call) {
    globals->Set(name, Value(Callable{name, std::move(call)}));
  };
  add("range", [&](const Arguments& arguments) { return Range(environment, arguments); });
  add("dict", [&environment](const Arguments& arguments) -> Result<Value> {
    BANTAM_ASSIGN(Dict dict, DictOf(environment, arguments));
    return Value(std::move(dict));
  });
  add("namespace", [&environment](const Arguments& arguments) -> Result<Value> {
    BANTAM_ASSIGN(Dict dict, DictOf(environment, arguments));
    if (Value(dict).holds_namespace()) return Error(Code::kUnsupported, "a namespace within a namespace is not supported");
    return Value::Namespace(std::move(dict));
  });
  add("raise_exception", [](const Arguments& arguments) -> Result<Value> {
    return Error(Code::kInvalidArgument, fmt::format("the template refuses: {}", StringOr(arguments.Get(0, "message"), "no reason given")));
  });
  add("strftime_now", [&](const Arguments& arguments) { return Now(environment, arguments); });
  add("joiner", [](const Arguments& arguments) -> Result<Value> {
    auto first = std::make_shared<bool>(true);
    const Value* separator = arguments.Get(0, "sep");
    return Value(Callable{
        "joiner",
        [first, value = separator == nullptr ? Value::Str(", ", /*trusted=*/true) : *separator](const Arguments&) -> Result<Value> {
          if (!std::exchange(*first, false)) return value;
          return Value::Str("", /*trusted=*/true);
        }});
  });
}

}  // namespace bantam::jinja
