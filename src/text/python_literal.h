// Values as some models write them in calls of tools: Python's literals, and Gemma's objects.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace bantam {

// [name(key=value, ...), ...], or one call without the brackets. Values are literals: texts, numbers, True, False, None, lists, tuples and
// dictionaries. Empty when it is anything else.
std::vector<std::pair<std::string, Json>> ParsePythonCalls(std::string_view text);

// One literal and nothing behind it.
std::optional<Json> ParsePythonValue(std::string_view text);

// {key:value, ...} where texts stand between <escape> or <|"|> marks, or in quotes without escapes, and other values are as in JSON; lists
// and objects nest.
std::optional<Json> ParseGemmaObject(std::string_view text);

}  // namespace bantam
