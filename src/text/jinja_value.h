// Values of a template: Python's, as far as templates use them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace bantam::jinja {

class Value;

// A string that remembers which of its bytes are a template's own (or its caller's tokens) and which came in with messages.
class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool trusted);

  const std::string& bytes() const { return bytes_; }
  bool empty() const { return bytes_.empty(); }
  // Whether every byte is the template's own.
  bool trusted() const;
  void Append(const Text& other) { AppendPart(other, 0, other.bytes_.size()); }
  void AppendPart(const Text& other, size_t begin, size_t size);
  Text Part(size_t begin, size_t size) const;
  // Calls visit(bytes, trusted) for each run.
  template <typename Visit>
  void ForEachRun(Visit visit) const {
    size_t begin = 0;
    for (const Run& run : runs_) {
      visit(std::string_view(bytes_).substr(begin, run.end - begin), run.trusted);
      begin = run.end;
    }
  }

 private:
  struct Run {
    size_t end;
    bool trusted;
  };
  std::string bytes_;
  std::vector<Run> runs_;
};

struct Undefined {
  std::string name;  // for messages
};
struct None {};

using List = std::vector<Value>;

class Dict;
struct Arguments;

// A macro, a method bound to its object, or a function of the environment. May be called more than once.
struct Callable {
  std::string name;
  std::function<Result<Value>(const Arguments&)> call;
};

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<const List>,
                               std::shared_ptr<const Dict>, std::shared_ptr<Dict>, std::shared_ptr<const Callable>>;
  Value() : storage_(Undefined{}) {}
  explicit Value(Undefined undefined) : storage_(std::move(undefined)) {}
  explicit Value(None) : storage_(None{}) {}
  explicit Value(bool b) : storage_(b) {}
  explicit Value(int64_t i) : storage_(i) {}
  explicit Value(double d) : storage_(d) {}
  explicit Value(Text text);
  explicit Value(List list, bool tuple = false);
  explicit Value(Dict dict);
  explicit Value(Callable callable) : storage_(std::make_shared<const Callable>(std::move(callable))) {}
  static Value Namespace(Dict dict);
  static Value Str(std::string bytes, bool trusted) { return Value(Text(std::move(bytes), trusted)); }
  // A string that counts as HTML: what is added to it is escaped (Python's Markup, which the filter safe makes).
  static Value Markup(Text text);

  bool is_undefined() const { return std::holds_alternative<Undefined>(storage_); }
  bool is_none() const { return std::holds_alternative<None>(storage_); }
  const bool* as_bool() const { return std::get_if<bool>(&storage_); }
  const int64_t* as_int() const { return std::get_if<int64_t>(&storage_); }
  const double* as_float() const { return std::get_if<double>(&storage_); }
  const Text* text() const { return Pointer<std::shared_ptr<const Text>>(); }
  const List* list() const { return Pointer<std::shared_ptr<const List>>(); }
  const Dict* dict() const { return Pointer<std::shared_ptr<const Dict>>(); }
  Dict* name_space() const { return Pointer<std::shared_ptr<Dict>>(); }
  const Callable* callable() const { return Pointer<std::shared_ptr<const Callable>>(); }
  bool is_tuple() const { return tuple_; }
  bool is_markup() const { return markup_; }
  // The same list as Python's generator of its elements: true even if there are none, without a length, and no JSON.
  Value AsGenerator() const {
    Value generator = *this;
    generator.generator_ = true;
    return generator;
  }
  bool is_generator() const { return generator_; }
  const std::string& undefined_name() const { return std::get<Undefined>(storage_).name; }
  // Containers within containers, itself included; 0 for others.
  size_t depth() const { return depth_; }
  // Bytes, about, of the value written out: what a list holds twice counts twice. Saturates.
  uint64_t weight() const { return weight_; }
  // Whether it is a namespace or holds one: such a value in a namespace could hold itself.
  bool holds_namespace() const { return holds_namespace_; }
  // A number or a boolean as one; false when it is neither.
  bool Number(double* number) const;
  bool Integer(int64_t* integer) const;

  bool Truthy() const;
  // "str", "list", ...: for messages.
  std::string_view TypeName() const;

 private:
  template <typename P>
  typename P::element_type* Pointer() const {
    const P* pointer = std::get_if<P>(&storage_);
    return pointer == nullptr ? nullptr : pointer->get();
  }
  Storage storage_;
  bool tuple_ = false;
  bool generator_ = false;
  bool markup_ = false;
  bool holds_namespace_ = false;
  uint32_t depth_ = 0;
  uint64_t weight_ = 8;
};

// Keeps the order of insertion. Keys are strings, numbers, booleans or none.
class Dict {
 public:
  Value* Find(const Value& key);
  const Value* Find(const Value& key) const { return const_cast<Dict*>(this)->Find(key); }
  const Value* Find(std::string_view key) const;
  void Set(const Value& key, Value value);
  void Set(std::string_view key, Value value);
  const std::vector<std::pair<Value, Value>>& items() const { return items_; }
  size_t size() const { return items_.size(); }

 private:
  std::vector<std::pair<Value, Value>> items_;
  std::unordered_map<std::string, size_t> index_;  // of string keys
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument of that place or name; null when absent.
  const Value* Get(size_t place, std::string_view name) const;
};

// Python's ==, and < for numbers, strings and lists. Compare: negative, 0 or positive; InvalidArgument when they have no order.
bool Equal(const Value& a, const Value& b);
Result<int> Compare(const Value& a, const Value& b);

// str(value), which is the text itself for strings, and repr(value).
Text ToText(const Value& value);
std::string Repr(const Value& value);

struct JsonStyle {
  int indent = -1;  // none
  bool ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// json.dumps of Python. InvalidArgument for what it refuses.
Result<std::string> ToJsonText(const Value& value, const JsonStyle& style);

// Strings become untrusted text.
Value FromJson(const Json& json);

// Characters of UTF-8; bytes that are none count one each.
size_t CountCharacters(std::string_view text);
// The byte offsets of all characters, and the end.
std::vector<size_t> CharacterOffsets(std::string_view text);

}  // namespace bantam::jinja
