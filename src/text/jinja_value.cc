#include "text/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/unicode.h"
#include "text/utf8.h"

namespace bantam::jinja {
namespace {

// repr of a float: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e16.
std::string FloatText(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[64];
  const double magnitude = std::fabs(d);
  const bool scientific = d != 0 && (magnitude < 1e-4 || magnitude >= 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), d, scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string text(buffer, end.ptr);
  if (!scientific && text.find('.') == std::string::npos) text += ".0";
  return text;
}

// As Python's repr: what is not printable becomes an escape.
std::string Quoted(const std::string& bytes) {
  constexpr PropertySet kUnprintable = kOther | kSeparator;
  const char quote = bytes.find('\'') != std::string::npos && bytes.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < bytes.size();) {
    const char c = bytes[at];
    const Utf8Character character = DecodeUtf8(bytes, at);
    const char* known = c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : nullptr;
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (known != nullptr) {
      out += known;
    } else if (c == ' ' || character.malformed() || (PropertiesOf(character.code) & kUnprintable) == 0) {
      out.append(bytes, at, character.size);
    } else {
      const auto code = static_cast<uint32_t>(character.code);
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
    at += character.size;
  }
  return out + quote;
}

template <typename Items, typename Write>
std::string Joined(const Items& items, Write write) {
  std::string out;
  for (const auto& item : items) {
    if (!out.empty()) out += ", ";
    out += write(item);
  }
  return out;
}

void PutJsonString(std::string_view text, bool ascii, std::string* out) {
  *out += '"';
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte >= 0x80) {
      const size_t size = std::min(Utf8LengthFromLead(byte), text.size() - at);
      if (!ascii) {
        *out += text.substr(at, size);
      } else {
        uint32_t point = byte & (0xffu >> (size + 1));
        for (size_t i = 1; i < size; ++i) point = point << 6 | (static_cast<unsigned char>(text[at + i]) & 63u);
        if (point >= 0x10000) {
          *out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((point - 0x10000) >> 10), 0xdc00 + ((point - 0x10000) & 0x3ff));
        } else {
          *out += fmt::format("\\u{:04x}", point);
        }
      }
      at += size;
      continue;
    }
    ++at;
    switch (byte) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\b':
        *out += "\\b";
        break;
      case '\f':
        *out += "\\f";
        break;
      default:
        if (byte < 0x20) {
          *out += fmt::format("\\u{:04x}", byte);
        } else {
          *out += static_cast<char>(byte);
        }
    }
  }
  *out += '"';
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  Status Put(const Value& value, size_t depth) {
    if (value.is_none()) {
      out_ += "null";
    } else if (const bool* b = value.as_bool()) {
      out_ += *b ? "true" : "false";
    } else if (const int64_t* i = value.as_int()) {
      out_ += fmt::format("{}", *i);
    } else if (const double* d = value.as_float()) {
      out_ += std::isnan(*d) ? "NaN" : std::isinf(*d) ? (*d < 0 ? "-Infinity" : "Infinity") : FloatText(*d);
    } else if (const Text* text = value.text()) {
      PutJsonString(text->bytes(), style_.ascii, &out_);
    } else if (value.is_generator()) {
      return Error(Code::kInvalidArgument, "a generator is no JSON; make a list of it first");
    } else if (const List* list = value.list()) {
      return PutList(*list, depth);
    } else if (const Dict* dict = value.dict()) {
      return PutDict(*dict, depth);
    } else {
      return Error(Code::kInvalidArgument, fmt::format("a value of type {} has no JSON form", value.TypeName()));
    }
    return Ok();
  }
  std::string Take() { return std::move(out_); }

 private:
  void NewLine(size_t depth) {
    if (style_.indent < 0) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(style_.indent) * depth, ' ');
  }
  // With an indent Python's default leaves out the space behind the separator of items.
  void Separate() { out_ += style_.indent >= 0 && style_.item_separator == ", " ? "," : style_.item_separator; }

  Status PutList(const List& list, size_t depth) {
    out_ += '[';
    for (size_t i = 0; i < list.size(); ++i) {
      if (i > 0) Separate();
      NewLine(depth + 1);
      BANTAM_TRY(Put(list[i], depth + 1));
    }
    if (!list.empty()) NewLine(depth);
    out_ += ']';
    return Ok();
  }
  Status PutDict(const Dict& dict, size_t depth) {
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items()) items.push_back(&item);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto* a, const auto* b) { return ToText(a->first).bytes() < ToText(b->first).bytes(); });
    }
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) Separate();
      NewLine(depth + 1);
      const Value& key = items[i]->first;
      if (key.text() != nullptr) {
        PutJsonString(key.text()->bytes(), style_.ascii, &out_);
      } else {
        out_ += '"';
        BANTAM_TRY(Put(key, depth));
        out_ += '"';
      }
      out_ += style_.key_separator;
      BANTAM_TRY(Put(items[i]->second, depth + 1));
    }
    if (!items.empty()) NewLine(depth);
    out_ += '}';
    return Ok();
  }

  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

Text::Text(std::string bytes, bool trusted) : bytes_(std::move(bytes)) {
  if (!bytes_.empty()) runs_.push_back({bytes_.size(), trusted});
}

bool Text::trusted() const {
  return std::all_of(runs_.begin(), runs_.end(), [](const Run& run) { return run.trusted; });
}

void Text::AppendPart(const Text& other, size_t begin, size_t size) {
  const size_t end = std::min(begin + size, other.bytes_.size());
  auto run = std::partition_point(other.runs_.begin(), other.runs_.end(), [&](const Run& r) { return r.end <= begin; });
  for (size_t from = begin; from < end; ++run) {
    const size_t to = std::min(end, run->end);
    bytes_.append(other.bytes_, from, to - from);
    from = to;
    if (!runs_.empty() && runs_.back().trusted == run->trusted) {
      runs_.back().end = bytes_.size();
    } else {
      runs_.push_back({bytes_.size(), run->trusted});
    }
  }
}

Text Text::Part(size_t begin, size_t size) const {
  Text part;
  part.AppendPart(*this, begin, size);
  return part;
}

Value* Dict::Find(const Value& key) {
  if (key.text() != nullptr) {
    const auto at = index_.find(key.text()->bytes());
    return at == index_.end() ? nullptr : &items_[at->second].second;
  }
  for (auto& item : items_) {
    if (item.first.text() == nullptr && Equal(item.first, key)) return &item.second;
  }
  return nullptr;
}

const Value* Dict::Find(std::string_view key) const {
  const auto at = index_.find(std::string(key));
  return at == index_.end() ? nullptr : &items_[at->second].second;
}

void Dict::Set(const Value& key, Value value) {
  if (Value* known = Find(key)) {
    *known = std::move(value);
    return;
  }
  if (key.text() != nullptr) index_[key.text()->bytes()] = items_.size();
  items_.emplace_back(key, std::move(value));
}

void Dict::Set(std::string_view key, Value value) { Set(Value::Str(std::string(key), /*trusted=*/true), std::move(value)); }

const Value* Arguments::Get(size_t place, std::string_view name) const {
  if (place < positional.size()) return &positional[place];
  for (const auto& [known, value] : named) {
    if (known == name) return &value;
  }
  return nullptr;
}

namespace {

uint64_t SaturatingSum(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

}  // namespace

Value::Value(Text text) : weight_(8 + text.bytes().size()) { storage_ = std::make_shared<const Text>(std::move(text)); }

Value::Value(List list, bool tuple) : tuple_(tuple), depth_(1) {
  for (const Value& item : list) {
    weight_ = SaturatingSum(weight_, item.weight_);
    depth_ = std::max(depth_, item.depth_ + 1);
    holds_namespace_ = holds_namespace_ || item.holds_namespace_;
  }
  storage_ = std::make_shared<const List>(std::move(list));
}

Value::Value(Dict dict) : depth_(1) {
  for (const auto& [key, item] : dict.items()) {
    weight_ = SaturatingSum(weight_, SaturatingSum(key.weight_, item.weight_));
    depth_ = std::max({depth_, item.depth_ + 1, key.depth_ + 1});
    holds_namespace_ = holds_namespace_ || item.holds_namespace_;
  }
  storage_ = std::make_shared<const Dict>(std::move(dict));
}

Value Value::Markup(Text text) {
  Value value(std::move(text));
  value.markup_ = true;
  return value;
}

Value Value::Namespace(Dict dict) {
  Value value;
  value.depth_ = 1;
  value.holds_namespace_ = true;
  value.storage_ = std::make_shared<Dict>(std::move(dict));
  return value;
}

bool Value::Number(double* number) const {
  if (const double* d = as_float()) {
    *number = *d;
    return true;
  }
  int64_t integer = 0;
  if (!Integer(&integer)) return false;
  *number = static_cast<double>(integer);
  return true;
}

bool Value::Integer(int64_t* integer) const {
  if (const int64_t* i = as_int()) {
    *integer = *i;
    return true;
  }
  if (const bool* b = as_bool()) {
    *integer = *b ? 1 : 0;
    return true;
  }
  return false;
}

bool Value::Truthy() const {
  if (generator_) return true;
  if (is_undefined() || is_none()) return false;
  double number = 0;
  if (Number(&number)) return number != 0;
  if (text() != nullptr) return !text()->empty();
  if (list() != nullptr) return !list()->empty();
  if (dict() != nullptr) return dict()->size() > 0;
  return true;
}

std::string_view Value::TypeName() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "none";
  if (as_bool() != nullptr) return "bool";
  if (as_int() != nullptr) return "int";
  if (as_float() != nullptr) return "float";
  if (text() != nullptr) return "string";
  if (list() != nullptr) return generator_ ? "generator" : is_tuple() ? "tuple" : "list";
  if (dict() != nullptr) return "dict";
  if (name_space() != nullptr) return "namespace";
  return "function";
}

bool Equal(const Value& a, const Value& b) {
  double x = 0;
  double y = 0;
  if (a.Number(&x) && b.Number(&y)) return a.as_int() != nullptr && b.as_int() != nullptr ? *a.as_int() == *b.as_int() : x == y;
  if (a.text() != nullptr && b.text() != nullptr) return a.text()->bytes() == b.text()->bytes();
  if (a.list() != nullptr && b.list() != nullptr) {
    if (a.is_tuple() != b.is_tuple()) return false;
    return std::equal(a.list()->begin(), a.list()->end(), b.list()->begin(), b.list()->end(), Equal);
  }
  if (a.dict() != nullptr && b.dict() != nullptr) {
    if (a.dict()->size() != b.dict()->size()) return false;
    return std::all_of(a.dict()->items().begin(), a.dict()->items().end(), [&](const auto& item) {
      const Value* other = b.dict()->Find(item.first);
      return other != nullptr && Equal(item.second, *other);
    });
  }
  if (a.callable() != nullptr) return a.callable() == b.callable();
  if (a.name_space() != nullptr) return a.name_space() == b.name_space();
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

Result<int> Compare(const Value& a, const Value& b) {
  double x = 0;
  double y = 0;
  if (a.as_int() != nullptr && b.as_int() != nullptr) return *a.as_int() < *b.as_int() ? -1 : *a.as_int() > *b.as_int() ? 1 : 0;
  if (a.Number(&x) && b.Number(&y)) return x < y ? -1 : x > y ? 1 : 0;
  // UTF-8 sorts as its characters do.
  if (a.text() != nullptr && b.text() != nullptr) return a.text()->bytes().compare(b.text()->bytes());
  if (a.list() != nullptr && b.list() != nullptr) {
    for (size_t i = 0; i < std::min(a.list()->size(), b.list()->size()); ++i) {
      if (Equal((*a.list())[i], (*b.list())[i])) continue;
      return Compare((*a.list())[i], (*b.list())[i]);
    }
    return a.list()->size() < b.list()->size() ? -1 : a.list()->size() > b.list()->size() ? 1 : 0;
  }
  return Error(Code::kInvalidArgument, fmt::format("a {} and a {} have no order", a.TypeName(), b.TypeName()));
}

Text ToText(const Value& value) {
  if (value.text() != nullptr) return *value.text();
  if (value.is_undefined()) return Text();
  // What a container holds may have come with a message; numbers and words of the language cannot name a control token.
  const bool container = value.list() != nullptr || value.dict() != nullptr || value.name_space() != nullptr;
  return Text(Repr(value), /*trusted=*/!container);
}

std::string Repr(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (const bool* b = value.as_bool()) return *b ? "True" : "False";
  if (const int64_t* i = value.as_int()) return fmt::format("{}", *i);
  if (const double* d = value.as_float()) return FloatText(*d);
  if (const Text* text = value.text()) return Quoted(text->bytes());
  if (const List* list = value.list()) {
    const std::string items = Joined(*list, Repr);
    if (!value.is_tuple()) return "[" + items + "]";
    return "(" + items + (list->size() == 1 ? ",)" : ")");
  }
  if (value.dict() != nullptr) {
    const std::string items = Joined(value.dict()->items(), [](const auto& item) { return Repr(item.first) + ": " + Repr(item.second); });
    return "{" + items + "}";
  }
  if (value.name_space() != nullptr) return "<Namespace>";  // its members change: their weight is not known
  return fmt::format("<function {}>", value.callable()->name);
}

Result<std::string> ToJsonText(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  BANTAM_TRY(writer.Put(value, 0));
  return writer.Take();
}

Value FromJson(const Json& json) {
  switch (json.type()) {
    case Json::value_t::null:
      return Value(None{});
    case Json::value_t::boolean:
      return Value(json.get<bool>());
    case Json::value_t::number_integer:
      return Value(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return Value(json.get<double>());
      return Value(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value(json.get<double>());
    case Json::value_t::string:
      return Value::Str(json.get<std::string>(), /*trusted=*/false);
    case Json::value_t::array: {
      List list;
      for (const Json& item : json) list.push_back(FromJson(item));
      return Value(std::move(list));
    }
    case Json::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) dict.Set(Value::Str(key, /*trusted=*/false), FromJson(item));
      return Value(std::move(dict));
    }
    case Json::value_t::binary:
    case Json::value_t::discarded:
      break;
  }
  return Value();
}

size_t CountCharacters(std::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) at += std::min(Utf8LengthFromLead(static_cast<unsigned char>(text[at])), text.size() - at);
  return count;
}

std::vector<size_t> CharacterOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size();) {
    offsets.push_back(at);
    at += std::min(Utf8LengthFromLead(static_cast<unsigned char>(text[at])), text.size() - at);
  }
  offsets.push_back(text.size());
  return offsets;
}

}  // namespace bantam::jinja
