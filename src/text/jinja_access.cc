// Elements, attributes, items and slices of values.
#include <fmt/format.h>

#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/jinja_strings.h"

namespace bantam::jinja {

Error Wrong(std::string_view what, const Value& value) {
  if (value.is_undefined()) {
    return Error(Code::kInvalidArgument, fmt::format("{} of {}, which is undefined", what, value.undefined_name()));
  }
  return Error(Code::kInvalidArgument, fmt::format("{} of a {}", what, value.TypeName()));
}

Result<List> Elements(Environment& environment, const Value& value) {
  List elements;
  if (value.is_undefined()) return elements;
  if (value.list() != nullptr) {
    BANTAM_TRY(environment.meter.Steps(value.list()->size()));
    return *value.list();
  }
  if (value.dict() != nullptr) {
    BANTAM_TRY(environment.meter.Steps(value.dict()->size()));
    for (const auto& [key, item] : value.dict()->items()) elements.push_back(key);
    return elements;
  }
  if (value.text() != nullptr) {
    BANTAM_TRY(environment.meter.Steps(value.text()->bytes().size()));
    const std::vector<size_t> offsets = CharacterOffsets(value.text()->bytes());
    for (size_t i = 0; i + 1 < offsets.size(); ++i) elements.push_back(Value(value.text()->Part(offsets[i], offsets[i + 1] - offsets[i])));
    return elements;
  }
  return Wrong("the elements", value);
}

Result<Value> GetAttribute(Environment& environment, const Value& object, std::string_view name) {
  if (object.is_undefined())
    return Error(Code::kInvalidArgument, fmt::format("{} is undefined and has no attribute {}", object.undefined_name(), name));
  if (object.name_space() != nullptr) {
    const Value* value = object.name_space()->Find(name);
    return value == nullptr ? Value(Undefined{std::string(name)}) : *value;
  }
  if (!name.starts_with("__") && HasMethod(object, name)) {
    return Value(Callable{std::string(name), [&environment, object, method = std::string(name)](const Arguments& arguments) {
                            return object.text() != nullptr ? CallMethod(environment, *object.text(), method, arguments)
                                                            : CallContainerMethod(environment, object, method, arguments);
                          }});
  }
  if (object.dict() != nullptr) {
    const Value* value = object.dict()->Find(name);
    if (value != nullptr) return *value;
  }
  return Value(Undefined{std::string(name)});
}

Result<Value> GetItem(Environment& environment, const Value& object, const Value& index) {
  if (object.is_undefined()) {
    return Error(Code::kInvalidArgument, fmt::format("{} is undefined and has no item {}", object.undefined_name(), Repr(index)));
  }
  if (object.dict() != nullptr) {
    if (const Value* value = object.dict()->Find(index)) return *value;
  }
  int64_t at = 0;
  if (index.Integer(&at) && object.list() != nullptr && !object.is_generator()) {
    const auto n = static_cast<int64_t>(object.list()->size());
    if (at < 0) at += n;
    return at >= 0 && at < n ? (*object.list())[static_cast<size_t>(at)] : Value(Undefined{Repr(index)});
  }
  if (index.Integer(&at) && object.text() != nullptr) {
    BANTAM_ASSIGN(const List characters, Elements(environment, object));
    const auto n = static_cast<int64_t>(characters.size());
    if (at < 0) at += n;
    return at >= 0 && at < n ? characters[static_cast<size_t>(at)] : Value(Undefined{Repr(index)});
  }
  if (index.text() != nullptr) return GetAttribute(environment, object, index.text()->bytes());
  return Value(Undefined{Repr(index)});
}

Result<Value> GetSlice(Environment& environment, const Value& object, const Value (&bounds)[3]) {
  if (object.text() == nullptr && object.list() == nullptr) return Wrong("a slice", object);
  BANTAM_ASSIGN(const List elements, Elements(environment, object));
  const auto n = static_cast<int64_t>(elements.size());
  int64_t step = 1;
  if (!bounds[2].is_none() && !bounds[2].Integer(&step)) return Wrong("a slice's step", bounds[2]);
  if (step == 0) return Error(Code::kInvalidArgument, "a slice with a step of 0");
  // Python's rules for bounds that are left out, negative or beyond the end.
  const auto bound = [&](const Value& value, int64_t fallback) -> Result<int64_t> {
    if (value.is_none()) return fallback;
    int64_t at = 0;
    if (!value.Integer(&at)) return Wrong("a slice's bound", value);
    if (at < 0) at = at < -n ? -1 - (step > 0 ? -1 : 0) : at + n;
    return step > 0 ? std::clamp<int64_t>(at, 0, n) : std::clamp<int64_t>(at, -1, n - 1);
  };
  BANTAM_ASSIGN(const int64_t begin, bound(bounds[0], step > 0 ? 0 : n - 1));
  BANTAM_ASSIGN(const int64_t end, bound(bounds[1], step > 0 ? n : -1));
  List list;
  Text text;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (object.text() != nullptr) {
      text.Append(*elements[static_cast<size_t>(i)].text());
    } else {
      list.push_back(elements[static_cast<size_t>(i)]);
    }
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return object.text() != nullptr ? Value(std::move(text)) : Value(std::move(list), object.is_tuple());
}

Result<bool> Contains(Environment& environment, const Value& container, const Value& item) {
  if (container.text() != nullptr) {
    if (item.text() == nullptr) return Error(Code::kInvalidArgument, fmt::format("a {} in a string", item.TypeName()));
    BANTAM_TRY(environment.meter.Search(container.text()->bytes().size(), item.text()->bytes().size()));
    return container.text()->bytes().find(item.text()->bytes()) != std::string::npos;
  }
  if (container.dict() != nullptr) return container.dict()->Find(item) != nullptr;
  BANTAM_ASSIGN(const List elements, Elements(environment, container));
  return std::any_of(elements.begin(), elements.end(), [&](const Value& element) { return Equal(element, item); });
}

}  // namespace bantam::jinja
