// Methods of strings, lists and dicts, as Python has them.
#pragma once

#include <string_view>

#include "base/result.h"
#include "text/jinja_builtins.h"
#include "text/jinja_value.h"

namespace bantam::jinja {

enum class Case : uint8_t { kLower, kUpper, kTitle };
// Each run of bytes keeps its trust.
Text ChangeCase(const Text& text, Case wanted);

enum class Sides : uint8_t { kLeft, kRight, kBoth };
// Without the characters of `characters` (null: white space) at its ends.
Text Strip(const Text& text, const Text* characters, Sides sides);

bool HasMethod(const Value& object, std::string_view name);
// Errors: InvalidArgument, Unsupported (a method that would change its object, or is not known).
Result<Value> CallMethod(Environment& environment, const Text& text, std::string_view name, const Arguments& arguments);
Result<Value> CallContainerMethod(Environment& environment, const Value& object, std::string_view name, const Arguments& arguments);

}  // namespace bantam::jinja
